"""A block whose transaction was rolled back under it commits nothing, and says so.

The code has swallowed the error. Deadlocks on MariaDB and MySQL are in `test_participant_mariadb.py`.
"""

import asyncio
import sqlite3
import time
from contextlib import suppress
from threading import Event
from typing import Any

import pytest
from sqlalchemy import String, TypeDecorator, bindparam, text
from sqlalchemy.exc import DBAPIError, IntegrityError, PendingRollbackError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from polysaga.databases import SqlNode
from polysaga.databases.lent_sessions import sql_session
from polysaga.errors import DatabaseUnavailable, TransactionLost
from tests.conformance.shops import Sale, SqlShop, nothing_open
from tests.conformance.test_participant import cancelling, entry
from tests.fixtures.waiting import PATIENCE, until, within

# SQLite has no sleep.
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"


class Raises(TypeDecorator[Any]):
    """A type of a program whose values cannot be bound."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        raise value


async def sell_twice(shop: SqlShop, session: AsyncSession, item: str) -> None:
    """Sell with a receipt that is known already; swallow the error."""
    with suppress(DBAPIError):
        await session.execute(text("INSERT INTO sales (receipt, item) VALUES ('known', :item)"), {"item": item})
        await session.execute(text("INSERT INTO sales (receipt, item) VALUES ('known', :item)"), {"item": item})
        raise AssertionError("the receipt was not known")


async def one_is_sold(shop: SqlShop, node: SqlNode, item: str) -> None:
    """Sell one in a new block: the connection that comes back is fit."""
    async with sql_session(node, read_only=False) as session:
        await shop.sell(session, item)
    assert await shop.sold(item) == 1
    await nothing_open(shop)


async def test_a_swallowed_error_loses_the_block_or_its_statement_alone(sql_shop: SqlShop, item: str) -> None:
    """PostgreSQL answers to COMMIT that it has rolled back; elsewhere the statement alone is undone."""
    node = sql_shop.node(connections=1)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await sql_shop.sell(session, item)
            await sell_twice(sql_shop, session, f"{item}-known")

    if sql_shop.kind.scheme.startswith("postgresql"):
        with pytest.raises(TransactionLost, match="a block went on after an error"):
            await block()
        assert (await sql_shop.sold(item), await sql_shop.sold(f"{item}-known")) == (0, 0)
    else:
        await block()
        assert (await sql_shop.sold(item), await sql_shop.sold(f"{item}-known")) == (1, 1)
        async with sql_session(node, read_only=False) as session:
            await session.execute(text("DELETE FROM sales WHERE receipt = 'known'"))
    await one_is_sold(sql_shop, node, f"{item}-next")


async def time_out(session: AsyncSession, scheme: str) -> None:
    """Give up on a statement, and swallow that: SQLAlchemy drops its connection."""
    slow = {"postgresql": "SELECT pg_sleep(60)", "mysql": "SELECT sleep(60)", "sqlite": ENDLESS}
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await session.execute(text(slow[scheme.partition("+")[0]]))
        raise AssertionError("the statement has ended")


@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "reader"])
@pytest.mark.parametrize("goes_on", [False, True], ids=["and ends", "and goes on"])
async def test_a_block_that_swallows_a_time_out_is_told_what_it_did(
    sql_shop: SqlShop, item: str, *, read_only: bool, goes_on: bool
) -> None:
    node = sql_shop.node(connections=1)

    async def block() -> None:
        async with sql_session(node, read_only=read_only) as session:
            await (session.execute(text("SELECT 1")) if read_only else sql_shop.sell(session, item))
            await time_out(session, sql_shop.kind.scheme)
            if goes_on:
                await session.execute(text("SELECT 1"))

    with pytest.raises(TransactionLost, match="after an error, or a time-out") as told:
        await block()
    assert isinstance(told.value.__cause__, PendingRollbackError)
    assert await sql_shop.sold(item) == 0
    await one_is_sold(sql_shop, node, f"{item}-next")


async def test_a_block_that_swallows_a_failed_flush_is_told_what_it_did(sql_shop: SqlShop, item: str) -> None:
    node = sql_shop.node(connections=1)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            session.add(Sale(receipt=item, item=item))
            await session.flush()
            session.expunge_all()
            session.add(Sale(receipt=item, item=item))
            with suppress(IntegrityError):
                await session.flush()
            await session.execute(text("SELECT 1"))

    with pytest.raises(TransactionLost):
        await block()
    assert await sql_shop.sold(item) == 0
    await one_is_sold(sql_shop, node, f"{item}-next")


async def test_a_block_that_rolls_back_after_a_time_out_goes_on(sql_shop: SqlShop, item: str) -> None:
    node = sql_shop.node(connections=1)
    async with sql_session(node, read_only=False) as session:
        await sql_shop.sell(session, item)
        await time_out(session, sql_shop.kind.scheme)
        with pytest.raises(PendingRollbackError):
            await session.execute(text("SELECT 1"))
        await session.rollback()
        await sql_shop.sell(session, f"{item}-again")
    assert (await sql_shop.sold(item), await sql_shop.sold(f"{item}-again")) == (0, 1)
    await one_is_sold(sql_shop, node, f"{item}-next")


async def test_the_loss_of_a_session_of_its_users_own_is_not_the_blocks(sqlite: SqlShop) -> None:
    async def block() -> None:
        async with sql_session(sqlite.node(), read_only=False) as session:
            await session.execute(text("SELECT 1"))
            raise PendingRollbackError("of another session")

    with pytest.raises(PendingRollbackError, match="of another session"):
        await block()


async def test_a_savepoint_keeps_the_rest_of_the_block(sql_shop: SqlShop, item: str) -> None:
    node = sql_shop.node(connections=1)
    async with sql_session(node, read_only=False) as session:
        await sql_shop.sell(session, item)
        with suppress(DBAPIError):
            async with session.begin_nested():
                await session.execute(text("INSERT INTO nowhere VALUES (1)"))
    assert await sql_shop.sold(item) == 1
    await one_is_sold(sql_shop, node, f"{item}-next")


@pytest.mark.parametrize("goes_on", [False, True], ids=["and ends", "and sells another"])
async def test_a_block_that_sqlite_has_rolled_back_commits_nothing_by_itself(
    sqlite: SqlShop, item: str, goes_on: bool
) -> None:
    node = sqlite.node(connections=1)
    again = text("INSERT OR ROLLBACK INTO sales SELECT receipt, item FROM sales WHERE item = :item")

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await sqlite.sell(session, item)
            with suppress(DBAPIError):
                await session.execute(again, {"item": item})
            if goes_on:
                await sqlite.sell(session, item)

    with pytest.raises(TransactionLost):
        await block()
    assert await sqlite.sold(item) == 0
    await one_is_sold(sqlite, node, f"{item}-next")


async def lose(shop: SqlShop, lent: AsyncSession | AsyncConnection, item: str) -> None:
    """Sell, run into an error that loses the transaction, and swallow it; on MySQL sell again."""
    await shop.sell(lent, item)
    with suppress(DBAPIError):
        await lent.execute(text(LOSING[shop.kind.scheme.partition("+")[0]]))
    if shop.kind.scheme.startswith("mysql"):
        await shop.sell(lent, item)


LOSING = {
    "postgresql": "SELECT 1 / 0",
    # The server goes on with the transaction: what is left of it must be rolled back.
    "mysql": "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock found'",
    "sqlite": "INSERT OR ROLLBACK INTO sales SELECT receipt, item FROM sales",
}


@pytest.mark.parametrize("bare", [False, True], ids=["session", "connection"])
async def test_what_comes_after_a_loss_and_a_rollback_is_a_new_transaction(
    sql_shop: SqlShop, item: str, bare: bool
) -> None:
    node = sql_shop.node(connections=1)
    lending: Any = node.writer.connect() if bare else sql_session(node, read_only=False)
    async with lending as lent:
        await lose(sql_shop, lent, item)
        with pytest.raises(TransactionLost):
            await lent.commit()
        await lent.rollback()
        await sql_shop.sell(lent, f"{item}-next")
        await lent.commit()
    assert (await sql_shop.sold(item), await sql_shop.sold(f"{item}-next")) == (0, 1)
    await one_is_sold(sql_shop, node, f"{item}-last")


@pytest.mark.parametrize("snapshot", [False, True], ids=["plain", "snapshot"])
async def test_a_reader_loses_nothing(sql_shop: SqlShop, snapshot: bool) -> None:
    node = sql_shop.node(connections=1)
    for _ in range(2):
        async with sql_session(node, read_only=True, snapshot=snapshot) as session:
            await session.execute(text("SELECT 1"))
            with suppress(DBAPIError):
                await session.execute(text(LOSING[sql_shop.kind.scheme.partition("+")[0]]))
    await nothing_open(sql_shop)


async def test_statements_that_commit_by_themselves_are_not_called_lost(mariadb: SqlShop, item: str) -> None:
    node = mariadb.node(connections=1)
    async with sql_session(node, read_only=False) as session:
        await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        await lose(mariadb, session, item)
    assert await mariadb.sold(item) == 2
    await one_is_sold(mariadb, node, f"{item}-next")


async def test_a_commit_of_the_code_itself_is_not_called_a_loss(sqlite: SqlShop, item: str) -> None:
    """As before `VACUUM`, which runs in no transaction."""
    node = sqlite.node(connections=1)
    async with sql_session(node, read_only=False) as session:
        await sqlite.sell(session, item)
        await session.execute(text("COMMIT"))
        await session.execute(text("VACUUM"))
    assert await sqlite.sold(item) == 1
    await one_is_sold(sqlite, node, f"{item}-next")


@pytest.mark.parametrize("begins", [False, True], ids=["and ends", "and begins anew"])
async def test_an_error_after_a_commit_of_the_code_itself_loses_nothing(
    sqlite: SqlShop, item: str, begins: bool
) -> None:
    node = sqlite.node(connections=1)
    async with sql_session(node, read_only=False) as session:
        await sqlite.sell(session, item)
        await session.execute(text("COMMIT"))
        with suppress(DBAPIError):
            await session.execute(text("INSERT INTO nowhere VALUES (1)"))
        if begins:
            await session.execute(text("BEGIN IMMEDIATE"))
            await sqlite.sell(session, item)
    assert await sqlite.sold(item) == 1 + begins
    await one_is_sold(sqlite, node, f"{item}-next")


async def test_a_transaction_that_the_code_itself_begins_is_lost_like_any(sqlite: SqlShop, item: str) -> None:
    node = sqlite.node(connections=1)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await session.execute(text("COMMIT"))
            await session.execute(text("BEGIN IMMEDIATE"))
            await lose(sqlite, session, item)

    with pytest.raises(TransactionLost):
        await block()
    assert await sqlite.sold(item) == 0
    await one_is_sold(sqlite, node, f"{item}-next")


@pytest.mark.parametrize("by", ["a later page of a stream", "a type of its own"])
async def test_an_error_beside_a_commit_of_the_code_itself_loses_nothing(
    sqlite: SqlShop, item: str, by: str
) -> None:
    """No statement stands between the COMMIT and the error."""
    node = sqlite.node(connections=1)
    counted_up = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)"
    overflow = f"{counted_up} SELECT abs(CASE i WHEN 900 THEN -9223372036854775808 ELSE i END) FROM n"
    own = bindparam("value", sqlite3.OperationalError("of its own"), type_=Raises)
    in_a_type = text("SELECT :value").bindparams(own)
    async with sql_session(node, read_only=False) as session:
        await sqlite.sell(session, item)
        stream = await session.stream(text(overflow), execution_options={"yield_per": 10})
        await stream.fetchone()
        await session.execute(text("COMMIT"))
        fails = stream.all() if by == "a later page of a stream" else session.execute(in_a_type)
        with pytest.raises(DBAPIError):
            await fails
    assert await sqlite.sold(item) == 1
    await one_is_sold(sqlite, node, f"{item}-next")


@cancelling
async def test_what_another_task_sends_before_the_loss_is_known_is_not_committed_by_itself(
    sqlite: SqlShop, item: str
) -> None:
    """The thread has rolled back; the event loop learns of it when the other statement is on its way already."""
    node = sqlite.node(connections=1)
    again = text("INSERT OR ROLLBACK INTO sales (receipt, item) VALUES (:receipt, :item)")

    async def fails(connection: AsyncConnection) -> None:
        with suppress(DBAPIError):
            await connection.execute(again, {"receipt": item, "item": item})

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            connection = await session.connection()
            await sqlite.sell(connection, item, item)
            file = (await connection.get_raw_connection()).driver_connection._conn
            begun, goes_on = Event(), Event()

            def stand(statement: str) -> None:
                if statement.startswith("INSERT OR ROLLBACK"):
                    begun.set()
                    goes_on.wait(PATIENCE)

            file.set_trace_callback(stand)
            failing = asyncio.ensure_future(fails(connection))
            await until(begun.is_set, "the thread is inside the statement")
            end = time.monotonic() + PATIENCE
            goes_on.set()
            while not file.has_lost():  # the event loop stands still
                assert time.monotonic() < end, "the thread does not roll back"
            try:
                await sqlite.sell(connection, f"{item}-other")
            finally:
                await failing

    with pytest.raises(TransactionLost):
        await within(block(), "the block ends")
    assert (await sqlite.sold(item), await sqlite.sold(f"{item}-other")) == (0, 0)
    await one_is_sold(sqlite, node, f"{item}-next")


@pytest.mark.parametrize("then", ["ends", "ROLLBACK", "BEGIN; SELECT nothing"])
async def test_a_loss_beside_sqlalchemy_is_told_at_the_commit(sqlite: SqlShop, item: str, then: str) -> None:
    """By the driver's own connection, on which a script begins with a COMMIT."""
    node = sqlite.node(connections=1)
    again = "INSERT OR ROLLBACK INTO sales SELECT receipt, item FROM sales WHERE item = ?"

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await sqlite.sell(session, item)
            driver = (await (await session.connection()).get_raw_connection()).driver_connection
            with suppress(sqlite3.Error):
                await driver.execute(again, (item,))
            if then != "ends":
                with suppress(sqlite3.Error):
                    await driver.executescript(then)
                with suppress(DBAPIError):
                    await sqlite.sell(session, f"{item}-other")

    with pytest.raises(TransactionLost):
        await block()
    assert (await sqlite.sold(item), await sqlite.sold(f"{item}-other")) == (0, 0)
    await one_is_sold(sqlite, node, f"{item}-next")


