"""What is written around a step's COMMIT: before it, it is part of the step; behind it, of no transaction."""

import asyncio
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, func, insert, inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool
from sqlalchemy.util import await_only

from polysaga.databases.dialects import Write
from polysaga.databases.dialects.sending import Sealed
from polysaga.databases.lent_sessions import sql_session
from polysaga.errors import StepMisused
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark
from tests.conformance.shops import Sale, SqlShop, turns
from tests.conformance.test_participant import entry, row_of, selling
from tests.fixtures.waiting import forever, reached, within

LONG = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9e8) SELECT count(*) FROM n"


def sale(item: str) -> Sale:
    return Sale(receipt=uuid.uuid4().hex, item=item)


@contextmanager
def audited(item: str, how: str) -> Iterator[None]:
    """Let a listener to commits write, as the audit trail of a program does."""

    def write(session: Session) -> None:
        if how == "add":
            session.add(sale(item))
        else:
            session.execute(insert(Sale).values(receipt=uuid.uuid4().hex, item=item))

    event.listen(Session, "before_commit", write)
    try:
        yield
    finally:
        event.remove(Session, "before_commit", write)


@pytest.mark.parametrize("how", ["add", "execute"])
async def test_what_a_listener_to_commits_writes_is_part_of_the_step(
    sql_shop: SqlShop, item: str, how: str
) -> None:
    participant, step = sql_shop.participant(connections=1), entry()
    await participant.act(entry(), selling(sql_shop, "another"))

    with audited(item, how):
        await participant.act(step, selling(sql_shop, f"{item}-ordered"))

    assert await row_of(participant, step) is not None
    assert await sql_shop.sold(item) == 1
    await participant.act(entry(), selling(sql_shop, "the next"))
    assert await sql_shop.sold(item) == 1


@pytest.mark.parametrize("flushes", [False, True])
async def test_what_a_task_adds_behind_the_commit_is_of_no_transaction(
    sql_shop: SqlShop, item: str, monkeypatch: pytest.MonkeyPatch, *, flushes: bool
) -> None:
    """A task that the step left behind goes on just when the server has committed."""
    participant, step, left = sql_shop.participant(connections=1), entry(), list[asyncio.Task[Any]]()
    await participant.act(entry(), selling(sql_shop, "another"))
    sessions: list[AsyncSession] = []
    dialect = participant.node.dialect
    seal = dialect.seal

    async def write_late() -> None:
        sessions[0].add(sale(item))
        if flushes:
            await sessions[0].flush()

    async def seal_and_go_on(driver: Any, writes: Sequence[Write]) -> Sealed:
        found = await seal(driver, writes)
        left.append(asyncio.ensure_future(write_late()))
        await turns(20)
        return found

    async def work(session: AsyncSession) -> str:
        sessions.append(session)
        await sql_shop.sell(session, f"{item}-ordered")
        return "null"

    with monkeypatch.context() as patch:
        patch.setattr(dialect, "seal", seal_and_go_on)
        (end,) = await asyncio.gather(participant.act(step, work), return_exceptions=True)
    await within(asyncio.gather(*left, return_exceptions=True), "the task that was left behind ends")

    happened = await row_of(participant, step) is not None
    assert happened == (not isinstance(end, BaseException)), end
    before = await sql_shop.sold(item)
    assert happened or before == 0
    async with sql_session(participant.node, read_only=False) as session:
        await sql_shop.sell(session, "the next")
    await participant.act(entry(), selling(sql_shop, "and another"))
    assert await sql_shop.sold(item) == before, "the next user has committed it"


async def test_what_a_listener_to_the_engines_commit_writes_is_part_of_the_step(
    any_shop: SqlShop, item: str
) -> None:
    participant, step, called = any_shop.participant(connections=1), entry(), []

    def write(connection: Connection) -> None:
        if not called:
            called.append(True)
            connection.execute(insert(Sale).values(receipt=uuid.uuid4().hex, item=item))

    event.listen(participant.node.writer.sync_engine, "commit", write)
    await participant.act(step, selling(any_shop, item))
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, '"sold"')
    assert await any_shop.sold(item) == 2


