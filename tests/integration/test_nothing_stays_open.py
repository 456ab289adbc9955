"""Whatever a program opened is closed when its blocks end: no socket, no file, no thread is left to a collector.

The suite cannot leave this to Python's ResourceWarning: it comes in whatever test runs when the collector comes
by, so the suite shows it and does not fail for it (`filterwarnings`).
"""

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from polysaga import Databases, SqlDatabase
from polysaga.config import parse_settings
from polysaga.databases import SqlNode
from tests.fixtures.programs import PLACE_ORDER, Order, Program, Urls
from tests.fixtures.servers import PostgresCluster
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import until, within
from tests.integration.migrating import SQL_KINDS, fresh, settings_for


def held() -> set[str]:
    """Return the sockets, files and threads that this process has, each under a name of its own."""
    with warnings.catch_warnings():  # what earlier tests dropped
        warnings.simplefilter("ignore")
        gc.collect()
    threads = (
        thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")
    )  # the loop's own
    found = {f"thread {thread.name} {thread.ident}" for thread in threads}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:  # the one that lists them
            continue
        if target.startswith(("socket:", "/")) and not target.startswith(("/dev", "/proc")):
            found.add(f"{entry.name} {target}")
    return found


@pytest.mark.parametrize("customers", [1, 30], ids=["one", "more than a pool keeps"])
async def test_sagas_and_their_databases(urls: Urls, customers: int) -> None:
    before = held()
    program = Program(urls, PLACE_ORDER)
    async with program.open():
        await asyncio.gather(*(program.sagas.run(program.saga, Order()) for _ in range(customers)))
        during = held() - before
        assert len(during) >= len(urls), "the test sees nothing"
    await until(lambda: not (held() - before), f"all of {during} is closed")


async def test_a_primary_and_replicas_that_are_watched(postgres_cluster: PostgresCluster) -> None:
    primary, *replicas = postgres_cluster.urls("postgres")
    orders = SqlDatabase("orders")
    settings = parse_settings({"databases": {"orders": {"url": primary, "replicas": replicas}}})
    before = held()
    async with Databases(orders).open(settings):
        for lend in (orders.reader, orders.writer):
            async with lend() as session:
                await session.execute(text("SELECT 1"))
        during = held() - before
        assert len(during) >= 3, "the test sees nothing"
    await until(lambda: not (held() - before), f"all of {during} is closed")


async def test_databases_of_which_one_cannot_be_opened(urls: Urls) -> None:
    before = held()
    nowhere = {**urls, "inventory": "mongodb://127.0.0.1:1/shop"}
    with pytest.raises(Exception, match="inventory"):
        async with Program(nowhere, PLACE_ORDER).open():
            pytest.fail("nothing listens there")
    await until(lambda: not (held() - before), "what was opened before the failure is closed")


@pytest.fixture(params=SQL_KINDS, ids=str)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> SqlNode:
    url = fresh(request.param, request, tmp_path)
    return SqlNode("shop", "primary", url, settings_for(shop=url).databases["shop"])


async def ask(node: SqlNode) -> None:
    async with node.reader.connect() as connection:
        await connection.exec_driver_sql("SELECT 1")


@pytest.mark.parametrize("made", ["by the driver", "and configured"])
async def test_a_connection_whose_caller_is_cancelled_just_as_it_is_made(
    node: SqlNode, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if made == "by the driver" and node.dialect.single_writer:
        pytest.skip("a file has no login")
    kept: list[Any] = []  # or the collector would close it
    before = held()
    asking = asyncio.create_task(ask(node))

    def connector(adapter: Any) -> Callable[..., Any]:
        connect = type(node.dialect).connector(node.dialect, adapter)

        async def connect_and_cancel(*positional: Any, **named: Any) -> Any:
            kept.append(await connect(*positional, **named))
            asking.cancel()
            return kept[-1]

        return connect_and_cancel

    def configure(connection: Any, *, read_only: bool) -> None:
        type(node.dialect).configure(node.dialect, connection, read_only=read_only)
        kept.append(connection.driver_connection)
        asking.cancel()

    if made == "by the driver":
        monkeypatch.setattr(node.dialect, "connector", connector)
    else:
        monkeypatch.setattr(node.dialect, "configure", configure)
    await within(asyncio.wait([asking]), "the caller has ended")

    assert asking.cancelled()
    assert len(kept) == 1, "the test sees nothing"
    await until(lambda: not (held() - before), "the connection is closed")
    await node.close()


async def test_a_connection_that_is_refused_as_it_is_made(node: SqlNode, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    before = held()

    def refuse(connection: Any, *, read_only: bool) -> None:
        kept.append(connection.driver_connection)
        raise LookupError

    monkeypatch.setattr(node.dialect, "configure", refuse)
    with pytest.raises(LookupError):
        await ask(node)

    assert kept, "the test sees nothing"
    await until(lambda: not (held() - before), "the connection is closed")
    await node.close()
