"""Every contradiction between the journal and the ledgers is found, and nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from polysaga import Refused, Status, StepContext
from polysaga.config import SagaSettings
from polysaga.databases import MongoNode, SqlNode
from polysaga.errors import SchemaMissing
from polysaga.events import SagaFinished
from polysaga.sagas import ContradictionKind, Verification
from polysaga.sagas.operations import verification
from polysaga.sagas.operations.pages import JournalSurvey
from tests.fixtures.programs import LEDGER_PIVOT, PATIENCE, PLACE_ORDER, TWO_LAST_STEPS, Gate, Order, Program, Urls

Found = set[tuple[str, UUID, str | None, str | None]]
# One ledger is MongoDB's where the set-up has one, the other is always SQL; each has one of these steps.
STEPS = [("inventory", "reserve_stock"), ("points", "credit_points")]


class Books:
    """The rows of a program, changed behind its back."""

    def __init__(self, program: Program) -> None:
        self._program = program

    async def drop(self, database: str, saga_id: UUID, step: str) -> None:
        """Lose a ledger row."""
        node = self._program.handles[database].primary
        if isinstance(node, MongoNode):
            await node.documents["polysaga_ledger"].delete_one({"_id": f"{saga_id.hex}:{step}"})
        else:
            await self._run(
                node, "DELETE FROM polysaga_ledger WHERE saga_id = :id AND step = :step", saga_id, step=step
            )

    async def turn(self, database: str, saga_id: UUID, step: str, state: str) -> None:
        """Change the state of a ledger row."""
        node = self._program.handles[database].primary
        if isinstance(node, MongoNode):
            change = {"$set": {"state": state}}
            await node.documents["polysaga_ledger"].update_one({"_id": f"{saga_id.hex}:{step}"}, change)
        else:
            sql = "UPDATE polysaga_ledger SET state = :state WHERE saga_id = :id AND step = :step"
            await self._run(node, sql, saga_id, step=step, state=state)

    async def add(self, database: str, saga_id: UUID, step: str, state: str = "done") -> None:
        """Write a ledger row that no saga wrote."""
        node = self._program.handles[database].primary
        if isinstance(node, MongoNode):
            row = {"_id": f"{saga_id.hex}:{step}", "state": state, "epoch": 1, "result": "{}"}
            await node.documents["polysaga_ledger"].insert_one(row)
        else:
            sql = (
                "INSERT INTO polysaga_ledger (saga_id, step, state, epoch, result, recorded_at) "
                f"VALUES (:id, :step, :state, 1, '{{}}', {node.dialect.clock})"
            )
            await self._run(node, sql, saga_id, step=step, state=state)

    async def journal(self, saga_id: UUID, change: str, **values: Any) -> None:
        """Change the journal row; "" deletes it."""
        node = self._program.handles["orders"].primary
        assert isinstance(node, SqlNode)
        verb = f"UPDATE polysaga_journal SET {change}" if change else "DELETE FROM polysaga_journal"
        await self._run(node, f"{verb} WHERE id = :id", saga_id, **values)

    async def _run(self, node: SqlNode, sql: str, saga_id: UUID, **values: Any) -> None:
        statement = node.dialect.render(sql)
        async with node.writer.begin() as connection:
            bound = statement.bind({"id": node.dialect.key(saga_id), **values})
            assert (await connection.exec_driver_sql(statement.sql, bound)).rowcount == 1


@pytest.fixture
async def program(urls: Urls) -> AsyncIterator[Program]:
    async with Program(urls, PLACE_ORDER).open() as program:
        yield program


@pytest.fixture
def books(program: Program) -> Books:
    return Books(program)


async def completed(program: Program) -> UUID:
    handle = await program.sagas.start(program.saga, Order())
    await handle.result()
    await program.recorder.wait_for(SagaFinished, lambda event: event.saga_id == handle.id)
    return handle.id


async def compensated(program: Program, *, at: str = "credit_points") -> UUID:
    async def refuse(_: Any, __: StepContext) -> None:
        raise Refused("no points today")

    program.on(at, refuse)
    handle = await program.sagas.start(program.saga, Order())
    with pytest.raises(Refused):
        await handle.result()
    del program.hooks[at]
    assert (await program.sagas.get(handle.id)).status is Status.COMPENSATED
    return handle.id


def told(found: Verification) -> Found:
    return {(one.kind.value, one.saga_id, one.step, one.database) for one in found.contradictions}


async def verified(program: Program) -> Found:
    return told(await program.sagas.verify())


async def test_sagas_at_rest_of_every_kind_fit(program: Program) -> None:
    await completed(program)
    await compensated(program)
    await compensated(program, at="confirm_order")
    await compensated(program, at="open_order")
    found = await program.sagas.verify()
    assert (found.contradictions, found.complete, found.clean) == ((), True, True)
    assert {status: count for status, count in found.sagas.items() if count} == {
        Status.COMPLETED: 1,
        Status.COMPENSATED: 3,
    }
    # reserve_stock and record_event of the first; reserve_stock, done or blocked, of the two that began to run
    assert (found.rows["inventory"], found.rows["points"], found.rows["orders"]) == (4, 3, 0)


@pytest.mark.parametrize("shape", [LEDGER_PIVOT, TWO_LAST_STEPS], ids=["ledger-pivot", "two-last-steps"])
async def test_sagas_of_other_shapes_fit(urls: Urls, shape: Sequence[Any]) -> None:
    async with Program(urls, shape).open() as program:
        await completed(program)
        await compensated(program, at=shape[1][0])
        assert await verified(program) == set()


@pytest.mark.parametrize(("database", "step"), STEPS)
async def test_a_completed_saga_without_one_of_its_rows_is_found(
    program: Program, books: Books, database: str, step: str
) -> None:
    saga_id = await completed(program)
    await books.drop(database, saga_id, step)
    assert await verified(program) == {("missing-step", saga_id, step, database)}


@pytest.mark.parametrize("state", ["blocked", "compensated"])
@pytest.mark.parametrize(("database", "step"), STEPS)
async def test_a_completed_saga_with_an_undone_step_is_found(
    program: Program, books: Books, database: str, step: str, state: str
) -> None:
    saga_id = await completed(program)
    await books.turn(database, saga_id, step, state)
    assert await verified(program) == {("undone-step", saga_id, step, database)}


@pytest.mark.parametrize(("database", "step"), STEPS)
async def test_a_compensated_saga_with_a_lasting_effect_is_found(
    program: Program, books: Books, database: str, step: str
) -> None:
    saga_id = await compensated(program, at="confirm_order")
    await books.turn(database, saga_id, step, "done")
    assert await verified(program) == {("lasting-effect", saga_id, step, database)}


@pytest.mark.parametrize(("database", "step"), STEPS)
async def test_a_compensated_saga_that_a_late_step_could_still_change_is_found(
    program: Program, books: Books, database: str, step: str
) -> None:
    saga_id = await compensated(program)
    await books.drop(database, saga_id, step)
    assert await verified(program) == {("open-step", saga_id, step, database)}


async def test_a_decision_that_nothing_blocks_is_found(urls: Urls) -> None:
    async with Program(urls, LEDGER_PIVOT).open() as program:
        saga_id = await compensated(program, at="decide_there")
        await Books(program).drop("inventory", saga_id, "decide_there")
        assert await verified(program) == {("open-step", saga_id, "decide_there", "inventory")}


@pytest.mark.parametrize(("database", "step"), STEPS)
async def test_a_ledger_row_without_a_journal_row_is_found(
    program: Program, books: Books, database: str, step: str
) -> None:
    await completed(program)
    lost = uuid4()
    await books.add(database, lost, step)
    found = await program.sagas.verify()
    assert told(found) == {("no-journal-row", lost, step, database)}
    assert (found.contradictions[0].saga, found.contradictions[0].status) == (None, None)


async def test_a_saga_that_the_journal_lost_is_found_with_all_its_rows(program: Program, books: Books) -> None:
    saga_id = await completed(program)
    await books.journal(saga_id, "")
    rows = [*STEPS, ("inventory", "record_event")]
    assert await verified(program) == {("no-journal-row", saga_id, step, database) for database, step in rows}


@pytest.mark.parametrize(("lacking", "kind"), [("open_order", "missing-step"), ("confirm_order", "wrong-result")])
async def test_a_final_saga_whose_journal_lacks_a_result_is_found(
    program: Program, books: Books, lacking: str, kind: str
) -> None:
    saga_id = await completed(program)
    results = {step: "{}" for step in ("open_order", "confirm_order") if step != lacking}
    await books.journal(saga_id, "results = :results", results=json.dumps(results))
    assert await verified(program) == {(kind, saga_id, lacking, "orders")}


async def test_a_final_saga_whose_journal_has_another_result_than_the_ledger_is_found(urls: Urls) -> None:
    async with Program(urls, LEDGER_PIVOT).open() as program:
        saga_id = await completed(program)
        results = json.dumps({"decide_there": '{"step": "decide_there", "attempt": 7}'})
        await Books(program).journal(saga_id, "results = :results", results=results)
        assert await verified(program) == {("wrong-result", saga_id, "decide_there", "inventory")}


@pytest.mark.parametrize(("database", "step"), STEPS)
async def test_a_row_of_a_step_that_the_saga_does_not_have_is_found(
    program: Program, books: Books, database: str, step: str
) -> None:
    saga_id = await completed(program)
    await books.add(database, saga_id, f"{step}_twice")
    assert await verified(program) == {("unknown-step", saga_id, f"{step}_twice", database)}


async def test_an_unfinished_saga_for_which_nobody_comes_is_found(program: Program, books: Books) -> None:
    gate = Gate()
    program.on("record_event", gate)
    handle = await program.sagas.start(program.saga, Order())
    await gate.reached()
    node = program.handles["orders"].primary
    assert isinstance(node, SqlNode)
    # Of another version, so that no worker takes it meanwhile.
    late = f"wake_at = {node.dialect.later(':late')}, fingerprint = 'gone'"
    await books.journal(handle.id, late, late=-99.0)
    assert await verified(program) == set()
    await books.journal(handle.id, late, late=-101.0)
    found = await program.sagas.verify()
    assert told(found) == {("stranded", handle.id, None, None)}
    assert found.strangers == 1
    gate.open()


@pytest.mark.parametrize(("database", "step"), STEPS)
async def test_a_saga_under_way_that_lost_a_row_it_builds_on_is_found(
    program: Program, books: Books, database: str, step: str
) -> None:
    gate = Gate()
    program.on("record_event", gate)
    handle = await program.sagas.start(program.saga, Order())
    await gate.reached()
    await books.add("inventory", handle.id, "record_event")
    await books.turn(database, handle.id, step, "blocked")
    assert await verified(program) == {("undone-behind-decision", handle.id, step, database)}
    await books.journal(handle.id, "status = 'running', results = :results", results='{"open_order": "{}"}')
    assert await verified(program) == {("out-of-order", handle.id, "record_event", "inventory")}
    gate.open()


async def test_a_saga_that_is_being_removed_for_its_age_is_no_contradiction(
    program: Program, books: Books
) -> None:
    done, undone = await completed(program), await compensated(program)
    await books.drop("inventory", done, "reserve_stock")
    await books.drop("points", undone, "credit_points")
    node = program.handles["orders"].primary
    assert isinstance(node, SqlNode)
    for saga_id in (done, undone):
        await books.journal(saga_id, f"finished_at = {node.dialect.ago(':age')}", age=2 * 86400.0)
    assert told(await program.sagas.verify(SagaSettings(retention=86400.0 * 1.5))) == set()
    kept = await program.sagas.verify(SagaSettings(retention=86400.0 * 3))
    assert {one.kind for one in kept.contradictions} == {"missing-step", "open-step"}


async def test_sagas_of_another_version_are_compared_as_far_as_possible(program: Program, books: Books) -> None:
    done, undone = await completed(program), await compensated(program, at="confirm_order")
    for saga_id in (done, undone):
        await books.journal(saga_id, "fingerprint = 'gone'")
    found = await program.sagas.verify()
    assert (found.strangers, found.clean) == (2, True)
    await books.turn("points", done, "credit_points", "blocked")
    await books.turn("inventory", undone, "reserve_stock", "done")
    assert await verified(program) == {
        ("undone-step", done, "credit_points", "points"),
        ("lasting-effect", undone, "reserve_stock", "inventory"),
    }


async def test_all_sagas_are_compared_however_small_the_pages_are(
    program: Program, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polysaga.sagas.operations.verification._SAGAS", 3)
    monkeypatch.setattr("polysaga.sagas.operations.verification._ROWS", 4)
    done = [await completed(program) for _ in range(10)]
    lost = [uuid4() for _ in range(10)]
    for saga_id in lost:
        await books.add("points", saga_id, "credit_points")
    await books.drop("inventory", done[4], "reserve_stock")
    seen: list[int] = []
    found = await program.sagas.verify(watch=seen.append)
    assert found.sagas[Status.COMPLETED] == 10
    assert (found.rows["inventory"], found.rows["points"]) == (19, 20)
    assert told(found) == {
        ("missing-step", done[4], "reserve_stock", "inventory"),
        *[("no-journal-row", saga_id, "credit_points", "points") for saga_id in lost],
    }
    assert seen == sorted(seen)
    assert seen[-1] == 10
    first = await program.sagas.verify(limit=5)
    assert (len(first.contradictions), first.complete) == (5, False)


async def test_verify_raises_no_false_alarm_while_sagas_run(program: Program) -> None:
    """Sagas run, are refused and undone as fast as they can, while one comparison follows the other."""
    turns = iter(range(10**6))

    async def sometimes(_: Any, __: StepContext) -> None:
        if next(turns) % 3 == 0:
            raise Refused("every third")

    program.on("confirm_order", sometimes)
    stop = asyncio.Event()

    async def customer() -> None:
        while not stop.is_set():
            try:
                await program.sagas.run(program.saga, Order())
            except Refused:
                continue

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(customer())
        await program.recorder.wait_for(SagaFinished)
        compared = 0
        for _ in range(12):
            found = await program.sagas.verify()
            assert found.contradictions == ()
            compared += sum(found.sagas.values())
        stop.set()
    assert compared > 0
    runner = program.runner
    async with asyncio.timeout(PATIENCE):
        while runner.tasks:
            await asyncio.wait(runner.tasks)
    found = await program.sagas.verify()
    assert found.clean
    assert {status for status, count in found.sagas.items() if count} == {Status.COMPLETED, Status.COMPENSATED}


async def test_a_saga_that_goes_on_between_two_looks_is_no_contradiction(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole saga begins and ends after the journal was read: the ledgers have rows that the journal had not."""
    page = JournalSurvey.page
    began: list[UUID] = []

    async def and_then(self: JournalSurvey, after: UUID, upto: UUID, most: int) -> Any:
        found = await page(self, after, upto, most)
        if not began:
            began.append(await completed(program))
        return found

    monkeypatch.setattr(JournalSurvey, "page", and_then)
    found = await program.sagas.verify()
    assert found.contradictions == ()
    assert found.rows["points"] == 1


