"""The journal: every write is conditional, and an owner that has lost its claim changes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from polysaga.databases import Fault
from polysaga.databases.dialects.sending import Seal, sender
from polysaga.sagas.journal.group_commit import GroupCommit
from polysaga.sagas.journal.journal import Journal
from polysaga.sagas.journal.tables import JOURNAL
from polysaga.sagas.journal.tables import journal as table
from polysaga.sagas.protocol.interrupts import Fenced
from polysaga.sagas.protocol.reasons import Attempt, Reason
from polysaga.sagas.protocol.rows import NOBODY, Birth, Claim, Ending, LedgerRow
from polysaga.sagas.protocol.states import Mark, Status
from tests.conformance.shops import PARTICIPANTS, SqlShop
from tests.conformance.test_participant import NASTY, entry, row_of, selling

BOOKED = Attempt("book", "do", 1, 0.5, 2.0, "done")
KNOWN = "f" * 32
LEASE = 30.0
LIVE = {Status.RUNNING, Status.COMPLETING, Status.COMPENSATING}
WRONG: dict[str, Callable[[Claim], Claim]] = {
    "the epoch moved": lambda claim: replace(claim, epoch=claim.epoch + 1),
    "the epoch is older": lambda claim: replace(claim, epoch=claim.epoch - 1),
    "another owner": lambda claim: replace(claim, owner=uuid4()),
    "another saga": lambda claim: replace(claim, saga_id=uuid4()),
}


def birth(status: Status = Status.RUNNING, **more: Any) -> Birth:
    return Birth(Claim(uuid4(), 1, uuid4()), "trip", 1, KNOWN, None, '{"to": "Rome"}', "0" * 64, status, **more)


def ending(claim: Claim, expected: Status = Status.RUNNING, status: Status = Status.COMPLETED) -> Ending:
    return Ending(claim, expected, status, {"book": '"seat 5"'}, [BOOKED])


def journal_of(shop: SqlShop, *, lease: float = LEASE, lock_timeout: float = 5.0) -> Journal:
    return Journal(shop.node(lock_timeout=lock_timeout), [KNOWN], lease=lease)


async def put(shop: SqlShop, claim: Claim, **values: Any) -> None:
    """Change a row behind everybody's back."""
    key = shop.node().dialect.key(claim.saga_id)
    async with shop.observer.begin() as connection:
        await connection.execute(update(table).where(table.c.id == key).values(**values))


async def row(shop: SqlShop, claim: Claim) -> dict[str, Any]:
    """Return a row as it is in the table, except for the times that move."""
    key = shop.node().dialect.key(claim.saga_id)
    async with shop.observer.connect() as connection:
        return dict((await connection.execute(select(table).where(table.c.id == key))).mappings().one())


async def test_a_start_from_an_outbox_is_enlisted_once_and_not_past_its_fence(sql_shop: SqlShop) -> None:
    journal, now = journal_of(sql_shop), datetime.now(UTC)
    before, after = now + timedelta(minutes=5), now - timedelta(seconds=1)
    one, other = birth(), birth()

    assert await journal.enlist_all([(one, before), (other, after)]) == [(True, one.input_hash), None]
    again = replace(one, claim=replace(one.claim, owner=uuid4()))
    for fence in (before, after):
        assert await journal.enlist_all([(again, fence)]) == [(False, one.input_hash)]

    found = await journal.load(one.claim.saga_id)
    assert found is not None
    assert (found.claim, found.status) == (one.claim, Status.RUNNING)
    assert await journal.load(other.claim.saga_id) is None


async def test_an_undone_call_is_noted_and_not_past_the_fence(sql_shop: SqlShop) -> None:
    """By then its row may be that of another saga, which has taken the same key."""
    journal, born, now = journal_of(sql_shop), birth(), datetime.now(UTC)
    ledger, call = sql_shop.participant(), entry("charge", saga_id=born.claim.saga_id)
    await journal.insert([born])
    assert await journal.record_call(born.claim, "charge", '"receipt"')

    await journal.undo_call(born.claim, "charge", now - timedelta(seconds=1))
    assert await row_of(ledger, call) == LedgerRow(Mark.DONE, '"receipt"')
    await journal.undo_call(born.claim, "charge", now + timedelta(minutes=5))
    assert await row_of(ledger, call) == LedgerRow(Mark.COMPENSATED, '"receipt"')


