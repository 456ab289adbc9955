"""The run goes on when a worker dies."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
SUITE = """
import os
import pytest

@pytest.mark.parametrize("number", range(30))
def test_alone(number):
    if number == 7:
        os._exit(1)

@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("number", range(5))
def test_together(number):
    if number == 4:
        os._exit(1)
"""


def test_all_tests_run_but_those_in_which_a_worker_died(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    options = ("-p", "xdist", "-p", "tests.fixtures.scheduling", "-n", "2", "--dist=loadgroup")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, "--no-loadscope-reorder", "test_suite.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "2 failed, 33 passed" in done.stdout
    for died in ("test_alone[7]", "test_together[4]@together"):
        assert f"crashed while running 'test_suite.py::{died}'" in done.stdout
