"""Connections that died while they lay idle are replaced before anybody notices, without a question per use.

Time is not waited for: what the pool notes when it lends is set back.
"""

import asyncio
import re
import sqlite3
from collections.abc import Awaitable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import String, TypeDecorator, bindparam, event, func, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga.clock import Clock
from polysaga.databases import Fault, MongoNode, SqlDatabase, SqlNode
from polysaga.databases.dialects import fault_of
from polysaga.databases.dialects.sql import ANSWERED_AT
from polysaga.databases.lent_sessions import sql_session
from polysaga.errors import ConfigurationError, DatabaseUnavailable
from polysaga.loading import load_module
from tests.conformance.shops import MongoShop, Sale, Shop, SqlShop, settings
from tests.conformance.test_participant import cancelling, entry, selling
from tests.conformance.test_participant_health import backend, kill
from tests.fixtures.waiting import stubborn, until

FAREWELL = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"


def lies_idle_for(node: SqlNode, seconds: float) -> None:
    """Make every connection of *node* look as if it had been given back that long ago."""
    for engine in (node.writer, node.reader, node.reserved):

        @event.listens_for(engine.sync_engine, "checkin")
        def rewind(_: Any, record: Any) -> None:
            record.info[ANSWERED_AT] = Clock().monotonic() - seconds


@pytest.mark.parametrize("pool", ["writer", "reader", "reserved"])
async def test_a_connection_cut_while_idle_is_replaced_without_an_error(server_shop: SqlShop, pool: str) -> None:
    node = server_shop.node(connections=1)
    lies_idle_for(node, 60.0)
    engine = getattr(node, pool)
    async with AsyncSession(engine) as session:
        first = await backend(server_shop, session)

    await kill(server_shop, first)

    async with AsyncSession(engine) as session:
        assert await backend(server_shop, session) != first


async def test_all_connections_cut_while_idle_are_replaced_without_an_error(server_shop: SqlShop) -> None:
    node = server_shop.node(connections=3)
    lies_idle_for(node, 60.0)
    sessions = [AsyncSession(node.writer) for _ in range(3)]
    threads = [await backend(server_shop, session) for session in sessions]
    for session in sessions:
        await session.close()

    for thread in threads:
        await kill(server_shop, thread)

    sessions = [AsyncSession(node.writer) for _ in range(3)]
    assert not {await backend(server_shop, session) for session in sessions} & set(threads)
    for session in sessions:
        await session.close()


async def test_a_step_on_a_connection_cut_while_idle_notices_nothing(server_shop: SqlShop, item: str) -> None:
    participant = server_shop.participant(connections=1)
    lies_idle_for(participant.node, 60.0)
    async with AsyncSession(participant.node.writer) as session:
        thread = await backend(server_shop, session)
    await kill(server_shop, thread)

    await participant.act(entry(), selling(server_shop, item))

    assert await server_shop.sold(item) == 1