@pytest.mark.filterwarnings("ignore:transaction already deassociated:sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("writes", [False, True])
async def test_a_listener_to_the_engines_commit_that_rolls_back_fails_the_step(
    any_shop: SqlShop, item: str, *, writes: bool
) -> None:
    """SQLAlchemy commits nothing then, or what came later, and reports a success."""
    participant, step, called = any_shop.participant(connections=1), entry(), []

    def veto(connection: Connection) -> None:
        if not called:
            called.append(True)
            connection.rollback()
            if writes:
                connection.execute(insert(Sale).values(receipt=uuid.uuid4().hex, item=item))

    event.listen(participant.node.writer.sync_engine, "commit", veto)
    with pytest.raises(StepMisused, match="ended its transaction by itself"):
        await participant.act(step, selling(any_shop, item))
    assert await row_of(participant, step) is None
    await participant.act(step, selling(any_shop, item))
    assert await any_shop.sold(item) == 1


_ENDS = ("after_commit", "after_rollback", "after_soft_rollback", "after_transaction_end")


@pytest.mark.parametrize("name", _ENDS)
async def test_the_listeners_of_a_step_hear_that_it_was_committed(sql_shop: SqlShop, item: str, name: str) -> None:
    participant, called = sql_shop.participant(), list[str]()

    async def work(session: AsyncSession) -> str:
        event.listen(session.sync_session, name, lambda *_: called.append(name))
        await sql_shop.sell(session, item)
        return "null"

    await participant.act(entry(), work)
    assert called == ([] if "rollback" in name else [name])
    assert await sql_shop.sold(item) == 1


async def test_a_listener_to_the_end_of_a_transaction_sees_the_objects_of_its_session(
    sql_shop: SqlShop, item: str
) -> None:
    participant, seen, sold = sql_shop.participant(), list[object](), sale(item)

    async def work(session: AsyncSession) -> str:
        event.listen(session.sync_session, "after_transaction_end", lambda ended, _: seen.extend(ended))
        session.add(sold)
        await session.flush()
        seen.clear()  # a flush is a transaction of its own
        return "null"

    await participant.act(entry(), work)
    assert seen == [sold]


async def test_a_listener_that_fails_behind_the_commit_keeps_no_place_in_the_pool(
    sql_shop: SqlShop, item: str
) -> None:
    participant, sold = sql_shop.participant(connections=1), sale(item)

    def fail(*_: object) -> None:
        raise ValueError("a listener fails")

    async def work(session: AsyncSession) -> str:
        event.listen(session.sync_session, "persistent_to_detached", fail)
        session.add(sold)
        return "null"

    with pytest.raises(ValueError, match="a listener fails"):
        await participant.act(entry(), work)
    await within(participant.act(entry(), selling(sql_shop, item)), "the next step gets a connection")
    assert await sql_shop.sold(item) == 2


async def test_no_listener_hears_of_a_rollback_behind_a_commit(any_shop: SqlShop, item: str) -> None:
    participant, called = any_shop.participant(connections=1), list[Connection]()
    event.listen(participant.node.writer.sync_engine, "rollback", called.append)
    await participant.act(entry(), selling(any_shop, item))
    await participant.act(entry(), selling(any_shop, item))
    assert called == []
    assert await any_shop.sold(item) == 2


async def test_the_objects_of_a_step_are_of_no_session_behind_it(sql_shop: SqlShop, item: str) -> None:
    participant, step, objects = sql_shop.participant(), entry(), list[Sale]()

    async def work(session: AsyncSession) -> str:
        objects.append(sale(item))
        session.add(objects[0])
        return "null"

    async def undo(session: AsyncSession, _: str) -> None:
        objects.append((await session.execute(select(Sale).where(Sale.item == item))).scalar_one())
        await session.delete(objects[1])

    await participant.act(step, work)
    await participant.undo(step, undo)
    assert [inspect(one).detached for one in objects] == [True, True]
    assert [one.item for one in objects] == [item, item]
    assert await sql_shop.sold(item) == 0


async def test_a_savepoint_that_a_step_leaves_open_is_committed(any_shop: SqlShop, item: str) -> None:
    participant, step = any_shop.participant(connections=1), entry()

    async def work(lent: AsyncSession | AsyncConnection) -> str:
        await any_shop.sell(lent, item)
        await lent.begin_nested()
        await any_shop.sell(lent, item)
        return "null"

    await participant.act(step, work)
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, "null")
    assert await any_shop.sold(item) == 2
    await participant.act(entry(), selling(any_shop, item))
    assert await any_shop.sold(item) == 3


