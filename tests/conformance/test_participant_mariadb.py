"""What InnoDB does to a transaction behind one's back: implicit commits, and deadlocks that end it silently."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga.databases import Fault
from polysaga.databases.dialects.mysql import MySQL
from polysaga.databases.lent_sessions import sql_session
from polysaga.errors import StepMisused, TransactionLost
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark
from tests.conformance.kinds import MYSQL
from tests.conformance.shops import SqlShop
from tests.conformance.test_participant import entry, row_of, selling

COMMITS = [
    "CREATE TABLE {name} (id int)",
    "create table {name} (id int)",
    "CrEaTe\n\tTABLE {name} (id int)",
    "-- a comment\nCREATE TABLE {name} (id int)",
    "# a comment\n  /* and another */ CREATE TABLE {name} (id int)",
    "/*! CREATE TABLE {name} (id int) */",
    "/*M!100000 CREATE TABLE {name} (id int) */",
    "/*!50000 create*/ table {name} (id int)",
    "CREATE OR REPLACE TABLE {name} (id int)",
    "CREATE INDEX {name} ON sales (item)",
    "ALTER TABLE shelves COMMENT = '{name}'",
    "TRUNCATE shelves",
    "RENAME TABLE shelves TO {name}, {name} TO shelves",
    "ANALYZE TABLE shelves",
    "LOCK TABLES sales WRITE",
    "SET autocommit = 1",
    "SET @@autocommit = 1",
    "SET SESSION autocommit = ON",
    "SET @@session.autocommit = 1",
    "SET @polysaga = 1, autocommit = 1",
    "SET STATEMENT max_statement_time = 5 FOR CREATE TABLE {name} (id int)",
    "BEGIN",
    "START TRANSACTION",
    "COMMIT",
    "COMMIT AND CHAIN",
    "ROLLBACK",
    "XA BEGIN '{name}'",
    "BEGIN NOT ATOMIC COMMIT; END",
    "IF 1 THEN COMMIT; END IF",
    "EXECUTE IMMEDIATE 'CREATE TABLE {name} (id int)'",
    "SET DEFAULT ROLE NONE TO polysaga",
    "IMPORT TABLE FROM '/nowhere/{name}.sdi'",
    "CLONE LOCAL DATA DIRECTORY = '/nowhere/{name}'",
    "CREATE LIBRARY {name} LANGUAGE JAVASCRIPT AS 'export function f(n) {{return n;}}'",
]
KEEPS = [
    "CREATE TEMPORARY TABLE {name} (id int)",
    "SAVEPOINT here",
    "SET @polysaga = 1",
    "SET ROLE NONE",
    "SELECT 'commit' /* create table */",
    "UPDATE shelves SET touched = 0 WHERE name = 'alter table'",
]


@pytest.mark.parametrize("statement", COMMITS)
async def test_a_statement_that_commits_implicitly_is_refused_before_anything_is_committed(
    mariadb: SqlShop, item: str, statement: str
) -> None:
    participant, step = mariadb.participant(), entry()

    async def work(session: AsyncSession) -> str:
        await mariadb.sell(session, item)
        connection = await session.connection()
        await connection.exec_driver_sql(statement.format(name=f"t{item}"))
        return "null"

    with pytest.raises((StepMisused, SQLAlchemyError)):
        await participant.act(step, work)

    assert await mariadb.sold(item) == 0
    assert await row_of(participant, step) is None


@pytest.mark.parametrize("statement", KEEPS)
async def test_a_statement_that_commits_nothing_is_let_through(
    mariadb: SqlShop, item: str, statement: str
) -> None:
    participant, step = mariadb.participant(), entry()

    async def work(session: AsyncSession) -> str:
        await mariadb.sell(session, item)
        connection = await session.connection()
        await connection.exec_driver_sql(statement.format(name=f"t{item}"))
        return "null"

    await participant.act(step, work)

    assert await mariadb.sold(item) == 1
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, "null")


async def test_a_commit_inside_a_procedure_is_noticed_before_the_row_is_written(
    mariadb: SqlShop, item: str
) -> None:
    participant, step = mariadb.participant(), entry()
    async with mariadb.observer.begin() as connection:
        await connection.exec_driver_sql(f"CREATE PROCEDURE c{item}() BEGIN COMMIT; END")

    async def work(session: AsyncSession) -> str:
        await mariadb.sell(session, item)
        await session.execute(text(f"CALL c{item}()"))
        await mariadb.sell(session, item)
        return "null"

    with pytest.raises(StepMisused):
        await participant.act(step, work)

    assert await row_of(participant, step) is None


async def test_a_procedure_that_ends_nothing_is_part_of_the_step(mariadb: SqlShop, item: str) -> None:
    participant, step = mariadb.participant(), entry()
    async with mariadb.observer.begin() as connection:
        await connection.exec_driver_sql(
            f"CREATE PROCEDURE c{item}(wanted varchar(64)) SELECT count(*) FROM sales WHERE item = wanted"
        )
    counts: list[int] = []

    async def work(session: AsyncSession) -> str:
        for _ in range(2):
            await mariadb.sell(session, item)
            counted = await session.execute(text(f"CALL c{item}(:item)"), {"item": item})
            counts.append(counted.scalar_one())
        return "null"

    await participant.act(step, work)

    assert counts == [1, 2]
    assert await mariadb.sold(item) == 2
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, "null")


async def test_creating_tables_through_metadata_is_refused(mariadb: SqlShop, item: str) -> None:
    participant, step = mariadb.participant(), entry()

    async def work(session: AsyncSession) -> str:
        await mariadb.sell(session, item)
        await session.execute(text(f"CREATE TABLE IF NOT EXISTS t{item} (id int)"))
        return "null"

    with pytest.raises(StepMisused):
        await participant.act(step, work)

    assert await mariadb.sold(item) == 0


@pytest.mark.parametrize("nested", [False, True], ids=["plainly", "in a savepoint"])
async def test_a_swallowed_deadlock_does_not_commit_half_a_step(mariadb: SqlShop, item: str, nested: bool) -> None:
    participant, step = mariadb.participant(), entry()
    rival = await _Rival.with_shelves(mariadb, item)

    async def work(session: AsyncSession) -> str:
        await mariadb.sell(session, item)
        await rival.deadlock(session, nested=nested)
        await mariadb.sell(session, item)
        return "null"

    with pytest.raises(DBAPIError) as raised:
        await participant.act(step, work)

    assert participant.fault(raised.value) is Fault.DEADLOCK
    assert await mariadb.sold(item) == 0
    assert await row_of(participant, step) is None


@pytest.mark.parametrize("nested", [False, True], ids=["plainly", "in a savepoint"])
async def test_a_swallowed_deadlock_does_not_commit_half_a_block(
    mariadb: SqlShop, item: str, nested: bool
) -> None:
    node, rival = mariadb.node(connections=1), await _Rival.with_shelves(mariadb, item)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await mariadb.sell(session, item)
            await rival.deadlock(session, nested=nested)
            await mariadb.sell(session, item)

    with pytest.raises(TransactionLost):
        await block()
    assert await mariadb.sold(item) == 0
    async with sql_session(node, read_only=False) as session:
        await mariadb.sell(session, item)
    assert await mariadb.sold(item) == 1


@pytest.mark.parametrize("nested", [False, True], ids=["plainly", "in a savepoint"])
async def test_a_deadlock_that_leaves_its_block_or_its_step_stays_one(
    mariadb: SqlShop, item: str, nested: bool
) -> None:
    """The savepoint is gone with the transaction: "SAVEPOINT does not exist" (1305) took the deadlock's place."""
    participant, step = mariadb.participant(connections=1), entry()
    rival = await _Rival.with_shelves(mariadb, item)

    async def work(session: AsyncSession) -> str:
        await mariadb.sell(session, item)
        await rival.deadlock(session, nested=nested, swallowed=False)
        return "null"

    async def block() -> None:
        async with sql_session(participant.node, read_only=False) as session:
            await work(session)

    for ending in (block, lambda: participant.act(step, work)):
        with pytest.raises(DBAPIError) as raised:
            await ending()
        assert participant.fault(raised.value) is Fault.DEADLOCK
    assert await mariadb.sold(item) == 0
    await participant.act(step, selling(mariadb, item))
    assert await mariadb.sold(item) == 1