# What a claim allows, each with the status that it requires.
CHANGES: dict[str, tuple[Status, Callable[[Journal, Claim], Awaitable[Any]]]] = {
    "compensate": (Status.RUNNING, lambda journal, claim: journal.compensate(claim, Reason(kind="refused"))),
    "go_forward": (Status.COMPENSATING, lambda journal, claim: journal.go_forward(claim)),
    "park": (Status.COMPENSATING, lambda journal, claim: journal.park(claim, Status.COMPENSATING, Reason(), [])),
    "postpone": (Status.RUNNING, lambda journal, claim: journal.postpone(claim, 60.0, [])),
    "note_progress": (Status.RUNNING, lambda journal, claim: journal.note_progress(claim, 2)),
    "finish": (Status.RUNNING, lambda journal, claim: journal.finish([ending(claim)])),
}


async def test_a_saga_is_loaded_as_it_was_born(empty_journal: SqlShop) -> None:
    journal = journal_of(empty_journal)
    born = birth(results={"book": '"seat 5"'}, history=[BOOKED], error=None)

    await journal.insert([born])

    found = await journal.load(born.claim.saga_id)
    assert found is not None
    assert (found.claim, found.status, found.input) == (born.claim, Status.RUNNING, born.input)
    assert (found.name, found.fingerprint, found.input_hash) == ("trip", KNOWN, "0" * 64)
    assert (found.results, found.history, found.error) == ({"book": '"seat 5"'}, [BOOKED], None)
    assert (found.expiries, found.progress) == (0, 0)
    assert await journal.load(uuid4()) is None


async def test_a_birth_that_exists_fails_its_whole_batch(empty_journal: SqlShop) -> None:
    journal = journal_of(empty_journal)
    one, other = birth(), birth()
    await journal.insert([one])

    with pytest.raises(IntegrityError) as raised:
        await journal.insert([other, replace(one, claim=replace(one.claim, owner=uuid4()))])

    assert journal.node.dialect.fault(raised.value) is Fault.DUPLICATE_KEY
    assert await journal.load(other.claim.saga_id) is None
    found = await journal.load(one.claim.saga_id)
    assert found is not None
    assert found.claim == one.claim


TIMES = ("wake_at", "deadline", "created_at", "finished_at")
UNLIKE = {  # births that differ in what is written, or in how
    "plain": {},
    "with a deadline": {"deadline": 0.25},
    "with a long deadline": {"deadline": 1e7 / 3},
    "final": {"status": Status.COMPENSATED, "error": Reason(step="book", message=NASTY[1]), "history": [BOOKED]},
    "with a first step": {"results": {"book": json.dumps(NASTY, ensure_ascii=False)}, "history": [BOOKED, BOOKED]},
    **{f"with the key {number}": {"key": key[:200]} for number, key in enumerate([*NASTY, "", "it's", "null"])},
    **{
        f"with the input {number}": {"input": json.dumps(text, ensure_ascii=number % 2 == 0)}
        for number, text in enumerate(NASTY)
    },
}


