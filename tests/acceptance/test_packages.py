"""What is published: the source package is the repository, and the wheel is the library and nothing else."""

import re
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest

from tests.fixtures.processes import uv

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Packages:
    """The names of the files in both packages, and what the wheel says about itself."""

    source: frozenset[str]
    wheel: frozenset[str]
    metadata: Message


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    directory = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [uv(), "build", "--out-dir", str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (source,), (wheel,) = directory.glob("*.tar.gz"), directory.glob("*.whl")
    with tarfile.open(source) as archive:
        files = [PurePosixPath(one.name) for one in archive.getmembers() if one.isfile()]
    with zipfile.ZipFile(wheel) as opened:
        (metadata,) = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        return Packages(
            frozenset(str(file.relative_to(file.parts[0])) for file in files),
            frozenset(opened.namelist()),
            message_from_bytes(opened.read(metadata)),
        )


def of_git(*options: str) -> set[str]:
    """Return what git knows of the checkout; skip the test where there is none."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    command = ["git", "ls-files", *options]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return {name for name in told.stdout.splitlines() if (ROOT / name).exists()}


def test_the_source_package_has_every_file_of_the_repository_and_no_other(packages: Packages) -> None:
    tracked, new = of_git(), of_git("--others", "--exclude-standard")
    assert tracked - packages.source == set()
    assert packages.source - tracked - new == {"PKG-INFO"}


def test_the_wheel_has_the_library_and_nothing_else(packages: Packages) -> None:
    expected = {name.removeprefix("src/") for name in packages.source if name.startswith("src/polysaga/")}
    assert {name for name in packages.wheel if ".dist-info/" not in name} == expected


def test_the_description_has_no_link_that_leads_nowhere(packages: Packages) -> None:
    text = packages.metadata.get_payload()
    assert isinstance(text, str)
    assert text.startswith("# Polysaga\n")
    assert [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target] == []
    assert "walks through that shop" in text


def test_the_versions_of_python_are_those_that_may_install_it(packages: Packages) -> None:
    said = [value for value in packages.metadata.get_all("Classifier", []) if "Python :: 3." in value]
    assert said[0].endswith(packages.metadata["Requires-Python"].removeprefix(">="))
