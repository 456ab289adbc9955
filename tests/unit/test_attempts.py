"""Trying again and again: what is kept of it."""

from uuid import uuid4

from polysaga import Retry, Saga, SqlDatabase, StepContext
from polysaga.databases import Fault
from polysaga.sagas.attempts import Attempts, Once
from polysaga.sagas.deadlines import Deadlines
from polysaga.sagas.definition import AnyStep
from polysaga.testing.clock import HandClock


def a_step() -> AnyStep:
    saga: Saga[int, None] = Saga("trip", input=int)

    @saga.step(SqlDatabase("hotel"), kind="pivot")
    async def book(db: object, rooms: int, ctx: StepContext) -> None:
        return None

    return book


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