@pytest.mark.parametrize("what", UNLIKE)
async def test_a_row_is_the_same_whether_it_is_inserted_alone_or_not(empty_journal: SqlShop, what: str) -> None:
    journal, plain = journal_of(empty_journal), birth()
    alone, beside = (replace(birth(), **UNLIKE[what]) for _ in range(2))
    refused = None
    try:
        await journal.insert([alone])
    except DBAPIError as error:  # PostgreSQL stores no NUL character
        refused = journal.node.dialect.fault(error), type(error)

    if refused is not None:
        with pytest.raises(refused[1]) as raised:
            await journal.insert([plain, beside])
        assert journal.node.dialect.fault(raised.value) is refused[0]
        assert await journal.load(plain.claim.saga_id) is None
        return
    await journal.insert([plain, beside])

    one, other = await row(empty_journal, alone.claim), await row(empty_journal, beside.claim)
    assert [other.pop("id"), other.pop("owner")] == [
        journal.node.dialect.key(one) for one in (beside.claim.saga_id, beside.claim.owner)
    ]
    del one["id"], one["owner"]
    seconds = {name: await _seconds_after_birth(empty_journal, name) for name in TIMES}
    for name in TIMES:
        del one[name], other[name]
        found = [seconds[name][each.claim.saga_id] for each in (alone, beside)]
        assert found == pytest.approx(found[:1] * 2, abs=0.1), name
    assert one == other
    assert (await journal.load(plain.claim.saga_id)) is not None


async def _seconds_after_birth(shop: SqlShop, name: str) -> dict[UUID, float | None]:
    dialect = shop.node().dialect
    sql = f"SELECT id, {dialect.seconds_until(name)} - {dialect.seconds_until('created_at')} FROM polysaga_journal"
    async with shop.observer.connect() as connection:
        found = (await connection.exec_driver_sql(sql)).all()
    return {dialect.key_from(key): None if seconds is None else float(seconds) for key, seconds in found}


@pytest.mark.parametrize("count", [1, 2, 50])
async def test_any_number_of_births_is_one_statement(empty_journal: SqlShop, count: int) -> None:
    journal = journal_of(empty_journal)
    births = [replace(birth(deadline=60.0), key=f"order {number}") for number in range(count)]
    await journal.load(births[0].claim.saga_id)  # connected

    async with counted(journal) as counts:
        await journal.insert(births)

    assert counts == {"statements": 1, "commits": 1}
    assert set(await journal.standings([one.claim.saga_id for one in births])) == {
        one.claim.saga_id for one in births
    }


async def test_a_birth_that_cannot_be_written_leaves_the_others_theirs(empty_journal: SqlShop) -> None:
    journal, births = journal_of(empty_journal), [birth(), replace(birth(), key="half of a pair \ud800"), birth()]

    async def insert(some: Sequence[Birth]) -> Sequence[None]:
        await journal.insert(some)
        return [None] * len(some)

    starts = GroupCommit(insert)
    outcomes = await asyncio.gather(*map(starts.add, births), return_exceptions=True)

    assert [outcome is None for outcome in outcomes] == [True, False, True]
    found = await journal.standings([one.claim.saga_id for one in births])
    assert set(found) == {births[0].claim.saga_id, births[2].claim.saga_id}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_write_under_its_claim_and_status_changes_the_row(empty_journal: SqlShop, change: str) -> None:
    journal, (status, write) = journal_of(empty_journal), CHANGES[change]
    born = birth()
    await journal.insert([born])
    await put(empty_journal, born.claim, status=status.value)
    before = await row(empty_journal, born.claim)

    assert await write(journal, born.claim)

    assert await row(empty_journal, born.claim) != before


@pytest.mark.parametrize("change", CHANGES)
async def test_a_write_under_a_claim_that_is_gone_changes_nothing(empty_journal: SqlShop, change: str) -> None:
    journal, (status, write) = journal_of(empty_journal), CHANGES[change]
    born = birth()
    await journal.insert([born])
    await put(empty_journal, born.claim, status=status.value)
    before = await row(empty_journal, born.claim)

    for what, wrong in WRONG.items():
        assert not await write(journal, wrong(born.claim)), what

    assert await row(empty_journal, born.claim) == before


