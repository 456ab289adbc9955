"""Trying again and again: what is kept of it."""

import asyncio
from uuid import uuid4

from polysaga import Retry, Saga, SqlDatabase, StepContext
from polysaga.databases import Fault
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.attempts import AttemptPlan, Attempts
from polysaga.sagas.driving.gates import Gate
from polysaga.sagas.driving.timeouts import Timeouts
from polysaga.testing.clock import HandClock
from tests.fixtures.waiting import forever, reached, until, within


def a_step() -> AnyStep:
    saga: Saga[int, None] = Saga("trip", input=int)

    @saga.step(SqlDatabase("hotel"), kind="pivot")
    async def book(db: object, rooms: int, ctx: StepContext) -> None:
        return None

    return book


async def test_waiting_for_a_database_ends_although_the_driver_turns_a_cancellation_into_an_error() -> None:
    """The process is to end while the database is away: each try fails, the first because it was cancelled."""
    attempts = Attempts(uuid4(), "trip", HandClock(), lambda _: None, Timeouts())
    waiting, tries = asyncio.Event(), 0

    async def ask() -> None:
        nonlocal tries
        tries += 1
        if tries > 1:
            raise ConnectionRefusedError
        waiting.set()
        try:
            await forever()
        except asyncio.CancelledError:
            raise ConnectionResetError from None

    asking = asyncio.ensure_future(attempts.persist(ask, lambda _: Fault.UNREACHABLE))
    await reached(waiting, "the work is waiting")
    asking.cancel()

    await asyncio.wait([asking], timeout=10)
    assert asking.cancelled()
    assert tries == 1


async def test_of_a_step_that_fails_for_weeks_the_first_and_the_last_attempts_are_kept() -> None:
    """The journal row is written with them at each renewal, together with those of all other sagas."""
    clock, step, tried = HandClock(), a_step(), 0
    attempts = Attempts(uuid4(), "trip", clock, lambda _: None, Timeouts())

    async def fail(attempt: int) -> None:
        nonlocal tried
        tried = attempt
        raise ConnectionResetError

    plan = AttemptPlan(fail, lambda _: Fault.UNREACHABLE)
    settled = await attempts.settle(step, plan, Retry(within=3600.0, first=2.0))

    assert not settled.done
    assert tried > 1000
    kept = [entry.attempt for entry in attempts.history]
    assert kept == [*range(1, 51), *range(tried - 149, tried + 1)]


async def test_time_in_the_queue_before_a_database_is_none_of_the_time_for_repeats() -> None:
    """A step that met one conflict would be given up for the length of the queue behind which it tries again."""
    clock, step, gate = HandClock(), a_step(), Gate("hotel", 1, HandClock())
    attempts = Attempts(uuid4(), "trip", clock, lambda _: None, Timeouts())
    tries, queued = 0, list[asyncio.Task[None]]()

    async def hold() -> None:
        await gate.enter()
        await until(lambda: gate.room == 0, "the step stands behind it")
        clock.move(60.0)
        gate.leave(None, None)

    async def fail_twice(attempt: int) -> None:
        nonlocal tries
        tries = attempt
        if attempt < 3:
            queued.append(asyncio.create_task(hold()))
            await asyncio.sleep(0)  # it waits now, and goes in before the next attempt
            raise ConnectionResetError

    plan = AttemptPlan(fail_twice, lambda _: Fault.DEADLOCK, gate=gate)
    settled = await within(attempts.settle(step, plan, Retry(within=20.0)), "the step is settled")

    assert (settled.done, tries) == (True, 3)
    await within(asyncio.gather(*queued), "those in the queue have been inside")
