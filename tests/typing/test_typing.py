"""A type checker agrees with what `api.py` says about the public names, and with the documents."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("mypy")  # one run serves all
ROOT = Path(__file__).parents[2]
API = Path(__file__).with_name("api.py")


BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
# A block that imports the public names is a program of its own; the others are parts of one.
IMPORTS = re.compile(r"^from polysaga import", re.M)
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]


def programs() -> dict[str, str]:
    """Return the programs of the documents by a name of their own; tests in them need no annotations."""
    found = {}
    for page in PAGES:
        for number, text in enumerate(BLOCK.findall(page.read_text())):
            if IMPORTS.search(text) and "def test_" not in text:
                found[f"{page.stem.replace('-', '_')}_{number}.py"] = text
    return found


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what mypy says about `api.py`, a copy with one wrong type, and the programs in the documents."""
    directory = tmp_path_factory.mktemp("typing")
    wrong = directory / "wrong.py"
    documented = programs()
    for name, text in documented.items():
        (directory / name).write_text(text)
    wrong.write_text(API.read_text().replace("ctx.result(reserve), Reservation", "ctx.result(reserve), Placed"))
    # A cache of its own: another mypy may be at work on the project's.
    command = [sys.executable, "-m", "mypy", "--cache-dir", ".mypy_cache/typing", str(API), str(wrong)]
    command += [str(directory / name) for name in documented]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_mypy_agrees_with_every_type_and_every_mistake_in_api(mypy: str) -> None:
    assert "Found 1 error in 1 file" in mypy
    assert "api.py:" not in mypy


def test_mypy_agrees_with_every_program_in_the_documents(mypy: str) -> None:
    documented = programs()
    assert {"README_0.py", "semantic_locks_0.py", "a_parked_saga_0.py", "crash_kit_0.py"} <= documented.keys()
    assert f"(checked {2 + len(documented)} source files)" in mypy
    assert [name for name in documented if f"{name}:" in mypy] == []


def test_mypy_would_tell_if_a_type_were_wrong(mypy: str) -> None:
    assert "wrong.py:" in mypy
    assert 'Expression is of type "Reservation", not "Placed"' in mypy