@pytest.mark.parametrize("change", CHANGES)
async def test_a_write_that_expects_another_status_changes_nothing(empty_journal: SqlShop, change: str) -> None:
    journal, (expected, write) = journal_of(empty_journal), CHANGES[change]
    any_live = {"postpone", "note_progress"}
    for status in Status:
        if status is expected or (
            change in any_live and not status.final and status is not Status.NEEDS_ATTENTION
        ):
            continue
        born = birth(Status.COMPLETED if status.final else Status.RUNNING)
        await journal.insert([born])
        await put(empty_journal, born.claim, status=status.value)
        before = await row(empty_journal, born.claim)

        done = await write(journal, born.claim)

        # A finish that is repeated may be told as written: it was, and by the same claim.
        assert not done or (change, status) == ("finish", Status.COMPLETED), f"{change} of a saga that is {status}"
        assert await row(empty_journal, born.claim) == before


async def test_a_batch_of_finishes_returns_exactly_those_that_were_written(empty_journal: SqlShop) -> None:
    journal = journal_of(empty_journal)
    good, taken, moved, undone, never = (birth() for _ in range(5))
    await journal.insert([good, taken, moved, undone])
    await put(empty_journal, taken.claim, owner=journal.node.dialect.key(uuid4()), epoch=2)
    await put(empty_journal, moved.claim, epoch=2)
    await put(empty_journal, undone.claim, status="compensating")

    written = await journal.finish([ending(one.claim) for one in (taken, good, never, undone, moved)])

    assert written == {good.claim.saga_id}
    states = {one.claim.saga_id: (await journal.load(one.claim.saga_id)) for one in (good, taken, moved, undone)}
    assert [found.status for found in states.values() if found] == [
        Status.COMPLETED,
        Status.RUNNING,
        Status.RUNNING,
        Status.COMPENSATING,
    ]
    assert (await row(empty_journal, good.claim))["wake_at"] is None


async def test_a_large_batch_of_finishes_is_written_whole(empty_journal: SqlShop) -> None:
    journal = journal_of(empty_journal)
    births = [birth() for _ in range(200)]
    await journal.insert(births)

    assert await journal.finish([ending(one.claim) for one in births]) == {one.claim.saga_id for one in births}


async def test_a_batch_of_finishes_is_one_commit_and_one_statement(empty_journal: SqlShop) -> None:
    journal = journal_of(empty_journal)
    births = [birth() for _ in range(20)]
    await journal.insert(births)

    async with counted(journal) as counts:
        await journal.finish([ending(one.claim) for one in births])

    assert counts == {"statements": 1, "commits": 1}


async def test_renewing_prolongs_what_is_still_ours_and_returns_it(empty_journal: SqlShop) -> None:
    short, long = journal_of(empty_journal, lease=5.0), journal_of(empty_journal, lease=5000.0)
    ours, taken, ended, never = (birth() for _ in range(4))
    await short.insert([ours, taken, ended])
    await put(empty_journal, taken.claim, owner=short.node.dialect.key(uuid4()), epoch=2)
    await short.finish([ending(ended.claim)])
    before = [await row(empty_journal, one.claim) for one in (taken, ended)]

    held = [(one.claim, [BOOKED]) for one in (taken, ours, never, ended)]
    renewed = await long.renew(held)

    assert ours.claim.saga_id in renewed
    assert not renewed & {taken.claim.saga_id, never.claim.saga_id, ended.claim.saga_id}
    assert [await row(empty_journal, one.claim) for one in (taken, ended)] == before
    found = await long.load(ours.claim.saga_id)
    assert found is not None
    assert found.history == [BOOKED]
    assert await long.claim(10) == [], "nothing is due"


async def test_handing_back_makes_only_our_own_sagas_due(empty_journal: SqlShop) -> None:
    journal = journal_of(empty_journal)
    ours, taken, ended = (birth() for _ in range(3))
    await journal.insert([ours, taken, ended])
    await put(empty_journal, taken.claim, owner=journal.node.dialect.key(uuid4()), epoch=2)
    await journal.finish([ending(ended.claim)])

    await journal.hand_back([ours.claim, taken.claim, ended.claim])

    assert [found.claim.saga_id for found in await journal.claim(10)] == [ours.claim.saga_id]


