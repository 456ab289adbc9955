"""BEGIN leaves together with the first statement on asyncpg, and nothing goes wrong with it.

What asyncpg writes is recorded at its transport, so each test sees the packets as they leave.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from polysaga.config import DatabaseSettings, PoolSettings
from polysaga.databases import SqlNode
from polysaga.databases.dialects.asyncpg_connection import Luggage
from polysaga.databases.dialects.sql import ANSWERED_AT
from polysaga.faults import Fault
from tests.fixtures.servers import DatabaseFactory, PostgresCluster

BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"
PING = "SELECT 1"
# The options by which SQLAlchemy asks the driver for a transaction.
SQLALCHEMYS = {"isolation": "read_committed", "readonly": False, "deferrable": False}


@pytest.fixture
async def node(postgres_database: DatabaseFactory) -> AsyncIterator[SqlNode]:
    url = postgres_database().replace("postgresql://", "postgresql+asyncpg://")
    one = SqlNode("shop", "primary", url, DatabaseSettings(url=url, pool=PoolSettings(size=1, max_overflow=0)))
    async with one.writer.begin() as connection:
        await connection.execute(text("CREATE TABLE sales (item text PRIMARY KEY)"))
    yield one
    await one.close()


@pytest.fixture
async def sent(node: SqlNode) -> list[bytes]:
    """What the node's only connection sends from now on, packet by packet."""
    packets: list[bytes] = []
    async with node.writer.connect() as connection:
        await connection.execute(text(PING))  # prepared by now
        luggage = (await driver_of(connection))._luggage
        write = luggage._write

        def record(data: Any) -> None:
            packets.append(bytes(data))
            write(data)

        luggage._write = record
    packets.clear()
    return packets