async def test_a_connection_that_lives_is_kept_and_not_asked_while_it_is_in_use(
    server_shop: SqlShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = server_shop.node(connections=1)
    threads, asked = set(), []
    dialect = node.writer.sync_engine.dialect
    ping = dialect.do_ping

    def counted(connection: Any) -> bool:
        asked.append(1)
        return ping(connection)

    monkeypatch.setattr(dialect, "do_ping", counted)
    for _ in range(3):
        async with AsyncSession(node.writer) as session:
            threads.add(await backend(server_shop, session))
    assert (len(threads), asked) == (1, [])

    lies_idle_for(node, 60.0)
    for _ in range(3):
        async with AsyncSession(node.writer) as session:
            threads.add(await backend(server_shop, session))
    assert (len(threads), len(asked)) == (1, 2)


async def test_a_connection_that_has_just_committed_is_trusted_however_long_the_step_took(
    server_shop: SqlShop, item: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    participant = server_shop.participant(connections=1)
    asked = []

    async def slow(session: AsyncSession) -> str:
        result = await selling(server_shop, item)(session)
        (await session.connection()).sync_connection.info[ANSWERED_AT] -= 60.0  # type: ignore[union-attr]
        return result

    for _ in range(2):
        await participant.act(entry(), slow)
        dialect = participant.node.writer.sync_engine.dialect
        monkeypatch.setattr(dialect, "do_ping", lambda _: asked.append(1) or True)
    assert asked == []


async def test_a_connection_cut_a_moment_ago_costs_one_error_and_no_more(server_shop: SqlShop) -> None:
    handle, node = SqlDatabase("shop"), server_shop.node(connections=1)
    handle.attach((node,))
    async with handle.writer() as session:
        thread = await backend(server_shop, session)
    await kill(server_shop, thread)

    with pytest.raises(DatabaseUnavailable):
        async with handle.writer() as session:
            await session.execute(text("SELECT 1"))
    async with handle.writer() as session:
        assert await backend(server_shop, session) != thread


async def dies(node: SqlNode) -> None:
    """Let a connection of *node* hear that its server ends it, and not yet that the stream has ended."""
    async with node.writer.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
    raw._protocol.data_received(b"E" + (len(FAREWELL) + 4).to_bytes(4) + FAREWELL)


@pytest.mark.parametrize("idle", [0.0, 60.0], ids=["trusted", "asked"])
async def test_a_connection_that_has_heard_of_its_end_but_not_met_it_costs_at_most_one_error(
    asyncpg: SqlShop, item: str, idle: float
) -> None:
    """asyncpg raises an error of its own then, which no class of the driver's errors covers."""
    node = asyncpg.node(connections=1)
    lies_idle_for(node, idle)
    await dies(node)
    if idle:
        async with sql_session(node, read_only=False) as session:
            await asyncpg.sell(session, item)
    else:
        with pytest.raises(DatabaseUnavailable, match="the connection was lost"):
            async with sql_session(node, read_only=False) as session:
                await asyncpg.sell(session, item)
    async with sql_session(node, read_only=False) as session:
        await asyncpg.sell(session, item)
    assert await asyncpg.sold(item) == 1 + bool(idle)


async def test_the_error_of_a_block_is_told_although_its_connection_is_gone(sql_shop: SqlShop, item: str) -> None:
    """The rollback fails, and there is nothing to roll back."""
    node = sql_shop.node(connections=1)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await sql_shop.sell(session, item)
            node.cut()
            raise LookupError(item)

    with pytest.raises(LookupError, match=item):
        await block()
    assert await sql_shop.sold(item) == 0
    async with sql_session(node, read_only=False) as session:
        await sql_shop.sell(session, item)
    assert await sql_shop.sold(item) == 1


async def test_a_stream_of_asyncpg_that_loses_its_connection_is_told_as_that(asyncpg: SqlShop) -> None:
    """Its error comes from the driver itself, past SQLAlchemy."""
    node = asyncpg.node(connections=1)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            numbers = await session.stream(text("SELECT generate_series(1, 100000)"))
            await numbers.fetchone()
            node.cut()
            async for _ in numbers:
                pass

    with pytest.raises(DatabaseUnavailable, match="the connection was lost"):
        await block()


@pytest.mark.usefixtures("swept")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # psycopg leaves the stream's cursor behind
async def test_a_stream_that_begins_on_a_lost_connection_of_a_reader_is_told_as_that(server_shop: SqlShop) -> None:
    """On PostgreSQL we begin its transaction, past SQLAlchemy, which knows no error that is asyncpg's own."""
    node = server_shop.node(connections=1)

    async def block() -> None:
        async with sql_session(node, read_only=True) as session:
            await session.execute(text("SELECT 1"))
            node.cut()
            await session.stream(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable, match="the connection was lost"):
        await block()
    async with sql_session(node, read_only=True) as session:
        assert await (await session.stream(text("SELECT 1"))).one() == (1,)


@pytest.mark.parametrize("snapshot", [False, True])
async def test_a_reader_that_has_read_all_ends_well_although_its_connection_is_lost(
    server_shop: SqlShop, snapshot: bool
) -> None:
    """MySQL and MariaDB end its transaction with one more message, and so does PostgreSQL that of a snapshot."""
    node = server_shop.node(connections=1)
    for _ in range(2):  # the second one gets another connection
        async with sql_session(node, read_only=True, snapshot=snapshot) as session:
            assert await session.scalar(text("SELECT 1")) == 1
            node.cut()


async def test_a_snapshot_sees_one_moment_and_the_next_one_a_later_moment(sql_shop: SqlShop, item: str) -> None:
    node = sql_shop.node(connections=2)
    count = select(func.count()).select_from(Sale).where(Sale.item == item)
    for sold in (0, 2):
        async with sql_session(node, read_only=True, snapshot=True) as session:
            for _ in range(2):
                assert await session.scalar(count) == sold
                async with sql_session(node, read_only=False) as other:
                    await sql_shop.sell(other, item)
                    await other.commit()
    async with sql_session(node, read_only=True) as session:
        assert await session.scalar(count) == 4


async def test_an_error_in_a_later_page_of_a_stream_is_sqlalchemys_as_in_the_first(sql_shop: SqlShop) -> None:
    """SQLAlchemy's adapter of asyncpg lets it through as it is."""
    node = sql_shop.node(connections=1)
    kind = sql_shop.kind.scheme.partition("+")[0]
    async with sql_session(node, read_only=True, snapshot=True) as session:
        with pytest.raises(DBAPIError) as raised:
            async for _ in await session.stream(text(FAILS_LATE[kind]), execution_options={"yield_per": 10}):
                pass
    assert raised.value.orig is not None
    assert re.search("zero|overflow|out of range", str(raised.value.orig))


FAILS_LATE = {
    "postgresql": "SELECT 1 / (900 - n) FROM generate_series(1, 1000) AS n",
    "mysql": (
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 950) "
        "SELECT 9223372036854775807 + CASE i WHEN 900 THEN 1 ELSE 0 END FROM n"
    ),
    "sqlite": (
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) "
        "SELECT abs(CASE i WHEN 900 THEN -9223372036854775808 ELSE i END) FROM n"
    ),
}