@pytest.mark.parametrize(
    ("status", "wakes"),
    [("running", False), ("needs_attention", False), ("completed", True), ("compensated", True)],
)
async def test_the_database_refuses_a_row_that_nobody_would_look_at(
    empty_journal: SqlShop, status: str, wakes: bool
) -> None:
    journal, born = journal_of(empty_journal), birth()
    await journal.insert([born])
    values: dict[str, Any] = {"status": status} if wakes else {"status": status, "wake_at": None}

    with pytest.raises(Exception, match=r"(?i)polysaga_journal_wakes|constraint"):
        await put(empty_journal, born.claim, **values)


async def test_the_database_refuses_a_status_that_does_not_exist(empty_journal: SqlShop) -> None:
    journal, born = journal_of(empty_journal), birth()
    await journal.insert([born])

    with pytest.raises(Exception, match=r"(?i)polysaga_journal|constraint"):
        await put(empty_journal, born.claim, status="done")


async def test_texts_come_back_as_they_went_in(empty_journal: SqlShop) -> None:
    journal = journal_of(empty_journal)
    for value in NASTY:
        said = json.dumps({"said": value}, ensure_ascii=False)
        attempt, reason = replace(BOOKED, outcome=value), Reason(kind="failed", message=value)
        born = replace(birth(results={"book": said}, history=[attempt]), input=said)
        await journal.insert([born])

        await journal.compensate(born.claim, reason)
        found = await journal.load(born.claim.saga_id)
        assert found is not None
        assert (found.input, found.results, found.history) == (said, {"book": said}, [attempt])
        assert found.error == reason

        last = Ending(born.claim, Status.COMPENSATING, Status.COMPENSATED, {"book": said}, [attempt])
        await journal.renew([(born.claim, [attempt])])
        assert await journal.finish([last]) == {born.claim.saga_id}
        found = await journal.load(born.claim.saga_id)
        assert found is not None
        assert (found.results, found.history) == ({"book": said}, [attempt])


def _start(journal: Journal, born: Birth) -> Seal:
    return journal.seal_start(lambda result: replace(born, results={"sell": result}))


async def test_texts_in_a_fused_step_come_back_as_they_went_in(empty_journal: SqlShop, item: str) -> None:
    journal = journal_of(empty_journal)
    participant = PARTICIPANTS[journal.node.dialect.name](journal.node)
    for value in NASTY:
        said = json.dumps(value, ensure_ascii=False)
        born = replace(birth(), input=said)

        await participant.transact(selling(empty_journal, item, said), _start(journal, born))

        found = await journal.load(born.claim.saga_id)
        assert found is not None
        assert (found.input, found.results) == (said, {"sell": said})


async def test_a_fused_start_is_born_with_the_steps_effect_or_not_at_all(
    empty_journal: SqlShop, item: str
) -> None:
    journal = journal_of(empty_journal)
    participant = PARTICIPANTS[journal.node.dialect.name](journal.node)
    born = birth()

    await participant.transact(selling(empty_journal, item), _start(journal, born))
    with pytest.raises(Exception) as raised:  # noqa: PT011
        await participant.transact(selling(empty_journal, item), _start(journal, born))

    assert participant.fault(raised.value) is Fault.DUPLICATE_KEY
    assert await empty_journal.sold(item) == 1


async def test_a_pivot_is_one_with_its_decision_and_nothing_without_its_claim(
    empty_journal: SqlShop, item: str
) -> None:
    journal = journal_of(empty_journal)
    participant = PARTICIPANTS[journal.node.dialect.name](journal.node)
    born = birth()
    await journal.insert([born])
    for wrong in WRONG.values():
        seal = journal.seal_decision(wrong(born.claim), lambda result: {"sell": result})
        with pytest.raises(Fenced):
            await participant.transact(selling(empty_journal, item), seal)
    assert await empty_journal.sold(item) == 0

    seal = journal.seal_decision(born.claim, lambda result: {"sell": result})
    await participant.transact(selling(empty_journal, item), seal)
    with pytest.raises(Fenced):
        await participant.transact(selling(empty_journal, item), seal)

    found = await journal.load(born.claim.saga_id)
    assert found is not None
    assert (found.status, found.results) == (Status.COMPLETING, {"sell": '"sold"'})
    assert await empty_journal.sold(item) == 1


