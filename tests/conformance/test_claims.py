"""Handing out overdue sagas: to one claimer each, never parked ones, never unknown ones, and without blocking."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, update

from polysaga.databases import Fault
from polysaga.sagas.journal.claims import PAUSE, Pick
from polysaga.sagas.journal.journal import Journal
from polysaga.sagas.journal.tables import journal as table
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.rows import NOBODY, Birth, Row
from polysaga.sagas.protocol.states import Status
from tests.conformance.shops import SqlShop
from tests.conformance.test_journal import LEASE, birth, ending, journal_of, put

LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


async def overdue(shop: SqlShop, count: int, **more: Any) -> list[Birth]:
    """Insert *count* sagas and make them due."""
    journal = journal_of(shop)
    births = [birth() for _ in range(count)]
    await journal.insert(births)
    keys = [journal.node.dialect.key(one.claim.saga_id) for one in births]
    values = {"wake_at": journal.node.dialect.moment(LONG_AGO), **more}
    async with shop.observer.begin() as connection:
        await connection.execute(update(table).where(table.c.id.in_(keys)).values(**values))
    return births


async def test_a_claim_takes_what_is_overdue_under_a_new_owner_and_the_next_epoch(empty_journal: SqlShop) -> None:
    (late,) = await overdue(empty_journal, 1)
    journal, fresh = journal_of(empty_journal), birth()
    await journal.insert([fresh])

    (taken,) = await journal.claim(10)

    assert taken.claim.saga_id == late.claim.saga_id
    assert taken.claim.epoch == late.claim.epoch + 1
    assert taken.claim.owner != late.claim.owner
    assert (taken.expiries, taken.status, taken.input) == (1, Status.RUNNING, late.input)
    assert taken == await journal.load(late.claim.saga_id)
    assert await journal.claim(10) == [], "it is not due again before its lease is over"
    assert await journal.finish([ending(late.claim)]) == set(), "the former owner has lost it"
    assert await journal.finish([ending(taken.claim)]) == {late.claim.saga_id}


async def test_a_claim_of_what_is_just_due_looks_no_further_back_than_asked(empty_journal: SqlShop) -> None:
    now, journal = datetime.now(UTC), journal_of(empty_journal, lease=600.0)
    ages = {"ahead": -600.0, "just": 300.0, "lately": 1000.0, "long ago": 1500.0}
    births = {name: birth() for name in ages}
    await journal.insert(list(births.values()))
    for name, age in ages.items():
        moment = journal.node.dialect.moment(now - timedelta(seconds=age))
        await put(empty_journal, births[name].claim, wake_at=moment)

    just, rest = await journal.claim(10, Pick.JUST_DUE, window=1200.0), await journal.claim(10)

    assert _ids(just) == {births[name].claim.saga_id for name in ("just", "lately")}
    assert _ids(rest) == {births["long ago"].claim.saga_id}


async def test_each_claim_has_an_owner_of_its_own(empty_journal: SqlShop) -> None:
    await overdue(empty_journal, 2)
    journal = journal_of(empty_journal)

    one, other = [*await journal.claim(1), *await journal.claim(1)]

    assert one.claim.owner != other.claim.owner


async def test_a_claim_is_bounded_and_takes_the_oldest_first(empty_journal: SqlShop) -> None:
    younger = await overdue(empty_journal, 3)
    older = await overdue(empty_journal, 3)
    dialect = journal_of(empty_journal).node.dialect
    for one in older:
        await put(empty_journal, one.claim, wake_at=dialect.moment(LONG_AGO - timedelta(hours=1)))
    journal = journal_of(empty_journal)

    first, second = await journal.claim(3), await journal.claim(50)

    assert _ids(first) == {one.claim.saga_id for one in older}
    assert _ids(second) == {one.claim.saga_id for one in younger}


@pytest.mark.parametrize("status", [Status.RUNNING, Status.COMPLETING, Status.COMPENSATING])
async def test_every_saga_that_is_not_at_rest_is_handed_out(empty_journal: SqlShop, status: Status) -> None:
    await overdue(empty_journal, 1, status=status.value)

    (taken,) = await journal_of(empty_journal).claim(10)

    assert taken.status is status


async def test_parked_and_finished_sagas_are_never_handed_out(empty_journal: SqlShop) -> None:
    await overdue(empty_journal, 3, status="needs_attention")
    journal, ended = journal_of(empty_journal), birth()
    await journal.insert([ended])
    await journal.finish([ending(ended.claim)])

    assert await journal.claim(10) == []
    assert await journal.strangers(10) == []


async def test_a_parked_saga_stands_behind_all_that_claims_look_at(empty_journal: SqlShop) -> None:
    """Thousands of parked sagas must not be read past by every claim of every process."""
    journal, born, asked = journal_of(empty_journal), birth(), uuid4()
    await journal.insert([born])

    assert await journal.park(born.claim, Status.RUNNING, Reason(), [])
    parked = await _wake_at(empty_journal, born)
    claim = replace(born.claim, owner=NOBODY)
    assert await journal.take_for_person(claim, Status.NEEDS_ATTENTION, asked)
    taken = await _wake_at(empty_journal, born)

    assert parked.year == taken.year == 9999
    mine = replace(born.claim, epoch=born.claim.epoch + 1, owner=asked)
    audit = {"id": uuid4(), "actor": "eve", "action": "retry", "why": "repaired", "details": "{}"}
    assert await journal.repair(mine, Status.NEEDS_ATTENTION, Status.RUNNING, results={}, error=None, audit=audit)
    assert _ids(await journal.claim(10)) == {born.claim.saga_id}, "a repaired one is due"


async def test_unknown_definitions_are_left_for_others_and_shown(empty_journal: SqlShop) -> None:
    (stranger,) = await overdue(empty_journal, 1, fingerprint="0" * 32, name="cruise", version=3)
    (ours,) = await overdue(empty_journal, 1)
    journal = journal_of(empty_journal)

    assert await journal.strangers(10) == [(stranger.claim.saga_id, "cruise", 3)]
    assert _ids(await journal.claim(10)) == {ours.claim.saga_id}
    found = await journal.load(stranger.claim.saga_id)
    assert found is not None
    assert found.claim == stranger.claim


async def test_a_process_without_definitions_claims_nothing(empty_journal: SqlShop) -> None:
    await overdue(empty_journal, 2)

    journal = Journal(empty_journal.node(), [], lease=LEASE)

    assert await journal.claim(10) == []
    assert len(await journal.strangers(10)) == 2


async def test_many_claimers_at_once_never_get_the_same_saga(empty_journal: SqlShop) -> None:
    births = await overdue(empty_journal, 120)
    journals = [journal_of(empty_journal) for _ in range(6)]
    faults: list[Fault] = []

    async def claim_all(journal: Journal) -> list[Row]:
        taken: list[Row] = []
        empty = 0
        while empty < 2:
            batch = await _patiently(journal, 7, faults)
            empty = 0 if batch else empty + 1
            taken += batch
        return taken

    taken = [one for rows in await asyncio.gather(*map(claim_all, journals)) for one in rows]

    times = Counter(one.claim.saga_id for one in taken)
    assert set(times.values()) == {1}
    assert set(times) == {one.claim.saga_id for one in births}
    assert {one.claim.epoch for one in taken} == {2}
    assert not faults or empty_journal.kind.errors_at_once, "claims do not get into each other's way"


async def test_sagas_start_finish_and_renew_while_others_claim(empty_journal: SqlShop) -> None:
    late = await overdue(empty_journal, 60)
    claimers = [journal_of(empty_journal) for _ in range(3)]
    busy = journal_of(empty_journal, lock_timeout=2.0)
    faults: list[Fault] = []

    async def live() -> None:
        for _ in range(25):
            one = birth()
            await busy.insert([one])
            assert await busy.renew([(one.claim, [])]) == {one.claim.saga_id}
            assert await busy.finish([ending(one.claim)]) == {one.claim.saga_id}

    async def claim() -> set[Any]:
        taken = set()
        for journal in claimers * 5:
            taken |= _ids(await _patiently(journal, 9, faults))
        return taken

    taken, _ = await asyncio.gather(claim(), live())

    assert taken == {one.claim.saga_id for one in late}
    assert Fault.LOCK_TIMEOUT not in faults


async def test_a_start_does_not_wait_for_a_claim_that_found_less_than_its_limit(empty_journal: SqlShop) -> None:
    if not empty_journal.kind.side_by_side:
        pytest.skip("one writer at a time")
    await overdue(empty_journal, 2)
    claimer, starter = journal_of(empty_journal), journal_of(empty_journal, lock_timeout=1.0)

    async with claimer.node.writer.connect() as connection:
        values = {"owner": claimer.node.dialect.key(birth().claim.owner), "lease": LEASE, "batch": 50}
        assert len(await claimer._claims.take(connection, values)) == 2
        newborn = birth()
        await starter.insert([newborn])
        assert await starter.claim(50) == [], "what is being claimed is skipped, not waited for"
        assert await starter.finish([ending(newborn.claim)]) == {newborn.claim.saga_id}
        await connection.rollback()

    assert len(await starter.claim(50)) == 2


async def test_a_claimer_that_dies_before_its_commit_leaves_everything_to_the_next(
    empty_journal: SqlShop,
) -> None:
    late = await overdue(empty_journal, 3)
    dying = journal_of(empty_journal)
    values = {"owner": dying.node.dialect.key(birth().claim.owner), "lease": LEASE, "batch": 50}
    async with dying.node.writer.connect() as connection:
        await dying._claims.take(connection, values)

    taken = await journal_of(empty_journal).claim(50)

    assert _ids(taken) == {one.claim.saga_id for one in late}
    assert {one.claim.epoch for one in taken} == {2}


@pytest.mark.parametrize("zone", ["+05:00", "-11:00"])
async def test_the_zone_of_a_session_changes_nothing(empty_journal: SqlShop, zone: str) -> None:
    journal = journal_of(empty_journal)
    statement = {
        "postgresql": f"SET TIME ZONE INTERVAL '{zone}' HOUR TO MINUTE",
        "mysql": f"SET time_zone = '{zone}'",
    }
    if journal.node.dialect.name not in statement:
        pytest.skip("no zones")

    def move(connection: Any) -> None:
        connection.exec_driver_sql(statement[journal.node.dialect.name])

    for engine in (journal.node.writer, journal.node.reserved):
        event.listen(engine.sync_engine, "begin", move)

    (late,) = await overdue(empty_journal, 1)
    fresh = birth()
    await journal.insert([fresh])

    assert _ids(await journal.claim(10)) == {late.claim.saga_id}
    assert await journal_of(empty_journal).claim(10) == []
    await journal.hand_back([fresh.claim])
    assert _ids(await journal_of(empty_journal).claim(10)) == {fresh.claim.saga_id}
    await journal.postpone(replace(fresh.claim), 60.0, [])
    assert await journal.claim(10) == []


@pytest.mark.parametrize("seconds", [0.0, 0.25, 3600.0, 400 * 24 * 3600.0])
async def test_a_postponed_saga_is_due_when_it_was_said(empty_journal: SqlShop, seconds: float) -> None:
    journal, born = journal_of(empty_journal), birth()
    await journal.insert([born])

    assert await journal.postpone(born.claim, seconds, [])

    due = await journal.claim(10) if seconds != 0.25 else []
    assert _ids(due) == ({born.claim.saga_id} if seconds == 0 else set())
    if seconds:
        wake_at = await _wake_at(empty_journal, born)
        now = datetime.now(UTC)
        assert abs((wake_at - now).total_seconds() - seconds) < 20


async def _wake_at(shop: SqlShop, born: Birth) -> datetime:
    dialect = shop.node().dialect
    key = dialect.key(born.claim.saga_id)
    async with shop.observer.connect() as connection:
        found = (await connection.execute(table.select().where(table.c.id == key))).mappings().one()
    return dialect.moment_from(found["wake_at"])


async def _patiently(journal: Journal, batch: int, faults: list[Fault]) -> list[Row]:
    while True:
        try:
            return await journal.claim(batch)
        except Exception as error:
            fault = journal.node.dialect.fault(error)
            if fault is None or not fault.transient:
                raise
            faults.append(fault)


def _ids(rows: Sequence[Row]) -> set[Any]:
    return {one.claim.saga_id for one in rows}


@pytest.mark.parametrize("passed", [True, False], ids=["past its deadline", "in time"])
async def test_a_claim_past_the_deadline_is_the_decision_to_undo(empty_journal: SqlShop, passed: bool) -> None:
    journal = journal_of(empty_journal)
    born = replace(birth(), deadline=-1.0 if passed else 3600.0)
    await journal.insert([born])
    await journal.hand_back([born.claim])

    (taken,) = await journal.claim(10)

    found = await journal.load(born.claim.saga_id)
    assert found is not None
    assert (found.claim, found.status) == (taken.claim, taken.status)
    assert taken.claim.epoch == 2
    if passed:
        assert taken.status is Status.COMPENSATING
        assert taken.error is not None
        assert taken.error.kind == "overdue"
    else:
        assert (taken.status, taken.error) == (Status.RUNNING, None)
        assert taken.remaining is not None
        assert 3000 < taken.remaining <= 3600


@pytest.mark.parametrize("status", list(Status))
async def test_only_what_runs_past_its_deadline_is_taken_from_its_owner(
    empty_journal: SqlShop, status: Status
) -> None:
    journal = journal_of(empty_journal, lease=1.0)
    late = replace(birth(Status.COMPLETED if status.final else Status.RUNNING), deadline=-60.0)
    early, never = replace(birth(), deadline=60.0), birth()
    await journal.insert([late, early, never])
    await put(empty_journal, late.claim, status=status.value)

    taken = await journal.claim(10, Pick.LATE)

    assert _ids(taken) == ({late.claim.saga_id} if status is Status.RUNNING else set())
    assert [one.status for one in taken] == ([Status.COMPENSATING] if taken else [])


async def test_a_clock_that_was_put_back_strands_nothing(empty_journal: SqlShop) -> None:
    """What was claimed, or put aside, before the clock was put back by an hour stays so; nothing else does."""
    journal = journal_of(empty_journal, lease=10.0)
    stranded, fresh, aside, parked, long, lasting = (birth() for _ in range(6))
    await journal.insert([stranded, fresh, aside, parked, lasting])
    await journal_of(empty_journal, lease=3600.0).insert([long])
    dialect, ahead = journal.node.dialect, datetime.now(UTC) + timedelta(hours=1)
    moment = dialect.moment(ahead)
    await put(empty_journal, stranded.claim, wake_at=moment)
    await put(empty_journal, parked.claim, wake_at=moment, status="needs_attention")
    await journal.postpone(aside.claim, PAUSE, [])
    await journal.postpone(lasting.claim, 3600.0, [])

    assert await journal.claim(10) == []
    assert _ids(await journal.claim(10, Pick.CLOCK_SET_BACK)) == {stranded.claim.saga_id, lasting.claim.saga_id}
    assert await journal.claim(10, Pick.CLOCK_SET_BACK) == []


async def test_cancelling_claims_and_decides_in_one_write_and_only_what_runs(empty_journal: SqlShop) -> None:
    journal, owner = journal_of(empty_journal), birth().claim.owner
    for status in Status:
        born = birth(Status.COMPLETED if status.final else Status.RUNNING)
        await journal.insert([born])
        await put(empty_journal, born.claim, status=status.value)

        taken = await journal.cancel(born.claim.saga_id, owner, Reason(kind="cancelled"))

        found = await journal.load(born.claim.saga_id)
        assert found is not None
        if status is not Status.RUNNING:
            assert taken is None
            assert (found.status, found.claim) == (status, born.claim)
            continue
        assert taken == found
        assert (taken.status, taken.claim.epoch, taken.claim.owner) == (Status.COMPENSATING, 2, owner)
        assert taken.error == Reason(kind="cancelled")
        again = await journal.cancel(born.claim.saga_id, owner, Reason(kind="cancelled"))
        assert again == taken, "a write whose reply was lost is found"