@pytest.mark.parametrize("nested", [False, True], ids=["plainly", "in a savepoint"])
async def test_a_swallowed_deadlock_does_not_commit_half_a_compensation(
    mariadb: SqlShop, item: str, nested: bool
) -> None:
    participant, step = mariadb.participant(), entry()
    await participant.act(step, selling(mariadb, item))
    rival = await _Rival.with_shelves(mariadb, item)

    async def work(session: AsyncSession, _: str) -> None:
        await mariadb.refund(session, item)
        await rival.deadlock(session, nested=nested)
        await mariadb.refund(session, item)

    with suppress(DBAPIError):
        await participant.undo(step, work)

    assert await mariadb.refunded(item) == 0
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, '"sold"')


async def test_a_swallowed_lock_timeout_does_not_commit_half_a_step(mariadb: SqlShop, item: str) -> None:
    participant, step = mariadb.participant(lock_timeout=1.0), entry()
    await mariadb.put_up(item)

    async def work(session: AsyncSession) -> str:
        await mariadb.sell(session, item)
        with suppress(DBAPIError):
            await mariadb.touch(session, item)
        return "null"

    async with mariadb.observer.begin() as other:
        await other.execute(text("UPDATE shelves SET touched = 9 WHERE name = :name"), {"name": item})
        with pytest.raises(DBAPIError) as raised:
            await participant.act(step, work)

    assert participant.fault(raised.value) is Fault.LOCK_TIMEOUT
    assert await mariadb.sold(item) == 0
    assert await row_of(participant, step) is None


