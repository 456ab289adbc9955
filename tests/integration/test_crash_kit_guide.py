"""The guide to the crash kit is true: its example runs, as a user would run it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "crash-kit.md"
PROGRAM, TEST = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    """Return the folder in which the reader of the guide works."""
    return tmp_path


def run(directory: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    (directory / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "test_tickets.py"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, check=False)


def save(directory: Path, program: str) -> None:
    (directory / "tickets.py").write_text(program)
    (directory / "test_tickets.py").write_text(TEST)


def test_the_example_holds(tickets: Path) -> None:
    save(tickets, PROGRAM)
    told = run(tickets)
    assert told.returncode == 0, told.stdout + told.stderr
    assert re.search(r"crash kit: sell-ticket: \d{3,} runs, 0 broke the promise, \d+ s, seed 0", told.stdout)


def test_the_cases_are_listed_and_prove_nothing(tickets: Path) -> None:
    save(tickets, PROGRAM)
    told = run(tickets, "--crash-list", "-rs")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "1 skipped" in told.stdout
    assert re.search(r"^crash kit: sell-ticket: \d{3,} cases$", told.stdout, re.MULTILINE)
    names = set(re.findall(r"^  (\S+)$", told.stdout, re.MULTILINE))
    assert {"forward", "refused-in-charge/kill@A:before:undo_take_seat"} <= names
    assert any(name.count("kill@") == 2 for name in names), "crashes of recoveries are listed, too"


def test_a_long_proof_tells_how_far_it_is(tickets: Path) -> None:
    save(tickets, PROGRAM)
    (tickets / "conftest.py").write_text("import polysaga.testing.crash_kit.fixture as kit\nkit._IN_A_LOG = 0.0\n")
    told = run(tickets, "--crash-sample", "20")
    assert told.returncode == 0, told.stdout + told.stderr
    lines = re.findall(
        r"^crash kit: sell-ticket: \d+ of \d+ cases.*, 0 broke the promise, \d+ s$", told.stdout, re.M
    )
    assert len(lines) == 20


@pytest.mark.parametrize("case", [[], ["--crash-case", "refused-in-charge"]], ids=["all", "one"])
def test_a_mistake_in_the_example_is_told(tickets: Path, case: list[str]) -> None:
    save(tickets, PROGRAM.replace("free = free + 1", "free = free + 2"))
    told = run(tickets, *case)
    assert told.returncode == 1
    assert "case refused-in-charge" in told.stdout
    assert "the invariant does not hold" in told.stdout


def test_projects_that_use_no_crash_kit_do_not_load_it() -> None:
    """pytest loads our plugin in every project of the environment."""
    loading = "import sys; before = set(sys.modules); import polysaga.testing.plugin"
    command = [sys.executable, "-c", f"import pytest; {loading}; print(*(set(sys.modules) - before))"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert "polysaga.testing.plugin" in told
    assert {name.partition(".")[0] for name in told} <= {"polysaga", "importlib"}
    assert len(told) < 10