async def test_an_error_of_a_connection_of_the_blocks_own_stays_what_it_is(
    sqlite: SqlShop, tmp_path: Path
) -> None:
    """A file of another library beside the database: no node of ours is unavailable, nor read-only."""
    node = sqlite.node(connections=1)

    def unopenable() -> None:
        sqlite3.connect(tmp_path / "nowhere" / "other.db")

    def closed() -> None:
        own = sqlite3.connect(tmp_path / "other.db")
        own.close()
        own.execute("SELECT 1")

    def read_only() -> None:
        with closing(sqlite3.connect(tmp_path / "other.db")) as own:
            own.execute("PRAGMA query_only = ON")
            own.execute("CREATE TABLE seats (number INTEGER)")

    for use in (unopenable, closed, read_only):
        with pytest.raises(sqlite3.Error):
            async with sql_session(node, read_only=False):
                use()


@pytest.mark.parametrize("place", ["a snapshot's isolation", "AUTOCOMMIT of a writer"])
async def test_a_connection_that_died_before_its_isolation_is_set_is_told_as_that(
    server_shop: SqlShop, place: str
) -> None:
    """Within the second in which connections are trusted; SQLAlchemy wraps no error there."""
    node = server_shop.node(connections=1)
    snapshot = place == "a snapshot's isolation"

    async def block() -> int:
        async with sql_session(node, read_only=snapshot, snapshot=snapshot) as session:
            if not snapshot:
                await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            return await backend(server_shop, session)

    engine = node.snapshots if snapshot else node.writer
    async with AsyncSession(engine) as session:
        first = await backend(server_shop, session)
    await kill(server_shop, first)
    with suppress(DatabaseUnavailable):
        await block()
    assert await block() != first


@pytest.mark.parametrize("end", ["cut", "abandon"])
async def test_a_connection_that_is_cut_before_its_isolation_is_set_is_told_as_that(
    sql_shop: SqlShop, end: str
) -> None:
    node = sql_shop.node(connections=1)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            connection = await session.connection()
            await connection.execute(text("SELECT 1"))
            await connection.commit()
            getattr(node, end)()
            driver = (await connection.get_raw_connection()).driver_connection
            await until(lambda: end == "cut" or not node.dialect.in_transaction(driver), "it is closed")
            await connection.execution_options(isolation_level="SERIALIZABLE")
            await connection.execute(text("SELECT 1"))

    with pytest.raises((DatabaseUnavailable, SQLAlchemyError)):
        await block()
    async with sql_session(node, read_only=False) as session:
        assert await session.scalar(text("SELECT 1")) == 1


@pytest.mark.parametrize("reads", [False, True], ids=["writer", "reader"])
async def test_a_database_that_is_away_when_a_lost_connection_is_replaced_is_told_as_that(
    sql_shop: SqlShop, reads: bool
) -> None:
    """SQLAlchemy wraps the refusal as if it were an error of the statement."""
    node = sql_shop.node(connections=1)
    seen: list[Any] = []

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError("it is away")

    async def block() -> None:
        async with sql_session(node, read_only=reads) as session:
            connection = await session.connection()
            await connection.invalidate()
            await connection.rollback()
            dialect: Any = (node.reader if reads else node.writer).sync_engine.dialect
            dialect.connect = refuse
            try:
                await connection.execute(text("SELECT 1"))
            except StatementError as error:
                seen.append(fault_of(error))
                raise

    with pytest.raises(DatabaseUnavailable, match="it is away"):
        await block()
    assert seen == [Fault.UNREACHABLE]


