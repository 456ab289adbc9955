"""A test that does not end shows where it waits."""

import asyncio
from pathlib import Path

from tests.fixtures.hangs import show
from tests.fixtures.waiting import forever, pause, until


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
