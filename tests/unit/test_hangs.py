"""A test that does not end shows where it waits."""

import asyncio
import subprocess
import sys
from pathlib import Path

from tests.fixtures.hangs import show
from tests.fixtures.waiting import forever, pause, until

PROJECT = Path(__file__).parents[2]
SUITE = """
import threading
from tests.fixtures import hangs

hangs._LONG = 0.2

def test_that_hangs():
    threading.Event().wait(1.0)
"""


async def test_the_tasks_and_the_threads_are_shown(tmp_path: Path) -> None:
    async def stuck() -> None:
        await forever()

    task = asyncio.create_task(stuck(), name="the stuck one")
    await pause()
    try:
        with (tmp_path / "log").open("w+") as file:
            show("test_that_hangs", file)
            file.seek(0)
            told = file.read()
    finally:
        task.cancel()
    await until(task.done, "the stuck task has ended")

    assert "test_that_hangs has not ended" in told
    _, _, after = told.partition("task the stuck one:\n")
    assert [line.split()[0].rpartition(".")[2] for line in after.splitlines()[:3]] == ["stuck", "forever", "wait"]
    assert "(most recent call first)" in told


def test_a_worker_tells_although_pytest_captures_what_its_tests_write(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    plugins = ("-p", "tests.fixtures.uncaptured", "-p", "tests.fixtures.hangs", "-n", "1")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "test_suite.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "test_that_hangs has not ended after 0.2 s" in done.stderr
    assert "threading.py" in done.stderr
