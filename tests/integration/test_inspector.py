"""What people see of the sagas of all processes: what needs them, what is late, and the whole of one saga."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, update

from polysaga import Status
from polysaga.databases import MongoNode
from polysaga.errors import PayloadError, PolysagaError, UnknownSaga
from polysaga.events import SagaParked
from polysaga.sagas import AuditFilter, Examination, Mark, Planned, SagaFilter
from polysaga.sagas.driving.progress import Asked
from polysaga.sagas.journal import figures
from polysaga.sagas.journal.tables import journal
from polysaga.sagas.operations import inspector as inspecting
from polysaga.sagas.participants.mongo import MongoParticipant
from polysaga.sagas.participants.sql import SqlParticipant
from tests.fixtures.programs import PLACE_ORDER, Gate, Order, Program, Urls, lose_processes, take_over
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import reached, until
from tests.integration.test_repairs import (
    ME,
    finished,
    parked,
    put_aside,
    stuck_going_back,
    stuck_going_forward,
)

EVERYWHERE = {"orders", "inventory", "points"}


async def test_an_idle_journal_needs_nothing(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        await finished(program, (await program.sagas.start(program.saga, Order())).id)

        found = await program.sagas.inspector().overview()

        assert set(found.unfinished.values()) == {0}
        assert (found.waiting, found.late, found.causes, found.oldest) == (0, (), (), ())
        assert found.causes_complete


async def test_parked_sagas_are_grouped_by_their_cause(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        first, second = await parked(program), await parked(program)

        found = await program.sagas.inspector().overview()

        (cause,) = found.causes
        assert found.unfinished[Status.NEEDS_ATTENTION] == cause.count == 2
        assert (cause.name, cause.step, cause.database) == ("place-order", "reserve_stock", "inventory")
        assert (cause.direction, cause.example in {first, second}) == (Status.COMPENSATING, True)
        assert "cannot do it" in cause.message
        assert cause.first_at is not None
        assert cause.last_at is not None
        assert abs(found.at - cause.last_at) < timedelta(minutes=5)
        same = await program.sagas.find(SagaFilter(status=Status.NEEDS_ATTENTION, error=cause.error))
        assert {saga.id for saga in same.sagas} == {first, second}
        assert all(saga.parked_at is not None for saga in same.sagas)


async def test_a_saga_that_is_parked_again_shows_its_new_cause(urls: Urls) -> None:
    async def stumble_otherwise(db: Any, ctx: Any) -> None:
        raise ZeroDivisionError("still cannot do it")

    async with stuck_going_back(urls).open(lease=1.0) as program:
        saga_id = await parked(program)
        (before,) = (await program.sagas.inspector().overview()).causes
        program.on("undo:reserve_stock", stumble_otherwise)
        await program.sagas.retry(saga_id, **ME)
        await until(lambda: len(program.recorder.of(SagaParked)) == 2, "it is parked again")

        (cause,) = (await program.sagas.inspector().overview()).causes

        assert (before.count, cause.count) == (1, 1)
        assert "still" not in before.message
        assert "still cannot do it" in cause.message


async def test_more_parked_sagas_than_are_read_are_said_to_be_more(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (figures, inspecting):
        monkeypatch.setattr(module, "MOST_PARKED", 1)
    async with stuck_going_back(urls).open() as program:
        await parked(program)
        await parked(program)

        found = await program.sagas.inspector().overview()

        assert (found.unfinished[Status.NEEDS_ATTENTION], found.causes_complete) == (2, False)
        assert [cause.count for cause in found.causes] == [1]


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 1, 1),  # noqa: DTZ001 - it must be refused
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))),
        datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-23))),
    ],
)
async def test_a_moment_that_utc_does_not_have_is_refused(urls: Urls, moment: datetime) -> None:
    async with stuck_going_forward(urls).open() as program:
        inspector, told = program.sagas.inspector(), "aware time|years 1 to 9999"
        for what in ("since", "until"):
            with pytest.raises(PayloadError, match=told):
                await program.sagas.find(SagaFilter(**{what: moment}))
            with pytest.raises(PayloadError, match=told):
                await inspector.count(SagaFilter(**{what: moment}))
            with pytest.raises(PayloadError, match=told):
                await inspector.audit(AuditFilter(**{what: moment}))
        with pytest.raises(PayloadError, match=told):
            await program.sagas.verify(since=moment)
        after = f"{moment.isoformat()}~{UUID(int=1)}"
        with pytest.raises(PayloadError, match="is no cursor"):
            await program.sagas.find(after=after)
        with pytest.raises(PayloadError, match="is no cursor"):
            await inspector.audit(after=after)


async def test_a_saga_that_no_process_takes_over_in_time_is_late(urls: Urls) -> None:
    async with stuck_going_forward(urls).open() as program:
        saga_id = await put_aside(program)
        inspector = program.sagas.inspector()
        found = await inspector.overview()
        assert (found.waiting, found.late) == (1, ())
        assert [saga.id for saga in found.oldest] == [saga_id]

        await was_due(program, saga_id, timedelta(seconds=100))

        (late,) = (await inspector.overview()).late
        assert (late.name, late.version, late.known, late.count) == ("place-order", 1, False, 1)
        assert (late.status, late.example) == (Status.COMPLETING, saga_id)
        for wanted in (SagaFilter(late=True), SagaFilter(waiting=True), SagaFilter(retrying=True)):
            assert [saga.id for saga in (await program.sagas.find(wanted)).sagas] == [saga_id], wanted
            assert await inspector.count(wanted) == inspecting.Count(1, exact=True)


async def test_a_parked_saga_is_examined_in_all_its_databases(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        await parked(program)
        saga_id = await parked(program, key="k-1")

        found = await program.sagas.inspector().examine(saga_id)

        assert (found.saga.key, found.saga.step, found.alike) == ("k-1", "reserve_stock", 1)
        assert [(step.name, step.database, step.kind) for step in found.steps] == [
            (name, database, kind) for name, database, kind, _ in PLACE_ORDER
        ]
        assert {look.database for look in found.looks} == EVERYWHERE
        assert {look.problem for look in found.looks} == {None}
        rows = _rows(found)
        assert rows["open_order"] == ("orders", Mark.DONE)
        assert rows["reserve_stock"] == ("inventory", Mark.DONE)
        assert rows["credit_points"] == ("points", Mark.COMPENSATED)
        (inventory,) = (look for look in found.looks if look.database == "inventory")
        assert inventory.rows["reserve_stock"].result == '{"step":"reserve_stock","attempt":1}'
        assert found.contradictions == ()
        assert found.moves == (Planned("reserve_stock", "undo"), Planned("open_order", "undo"))
        failed = [one for one in found.saga.history if one.said is not None]
        assert {one.said for one in failed if one.phase == "undo"} == {"ZeroDivisionError: cannot do it"}
        assert not found.late
        assert found.removed_at is None


async def test_each_repair_of_a_parked_saga_says_where_it_leads_or_why_not(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        found = await program.sagas.inspector().examine(await parked(program))

        told = {(one.action, one.step or one.outcome): one for one in found.options}
        assert told["retry", None].after is Status.COMPENSATING
        assert told["skip", "reserve_stock"].after is Status.COMPENSATING
        assert "is undone already" in (told["skip", "credit_points"].problem or "")
        assert "is being undone" in (told["resolve", Status.COMPLETED].problem or "")
        assert told["resolve", Status.COMPENSATED].after is Status.COMPENSATED
        for (action, what), option in told.items():
            act = getattr(program.sagas, action)
            more = [] if what is None else [what if action == "skip" else what.value]
            if option.problem is None:
                (repair,) = await act(found.saga.id, *more, **ME, dry_run=True)
                assert repair.after is option.after
            else:
                with pytest.raises(PolysagaError) as raised:
                    await act(found.saga.id, *more, **ME, dry_run=True)
                assert option.problem in str(raised.value)


async def test_a_saga_at_rest_has_nothing_to_come_and_a_day_of_its_removal(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open(retention=30 * 86_400.0) as program:
        saga = await finished(program, (await program.sagas.start(program.saga, Order())).id)

        found = await program.sagas.inspector().examine(saga.id)

        assert (found.moves, found.options, found.contradictions) == ((), (), ())
        assert {mark for _, mark in _rows(found).values()} == {Mark.DONE}
        assert set(_rows(found)) == {name for name, *_ in PLACE_ORDER}
        assert saga.finished_at is not None
        assert found.removed_at == saga.finished_at + timedelta(days=30)


async def test_a_database_that_does_not_answer_is_left_out_with_the_reason(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stuck_going_back(urls).open() as program:
        saga_id = await parked(program)
        node = program.handles["inventory"].primary
        kind = MongoParticipant if isinstance(node, MongoNode) else SqlParticipant
        look = kind.look

        async def silent(self: Any, *asked: Any) -> Mapping[str, Any]:
            if self.node.database == "inventory":
                raise TimeoutError
            return await look(self, *asked)

        monkeypatch.setattr(kind, "look", silent)

        found = await program.sagas.inspector().examine(saga_id)

        problems = {one.database: one.problem for one in found.looks}
        assert problems["orders"] is problems["points"] is None
        assert problems["inventory"], "even an error without a text has a line"
        assert found.moves == found.contradictions == ()
        told = {(one.action, one.step or one.outcome): one.problem for one in found.options}
        assert told["retry", None] is None
        assert "inventory, which does not answer" in (told["skip", "reserve_stock"] or "")
        assert "inventory, which does not answer" in (told["resolve", Status.COMPENSATED] or "")


async def test_a_contradiction_is_shown_with_the_saga(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        saga = await finished(program, (await program.sagas.start(program.saga, Order())).id)
        participant = program.runner.engine.participants["points"]
        await participant.remove([saga.id], timedelta(seconds=-60))

        found = await program.sagas.inspector().examine(saga.id)

        assert [(one.kind.value, one.step) for one in found.contradictions] == [("missing-step", "credit_points")]


async def test_who_drove_a_saga_and_when_is_in_one_timeline(urls: Urls) -> None:
    entered, stay = asyncio.Event(), asyncio.Event()

    async def hold(db: Any, ctx: Any) -> None:
        entered.set()
        await reached(stay, "the other owner is through")

    first, second = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    first.on("confirm_order", hold)
    async with first.open() as one, second.open() as other:
        handle = await one.sagas.start(one.saga, Order())
        await reached(entered, "the first owner is in its last step but one")

        await take_over(other, handle.id)

        saga = await finished(other, handle.id)
        stay.set()
        assert [owner.epoch for owner in saga.owners] == [1, 2]
        assert {owner.process for owner in saga.owners} == {one.runner.engine.process}
        begun = saga.owners[1].at_ms
        later = [attempt.at_ms for attempt in saga.history if attempt.step == "record_event"]
        assert 0 < begun <= min(later), "all times count from the start of the saga"


async def test_a_failing_step_is_found_by_its_name_and_its_database(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        saga_id = await parked(program)
        program.hooks.clear()
        fine = (await program.sagas.start(program.saga, Order())).id
        await finished(program, fine)

        async def found(**wanted: Any) -> list[UUID]:
            return [saga.id for saga in (await program.sagas.find(SagaFilter(**wanted))).sagas]

        assert await found(step="reserve_stock") == [saga_id]
        assert await found(database="inventory") == [saga_id]
        assert await found(database="inventory", step="reserve_stock") == [saga_id]
        assert await found(step="confirm_order") == [saga_id], "the refusal because of which it is undone"
        for step in ("reserve_stock", "confirm_order"):
            assert await found(step=step, status=Status.NEEDS_ATTENTION) == [saga_id], "by its reason alone"
        assert await found(step="credit_points", status=Status.NEEDS_ATTENTION) == []
        assert await found(step="confirm_order", status=(Status.COMPLETED, Status.COMPENSATED)) == []
        assert await found(step="credit_points") == []
        assert await found(database="points") == []
        assert await found(database="points", step="reserve_stock") == []
        assert await found(database="nowhere") == []
        assert await found(retrying=True) == []
        assert await found() == [fine, saga_id]
        assert await found(oldest_first=True) == [saga_id, fine]
        assert await found(ids=[fine]) == [fine]
        assert await found(ids=[]) == []


async def test_a_saga_that_keeps_losing_its_process_is_found_and_counted(urls: Urls) -> None:
    program, gate = Program(urls, PLACE_ORDER), Gate()
    program.on("reserve_stock", gate)
    async with program.open():
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        for lost, crashing in ((2, False), (3, True)):
            await lose_processes(program, handle.id, lost)
            found = (await program.sagas.find(SagaFilter(crashing=True))).sagas
            assert [saga.id for saga in found] == [handle.id] * crashing
            assert (await program.sagas.inspector().overview()).crashing == int(crashing)
        assert found[0].crashing
        gate.open()
        assert not (await finished(program, handle.id)).crashing
        assert (await program.sagas.inspector().overview()).crashing == 0


async def test_sagas_are_found_by_the_time_of_their_start(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        saga = await finished(program, (await program.sagas.start(program.saga, Order())).id)
        moment, a_bit = saga.created_at, timedelta(milliseconds=1)

        async def found(**wanted: Any) -> list[UUID]:
            return [saga.id for saga in (await program.sagas.find(SagaFilter(**wanted))).sagas]

        assert await found(since=moment) == [saga.id], "included"
        assert await found(until=moment) == [], "excluded"
        assert await found(since=moment - a_bit, until=moment + a_bit) == [saga.id]
        assert await found(since=moment + a_bit) == []


async def test_the_audit_trail_is_read_from_the_newest_act_on(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        inspector = program.sagas.inspector()
        sagas = [await parked(program) for _ in range(3)]
        for saga_id, by in zip(sagas, ("ada", "ben", "ada"), strict=True):
            await program.sagas.resolve(saga_id, "compensated", by=by, why=f"{by} saw to it")

        first = await inspector.audit(limit=2)
        second = await inspector.audit(limit=2, after=first.next)

        lines = [*first.lines, *second.lines]
        assert [line.saga_id for line in lines] == [*reversed(sagas)]
        assert [line.by for line in lines] == ["ada", "ben", "ada"]
        assert {(line.action, line.saga, line.count, line.batch) for line in lines} == {
            ("resolve", "place-order", 1, None)
        }
        assert second.next is None
        by_ben = await inspector.audit(AuditFilter(by="ben"))
        assert [line.saga_id for line in by_ben.lines] == [sagas[1]]
        assert [line.by for line in (await inspector.audit(AuditFilter(saga_id=sagas[2]))).lines] == ["ada"]
        assert (await inspector.audit(AuditFilter(action="retry"))).lines == ()
        assert (await inspector.audit(AuditFilter(until=lines[-1].at))).lines == ()
        assert len((await inspector.audit(AuditFilter(since=lines[-1].at))).lines) == 3


async def test_the_audit_trail_of_a_key_is_found_also_after_its_saga_was_removed(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        handle = await program.sagas.start(program.saga, Order(), key="monday")
        await until(lambda: program.recorder.of(SagaParked), "it is parked")
        await parked(program)
        await program.sagas.resolve(handle.id, "compensated", by="ada", why="seen to")
        async with program.runner.engine.journal.node.writer.begin() as connection:
            await connection.execute(delete(journal))

        found = await program.sagas.inspector().audit(AuditFilter(key="monday"))

        assert [(line.saga_id, line.saga) for line in found.lines] == [(handle.id, None)]
        assert (await program.sagas.inspector().audit(AuditFilter(key="tuesday"))).lines == ()


async def test_a_batch_tells_how_all_its_sagas_stand(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspecting, "_EXAMPLES", 2)
    async with stuck_going_back(urls).open() as program:
        ids = [await parked(program) for _ in range(4)]
        await program.sagas.resolve(await parked(program), "compensated", **ME)  # not one of the batch
        removed, resolved, *_ = ids
        batch = program.sagas.begin_batch("retry", [*ids, ids[0]], **ME)
        parks = 5 + 4
        await until(lambda: len(program.recorder.of(SagaParked)) >= parks, "all four are parked again")
        await program.sagas.resolve(resolved, "compensated", **ME)
        async with program.runner.engine.journal.node.writer.begin() as connection:
            key = program.runner.engine.journal.node.dialect.key(removed)
            await connection.execute(delete(journal).where(journal.c.id == key))

        found = await program.sagas.inspector().fates(batch)

        assert found.numbers == {Status.NEEDS_ATTENTION: 2, Status.COMPENSATED: 1}
        assert (found.removed, found.complete) == (1, True)
        assert {saga.id for saga in found.examples} == set(ids) - {removed, resolved}
        nothing = await program.sagas.inspector().fates(UUID(int=7))
        assert (nothing.numbers, nothing.removed, nothing.examples) == ({}, 0, ())


async def test_the_others_with_the_reason_of_a_repaired_saga_are_counted(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        first, *_ = [await parked(program) for _ in range(3)]
        await program.sagas.resolve(first, "compensated", by="ada", why="one by hand")

        found = await program.sagas.inspector().examine(first)

        assert (found.saga.status, found.alike) == (Status.COMPENSATED, 2)
        act = found.saga.repaired
        assert act is not None
        assert (act.by, act.error_before is not None and act.error_before.parked is not None) == ("ada", True)


async def test_an_unknown_saga_is_not_examined(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        with pytest.raises(UnknownSaga):
            await program.sagas.inspector().examine(UUID(int=7))


def _rows(found: Examination) -> dict[str, tuple[str, Mark]]:
    return {step: (look.database, row.state) for look in found.looks for step, row in look.rows.items()}


async def was_due(program: Program, saga_id: UUID, ago: timedelta) -> None:
    """Let the saga be of a version that no process knows, and have been due for a while."""
    dialect = program.runner.engine.journal.node.dialect
    due = Asked.now(program.runner.engine.clock).wall - ago
    async with program.runner.engine.journal.node.writer.begin() as connection:
        await connection.execute(
            update(journal)
            .where(journal.c.id == dialect.key(saga_id))
            .values(wake_at=dialect.moment(due), fingerprint="0" * 32)
        )
