"""What one process counts in the journal for the metrics of all: on SQLite, PostgreSQL, MariaDB and MongoDB."""

import asyncio
import json
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import pytest

from polysaga import MongoSession, Status, StepContext
from polysaga.errors import NeedsAttention
from polysaga.sagas.operations.census import CensusResult
from polysaga.sagas.participants.outboxes import Backlog, Waiting
from tests.fixtures.programs import PLACE_ORDER, QUICK, Order, Program, Urls
from tests.fixtures.waiting import forever, reached, until


def groups(counts: CensusResult) -> dict[tuple[str, Status], int]:
    return {(group.name, group.status): group.count for group in counts.unfinished}


@pytest.fixture(autouse=True)
def seen_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process say after a moment that it is there; it says so again after half a minute."""
    monkeypatch.setattr("polysaga.sagas.process.pulse.BEAT", 0.1)


async def refuse(db: object, ctx: StepContext) -> None:
    raise RuntimeError("the printer is on fire")


async def test_one_process_counts_for_all_and_the_next_takes_its_place(urls: Urls) -> None:
    one, two = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    async with one.open(), two.open(), AsyncExitStack() as stack:
        counting = {program: program.sagas.census() for program in (one, two)}
        for census in counting.values():
            stack.enter_context(census.candidate())
        await until(lambda: both_are_there(one), "both processes have said that they are there")
        elected = [program for program, census in counting.items() if await census.elected()]
        (reader,) = elected
        (other,) = {one, two} - {reader}
        assert await counting[reader].elected()
        # The reader dies: it is not seen any more.
        await unseen(reader)
        assert await counting[other].elected()
        # It wakes up, and does not count beside the other.
        assert not await counting[reader].elected()


async def test_without_any_pulse_every_process_counts(urls: Urls) -> None:
    program = Program(urls, PLACE_ORDER)
    async with program.open():
        counting = Program(urls, PLACE_ORDER)
        async with counting.connected():
            with program.sagas.census().candidate():
                await until(lambda: is_there(program), "the process has said that it is there")
            assert not await counting.sagas.census().elected()  # it drives no sagas
            await unseen(program)
            assert await counting.sagas.census().elected()


async def is_there(program: Program, count: int = 1) -> bool:
    """Return whether *count* processes have said that they are there and may count."""
    node = program.runner.engine.journal.node
    async with node.reader.connect() as connection:
        rows = (await connection.exec_driver_sql("SELECT process, facts FROM polysaga_pulse")).all()
    return len({process for process, facts in rows if json.loads(facts)["counts"]}) == count


async def both_are_there(program: Program) -> bool:
    return await is_there(program, 2)


async def unseen(program: Program) -> None:
    """Let the process have been seen an hour ago."""
    engine, opened = program.runner.engine, program.sagas._opened
    assert opened is not None
    dialect = engine.journal.node.dialect
    statement = dialect.render(
        f"UPDATE polysaga_pulse SET seen_at = {dialect.ago('3600')} WHERE process = :process"
    )
    async with engine.journal.node.writer.begin() as connection:
        values = {"process": dialect.key(opened.pulse.process)}
        await connection.exec_driver_sql(statement.sql, statement.bind(values))


async def test_unfinished_sagas_are_counted_by_name_and_status(urls: Urls) -> None:
    program = Program(urls, PLACE_ORDER)
    program.steps["confirm_order"].retry = QUICK
    program.steps["credit_points"].undo_retry = QUICK
    async with program.open():
        counting = program.sagas.census()
        empty = await counting.count()
        assert (empty.unfinished, empty.complete) == ((), True)
        await program.sagas.run(program.saga, Order())  # finished, or about to be
        program.on("confirm_order", refuse)
        program.on("undo:credit_points", refuse)
        for _ in range(2):
            handle = await program.sagas.start(program.saga, Order())
            with pytest.raises(NeedsAttention):
                await handle.result(30)
        found = await counting.count()
        assert groups(found)["place-order", Status.NEEDS_ATTENTION] == 2
        (parked,) = [group for group in found.unfinished if group.status is Status.NEEDS_ATTENTION]
        assert (parked.late, 0 < parked.oldest < 120) == (0, True)


async def test_sagas_that_no_process_takes_over_are_late(urls: Urls) -> None:
    program = Program(urls, PLACE_ORDER)
    async with program.open(lease=600.0):
        inside = asyncio.Event()

        async def hang(db: object, ctx: StepContext) -> None:
            inside.set()
            await forever()

        program.on("confirm_order", hang)
        handle = await program.sagas.start(program.saga, Order())
        await reached(inside, "the step runs")
        assert [group.late for group in (await program.sagas.census().count()).unfinished] == [0]
        await age(program, handle.id)
        assert [group.late for group in (await program.sagas.census().count()).unfinished] == [1]


async def test_starts_that_wait_and_starts_that_are_parked_are_counted(urls: Urls) -> None:
    program = Program(urls, PLACE_ORDER)
    async with program.open(lease=600.0):
        counting = program.sagas.census()
        # The drain has looked already, and looks again in a quarter of a lease: it does not see these.
        for name, outbox in program.runner.engine.participants.items():
            if name == "orders":
                continue
            async with program.handles[name].writer() as db:
                if isinstance(db, MongoSession):
                    async with db.transaction() as tx:
                        await outbox.outbox.put(tx, Waiting(uuid4(), "place-order", "{}"))
                else:
                    await outbox.outbox.put(db, Waiting(uuid4(), "place-order", "{}"))
                parked = Waiting(uuid4(), "place-order", "{}")
            async with program.handles[name].writer() as db:
                if isinstance(db, MongoSession):
                    async with db.transaction() as tx:
                        await outbox.outbox.put(tx, parked)
                else:
                    await outbox.outbox.put(db, parked)
            await outbox.outbox.park(parked.saga_id, "its key stands for another input")
        found = await counting.count()
        assert found.problems == {}
        assert set(found.outboxes) == {"inventory", "points"}
        for backlog in found.outboxes.values():
            assert (backlog.waiting, backlog.parked, 0 <= backlog.oldest < 60) == (1, 1, True)


async def test_a_database_that_is_down_hides_no_other(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(urls, PLACE_ORDER)
    async with program.open():
        counting = program.sagas.census()

        async def down(most: int) -> Backlog:
            raise TimeoutError

        monkeypatch.setattr(counting._outboxes["points"], "backlog", down)
        found = await counting.count()
        assert list(found.outboxes) == ["inventory"]
        assert found.problems == {"points": "TimeoutError"}


async def age(program: Program, saga_id: UUID) -> None:
    """Let the claim of the saga have run out long ago."""
    node = program.runner.engine.journal.node
    statement = node.dialect.render(
        f"UPDATE polysaga_journal SET wake_at = {node.dialect.ago('3600')} WHERE id = :id"
    )
    async with node.writer.begin() as connection:
        await connection.exec_driver_sql(statement.sql, statement.bind({"id": node.dialect.key(saga_id)}))
