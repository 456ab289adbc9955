"""A server that falls silent holds up nobody for long, and a driver that hangs is replaced."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from devservers import Server
from polysaga import Databases, MongoDatabase, SqlDatabase
from polysaga.config import parse_settings
from polysaga.databases import mongo, sentinels
from polysaga.errors import DatabaseUnavailable
from polysaga.events import ClientReplaced, Event, ServerSilent
from tests.fixtures.proxy import Proxy
from tests.fixtures.tiers import Uses
from tests.fixtures.waiting import reached, until, within

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
        told = next(event for event in heard if isinstance(event, ServerSilent))
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
    assert not [event for event in heard if isinstance(event, ServerSilent)]


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

        await until(lambda: any(isinstance(event, ClientReplaced) for event in heard), "the client is replaced")

        assert await within(count(), "the database is used again") == 0
        await shop.primary.ping()
        stuck.cancel()
        await asyncio.wait([stuck], timeout=20)
        assert stuck.done()
        server.pool.lock.release()
        await mongo._ABANDONED.pop().close()  # it hangs no more