async def driver_of(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection


async def sales(node: SqlNode) -> list[str]:
    async with node.reader.connect() as connection:
        return list((await connection.execute(text("SELECT item FROM sales ORDER BY item"))).scalars())


async def sell(session: AsyncSession | AsyncConnection, item: str) -> None:
    await session.execute(text("INSERT INTO sales (item) VALUES (:item)"), {"item": item})


async def test_begin_and_the_first_statement_are_one_packet(node: SqlNode, sent: list[bytes]) -> None:
    async with AsyncSession(node.writer) as session:
        await session.execute(text(PING))
        assert len(sent) == 1
        assert BEGIN in sent[0]
        await session.execute(text(PING))
        assert len(sent) == 2
        assert BEGIN not in sent[1]


async def test_begin_rides_with_a_statement_that_is_prepared_first(node: SqlNode, sent: list[bytes]) -> None:
    async with AsyncSession(node.writer) as session:
        await sell(session, "lantern")
        assert [BEGIN in packet for packet in sent] == [True, False]  # Parse, then Bind
        await session.rollback()
    assert await sales(node) == []


async def test_what_was_written_is_committed_and_what_was_rolled_back_is_not(node: SqlNode) -> None:
    async with AsyncSession(node.writer) as session:
        await sell(session, "kept")
        await session.commit()
        await sell(session, "dropped")
        await session.rollback()
        await sell(session, "kept too")
        await session.commit()
    assert await sales(node) == ["kept", "kept too"]


async def test_a_transaction_without_a_statement_sends_nothing(node: SqlNode, sent: list[bytes]) -> None:
    async with node.writer.connect() as connection:
        driver = await driver_of(connection)
        for end in ("commit", "rollback"):
            transaction = driver.transaction(**SQLALCHEMYS)
            await transaction.start()
            await getattr(transaction, end)()
    assert sent == []


async def test_a_connection_that_lay_idle_is_asked_with_one_packet(node: SqlNode, sent: list[bytes]) -> None:
    async with node.writer.connect() as connection:
        await driver_of(connection)
        assert connection.sync_connection is not None
        connection.sync_connection.info[ANSWERED_AT] -= 60.0
    async with node.writer.connect() as connection:
        await driver_of(connection)
    assert len(sent) == 1


@pytest.mark.parametrize(
    "statement", ["INSERT INTO sales (item) VALUES ('twice')", "SELECT nonsense", "SELECT 1 / 0", "not SQL at all"]
)
async def test_an_error_of_the_first_statement_is_told_and_leaves_nothing(node: SqlNode, statement: str) -> None:
    async with AsyncSession(node.writer) as session:
        await sell(session, "twice")
        await session.commit()
        for _ in range(2):
            with pytest.raises(DBAPIError) as caught:
                await session.execute(text(statement))
            assert getattr(caught.value.orig, "sqlstate", None) in {"23505", "42703", "22012", "42601"}
            await session.rollback()
        await sell(session, "afterwards")
        await session.commit()
    assert await sales(node) == ["afterwards", "twice"]


async def test_values_that_cannot_be_sent_leave_no_transaction_open(node: SqlNode) -> None:
    async with AsyncSession(node.writer) as session:
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT CAST(:number AS integer)"), {"number": "no number"})
        await session.commit()  # as code does that has swallowed the error
        await sell(session, "afterwards")
        await session.commit()
    assert await sales(node) == ["afterwards"]
    async with node.reader.connect() as connection:
        idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state ~ 'idle in'"
        assert (await connection.execute(text(idle))).scalar_one() == 0


async def test_a_query_of_the_drivers_own_runs_in_the_transaction(node: SqlNode, sent: list[bytes]) -> None:
    async with node.writer.connect() as connection:
        driver = await driver_of(connection)
        transaction = driver.transaction(**SQLALCHEMYS)
        await transaction.start()
        await driver.execute("INSERT INTO sales (item) VALUES ('lantern')")
        await transaction.rollback()
    assert BEGIN[:5] in sent[0]
    assert await sales(node) == []


async def test_a_transaction_of_the_drivers_own_begins_at_once(node: SqlNode, sent: list[bytes]) -> None:
    async with node.writer.connect() as connection:
        driver = await driver_of(connection)
        async with driver.transaction(isolation="read_committed"):
            assert len(sent) == 1
            assert driver.is_in_transaction()


@pytest.mark.parametrize("isolation", [None, "repeatable_read"])
async def test_a_cursor_of_the_drivers_own_returns_every_row(node: SqlNode, isolation: str | None) -> None:
    async with node.writer.connect() as connection:
        driver = await driver_of(connection)
        rows = await driver.prepare("SELECT generate_series(1, 300)")
        await rows.fetch()  # asyncpg prepares without a Sync
        for _ in range(2):
            async with driver.transaction(isolation=isolation):
                assert [row[0] async for row in rows.cursor()] == list(range(1, 301))
                found = driver.cursor("SELECT generate_series(1, 300)")
                assert [row[0] async for row in found] == list(range(1, 301))


async def test_copy_of_the_drivers_own_runs_in_the_transaction(node: SqlNode) -> None:
    items = [("lantern",), ("rope",)]
    async with node.writer.connect() as connection:
        driver = await driver_of(connection)
        for end in ("rollback", "commit"):
            transaction = driver.transaction(isolation="repeatable_read")
            await transaction.start()
            await driver.copy_records_to_table("sales", records=items, columns=["item"])
            await getattr(transaction, end)()
    assert await sales(node) == ["lantern", "rope"]


async def test_several_statements_in_one_string_are_sent_as_they_are(node: SqlNode) -> None:
    async with node.writer.connect() as connection:
        driver = await driver_of(connection)
        await driver.execute("BEGIN; INSERT INTO sales (item) VALUES ('lantern'); COMMIT")
    assert await sales(node) == ["lantern"]


async def test_savepoints_streams_and_many_rows_work_as_ever(node: SqlNode) -> None:
    many = [{"item": f"item {number:03}"} for number in range(200)]
    async with AsyncSession(node.writer) as session:
        async with session.begin_nested() as savepoint:
            await sell(session, "dropped")
            await savepoint.rollback()
        await session.commit()
    async with node.writer.begin() as connection:
        await connection.execute(text("INSERT INTO sales (item) VALUES (:item)"), many)
    async with AsyncSession(node.writer) as session:
        streamed = await session.stream(text("SELECT item FROM sales ORDER BY item"))
        assert [row.item async for row in streamed] == [one["item"] for one in many]
        await session.commit()


async def test_a_stream_of_a_known_statement_returns_every_row(node: SqlNode) -> None:
    for _ in range(2):
        async with AsyncSession(node.writer) as session:
            streamed = await session.stream(text("SELECT generate_series(1, 300)"))
            assert [row[0] async for row in streamed] == list(range(1, 301))


@pytest.mark.parametrize("known", [False, True])
async def test_a_row_that_cannot_be_sent_leaves_the_transaction_open(node: SqlNode, known: bool) -> None:
    insert = text("INSERT INTO sales (item) SELECT CAST(:number AS integer)")
    async with AsyncSession(node.writer) as session:
        if known:
            await session.execute(insert, [{"number": 1}, {"number": 2}])
            await session.rollback()
        with pytest.raises(DBAPIError):
            await session.execute(insert, [{"number": 3}, {"number": "no number"}])
        # As code does that has swallowed the error: what it goes on with is undone all the same.
        await sell(session, "afterwards")
        await session.rollback()
    assert await sales(node) == []


async def test_a_swallowed_error_of_a_value_leaves_the_transaction_to_begin(node: SqlNode) -> None:
    cast = text("SELECT CAST(:number AS integer)")
    async with AsyncSession(node.writer) as session:
        await session.execute(cast, {"number": 1})
        await session.rollback()
        with pytest.raises(DBAPIError):
            await session.execute(cast, {"number": "no number"})
        await sell(session, "afterwards")
        await session.rollback()
    assert await sales(node) == []


@pytest.mark.parametrize("first", ["COMMIT", "ROLLBACK"])
async def test_a_driver_tells_that_a_statement_ended_the_transaction(node: SqlNode, first: str) -> None:
    async with node.writer.connect() as connection:
        driver = await driver_of(connection)
        for statements in ((first,), (PING, first)):
            await connection.exec_driver_sql(statements[0])
            for statement in statements[1:]:
                assert driver.is_in_transaction()
                await driver.fetch(statement)
            assert not driver.is_in_transaction()
            await connection.rollback()
        await connection.exec_driver_sql(PING)
        assert driver.is_in_transaction()


async def test_an_end_that_is_not_awaited_ends_nothing(node: SqlNode) -> None:
    async with node.writer.connect() as connection:
        driver = await driver_of(connection)
        transaction = driver.transaction(**SQLALCHEMYS)
        await transaction.start()
        driver.execute("ROLLBACK;").close()
        assert driver.is_in_transaction()
        await driver.fetch("INSERT INTO sales (item) VALUES ('lantern')")
        await transaction.rollback()
    assert await sales(node) == []


async def test_a_standby_refuses_serializable_transactions_each_time(postgres_cluster: PostgresCluster) -> None:
    (standby, *_) = postgres_cluster.replicas
    url = standby.url("postgres")
    one = SqlNode("shop", "replica", url, DatabaseSettings(url=url, pool=PoolSettings(size=1, max_overflow=0)))
    async with one.writer.connect() as connection:
        await connection.execution_options(isolation_level="SERIALIZABLE")
        for _ in range(2):  # as code does that has swallowed the error
            with pytest.raises(DBAPIError, match="serializable"):
                await connection.execute(text(PING))
        await connection.rollback()
        await connection.execution_options(isolation_level="REPEATABLE READ")
        assert (await connection.execute(text("SHOW transaction_isolation"))).scalar_one() == "repeatable read"
    await one.close()


async def test_every_level_of_isolation_is_the_one_asked_for(node: SqlNode) -> None:
    for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
        async with node.writer.connect() as connection:
            await connection.execution_options(isolation_level=level)
            told = (await connection.execute(text("SHOW transaction_isolation"))).scalar_one()
            assert told == level.lower()


async def test_a_cancelled_first_statement_leaves_a_connection_that_works(node: SqlNode) -> None:
    async def sleep() -> None:
        async with AsyncSession(node.writer) as session:
            await session.execute(text("SELECT pg_sleep(60)"))

    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await sleep()
    async with AsyncSession(node.writer) as session:
        await sell(session, "afterwards")
        await session.commit()
    assert await sales(node) == ["afterwards"]


async def test_a_session_ended_by_the_server_is_replaced(node: SqlNode) -> None:
    async with AsyncSession(node.writer) as session:
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    async with AsyncSession(node.writer) as session:
        await sell(session, "afterwards")
        await session.commit()
    assert await sales(node) == ["afterwards"]


async def test_a_connection_that_is_cut_before_its_transaction_has_begun_reports_its_loss(node: SqlNode) -> None:
    async with node.writer.connect() as connection:
        adapted: Any = (await connection.get_raw_connection()).dbapi_connection
        await connection.run_sync(lambda _: node.dialect.begin(adapted))
        node.dialect.cut(adapted.driver_connection)
        with pytest.raises(DBAPIError) as raised:
            await connection.execute(text("SELECT cast(:n AS int)"), [{"n": 1}, {"n": 2}])
        assert node.dialect.fault(raised.value) is Fault.DISCONNECTED


async def test_after_a_storm_of_cancellations_each_transaction_is_whole(
    postgres_database: DatabaseFactory,
) -> None:
    # Without TLS: asyncpg forgets an exception when it is cancelled while it asks whether the server knows TLS.
    url = postgres_database().replace("postgresql://", "postgresql+asyncpg://") + "?ssl=disable"
    node = SqlNode("shop", "primary", url, DatabaseSettings(url=url, pool=PoolSettings(size=3, max_overflow=0)))
    async with node.writer.begin() as connection:
        await connection.execute(text("CREATE TABLE sales (item text PRIMARY KEY)"))
    spread, loop, committed, uncertain = random.Random(11), asyncio.get_running_loop(), set(), set()

    async def sell_two(name: str, longest: float | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        if longest is not None:
            loop.call_later(spread.uniform(0.0, longest), task.cancel)
        uncertain.add(name)
        async with AsyncSession(node.writer) as session:
            await sell(session, f"{name} a")
            await sell(session, f"{name} b")
            await session.commit()
        committed.add(name)

    began = loop.time()
    await sell_two("first", None)
    usual = loop.time() - began
    for burst in range(40):
        names = [f"{burst}.{number}" for number in range(12)]
        async with asyncio.TaskGroup() as group:
            for place, name in enumerate(names):
                group.create_task(suppressed(sell_two(name, 2 * usual if place % 4 else None)))
    found = await sales(node)
    whole = {item[:-2] for item in found if item.endswith("a")}
    assert whole == {item[:-2] for item in found if item.endswith("b")}
    assert committed <= whole <= uncertain
    assert len(committed) >= 40 * 3
    await node.close()


async def suppressed(work: Any) -> None:
    with suppress(asyncio.CancelledError):
        await work


class Transport:
    """A transport that keeps what it is given to write."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def writelines(self, data: Any) -> None:
        self.written.extend(bytes(one) for one in data)


class SlottedTransport:
    """A transport that takes no attributes, as uvloop's."""

    __slots__ = ("written",)

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def writelines(self, data: Any) -> None:
        self.written.extend(bytes(one) for one in data)


def test_luggage_leaves_with_the_next_message_once() -> None:
    transport = Transport()
    luggage = Luggage(transport)
    luggage.add(b"begin")
    assert transport.written == []
    transport.write(memoryview(b"Bind"))
    transport.write(memoryview(b"Bind"))
    luggage.add(b"begin")
    luggage.add(b"commit")
    transport.writelines([b"Bind", b"Execute"])
    assert transport.written == [b"beginBind", b"Bind", b"begincommitBindExecute"]


def test_luggage_is_unanswered_until_a_message_asks_for_the_answer() -> None:
    transport = Transport()
    luggage = Luggage(transport)
    luggage.add(b"begin")
    transport.write(b"ParseH\0\0\0\4")
    assert luggage.unanswered
    transport.write(b"BindS\0\0\0\4")
    assert not luggage.unanswered
    luggage.add(b"begin")
    transport.write(b"BindS\0\0\0\4")
    assert not luggage.unanswered


def test_luggage_does_not_leave_with_a_goodbye() -> None:
    transport = Transport()
    Luggage(transport).add(b"begin")
    transport.write(b"X\0\0\0\4")
    assert transport.written == [b"X\0\0\0\4"]


def test_luggage_leaves_at_once_on_a_transport_that_cannot_hold_it() -> None:
    transport = SlottedTransport()
    luggage = Luggage(transport)
    luggage.add(b"begin")
    transport.write(b"Bind")
    assert transport.written == [b"begin", b"Bind"]
    assert not luggage.drop()
