"""The README's own service and every command it names, with what its pip line installs and with nothing else."""

import json
import os
import re
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from devservers.ports import free_port
from tests.fixtures.processes import begin, uv
from tests.fixtures.services import poll_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


class Terminal:
    """A terminal in an empty directory, with an environment that a reader of the README has just made."""

    def __init__(self, directory: Path, environment: Path) -> None:
        self.directory = directory
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("POLYSAGA_", "PYTHON"))}
        self.variables = {**ours, "PATH": f"{environment}/bin:/usr/bin:/bin"}

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words, cwd=self.directory, env=self.variables, capture_output=True, text=True, timeout=120, check=False
        )


def install(directory: Path) -> None:
    """Install what the README's pip line names, in the versions of the lock file, into *directory*."""
    (extras, programs) = re.findall(r"^pip install 'polysaga\[([\w,]+)\]' ?(.*)$", README, re.MULTILINE)[0]
    assert programs == "uvicorn"  # the dependency group `readme`
    named = [word for extra in extras.split(",") for word in ("--extra", extra)]
    fresh = ("--reinstall-package", "polysaga")  # not a wheel of yesterday, which uv keeps
    ended = subprocess.run(
        [uv(), "sync", "--locked", "--no-editable", "--no-default-groups", "--group", "readme", *fresh, *named],
        cwd=ROOT,
        env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(directory)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    install(tmp_path / "venv")
    work = tmp_path / "work"
    work.mkdir()
    ((_, shop),) = [block for block in BLOCKS if block[0] == "python"]
    (work / "shop.py").write_text(shop)
    return Terminal(work, tmp_path / "venv")


@pytest.fixture
def served(terminal: Terminal) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    (command,) = [line for _, text in BLOCKS for line in text.splitlines() if line.startswith("uvicorn ")]
    words = [*shlex.split(command), "--port", str(port)]
    log = (terminal.directory / "uvicorn.log").open("w")
    with log, begin(words, cwd=terminal.directory, env=terminal.variables, stdout=log, stderr=log) as process:

        def answers() -> bool:
            assert process.poll() is None, (terminal.directory / "uvicorn.log").read_text()
            try:
                return bool(urllib.request.urlopen(f"{url}/health/ready", timeout=5).status == 200)
            except OSError:
                return False

        poll_until(answers, "the example answers", patience=60)
        yield url
        process.kill()


def commands() -> list[list[str]]:
    """Return every `polysaga ...` of the README that names a program."""
    found = re.findall(r"(?:^|`)(polysaga [a-z ]+ shop:\w+)", README, re.MULTILINE)
    return [shlex.split(text) for text in dict.fromkeys(found)]


def test_the_example_works_with_every_command_that_the_readme_names(terminal: Terminal, served: str) -> None:
    order = urllib.request.Request(
        f"{served}/orders", b'{"item": "lantern", "pieces": 2}', {"content-type": "application/json"}
    )
    assert urllib.request.urlopen(order, timeout=30).status == 201
    named = commands()
    assert {words[1] for words in named} == {"migrate", "check", "nodes", "verify"}
    for words in named:
        ended = terminal.run(*words)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    # By its Sagas object too, and from the directory alone.
    listed = terminal.run("polysaga", "sagas", "list", "shop:sagas", "--json")
    assert [one["status"] for one in json.loads(listed.stdout)["sagas"]] == ["completed"]
