"""A type checker agrees with what `api.py` says about the public names."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("mypy")  # one run serves all
ROOT = Path(__file__).parents[2]
API = Path(__file__).with_name("api.py")


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what mypy says about `api.py` and about a copy of it with one wrong type."""
    wrong = tmp_path_factory.mktemp("typing") / "wrong.py"
    wrong.write_text(API.read_text().replace("ctx.result(reserve), Reservation", "ctx.result(reserve), Placed"))
    # A cache of its own: another mypy may be at work on the project's.
    command = [sys.executable, "-m", "mypy", "--cache-dir", ".mypy_cache/typing", str(API), str(wrong)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_mypy_agrees_with_every_type_and_every_mistake_in_api(mypy: str) -> None:
    assert "Found 1 error in 1 file (checked 2 source files)" in mypy
    assert "api.py:" not in mypy


def test_mypy_would_tell_if_a_type_were_wrong(mypy: str) -> None:
    assert "wrong.py:" in mypy
    assert 'Expression is of type "Reservation", not "Placed"' in mypy
