"""A type checker agrees with what `api.py` says about the public names."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
API = Path(__file__).with_name("api.py")


def mypy(file: Path) -> tuple[int, str]:
    # A cache of its own: another mypy may be at work on the project's.
    command = [sys.executable, "-m", "mypy", "--cache-dir", ".mypy_cache/typing", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_mypy_agrees_with_every_type_and_every_mistake_in_api() -> None:
    code, told = mypy(API)
    assert code == 0, told
    assert "no issues found in 1 source file" in told


def test_mypy_would_tell_if_a_type_were_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(API.read_text().replace("ctx.result(reserve), Reservation", "ctx.result(reserve), Placed"))
    code, told = mypy(wrong)
    assert code == 1
    assert 'Expression is of type "Reservation", not "Placed"' in told
