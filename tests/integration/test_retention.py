"""Removing old sagas: only what is at rest for long, ledgers first, and never what a reused key has just begun."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from polysaga import MongoSession
from polysaga.config import SagaSettings, parse_settings
from polysaga.databases import MongoNode, SqlNode
from polysaga.errors import ConfigurationError, Refused, UnknownSaga
from polysaga.events import ClaimLost, SagaFinished, SagasRemoved, StartParked
from polysaga.sagas.journal.tables import JOURNAL, LEDGER, OUTBOX
from polysaga.sagas.participants.outboxes import Outbox, Waiting
from polysaga.sagas.process import retention, worker
from polysaga.sagas.process.drain import Drain
from polysaga.sagas.process.retention import Retention, a_share
from polysaga.sagas.process.worker import Worker
from polysaga.testing.clock import HandClock
from tests.fixtures.programs import PLACE_ORDER, Gate, Order, Program, Urls, make_due
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import reached

MONTH = 31 * 24 * 3600.0
LOOK = Worker._remove_old  # tests keep it out


@pytest.fixture(autouse=True)
def removed_by_hand_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the worker from removing what a test has made old: its first look comes at any moment of a minute."""

    async def look_away(self: Worker) -> float:
        return 3600.0

    monkeypatch.setattr(Worker, "_remove_old", look_away)


def retention_of(program: Program) -> Retention:
    return Retention(program.runner.engine, program.runner.names)


async def complete(program: Program, **more: Any) -> UUID:
    handle = await program.sagas.start(program.saga, Order(), **more)
    await handle.result(30)
    await program.recorder.wait_for(SagaFinished, lambda event: event.saga_id == handle.id)
    program.recorder.events.clear()
    return handle.id


async def age(program: Program, saga_id: UUID, seconds: float = MONTH) -> None:
    """Make everything about a saga older than it is."""
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    for handle in program.handles.values():
        node = handle.primary
        if isinstance(node, MongoNode):
            its = {"_id": {"$regex": f"^{saga_id.hex}:"}}
            await node.documents[LEDGER].update_many(its, {"$set": {"recorded_at": then}})
            continue
        await _update(node, f"UPDATE {LEDGER} SET recorded_at = :then WHERE saga_id = :id", saga_id, then)
        if handle is program.sagas.journal:
            await _update(node, f"UPDATE {JOURNAL} SET created_at = :then WHERE id = :id", saga_id, then)
            ended = f"UPDATE {JOURNAL} SET finished_at = :then WHERE id = :id AND wake_at IS NULL"
            await _update(node, ended, saga_id, then)


async def _update(node: SqlNode, sql: str, saga_id: UUID, then: datetime) -> None:
    statement = node.dialect.render(sql)
    values = {"then": node.dialect.moment(then), "id": node.dialect.key(saga_id)}
    async with node.writer.begin() as connection:
        await connection.exec_driver_sql(statement.sql, statement.bind(values))


async def _age_outbox(program: Program, place: str, saga_id: UUID) -> None:
    then, node = datetime.now(UTC) - timedelta(seconds=MONTH), program.handles[place].primary
    if isinstance(node, MongoNode):
        await node.documents[OUTBOX].update_one({"_id": saga_id.hex}, {"$set": {"created_at": then}})
    else:
        await _update(node, f"UPDATE {OUTBOX} SET created_at = :then WHERE id = :id", saga_id, then)


async def rows(program: Program, saga_id: UUID) -> int:
    """Return how many ledger rows a saga has in all databases."""
    found = 0
    for participant in program.runner.engine.participants.values():
        found += len(await participant.look(saga_id, list(program.steps)))
    return found