class Raises(TypeDecorator[Any]):
    """A type that asks a connection of its own."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        raise load_module("asyncpg").InterfaceError("connection is closed")


async def test_an_error_of_asyncpg_in_a_type_is_not_the_databases(asyncpg: SqlShop) -> None:
    node = asyncpg.node(connections=1)
    with pytest.raises(StatementError) as raised:
        async with sql_session(node, read_only=False) as session:
            await session.execute(text("SELECT :value").bindparams(bindparam("value", 1, type_=Raises)))
    assert fault_of(raised.value) is None


async def test_an_error_of_an_asyncpg_connection_of_the_blocks_own_stays_what_it_is(asyncpg: SqlShop) -> None:
    node = asyncpg.node(connections=1)
    driver = load_module("asyncpg")
    own = await driver.connect(node.url.set(drivername="postgresql").render_as_string(hide_password=False))
    await own.close()
    with pytest.raises(driver.InterfaceError):
        async with sql_session(node, read_only=False):
            await own.execute("SELECT 1")


async def test_a_node_that_lives_answers_its_ping(shop: Shop) -> None:
    node: Any = shop.node()  # type: ignore[attr-defined]

    await node.ping()


async def test_a_standalone_mongodb_is_refused_with_the_remedy(
    mongo: MongoShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = mongo.node()

    async def hello(*_: Any, **__: Any) -> dict[str, Any]:
        return {"ok": 1.0, "isWritablePrimary": True, "maxWireVersion": 21}

    monkeypatch.setattr(type(node.client.admin), "command", hello)

    with pytest.raises(ConfigurationError, match=r"standalone.*replica set"):
        await node.ping()


@cancelling
async def test_a_mongodb_that_nobody_answers_for_is_unavailable() -> None:
    url = "mongodb://somebody:secret-7@127.0.0.1:1/shop"
    limits = settings(url)
    limits = limits.model_copy(update={"pool": limits.pool.model_copy(update={"connect_timeout": 0.2})})
    node = MongoNode("shop", "primary", url, limits)

    with pytest.raises(DatabaseUnavailable) as raised:
        await node.ping()
    await node.close()

    assert "secret-7" not in str(raised.value)


@cancelling
async def test_a_task_that_is_cancelled_while_it_connects_ends(
    server_shop: SqlShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the very moment when there is a connection, which Python 3.11's `wait_for` returns regardless."""
    node = server_shop.node(connections=1)
    really_wait_for, cancelled, connected = asyncio.wait_for, list[Any](), list[Any]()

    async def cancel_when_done(work: Awaitable[Any]) -> Any:
        done = await work
        task.cancel()
        cancelled.append(task)
        return done

    def wait_for(work: Awaitable[Any], timeout: float | None) -> Awaitable[Any]:
        return really_wait_for(cancel_when_done(work), timeout)

    async def connect() -> None:
        async with node.writer.connect():
            connected.append(asyncio.current_task())

    monkeypatch.setattr(asyncio, "wait_for", wait_for)
    task = asyncio.ensure_future(connect())
    await asyncio.wait([task], timeout=10)
    assert task.cancelled() == bool(cancelled)
    assert connected == [] if cancelled else [task]  # not every driver uses `wait_for`
    monkeypatch.undo()
    async with AsyncSession(node.writer) as session:
        assert await backend(server_shop, session)


@pytest.mark.parametrize("late", [False, True], ids=["in that moment", "late"])
async def test_a_connection_that_is_made_for_a_caller_who_has_gone_is_broken_off(
    server_shop: SqlShop, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    node, cut, come = server_shop.node(connections=1), list[Any](), asyncio.Event()

    async def connect() -> str:
        caller.cancel()
        if late:
            await stubborn(come)
        return "the connection"

    with monkeypatch.context() as watched:
        watched.setattr(node.dialect, "discard", cut.append)
        caller = asyncio.ensure_future(node._dial(connect, (), {}))
        await asyncio.wait([caller], timeout=10)
        assert caller.cancelled()
        come.set()
        await until(lambda: cut == ["the connection"], "the connection is broken off")