async def test_a_listener_hears_of_the_commit_of_a_step_that_leaves_a_savepoint_open(
    sql_shop: SqlShop, item: str
) -> None:
    participant, called = sql_shop.participant(connections=1), list[Session]()

    async def work(session: AsyncSession) -> str:
        event.listen(session.sync_session, "after_commit", called.append)
        await sql_shop.sell(session, item)
        await session.begin_nested()
        await sql_shop.sell(session, item)
        return "null"

    await participant.act(entry(), work)
    assert called != []
    assert await sql_shop.sold(item) == 2


async def test_what_a_step_writes_by_another_engine_is_committed(sql_shop: SqlShop, item: str) -> None:
    """SQLAlchemy's sessions take a connection of each engine that a statement names."""
    another = create_engine("sqlite://", poolclass=StaticPool)
    Sale.__table__.create(another)  # type: ignore[attr-defined]

    async def work(session: AsyncSession) -> str:
        await sql_shop.sell(session, item)
        session.sync_session.execute(
            insert(Sale).values(receipt=uuid.uuid4().hex, item=item), bind_arguments={"bind": another}
        )
        return "null"

    await sql_shop.participant().act(entry(), work)
    with another.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Sale)) == 1
    another.dispose()
    assert await sql_shop.sold(item) == 1


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_commit_cannot_be_streamed(any_shop: SqlShop, item: str, *, goes_on: bool) -> None:
    participant, step = any_shop.participant(connections=1), entry()

    async def work(lent: AsyncSession | AsyncConnection) -> str:
        await any_shop.sell(lent, item)
        await lent.stream(text("COMMIT"))
        if not goes_on:
            raise LookupError
        return "null"

    with pytest.raises(StepMisused, match="it ends the step's transaction"):
        await participant.act(step, work)
    assert await row_of(participant, step) is None
    assert await any_shop.sold(item) == 0


async def test_a_procedure_that_commits_cannot_be_streamed(mariadb: SqlShop, item: str) -> None:
    participant, step, name = mariadb.participant(connections=1), entry(), f"commits_{item[:12]}"
    async with mariadb.observer.connect() as connection:
        await connection.exec_driver_sql(f"CREATE PROCEDURE {name}() BEGIN COMMIT; SELECT 1; END")

    async def work(lent: AsyncSession) -> str:
        await mariadb.sell(lent, item)
        await lent.stream(text(f"CALL {name}()"))
        return "null"

    with pytest.raises(StepMisused, match="do not stream it"):
        await participant.act(step, work)
    assert await row_of(participant, step) is None
    assert await mariadb.sold(item) == 0


def numbers() -> str:
    counted_up = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 9000)"
    return f"{counted_up} SELECT n, (SELECT count(*) FROM sales) FROM c"


async def test_a_result_that_is_not_read_to_its_end_keeps_no_snapshot_of_the_file(
    sqlite: SqlShop, item: str
) -> None:
    node, other = sqlite.node(connections=1, lock_timeout=1.0), sqlite.node(connections=1)
    results = []
    for read_only in (True, False):
        async with sql_session(node, read_only=read_only) as session:
            if not read_only:
                await sqlite.sell(session, item)
            results.append(await session.stream(text(numbers())))
            await results[-1].fetchone()
        async with sql_session(other, read_only=False) as session:
            await sqlite.sell(session, item)
        async with sql_session(node, read_only=False) as session:
            await sqlite.sell(session, item)
    async with sql_session(node, read_only=True) as session:
        assert (await session.execute(select(func.count()).where(Sale.item == item))).scalar_one() == 5


async def test_a_commit_that_fails_leaves_the_file_free(sqlite: SqlShop) -> None:
    node, suffix = sqlite.node(connections=1), uuid.uuid4().hex[:8]
    async with sql_session(node, read_only=False) as session:
        await session.execute(text(f"CREATE TABLE shelf_{suffix} (i integer PRIMARY KEY)"))
        late = f"i integer REFERENCES shelf_{suffix} (i) DEFERRABLE INITIALLY DEFERRED"
        await session.execute(text(f"CREATE TABLE box_{suffix} ({late})"))

    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        async with sql_session(node, read_only=False) as session:
            await session.execute(text(f"INSERT INTO box_{suffix} VALUES (7)"))

    path = sqlite.url.partition("///")[2]
    with closing(sqlite3.connect(path, timeout=0.3, isolation_level=None)) as another_process:
        another_process.execute("BEGIN IMMEDIATE")
        another_process.execute("ROLLBACK")