async def test_it_says_which_tables_are_missing(urls: Urls) -> None:
    program = Program(urls, PLACE_ORDER)
    async with program.open():
        node = program.handles["points"].primary
        assert isinstance(node, SqlNode)
        async with node.writer.begin() as connection:
            await connection.execute(text("DROP TABLE polysaga_ledger"))
        with pytest.raises(SchemaMissing, match="ledger tables of database 'points'"):
            await program.sagas.verify()


def test_the_words_for_machines_are_stable() -> None:
    assert [kind.value for kind in ContradictionKind] == [
        "missing-step",
        "undone-step",
        "lasting-effect",
        "open-step",
        "no-journal-row",
        "wrong-result",
        "undone-behind-decision",
        "out-of-order",
        "unknown-step",
        "stranded",
        "parked-start",
        "waiting-start",
    ]


async def test_only_sagas_begun_since_a_time_are_compared_page_by_page(
    program: Program, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_SAGAS", 2)
    old, *new = [await completed(program) for _ in range(5)]
    began = (await program.sagas.get(new[0])).created_at
    for saga_id in (old, new[0], new[3]):
        await books.turn("inventory", saga_id, "reserve_stock", "blocked")
    await books.add("points", uuid4(), "credit_points")
    expected: list[int] = []

    found = await program.sagas.verify(since=began, expect=expected.append)

    assert found.complete
    assert expected == [4]
    assert sum(found.sagas.values()) == 4
    assert {one.saga_id for one in found.contradictions} == {new[0], new[3]}
    assert found.rows == {"orders": 0, "inventory": 8, "points": 4}
    first = await program.sagas.verify(since=began, limit=1)
    assert (len(first.contradictions), first.complete) == (1, False)
