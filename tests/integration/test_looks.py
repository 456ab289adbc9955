"""Which overdue sagas a worker looks for: in most ticks only those that have just become due."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from polysaga.events import SagaClaimed
from polysaga.sagas.journal.tables import JOURNAL
from polysaga.sagas.process import worker
from polysaga.sagas.process.worker import Worker
from tests.fixtures.programs import PLACE_ORDER, Gate, Order, Program, Urls
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import until

LEASE = 3600.0  # seconds: the programs' own workers tick once, and when they hear of work


@dataclass
class Hand:
    """A worker that the test ticks, the program that it belongs to, and sagas that another program drives."""

    worker: Worker
    program: Program
    sagas: list[UUID]
    later: float = 0.0  # seconds by which the clock of the program is ahead

    async def make_old(self, ago: float = 3 * LEASE) -> None:
        """Let the claims of the sagas have run out *ago* seconds, as a transaction would that commits late."""
        node = self.program.runner.engine.journal.node
        statement = node.dialect.render(f"UPDATE {JOURNAL} SET wake_at = {node.dialect.later(':seconds')}")
        async with node.writer.begin() as connection:
            await connection.exec_driver_sql(statement.sql, statement.bind({"seconds": -ago}))

    @property
    def claimed(self) -> set[UUID]:
        return {event.saga_id for event in self.program.recorder.of(SagaClaimed)}


@pytest.fixture
async def hand(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hand]:
    owner, other, gate = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER), Gate()
    owner.on("credit_points", gate)  # not in the journal's database, where it would hold SQLite's lock
    async with owner.open(lease=LEASE), other.open(lease=LEASE, claim_batch=1):
        handles = [await owner.sagas.start(owner.saga, Order()) for _ in range(2)]
        await gate.reached()
        mine = Hand(Worker(other.runner), other, [handle.id for handle in handles])
        clock = other.runner.engine.clock
        monotonic = clock.monotonic
        monkeypatch.setattr(clock, "monotonic", lambda: monotonic() + mine.later)
        yield mine
        gate.open()


@pytest.mark.parametrize(
    ("ago", "pause", "found"), [(3.0, 0.0, 1), (60.0, 0.0, 0), (500.0, 900.0, 1), (1000.0, 900.0, 0)]
)
async def test_a_tick_reads_back_to_the_last_look_and_five_seconds_before_it(
    hand: Hand, ago: float, pause: float, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_RARELY", 1e9)
    await hand.worker.tick()
    await hand.make_old(ago)
    hand.later += pause

    await hand.worker.tick()

    assert len(hand.claimed) == found


async def test_the_tick_after_a_look_that_began_late_is_for_all(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_RARELY", 1e9)
    journal = hand.program.runner.engine.journal
    claim = journal.claim

    async def slowly(*asked: Any, **more: Any) -> Any:
        rows = await claim(*asked, **more)
        hand.later += 6.0
        return rows

    await hand.worker.tick()
    with monkeypatch.context() as patch:
        patch.setattr(journal, "claim", slowly)
        await hand.worker.tick()
    await hand.make_old(60.0)

    await hand.worker.tick()

    assert len(hand.claimed) == 1


@pytest.mark.parametrize("when", ["at the start", "a minute later", "after a pause", "after a full batch"])
async def test_a_worker_looks_for_all_that_is_overdue(
    hand: Hand, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The program's own worker would join in when a batch is full.
    monkeypatch.setattr(hand.program.runner.due, "set", lambda: None)
    if when != "a minute later":
        monkeypatch.setattr(worker, "_RARELY", 1e9)
    if when in {"a minute later", "after a pause"}:
        await hand.worker.tick()
    await hand.make_old()
    if when == "after a full batch":
        await hand.worker.tick()
        assert len(hand.claimed) == 1
    hand.later += {"a minute later": 61.0, "after a pause": LEASE + 1.0}.get(when, 0.0)

    await hand.worker.tick()

    assert len(hand.claimed) == (2 if when == "after a full batch" else 1)


async def test_a_worker_that_hears_of_work_looks_for_all_that_is_overdue(hand: Hand) -> None:
    await hand.make_old()

    hand.program.runner.due.set()

    await until(lambda: hand.claimed == set(hand.sagas), "both are claimed")