@pytest.mark.parametrize("lost", [False, True], ids=["with its claim", "without its claim"])
async def test_a_last_step_its_row_and_the_finish_are_one(empty_journal: SqlShop, item: str, lost: bool) -> None:
    journal = journal_of(empty_journal)
    participant = PARTICIPANTS[journal.node.dialect.name](journal.node)
    born = birth()
    await journal.insert([born])
    step = entry(saga_id=born.claim.saga_id)
    claim = replace(born.claim, epoch=2) if lost else born.claim
    done, finish = participant.seal_done(step), journal.seal_finish(lambda _: ending(claim))

    def seal(result: str) -> list[Any]:
        return [*done(result), *finish(result)]

    if lost:
        with pytest.raises(Fenced):
            await participant.transact(selling(empty_journal, item), seal)
    else:
        await participant.transact(selling(empty_journal, item), seal)

    found = await journal.load(born.claim.saga_id)
    assert found is not None
    assert found.status is (Status.RUNNING if lost else Status.COMPLETED)
    assert await empty_journal.sold(item) == (0 if lost else 1)
    assert await row_of(participant, step) == (None if lost else LedgerRow(Mark.DONE, '"sold"'))


async def test_batches_do_not_wait_for_rows_of_other_sagas(empty_journal: SqlShop) -> None:
    if not empty_journal.kind.side_by_side:
        pytest.skip("one writer at a time")
    journal = journal_of(empty_journal, lock_timeout=1.0)
    mine, locked = [birth() for _ in range(3)], birth()
    await journal.insert([*mine, locked])
    key = journal.node.dialect.key(locked.claim.saga_id)

    async with empty_journal.observer.connect() as other:
        await other.execute(update(table).where(table.c.id == key).values(progress=7))
        await journal.renew([(one.claim, []) for one in mine])
        await journal.hand_back([mine[0].claim])
        await journal.compensate(mine[1].claim, Reason())
        await journal.insert([birth()])
        assert await journal.finish([ending(mine[2].claim)]) == {mine[2].claim.saga_id}
        await other.rollback()


async def test_a_finish_waits_for_whoever_is_taking_the_saga_over_and_then_changes_nothing(
    empty_journal: SqlShop,
) -> None:
    if not empty_journal.kind.side_by_side:
        pytest.skip("one writer at a time")
    journal, born = journal_of(empty_journal), birth()
    await journal.insert([born])
    key, owner = (journal.node.dialect.key(one) for one in (born.claim.saga_id, uuid4()))

    async with empty_journal.observer.connect() as other:
        await other.execute(update(table).where(table.c.id == key).values(epoch=2, owner=owner))
        finishing = asyncio.ensure_future(journal.finish([ending(born.claim)]))
        await empty_journal.somebody_waits()
        await other.commit()
        assert await finishing == set()

    found = await journal.load(born.claim.saga_id)
    assert found is not None
    assert found.status is Status.RUNNING


async def test_a_look_at_many_sagas_shows_how_far_each_is(empty_journal: SqlShop) -> None:
    journal, gone = journal_of(empty_journal), uuid4()
    running, ended, undone, aside = births = [birth(results={"book": '"seat 4"'}) for _ in range(4)]
    await journal.insert(births)
    await journal.finish([ending(ended.claim)])
    await journal.compensate(undone.claim, Reason(step="book", message=NASTY))
    await journal.postpone(aside.claim, 60.0, [])

    found = await journal.standings([*(one.claim.saga_id for one in births), gone])

    assert set(found) == {one.claim.saga_id for one in births}
    states = [found[one.claim.saga_id] for one in births]
    assert [one.status.value for one in states] == ["running", "completed", "compensating", "running"]
    assert [one.claim for one in states] == [
        running.claim,
        ended.claim,
        undone.claim,
        replace(aside.claim, owner=NOBODY),
    ]
    assert [one.results for one in states] == [{}, {"book": '"seat 5"'}, {}, {}]
    assert states[2].error == Reason(step="book", message=NASTY)
    assert {(one.name, one.fingerprint) for one in states} == {("trip", KNOWN)}