@pytest.mark.parametrize("server_shop", [MYSQL], indirect=True, ids=str)
async def test_a_server_that_runs_no_blocks_gets_statements_one_by_one(
    server_shop: SqlShop, item: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a proxy that gives itself out for MariaDB in front of MySQL.
    participant = server_shop.participant()
    dialect = participant.node.dialect
    assert isinstance(dialect, MySQL)
    monkeypatch.setattr(MySQL, "seals_with_commit", lambda self, _: self._blocks)
    assert dialect.seals_with_commit(None)

    for _ in range(2):
        one = entry()
        await participant.act(one, selling(server_shop, item))
        assert (await row_of(participant, one)) == LedgerRow(Mark.DONE, '"sold"')

    assert not dialect.seals_with_commit(None)
    assert await server_shop.sold(item) == 2


class _Rival:
    """Another transaction, heavier than the step's, so that InnoDB chooses the step as the victim."""

    def __init__(self, shop: SqlShop, item: str) -> None:
        self._shop, self._left, self._right = shop, f"{item}l", f"{item}r"

    @classmethod
    async def with_shelves(cls, shop: SqlShop, item: str) -> "_Rival":
        await shop.put_up(f"{item}l", f"{item}r", *(f"{item}{number}" for number in range(30)))
        return cls(shop, item)

    async def deadlock(self, session: Any, *, nested: bool, swallowed: bool = True) -> None:
        """Run into a deadlock in *session*, and swallow it."""
        update = text("UPDATE shelves SET touched = 1 WHERE name LIKE :name")
        async with self._shop.observer.begin() as other:
            await other.execute(update, {"name": f"{self._left[:-1]}%"})
            await other.rollback()
        async with self._shop.observer.begin() as other:
            for number in range(30):
                await other.execute(update, {"name": f"{self._left[:-1]}{number}"})
            await other.execute(update, {"name": self._left})
            await session.execute(update, {"name": self._right})
            crossing = asyncio.ensure_future(other.execute(update, {"name": self._right}))
            await self._shop.somebody_waits()
            try:
                with suppress(*[DBAPIError] if swallowed else ()):
                    if nested:
                        async with session.begin_nested():
                            await session.execute(update, {"name": self._left})
                    else:
                        await session.execute(update, {"name": self._left})
            finally:
                await crossing
