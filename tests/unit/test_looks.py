"""Looks at other processes' sagas are shared: few statements for many followers, and each gets its own row."""

import asyncio
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from polysaga.clock import Clock
from polysaga.sagas.process.looks import SharedLooks
from polysaga.sagas.process.loop import LONGEST_PAUSE, pauses
from polysaga.sagas.protocol.rows import Claim, Standing
from polysaga.sagas.protocol.states import Status
from polysaga.testing.clock import HandClock
from tests.fixtures.waiting import forever, reached, until, within


class Journal:
    """Knows every saga except those that are gone; fails as the test says."""

    def __init__(self, clock: Clock) -> None:
        self.looks: list[tuple[float, set[UUID]]] = []
        self.gone: set[UUID] = set()
        self.unreadable: set[UUID] = set()
        self.failures: list[Exception] = []
        self.silent = 0  # looks that get no answer
        self.asked = asyncio.Event()
        self._clock = clock

    async def standings(self, saga_ids: Collection[UUID]) -> dict[UUID, Standing]:
        self.looks.append((self._clock.monotonic(), set(saga_ids)))
        self.asked.set()
        await asyncio.sleep(0)
        if self.silent:
            self.silent -= 1
            await forever()
        if self.failures:
            raise self.failures.pop()
        if self.unreadable & set(saga_ids):
            raise ValueError("this row cannot be read")
        return {
            one: Standing(Claim(one, 1, uuid4()), "trip", "f" * 32, Status.RUNNING, {}, None)
            for one in saga_ids
            if one not in self.gone
        }


class StandingClock(Clock):
    """No pause ever ends."""

    async def sleep(self, seconds: float) -> None:
        await forever()


def looks_at(journal: Journal, clock: Clock, *, lease: float = 10.0) -> SharedLooks:
    engine: Any = SimpleNamespace(journal=journal, clock=clock, settings=SimpleNamespace(lease=lease))
    return SharedLooks(engine, lambda error: isinstance(error, ConnectionError | TimeoutError))


def tasks() -> list[str]:
    """Return what runs beside the test and its runner."""
    names = (task.get_coro().__qualname__ for task in asyncio.all_tasks() - {asyncio.current_task()})
    return [name for name in names if not name.startswith("TestRunner")]


async def answered(look: Any) -> Standing | None:
    found: Standing | None = await within(look, "the follower has an answer")
    return found


async def test_many_followers_cost_a_few_looks_a_second() -> None:
    clock = HandClock()
    journal = Journal(clock)
    looks, many, seconds = looks_at(journal, clock), 300, 20.0

    async def follow(number: int) -> None:
        saga_id = uuid4()
        await looks.after(number / many * LONGEST_PAUSE, saga_id)  # they come one by one
        for pause in pauses():
            found = await looks.after(pause, saga_id)
            assert found is not None
            assert found.claim.saga_id == saga_id
            if clock.monotonic() > seconds:
                return

    await within(asyncio.gather(*map(follow, range(many))), "all have followed for long")

    late = [saga_ids for at, saga_ids in journal.looks if seconds / 2 <= at <= seconds]
    assert len(late) <= 4 * seconds / 2
    assert sum(map(len, late)) >= many * seconds / 2, "and each follower is served as often as before"
    assert not tasks()


async def test_a_new_follower_is_looked_for_at_once() -> None:
    clock = StandingClock()
    journal = Journal(clock)
    looks, old, new = looks_at(journal, clock), uuid4(), uuid4()
    waiting = asyncio.create_task(looks.after(60.0, old))
    await asyncio.sleep(0)

    found = await answered(looks.after(0.0, new))

    assert found is not None
    assert [saga_ids for _, saga_ids in journal.looks] == [{new}]
    assert not waiting.done()
    waiting.cancel()
    await until(lambda: not tasks(), "nothing is left")


async def test_followers_who_come_together_share_one_look_also_of_one_saga() -> None:
    clock = StandingClock()
    journal = Journal(clock)
    looks, one, other = looks_at(journal, clock), uuid4(), uuid4()
    journal.gone.add(other)

    found = await answered(asyncio.gather(*(looks.after(0.0, saga_id) for saga_id in (one, other, one))))  # type: ignore[func-returns-value]

    assert [None if each is None else each.claim.saga_id for each in found] == [one, None, one]  # type: ignore[union-attr]
    assert [saga_ids for _, saga_ids in journal.looks] == [{one, other}]


async def test_more_followers_than_a_statement_takes_are_looked_for_in_parts() -> None:
    clock = StandingClock()
    journal = Journal(clock)
    looks = looks_at(journal, clock)

    found = await within(asyncio.gather(*(looks.after(0.0, uuid4()) for _ in range(1200))), "all are answered")

    assert None not in found
    assert [len(saga_ids) for _, saga_ids in journal.looks] == [500, 500, 200]


async def test_a_cancelled_follower_is_no_longer_looked_for() -> None:
    clock = StandingClock()
    journal = Journal(clock)
    looks, gone, stays = looks_at(journal, clock), uuid4(), uuid4()
    followers = [asyncio.create_task(looks.after(0.0, saga_id)) for saga_id in (gone, stays)]
    followers[0].cancel()

    assert await answered(followers[1]) is not None

    assert followers[0].cancelled() or followers[0].cancelling()
    assert [saga_ids for _, saga_ids in journal.looks] == [{stays}]


async def test_the_last_follower_takes_the_look_under_way_with_it() -> None:
    clock = StandingClock()
    journal = Journal(clock)
    journal.silent = 1
    looks = looks_at(journal, clock)
    follower = asyncio.create_task(looks.after(0.0, uuid4()))
    await reached(journal.asked, "the journal is asked")

    follower.cancel()

    await until(lambda: not tasks(), "nothing is left")
    assert await answered(looks.after(0.0, uuid4())) is not None
    assert not tasks()


async def test_a_look_that_fails_for_a_while_is_repeated() -> None:
    clock = HandClock()
    journal = Journal(clock)
    journal.failures = [ConnectionError(), ConnectionError()]

    assert await answered(looks_at(journal, clock).after(0.0, uuid4())) is not None

    assert len(journal.looks) == 3
    assert clock.monotonic() == 2 * LONGEST_PAUSE


async def test_a_look_without_an_answer_is_given_up_and_repeated() -> None:
    clock = HandClock()
    journal = Journal(clock)
    journal.silent = 1

    assert await answered(looks_at(journal, clock, lease=0.05).after(0.0, uuid4())) is not None

    assert len(journal.looks) == 2


async def test_a_row_that_cannot_be_read_fails_its_own_follower_only() -> None:
    clock = StandingClock()
    journal = Journal(clock)
    looks, good, bad = looks_at(journal, clock), uuid4(), uuid4()
    journal.unreadable.add(bad)

    found, error = await within(
        asyncio.gather(looks.after(0.0, good), looks.after(0.0, bad), return_exceptions=True),
        "both have an answer",
    )

    assert isinstance(found, Standing)
    assert isinstance(error, ValueError)
    assert not tasks()


async def test_a_failure_that_does_not_pass_is_the_followers() -> None:
    clock = StandingClock()
    journal = Journal(clock)
    journal.failures = [LookupError("no such table")]

    with pytest.raises(LookupError, match="no such table"):
        await answered(looks_at(journal, clock).after(0.0, uuid4()))
    assert not tasks()
