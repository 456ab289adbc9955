"""Trying again and again: what is kept of it."""

import asyncio
from uuid import uuid4

from polysaga import Retry, Saga, SqlDatabase, StepContext
from polysaga.databases import Fault
from polysaga.sagas.attempts import Attempts, Once
from polysaga.sagas.deadlines import Deadlines
from polysaga.sagas.definition import AnyStep
from polysaga.testing.clock import HandClock
from tests.fixtures.waiting import forever, reached


def a_step() -> AnyStep:
    saga: Saga[int, None] = Saga("trip", input=int)

    @saga.step(SqlDatabase("hotel"), kind="pivot")
    async def book(db: object, rooms: int, ctx: StepContext) -> None:
        return None

    return book


async def test_waiting_for_a_database_ends_although_the_driver_turns_a_cancellation_into_an_error() -> None:
    """The process is to end while the database is away: each try fails, the first because it was cancelled."""
    attempts = Attempts(uuid4(), "trip", HandClock(), lambda _: None, Deadlines())
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
    attempts = Attempts(uuid4(), "trip", clock, lambda _: None, Deadlines())

    async def fail(attempt: int) -> None:
        nonlocal tried
        tried = attempt
        raise ConnectionResetError

    once = Once(fail, lambda _: Fault.UNREACHABLE)
    settled = await attempts.settle(step, once, Retry(within=3600.0, first=2.0))

    assert not settled.done
    assert tried > 1000
    kept = [entry["attempt"] for entry in attempts.history]
    assert kept == [*range(1, 51), *range(tried - 149, tried + 1)]