async def test_what_is_at_rest_for_long_is_removed_everywhere(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        old, young = await complete(program), await complete(program)

        async def refuse(db: Any, ctx: Any) -> None:
            raise Refused("no lantern left")

        program.on("credit_points", refuse)
        undone = await program.sagas.start(program.saga, Order())
        with pytest.raises(Refused):
            await undone.result(30)
        await program.recorder.wait_for(SagaFinished)
        assert [await rows(program, one) > 0 for one in (old, young, undone.id)] == [True] * 3
        for one in (old, undone.id):
            await age(program, one)

        assert await retention_of(program).sweep() == 2

        assert program.recorder.of(SagasRemoved) == [SagasRemoved(2)]
        for one in (old, undone.id):
            assert await rows(program, one) == 0
            with pytest.raises(UnknownSaga):
                await program.sagas.get(one)
        assert await rows(program, young) == 3
        assert (await program.sagas.get(young)).status == "completed"
        assert await retention_of(program).sweep() == 0


async def test_the_worker_removes_what_is_old(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_RARELY", 0.01)
    monkeypatch.setattr(retention, "_WHOLE", 0.0)  # the saga gets old behind the back of the first looks
    monkeypatch.setattr(Worker, "_remove_old", LOOK)
    async with Program(urls, PLACE_ORDER).open() as program:
        old, young = await complete(program), await complete(program)
        await age(program, old)

        await program.recorder.wait_for(SagasRemoved)

        assert await rows(program, old) == 0
        assert [saga.id for saga in (await program.sagas.find()).sagas] == [young]


async def test_what_is_not_at_rest_is_kept_however_old_it_is(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        gate = Gate()
        program.on("record_event", gate)
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        await age(program, handle.id)

        assert await retention_of(program).sweep() == 0
        gate.open()
        await handle.result(30)
        await program.recorder.wait_for(SagaFinished)
        assert await retention_of(program).sweep() == 0, "it came to rest just now"


async def test_a_batch_is_bounded_and_the_oldest_come_first(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        ids = [await complete(program) for _ in range(3)]
        for number, one in enumerate(ids):
            await age(program, one, MONTH + number)
        assert await retention_of(program).sweep(batch=2) == 2
        assert [saga.id for saga in (await program.sagas.find()).sagas] == [ids[0]]


async def test_removers_of_the_same_sagas_get_along(urls: Urls) -> None:
    first, second = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    async with first.open(), second.open():
        ids = [await complete(first) for _ in range(6)]
        for one in ids:
            await age(first, one)

        await asyncio.gather(
            *(retention_of(one).remove(some) for one in (first, second) for some in (ids, ids[::-1], ids[:3]))
        )

        assert [await rows(first, one) for one in ids] == [0] * 6
        assert (await first.sagas.find()).sagas == ()


async def test_a_remover_that_comes_too_late_leaves_the_oldest_to_others(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    async with first.open(), second.open():
        ids = [await complete(first) for _ in range(5)]
        for number, one in enumerate(ids):
            await age(first, one, MONTH - number)
        slow, share = retention_of(second), ids[-1].int % 4
        expired = slow.expired

        async def look_and_sleep(batch: int) -> Any:
            found = await expired(batch)
            assert await retention_of(first).sweep(batch=1) == 1
            return found

        with monkeypatch.context() as asleep:
            asleep.setattr(slow, "expired", look_and_sleep)
            await slow.sweep(batch=1)
        assert second.recorder.of(SagasRemoved) == [], "it came too late"

        monkeypatch.setattr(random, "randrange", lambda stop: share if stop == 4 else 0)
        await slow.sweep(batch=1)

        left = {saga.id for saga in (await first.sagas.find()).sagas}
        assert left == {one for one in ids[1:] if one.int % 4 != share}, "the newest went with its share"


def test_each_remover_takes_a_share_of_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [uuid4() for _ in range(50)]
    shares = []
    for number in range(5):
        monkeypatch.setattr(random, "randrange", lambda stop, number=number: number % stop)
        shares.append(a_share(ids, 10))

    assert sorted(one for share in shares for one in share) == sorted(ids), "each saga is in one of them"
    assert all(share == [one for one in ids if one in share] for share in shares), "the oldest first"
    assert a_share(ids[:19], 10) == ids[:10], "nothing is shared if little is left"
    assert a_share([], 10) == []


async def test_a_removal_cut_short_after_the_ledgers_is_finished_by_the_next(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        saga_id = await complete(program, key="k-1")
        await age(program, saga_id)
        engine = program.runner.engine
        for participant in list(engine.participants.values())[:2]:
            await participant.remove([saga_id], timedelta(hours=24))
        # Its key still joins it: the journal row is the last to go.
        again = await program.sagas.start(program.saga, Order(), key="k-1")
        assert again.joined
        assert await retention_of(program).sweep() == 1
        assert await rows(program, saga_id) == 0


async def test_a_slow_remover_leaves_the_saga_that_took_the_same_key_alone(urls: Urls) -> None:
    first, second = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    async with first.open(), second.open():
        saga_id = await complete(first, key="k-1")
        await age(first, saga_id)
        slow = retention_of(second)
        found = await slow.expired(10)
        assert found == [saga_id]
        assert await retention_of(first).sweep() == 1
        assert await complete(first, key="k-1") == saga_id
        assert await rows(first, saga_id) == 3

        await slow.remove(found)

        assert await rows(first, saga_id) == 3
        assert (await first.sagas.get(saga_id)).status == "completed"
        assert await first.effects(saga_id) == {step: 2 for step, *_ in PLACE_ORDER}, (
            "two sagas, one after the other"
        )


async def test_an_undo_that_sleeps_for_longer_than_its_saga_is_kept_spares_the_next_saga_of_its_key(
    urls: Urls,
) -> None:
    """A compensator sleeps; another ends the saga; it is removed; its key begins a new one; the first wakes up.

    Without a fence it would undo a step of the new saga, which completes, and block another.
    """
    slow, other = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)

    async def refuse(db: Any, ctx: Any) -> None:
        raise Refused("no lantern left")

    slow.on("confirm_order", refuse)
    async with other.open(lease=1.0), slow.open(lease=3600.0):
        inventory = slow.runner.engine.participants["inventory"]
        undo, asleep, wake = inventory.undo, asyncio.Event(), asyncio.Event()

        async def sleep(entry: Any, work: Any, **options: Any) -> Any:
            asleep.set()
            await reached(wake, "the test wakes it up")
            late = replace(entry, not_after=entry.not_after - timedelta(seconds=MONTH))
            return await undo(late, work, **options)

        inventory.undo = sleep
        handle = await slow.sagas.start(slow.saga, Order(), key="k-1")
        await reached(asleep, "the undoing is asleep")
        await make_due(slow, handle.id)
        await other.recorder.wait_for(SagaFinished)
        await age(other, handle.id)
        assert await retention_of(other).sweep() == 1
        other.recorder.events.clear()
        assert await complete(other, key="k-1") == handle.id

        wake.set()
        await slow.recorder.wait_for(ClaimLost)

        assert (await other.sagas.get(handle.id)).status == "completed"
        assert await other.effects(handle.id) == {step: 1 for step, *_ in PLACE_ORDER}
        assert (await other.sagas.verify()).clean


@pytest.fixture
async def begun_and_gone(urls: Urls, place: str) -> AsyncIterator[tuple[Program, UUID, Waiting]]:
    """A saga of an outbox whose row was never deleted: it began, came to rest long ago and was removed."""

    async def stand_still(_: Drain) -> float:
        return 3600.0

    async def die(_: Any) -> None:
        raise ConnectionResetError

    async with AsyncExitStack() as whole:
        # The process's own drains would move the row again at any moment: here, the tests drain.
        whole.enter_context(pytest.MonkeyPatch.context()).setattr(Drain, "_round", stand_still)
        program = await whole.enter_async_context(Program(urls, PLACE_ORDER).open(lease=3600.0))
        outbox = outbox_of(program, place)
        with pytest.MonkeyPatch.context() as dying:
            dying.setattr(outbox, "remove", die)
            async with program.handles[place].writer() as db:
                if isinstance(db, MongoSession):
                    async with db.transaction() as within:
                        handle = await program.sagas.start(program.saga, Order(), tx=within)
                else:
                    handle = await program.sagas.start(program.saga, Order(), tx=db)
            with pytest.raises(ConnectionResetError):
                await drain_of(program, place).drain()
        program.runner.due.set()
        await handle.result(30)
        await program.recorder.wait_for(SagaFinished)
        (row,) = await outbox.page(10)
        await age(program, handle.id)
        assert await retention_of(program).sweep() == 1
        program.recorder.events.clear()
        yield program, handle.id, row


def outbox_of(program: Program, place: str) -> Outbox:
    return program.runner.engine.participants[place].outbox


def drain_of(program: Program, place: str) -> Drain:
    return Drain(program.runner.engine, outbox_of(program, place), asyncio.Event())


@pytest.mark.parametrize("place", ["inventory", "points"])
async def test_a_start_that_waits_for_longer_than_sagas_are_kept_is_parked(
    begun_and_gone: tuple[Program, UUID, Waiting], place: str
) -> None:
    """A drain begins a saga and dies before it deletes the row; the saga ends and is removed; the next comes."""
    program, saga_id, _ = begun_and_gone
    outbox = outbox_of(program, place)
    await _age_outbox(program, place, saga_id)

    await drain_of(program, place).drain()

    (parked,) = program.recorder.of(StartParked)
    assert (parked.saga_id, parked.database) == (saga_id, place)
    assert "may have begun, ended and been removed" in parked.reason
    with pytest.raises(UnknownSaga):
        await program.sagas.get(saga_id)
    found = await outbox.find(saga_id)
    assert found is not None
    assert found.error == parked.reason
    assert await outbox.page(10) == []
    assert await program.effects(saga_id) == {step: 1 for step, *_ in PLACE_ORDER}


@pytest.mark.parametrize("place", ["inventory", "points"])
async def test_a_drain_that_sleeps_for_longer_than_sagas_are_kept_begins_nothing_again(
    begun_and_gone: tuple[Program, UUID, Waiting], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain reads the row and sleeps; another begins the saga, which ends and is removed; the first wakes up."""
    program, saga_id, row = begun_and_gone
    then = program.runner.engine.clock.now() - timedelta(seconds=MONTH)
    outbox = outbox_of(program, place)
    clock = program.runner.engine.clock
    with monkeypatch.context() as asleep:
        asleep.setattr(clock, "now", lambda: then)  # it reads the clock, and then the outbox
        page = outbox.page

        async def wake(most: int, only: Collection[str] | None) -> Any:
            asleep.undo()
            return [replace(one, age=0.0) for one in await page(most, only)]

        asleep.setattr(outbox, "page", wake)
        await drain_of(program, place).drain()

    assert [parked.saga_id for parked in program.recorder.of(StartParked)] == [row.saga_id] == [saga_id]
    with pytest.raises(UnknownSaga):
        await program.sagas.get(saga_id)


async def test_names_that_the_process_does_not_know_are_left_alone(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        saga_id = await complete(program)
        await age(program, saga_id)
        assert await Retention(program.runner.engine, ["other"]).sweep() == 0
        assert await Retention(program.runner.engine, []).sweep() == 0
        assert await rows(program, saga_id) == 3


async def test_a_look_begins_where_the_last_one_found_its_oldest_saga(urls: Urls) -> None:
    """Else it would read past every old saga of an unknown name, once a minute."""
    async with Program(urls, PLACE_ORDER).open() as program:
        ended_late, ended_soon, second, first = [await complete(program) for _ in range(4)]
        clock = HandClock()
        removing = Retention(replace(program.runner.engine, clock=clock), program.runner.names)
        await age(program, first, MONTH + 7200.0)
        await age(program, second, MONTH + 3600.0)
        assert await removing.sweep(batch=1) == 1, "the oldest of all"
        assert await removing.sweep(batch=1) == 1, "the next one is younger"
        assert await removing.sweep() == 0

        retained = program.runner.engine.settings.retention
        await age(program, ended_soon, retained + 300.0)
        await age(program, ended_late, retained + 1200.0)
        assert await removing.sweep() == 1, "what began much earlier is not looked at"
        assert await rows(program, ended_late) == 3
        clock.move(3600.0)
        assert await removing.sweep() == 1, "once an hour everything is looked at"
        assert (await program.sagas.find()).sagas == ()


def test_a_retention_that_a_late_call_could_outlast_is_refused() -> None:
    assert SagaSettings(retention=25 * 3600.0).retention == 90_000
    with pytest.raises(ConfigurationError, match=r"sagas.retention.*at least 90000.*frozen process"):
        parse_settings({"sagas": {"retention": 24 * 3600.0}})


async def test_the_audit_trail_outlives_the_saga(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        saga_id = await complete(program)
        journal = program.runner.engine.journal
        row = await journal.load(saga_id)
        line = {"id": saga_id, "actor": "ada", "action": "retry", "why": "x", "details": "{}"}
        assert await journal.repair(row.claim, row.status, row.status, results=row.results, error=None, audit=line)
        await age(program, saga_id)
        assert await retention_of(program).sweep() == 1
        node = journal.node
        async with node.writer.connect() as connection:
            lines = await connection.exec_driver_sql("SELECT actor FROM polysaga_audit")
            assert [found[0] for found in lines] == ["ada"]
