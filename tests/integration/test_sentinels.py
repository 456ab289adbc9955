"""A server that falls silent holds up no caller for long, and a driver that hangs is replaced."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg
import pytest
from psycopg import OperationalError
from psycopg.pq import TransactionStatus
from sqlalchemy import event, make_url, text
from sqlalchemy.ext.asyncio import AsyncSession

from devservers import Server
from polysaga import Databases, MongoDatabase, SqlDatabase
from polysaga.config import DatabaseSettings, parse_settings
from polysaga.databases import SqlNode, sentinels
from polysaga.databases import mongo_node as mongo
from polysaga.databases.probe_connection import ProbeConnection
from polysaga.errors import DatabaseUnavailable
from polysaga.events import ClientReplaced, Event, ServerSilent
from tests.fixtures.left_behind import LEAVES_BEHIND
from tests.fixtures.proxy import Proxy
from tests.fixtures.tiers import Uses
from tests.fixtures.waiting import reached, until, within

pytestmark = LEAVES_BEHIND

CONNECT = 0.5  # seconds; a server is silent after twice as long


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinels, "_EVERY", 0.05)
    monkeypatch.setattr(sentinels, "_SPARE", 0.2)


KINDS = [
    Uses("asyncpg", ("postgres_server",)),
    Uses("psycopg", ("postgres_server",)),
    Uses("asyncmy", ("mariadb_server",)),
]


@pytest.fixture(params=KINDS, ids=str)
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """A proxy to a database of each kind of server."""
    server: Server = request.getfixturevalue(request.param.fixtures[0])
    name = f"test_silent_{request.param.name}"
    server.create_database(name)
    with Proxy.to(server.url(name).replace("+asyncpg", f"+{request.param.name}")) as proxy:
        yield proxy
        proxy.reset()
    server.drop_database(name)


async def test_callers_of_a_server_that_falls_silent_have_an_answer(proxy: Proxy) -> None:
    shop, heard = SqlDatabase("shop"), list[Event]()
    pool = {"connect_timeout": CONNECT, "size": 3}
    settings = parse_settings({"databases": {"shop": {"url": proxy.url, "pool": pool}}})
    lent, silent = asyncio.Semaphore(0), asyncio.Event()

    async def ask(lend: Callable[[], AbstractAsyncContextManager[AsyncSession]]) -> None:
        async with lend() as session:
            await session.execute(text("SELECT 1"))
            lent.release()
            await reached(silent, "the server is silent")
            await session.execute(text("SELECT 1"))

    async with Databases(shop).open(settings, emit=heard.append):
        callers = [asyncio.create_task(ask(lend)) for lend in (shop.reader, shop.writer)]
        for _ in callers:
            await within(lent.acquire(), "a session is lent")
        proxy.hang()
        silent.set()
        await asyncio.wait(callers, timeout=20)
        for caller in callers:
            assert isinstance(caller.exception(), DatabaseUnavailable)
        told = next(one for one in heard if isinstance(one, ServerSilent))
        assert (told.database, told.seconds) == ("shop", 2 * CONNECT)

        proxy.resume()

        async def answers() -> bool:
            try:
                async with shop.reader() as session:
                    return bool(await session.scalar(text("SELECT 1")) == 1)
            except DatabaseUnavailable:
                return False

        await until(answers, "the server is used again")


async def test_a_server_that_is_slow_but_answers_is_left_alone(proxy: Proxy) -> None:
    """A long statement is no silence: the server answers on another connection."""
    shop, heard = SqlDatabase("shop"), list[Event]()
    settings = parse_settings({"databases": {"shop": {"url": proxy.url, "pool": {"connect_timeout": CONNECT}}}})
    sleep = "SELECT sleep(1.5)" if proxy.url.startswith("mysql") else "SELECT pg_sleep(1.5)"
    async with Databases(shop).open(settings, emit=heard.append), shop.reader() as session:
        await session.execute(text(sleep))
    assert not [one for one in heard if isinstance(one, ServerSilent)]


async def test_an_account_that_may_not_see_positions_is_no_sign_of_silence(
    postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers of some hosters let no account run `pg_control_system()`, which tells positions in the log apart."""
    monkeypatch.setattr(sentinels, "_SLICE", 0.005)
    name, role = "test_silent_poor", "test_silent_poor"
    postgres_server.create_database(name)
    owner = postgres_server.url(name)
    admin = await asyncpg.connect(owner.replace("+asyncpg", ""))
    try:
        await admin.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'poor'")
        url = make_url(owner).set(username=role, password="poor").render_as_string(hide_password=False)
        shop, heard = SqlDatabase("shop"), list[Event]()
        pool = {"connect_timeout": CONNECT}
        settings = parse_settings({"databases": {"shop": {"url": url, "pool": pool}}})
        async with Databases(shop).open(settings, emit=heard.append), shop.reader() as session:
            await session.execute(text("SELECT pg_sleep(2.5)"))
        assert not [one for one in heard if isinstance(one, ServerSilent)]
    finally:
        await admin.execute(f"DROP ROLE IF EXISTS {role}")
        await admin.close()
        postgres_server.drop_database(name)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_server_without_a_connection_to_spare_is_not_silent(postgres_server: Server, driver: str) -> None:
    name = role = f"test_full_{driver}"
    postgres_server.create_database(name)
    owner = postgres_server.url(name)
    admin = await asyncpg.connect(owner.replace("+asyncpg", ""))
    try:
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'full' CONNECTION LIMIT 0")
        url = make_url(owner).set(drivername=f"postgresql+{driver}", username=role, password="full")
        full = url.render_as_string(hide_password=False)
        node = SqlNode("shop", "primary", full, DatabaseSettings(url=full))
        with pytest.raises(Exception, match="too many connections") as refused:
            await ProbeConnection(node).ask()
        assert node.dialect.fault(refused.value) not in sentinels._SILENT
    finally:
        await admin.execute(f"DROP ROLE IF EXISTS {role}")
        await admin.close()
        postgres_server.drop_database(name)


