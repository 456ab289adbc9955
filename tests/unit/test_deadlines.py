"""Limits on waiting with one timer for all: what `asyncio.timeout` promises, for every order of ends."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from polysaga.sagas.driving.timeouts import Timeouts
from tests.fixtures.waiting import forever, reached

T = TypeVar("T")
LONG = 30.0
SHORT = 0.01


async def within(deadlines: Timeouts, seconds: float, work: Awaitable[T]) -> T:
    with deadlines.within(seconds):
        return await work


async def test_what_ends_in_time_gives_its_result() -> None:
    async def work() -> int:
        return 7

    assert await within(Timeouts(), LONG, work()) == 7


async def test_what_takes_too_long_is_cancelled_and_told_so() -> None:
    ended = []

    async def work() -> None:
        try:
            await forever()
        finally:
            ended.append("cancelled")

    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(TimeoutError):
        await within(Timeouts(), SHORT, work())
    assert ended == ["cancelled"]
    assert task.cancelling() == 0


@pytest.mark.parametrize(("first", "second"), [(LONG, SHORT), (SHORT, LONG), (SHORT, SHORT)])
async def test_every_deadline_counts_whatever_the_order_they_were_set_in(first: float, second: float) -> None:
    deadlines, hold = Timeouts(), asyncio.Event()

    async def held() -> bool:
        await reached(hold, "the test lets go")
        return True

    waiting = [asyncio.create_task(within(deadlines, seconds, held())) for seconds in (first, second)]
    late = [task for task, seconds in zip(waiting, (first, second), strict=True) if seconds == SHORT]
    await asyncio.wait(late, timeout=LONG)
    assert all(isinstance(task.exception(), TimeoutError) for task in late)
    hold.set()
    assert all([await task for task in waiting if task not in late])


async def test_a_later_use_is_timed_although_the_timer_went_off_before() -> None:
    deadlines = Timeouts()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await within(deadlines, SHORT, forever())


async def test_the_inner_of_two_limits_is_the_one_that_passes() -> None:
    deadlines = Timeouts()

    async def outer() -> str:
        try:
            await within(deadlines, SHORT, forever())
        except TimeoutError:
            return "inner"
        return "none"

    assert await within(deadlines, LONG, outer()) == "inner"


async def test_being_cancelled_is_not_being_late() -> None:
    task = asyncio.create_task(within(Timeouts(), LONG, forever()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_being_cancelled_goes_before_being_late() -> None:
    """The deadline passes first; before the work has ended for it, the caller cancels the task."""
    let_go, ending = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            ending.set()
            await reached(let_go, "the test lets go")
            raise

    task = asyncio.create_task(within(Timeouts(), SHORT, stubborn()))
    await reached(ending, "the work is ending")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_work_itself_passes_through_and_leaves_nothing_behind() -> None:
    async def work() -> None:
        raise ValueError("own")

    deadlines = Timeouts()
    with pytest.raises(ValueError, match="own"):
        await within(deadlines, SHORT, work())
    with pytest.raises(TimeoutError):
        await within(deadlines, 2 * SHORT, forever())


async def test_what_swallows_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polysaga.sagas.driving.timeouts._AGAIN", SHORT)
    deadlines, hung = Timeouts(), list[bool]()
    task = asyncio.current_task()
    assert task is not None

    async def swallow_thrice() -> None:
        for _ in range(3):
            try:
                await forever()
            except asyncio.CancelledError:
                hung.append(task in deadlines.hanging())
        await forever()

    with pytest.raises(TimeoutError):
        await within(deadlines, SHORT, swallow_thrice())
    assert hung == [False, False, True], "one or two cancellations may meet a driver's cleaning up"
    assert task.cancelling() == 0
    assert not deadlines.hanging()


async def test_a_cancellation_from_outside_goes_before_many_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polysaga.sagas.driving.timeouts._AGAIN", SHORT)
    deadlines, late = Timeouts(), asyncio.Event()

    async def swallow_until_late() -> None:
        while not late.is_set():
            try:
                await reached(late, "it hangs")
            except asyncio.CancelledError:
                if deadlines.hanging():
                    late.set()
        await forever()

    task = asyncio.create_task(within(deadlines, SHORT, swallow_until_late()))
    await reached(late, "it was cancelled three times")
    task.cancel()
    await asyncio.wait([task], timeout=LONG)
    assert task.cancelled()
