"""Limits hold whatever is done with a cancellation."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from polysaga.limits import ended, leave_cancelled_behind, limited
from tests.fixtures.waiting import forever, reached, stubborn, within

SHORT = 0.02


@pytest.fixture
async def release() -> AsyncIterator[asyncio.Event]:
    """Set at the end, so that what a test left behind ends too."""
    event = asyncio.Event()
    yield event
    event.set()
    await asyncio.sleep(0)


async def test_what_ends_in_time_gives_its_result_or_its_error() -> None:
    async def fail() -> None:
        raise LookupError

    assert await limited(asyncio.sleep(0, 7), 30) == 7
    with pytest.raises(LookupError):
        await limited(fail(), 30)


async def test_what_takes_too_long_is_cancelled_and_awaited() -> None:
    ended = False

    async def slow() -> None:
        nonlocal ended
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            ended = True

    with pytest.raises(TimeoutError):
        await limited(slow(), SHORT)
    assert ended


async def test_a_result_that_comes_with_the_cancellation_counts() -> None:
    async def answer() -> int:
        try:
            await forever()
        except asyncio.CancelledError:
            return 7
        raise AssertionError

    assert await limited(answer(), SHORT) == 7


async def test_what_swallows_its_cancellation_is_left_behind(release: asyncio.Event) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        await within(limited(stubborn(release), SHORT, grace=SHORT), "the limit holds")
    assert asyncio.all_tasks() == before, "the end of the loop would wait for it"


async def test_a_caller_that_is_cancelled_cancels_what_it_waits_for() -> None:
    inside, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        inside.set()
        try:
            await forever()
        finally:
            ended.set()

    caller = asyncio.create_task(limited(work(), 30))
    await reached(inside, "the work has begun")
    caller.cancel()
    await asyncio.wait([caller], timeout=30)
    assert caller.cancelled()
    assert ended.is_set()


async def test_of_several_tasks_those_that_go_on_are_told(release: asyncio.Event) -> None:
    wild, tame = asyncio.create_task(stubborn(release)), asyncio.create_task(forever())
    await asyncio.sleep(0)
    assert await ended([wild, tame], SHORT) == {wild}
    assert tame.cancelled()
    assert await ended([], SHORT) == set()


async def test_a_task_that_a_driver_made_and_cancelled_is_left_behind_too(release: asyncio.Event) -> None:
    before = asyncio.all_tasks()
    theirs, busy = asyncio.create_task(stubborn(release)), asyncio.create_task(forever())
    await asyncio.sleep(0)
    theirs.cancel()
    await asyncio.sleep(0)
    leave_cancelled_behind()
    assert asyncio.all_tasks() == before | {busy}
    busy.cancel()