async def test_a_login_that_a_silent_server_leaves_unanswered_ends_in_time(proxy: Proxy) -> None:
    """The system of a frozen server accepts connections; what comes after that is the driver's to limit."""
    shop = SqlDatabase("shop")
    settings = parse_settings({"databases": {"shop": {"url": proxy.url, "pool": {"connect_timeout": CONNECT}}}})

    async def ask(lend: Callable[[], AbstractAsyncContextManager[AsyncSession]]) -> None:
        async with lend() as session:
            await session.execute(text("SELECT 1"))

    async with Databases(shop).open(settings):
        proxy.hang()
        callers = [asyncio.create_task(ask(lend)) for lend in (shop.reader, shop.writer)]
        done, _ = await asyncio.wait(callers, timeout=8 * CONNECT)
        proxy.resume()
        assert done == set(callers)
        for caller in callers:
            assert isinstance(caller.exception(), DatabaseUnavailable)


async def test_a_connection_is_cut_while_its_server_is_still_asked_what_it_is(proxy: Proxy) -> None:
    """SQLAlchemy and the driver ask a new server questions after the login, without a limit."""
    shop = SqlDatabase("shop")
    pool = {"connect_timeout": CONNECT, "size": 1, "max_overflow": 0}
    settings = parse_settings({"databases": {"shop": {"url": proxy.url, "pool": pool}}})

    async def ask() -> None:
        async with shop.writer() as session:
            await session.execute(text("SELECT 1"))

    async with Databases(shop).open(settings):
        engine = shop.primary.writer.sync_engine

        def hang(*_: Any) -> None:
            proxy.hang()

        event.listen(engine, "connect", hang, insert=True)
        caller = asyncio.create_task(ask())
        await asyncio.wait([caller], timeout=20)
        assert caller.done()
        assert isinstance(caller.exception(), DatabaseUnavailable)

        event.remove(engine, "connect", hang)
        proxy.resume()
        await within(ask(), "the only place of the pool is lent again")


async def test_hanging_up_frees_nothing_that_is_still_waited_for(postgres_server: Server) -> None:
    """libpq would read what it has freed, and in the end the whole process crashes."""
    url = postgres_server.url("postgres").replace("+asyncpg", "+psycopg")
    line = ProbeConnection(SqlNode("shop", "primary", url, DatabaseSettings(url=url)))
    await line.ask()
    driver = line._driver
    waiting = asyncio.create_task(driver.execute("SELECT pg_sleep(600)"))
    await until(lambda: driver.info.transaction_status is TransactionStatus.ACTIVE, "the server is asked")

    await sentinels._hang_up(line)

    await asyncio.wait([waiting], timeout=20)
    assert isinstance(waiting.exception(), OperationalError)
    assert "pointer is NULL" not in str(waiting.exception())
    await until(lambda: bool(driver.closed), "the connection is closed")


async def test_a_client_of_mongodb_whose_pool_hangs_is_noticed_and_replaced(mongo_server: Server) -> None:
    shop, heard = MongoDatabase("shop"), list[Event]()
    pool = {"connect_timeout": CONNECT, "acquire_timeout": 0.1}
    settings = parse_settings({"databases": {"shop": {"url": mongo_server.url("hangs"), "pool": pool}}})

    async def count() -> int:
        async with shop.reader() as session:
            return int(await session["things"].count_documents({}))

    async with Databases(shop).open(settings, emit=heard.append):
        assert await count() == 0
        (server,) = shop.primary.client._topology._servers.values()
        await server.pool.lock.acquire()  # as a cancelled wait of PyMongo on Python 3.11 leaves it
        stuck = asyncio.create_task(count())
        with pytest.raises(DatabaseUnavailable):
            await shop.primary.ping()  # what makes `/health/ready` answer 503

        await until(lambda: any(isinstance(one, ClientReplaced) for one in heard), "the client is replaced")

        assert await within(count(), "the database is used again") == 0
        await shop.primary.ping()
        stuck.cancel()
        await asyncio.wait([stuck], timeout=20)
        assert stuck.done()
        server.pool.lock.release()
        await mongo._ABANDONED.pop().close()  # it hangs no more
