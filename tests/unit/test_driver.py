"""A stop ends the steps that the driving task awaits, and nothing else; a real cancellation always wins."""

import asyncio
from collections.abc import Iterator

import pytest

from polysaga.sagas.driving.driver import TURNS, Driver, Turn
from tests.fixtures.waiting import forever, reached, within


class Watched(Driver):
    """A driver that keeps the turns it takes."""

    def __init__(self) -> None:
        self.taken: list[Turn] = []
        super().__init__()

    def __setattr__(self, name: str, value: object) -> None:
        if name == "turn" and isinstance(value, Turn) and value is not getattr(self, "turn", None):
            self.taken.append(value)
        super().__setattr__(name, value)


@pytest.fixture
def driver() -> Iterator[Watched]:
    one = Watched()
    yield one
    assert set(zip(one.taken, one.taken[1:], strict=False)) <= {
        (before, following) for before, all_following in TURNS.items() for following in all_following
    }


async def drive(driver: Watched, steps: object, begun: asyncio.Event) -> bool:
    driver.take_seat()
    begun.set()
    return await driver.interrupted_in(steps)  # type: ignore[arg-type]


async def test_a_stop_cuts_off_the_steps_and_the_task_goes_on(driver: Watched) -> None:
    begun = asyncio.Event()
    task = asyncio.ensure_future(drive(driver, forever(), begun))
    await reached(begun, "the task awaits")
    driver.interrupt()
    assert await within(task, "the task goes on")
    assert task.cancelling() == 0
    assert driver.taken == [Turn.DRIVES, Turn.AWAITS, Turn.INTERRUPTED, Turn.DRIVES]


async def test_a_stop_while_it_drives_cuts_off_nothing(driver: Watched) -> None:
    driver.take_seat()
    driver.interrupt()
    assert not await driver.interrupted_in(asyncio.sleep(0))
    driver.interrupt()
    await asyncio.sleep(0)
    assert driver.taken == [Turn.DRIVES, Turn.AWAITS, Turn.DRIVES]


async def test_a_step_that_swallows_the_stop_leaves_no_cancellation_behind(driver: Watched) -> None:
    begun = asyncio.Event()

    async def stubborn() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            return

    task = asyncio.ensure_future(drive(driver, stubborn(), begun))
    await reached(begun, "the task awaits")
    driver.interrupt()
    assert not await within(task, "the step ends")
    assert task.cancelling() == 0


@pytest.mark.parametrize("first", ["the stop", "the cancellation"])
async def test_a_task_that_is_cancelled_as_well_ends(driver: Watched, first: str) -> None:
    begun = asyncio.Event()
    task = asyncio.ensure_future(drive(driver, forever(), begun))
    await reached(begun, "the task awaits")
    for end in (driver.interrupt, task.cancel) if first == "the stop" else (task.cancel, driver.interrupt):
        end()
    await within(asyncio.wait([task]), "the task ends")
    assert task.cancelled()


async def test_a_cancellation_that_was_swallowed_is_raised_before_the_next_decision(driver: Watched) -> None:
    begun = asyncio.Event()

    async def swallowed() -> None:
        begun.set()
        try:
            await forever()
        except asyncio.CancelledError:
            return

    async def whole() -> None:
        driver.take_seat()
        assert not await driver.interrupted_in(swallowed())
        driver.refuse_if_cancelled()

    task = asyncio.ensure_future(whole())
    await reached(begun, "the task awaits")
    task.cancel()
    await within(asyncio.wait([task]), "the task ends")
    assert task.cancelled()
