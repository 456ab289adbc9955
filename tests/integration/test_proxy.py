"""The proxy that other tests break connections with does what it says, in front of all three servers."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text

from polysaga import AnyDatabase, Databases, MongoSession
from polysaga.config import parse_settings
from polysaga.databases.dialects import fault_of
from polysaga.errors import DatabaseUnavailable
from tests.fixtures.proxy import Proxy


@pytest.fixture(params=["postgres_database", "mariadb_database", "mongo_database"])
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    url = request.getfixturevalue(request.param)()
    with Proxy.to(url) as proxy:
        yield proxy


@asynccontextmanager
async def through(proxy: Proxy, *, patience: float = 5.0) -> AsyncIterator[AnyDatabase]:
    """Open a database whose server is behind *proxy*."""
    database = AnyDatabase("shop")
    pool = {"connect_timeout": patience}
    settings = parse_settings({"databases": {"shop": {"url": proxy.url, "pool": pool}}})
    async with Databases(database).open(settings):
        yield database


async def ask(database: AnyDatabase) -> None:
    """Make one round trip."""
    async with database.writer() as db:
        await speak(db)


async def speak(db: Any) -> None:
    if isinstance(db, MongoSession):
        await db["things"].find_one({"_id": 1})
    else:
        await db.execute(text("SELECT 1"))


async def test_a_server_behind_a_proxy_answers_as_ever(proxy: Proxy) -> None:
    async with through(proxy) as database:
        await ask(database)
        assert proxy.open > 0
        assert proxy.seen >= proxy.open


async def test_a_server_that_hangs_answers_when_it_goes_on(proxy: Proxy) -> None:
    async with through(proxy) as database:
        await ask(database)
        proxy.hang()
        asking = asyncio.create_task(ask(database))
        done, _ = await asyncio.wait([asking], timeout=0.5)
        assert not done
        proxy.resume()
        async with asyncio.timeout(30):
            await asking


@pytest.mark.parametrize("how", ["drop", "reset"])
async def test_a_cut_connection_is_a_transient_fault_and_the_next_one_works(proxy: Proxy, how: str) -> None:
    async with through(proxy) as database:
        async with database.writer() as db:
            await speak(db)
            assert getattr(proxy, how)() > 0
            if not isinstance(db, MongoSession):  # whose driver repeats a read by itself
                with pytest.raises(Exception) as cut:  # noqa: PT011 - each driver has its own
                    await speak(db)
                fault = fault_of(cut.value)
                assert fault is not None
                assert fault.transient
                await db.rollback()
        await ask(database)


async def test_a_delay_is_felt(proxy: Proxy) -> None:
    async with through(proxy) as database:
        await ask(database)
        proxy.delay(0.15)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await ask(database)
        assert loop.time() - began >= 0.3


async def test_who_connects_while_it_refuses_is_refused(proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(DatabaseUnavailable):
        async with through(proxy, patience=1.0):
            pass
    proxy.accept()
    async with through(proxy) as database:
        await ask(database)


def test_a_reset_is_a_reset_on_the_wire() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy("127.0.0.1", server.getsockname()[1]) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port), timeout=30)
        with client, server.accept()[0] as accepted:
            accepted.settimeout(30)
            client.sendall(b"hello")
            assert accepted.recv(5) == b"hello"
            assert proxy.reset() == 1
            for end in (client, accepted):
                with pytest.raises(ConnectionResetError):
                    end.recv(1)