async def test_a_look_at_no_saga_finds_none(empty_journal: SqlShop) -> None:
    assert await journal_of(empty_journal).standings([]) == {}


@asynccontextmanager
async def counted(journal: Journal) -> AsyncIterator[dict[str, int]]:
    """Count what the journal's engine sends."""
    counts = {"statements": 0, "commits": 0}
    engines = {engine.sync_engine for engine in (journal.node.writer, journal.node.reserved)}

    def statement(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        counts["statements"] += not sql.startswith("BEGIN")

    def commit(_: Any) -> None:
        counts["commits"] += 1

    for engine in engines:
        event.listen(engine, "before_cursor_execute", statement)
        event.listen(engine, "commit", commit)
    yield counts
    for engine in engines:
        event.remove(engine, "before_cursor_execute", statement)
        event.remove(engine, "commit", commit)


async def test_a_database_with_another_collation_keeps_a_journal_too(empty_journal: SqlShop) -> None:
    if not empty_journal.kind.scheme.startswith("mysql"):
        pytest.skip("about MariaDB's collations")
    journal, born = journal_of(empty_journal), birth()
    await journal.insert([born])

    def other(connection: Any) -> None:
        connection.exec_driver_sql("SET collation_connection = 'utf8mb4_unicode_520_ci'")

    for engine in (journal.node.writer, journal.node.reserved):
        event.listen(engine.sync_engine, "begin", other)

    assert await journal.renew([(born.claim, [BOOKED])]) == {born.claim.saga_id}
    assert set(await journal.standings([born.claim.saga_id])) == {born.claim.saga_id}
    assert await journal.finish([ending(born.claim)]) == {born.claim.saga_id}
    assert await empty_journal.count(text("SELECT count(*) FROM polysaga_journal WHERE status = 'completed'")) == 1


async def test_on_postgres_a_decision_changes_no_index(empty_journal: SqlShop) -> None:
    """Its row stays in its page (HOT): no index mentions the status, and the decision leaves `wake_at` alone."""
    journal, born = journal_of(empty_journal), birth()
    if journal.node.dialect.name != "postgresql":
        pytest.skip("a matter of PostgreSQL's storage")
    await journal.insert([born])
    (write,) = journal.seal_decision(born.claim, lambda result: {"book": result})('"seat 5"')
    count = text(f"SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = '{JOURNAL}'")

    async with journal.node.writer.begin() as connection:
        assert (await sender(connection)(write.statement, write.values)).count == 1
        assert tuple((await connection.execute(count)).one()) == (1, 1)


async def test_a_decision_does_not_prolong_the_claim(empty_journal: SqlShop) -> None:
    """Only the worker's renewal does, which also tells the owner how old its claim is."""
    journal, longer, born = journal_of(empty_journal), journal_of(empty_journal, lease=7200.0), birth()
    await journal.insert([born])
    before = (await row(empty_journal, born.claim))["wake_at"]

    (write,) = longer.seal_decision(born.claim, lambda result: {"book": result})('"seat 5"')
    async with longer.node.writer.begin() as connection:
        await sender(connection)(write.statement, write.values)
    decided = (await row(empty_journal, born.claim))["wake_at"]
    other = birth()
    await journal.insert([other])
    begun = (await row(empty_journal, other.claim))["wake_at"]
    assert await longer.compensate(other.claim, Reason(kind="refused"))
    assert await longer.go_forward(other.claim)

    assert decided == before
    assert (await row(empty_journal, other.claim))["wake_at"] == begun