async def test_a_savepoint_that_a_step_misnames_in_another_is_that_ones_error(sqlite: SqlShop, item: str) -> None:
    """On MariaDB and MySQL it may mean that the transaction is gone, so a step is refused there."""
    participant = sqlite.participant(connections=1)

    async def work(session: AsyncSession) -> str:
        await sqlite.sell(session, item)
        with suppress(DBAPIError):
            async with session.begin_nested():
                await session.execute(text("ROLLBACK TO SAVEPOINT nowhere"))
        return "null"

    await participant.act(entry(), work)
    assert await sqlite.sold(item) == 1


@pytest.mark.parametrize("error", [ValueError(["a"]), KeyError(1213)], ids=repr)
async def test_an_error_of_the_program_loses_nothing_whatever_it_holds(
    sql_shop: SqlShop, item: str, error: Exception
) -> None:
    node = sql_shop.node(connections=1)
    async with sql_session(node, read_only=False) as session:
        await sql_shop.sell(session, item)
        with suppress(StatementError, type(error)):
            await session.execute(text("SELECT :value").bindparams(bindparam("value", error, type_=Raises)))
            raise AssertionError("nothing was raised")
    assert await sql_shop.sold(item) == 1
    await one_is_sold(sql_shop, node, f"{item}-next")


async def test_an_error_that_leaves_its_savepoint_and_its_block_stays_what_it_is(
    sqlite: SqlShop, item: str
) -> None:
    """The savepoint is gone with the transaction: "no such savepoint" took the place of the error."""
    node = sqlite.node(connections=1)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await sqlite.sell(session, item)
            async with session.begin_nested():
                await session.execute(text(LOSING["sqlite"]))

    with pytest.raises(IntegrityError):
        await block()
    assert await sqlite.sold(item) == 0
    await one_is_sold(sqlite, node, f"{item}-next")


@pytest.mark.parametrize("ended", [False, True], ids=["the thread ends", "the thread has ended"])
async def test_a_block_does_not_end_well_whose_file_is_closed_under_it(
    sqlite: SqlShop, item: str, ended: bool
) -> None:
    """aiosqlite would skip the commit of a closed file without an error."""
    node = sqlite.node(connections=1)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await sqlite.sell(session, item)
            driver = (await (await session.connection()).get_raw_connection()).driver_connection
            node.abandon()
            if ended:
                await until(lambda: not node.dialect.in_transaction(driver), "the file is closed")

    with pytest.raises(DatabaseUnavailable, match="the connection was lost"):
        await block()
    assert await sqlite.sold(item) == 0