async def test_a_query_that_is_about_to_begin_is_broken_off_too(sqlite: SqlShop, item: str) -> None:
    """SQLite does not hear an interrupt before its thread has begun the statement."""
    node = sqlite.node(connections=1)
    for later in range(12):
        left: list[asyncio.Task[Any]] = []

        async def block(later: int = later, left: list[asyncio.Task[Any]] = left) -> None:
            async with sql_session(node, read_only=False) as session:
                await sqlite.sell(session, item)
                left.append(asyncio.ensure_future(session.execute(text(LONG))))
                await turns(later)
                raise LookupError

        with pytest.raises(LookupError):
            await within(block(), "the block ends long before the query would")
        await within(asyncio.gather(*left, return_exceptions=True), "the query has ended")
    assert await sqlite.sold(item) == 0


@pytest.mark.parametrize("terminates", [True, False])
@pytest.mark.parametrize("fails", [RuntimeError, asyncio.CancelledError])
async def test_a_connection_that_does_not_come_back_well_leaves_its_place_in_the_pool(
    sql_shop: SqlShop, monkeypatch: pytest.MonkeyPatch, fails: type[BaseException], *, terminates: bool
) -> None:
    """SQLAlchemy's pool counts a connection as lent for ever if what listens to its return raises."""
    node = sql_shop.node(connections=1)
    dialect, used = node.writer.sync_engine.dialect, list[Any]()
    really_terminate = dialect.do_terminate

    def fail(*_: Any) -> None:
        raise fails

    def terminate_and_be_cancelled(connection: Any) -> None:
        really_terminate(connection)
        raise asyncio.CancelledError

    async def use() -> None:
        async with node.writer.connect() as connection:
            used.append((await connection.get_raw_connection()).driver_connection)

    with monkeypatch.context() as disturbed:
        disturbed.setattr(node.dialect, "in_transaction", fail)
        if not terminates:
            disturbed.setattr(dialect, "do_terminate", terminate_and_be_cancelled)
        task = asyncio.ensure_future(use())
        await asyncio.wait([task], timeout=10)
    assert task.cancelled() == (not terminates or fails is asyncio.CancelledError)
    await within(use(), "the only place in the pool is lent again", patience=5.0)
    assert used[0] is not used[1]


async def test_a_return_that_is_cancelled_while_the_isolation_is_reset_frees_its_place(
    sql_shop: SqlShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, inside = sql_shop.node(connections=1), asyncio.Event()
    connection = await node.writer.connect()
    await connection.execution_options(isolation_level="SERIALIZABLE")
    await connection.execute(text("SELECT 1"))
    await connection.rollback()

    def reset_for_ever(_: Any) -> None:
        inside.set()
        await_only(forever())

    with monkeypatch.context() as disturbed:
        disturbed.setattr(node.writer.sync_engine.dialect, "reset_isolation_level", reset_for_ever)
        closing = asyncio.ensure_future(connection.close())
        await reached(inside, "the isolation level is reset")
        closing.cancel()
        await asyncio.wait([closing], timeout=10)
    assert closing.cancelled()
    async with node.writer.connect() as another:
        await connection.close()  # its place is another's by now
        assert (await another.execute(text("SELECT 1"))).scalar_one() == 1


async def test_a_return_that_takes_too_long_is_timed_out(
    sql_shop: SqlShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No `await` comes between the return and the end of the block: a cancellation put off until then is lost."""
    node = sql_shop.node(connections=1)
    connection = await node.writer.connect()
    dialect = node.writer.sync_engine.dialect
    really_terminate = dialect.do_terminate

    def terminate_and_wait(driver: Any) -> None:
        really_terminate(driver)
        await_only(forever())

    with monkeypatch.context() as disturbed:
        disturbed.setattr(node.dialect, "in_transaction", lambda _: True)
        disturbed.setattr(dialect, "do_terminate", terminate_and_wait)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await connection.close()
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
    async with node.writer.connect() as another:
        assert (await another.execute(text("SELECT 1"))).scalar_one() == 1
