"""The tutorial's commands are run as they stand: a parked saga is found, understood and repaired."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.processes import begin, next_line
from tests.fixtures.services import poll_until

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial" / "a-parked-saga.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def blocks(language: str) -> list[str]:
    return [text for said, text in BLOCKS if said == language]


class Terminal:
    """A terminal in the directory of the tutorial, with what its reader has installed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        ours = {name: value for name, value in os.environ.items() if not name.startswith("POLYSAGA_")}
        self.environment = {**ours, "PATH": f"{Path(sys.executable).parent}:{ours['PATH']}", "COLUMNS": "100"}

    def run(self, command: str, **variables: str) -> str:
        """Return what *command* prints; it must end well."""
        words = [variables.get(word.removeprefix("$"), word) for word in shlex.split(command)]
        ended = subprocess.run(
            words, cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def begin(self, command: str) -> "subprocess.Popen[str]":
        """Start *command* in the background."""
        return begin(shlex.split(command), cwd=self.directory, env=self.environment)


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    (shop,), (settings,) = blocks("python"), blocks("toml")
    (tmp_path / "shop.py").write_text(shop)
    (tmp_path / "polysaga.toml").write_text(settings)
    return Terminal(tmp_path)


@pytest.fixture
def shop(terminal: Terminal) -> Iterator["subprocess.Popen[str]"]:
    with terminal.begin(blocks("sh")[0].strip()) as process:
        yield process
        process.kill()


def test_a_parked_saga_is_found_understood_and_repaired_with_four_commands(
    terminal: Terminal, shop: "subprocess.Popen[str]"
) -> None:
    _, find, understand, repair, resume, many = [text.strip() for text in blocks("sh")]
    said = next_line(shop, "the shop parks a saga")
    assert "is parked and needs a person: LookupError: ada has no account" in said

    listed = terminal.run(find)
    (saga_id,) = ID.findall(listed)
    assert "needs_attention" in listed
    assert "take_points: LookupError: ada has no account" in listed

    shown = terminal.run(understand, ID=saga_id)
    assert "needs_attention, was compensating" in shown
    assert re.search("undone for +hand_over: the last lantern is gone", shown)
    assert "no process: it waits for a person" in shown
    assert re.search(r"take_points +undo +\d+ .* LookupError", shown)

    assert "1 would be changed" in terminal.run(many)
    terminal.run(repair)
    assert "needs_attention -> compensating" in terminal.run(resume, ID=saga_id)

    poll_until(
        lambda: re.search(r"^status +compensated", terminal.run(understand, ID=saga_id), re.MULTILINE) is not None,
        "it is undone",
        patience=60,
    )
    assert "account restored from the backup" in terminal.run(understand, ID=saga_id)
    assert "Journal and ledgers agree." in terminal.run("polysaga verify shop:sagas")
    points = "SELECT points FROM accounts WHERE customer = 'ada'"
    asked = f'import sqlite3; print(sqlite3.connect("points.db").execute("{points}").fetchone()[0])'
    assert terminal.run(f"python -c {shlex.quote(asked)}") == "100\n"
