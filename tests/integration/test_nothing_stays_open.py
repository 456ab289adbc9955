"""Whatever a program opened is closed when its blocks end: no socket, no file, no thread is left to a collector.

The suite cannot leave this to Python's ResourceWarning: PyMongo drops sockets whenever it is cancelled while it
connects, and the warning comes in whatever test runs when the collector comes by (`filterwarnings`).
"""

import gc
import os
import threading
import warnings
from pathlib import Path

import pytest
from sqlalchemy import text

from polysaga import Databases, SqlDatabase
from polysaga.config import parse_settings
from tests.fixtures.programs import PLACE_ORDER, Order, Program, Urls
from tests.fixtures.servers import PostgresCluster
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import until


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


async def test_sagas_and_their_databases(urls: Urls) -> None:
    before = held()
    program = Program(urls, PLACE_ORDER)
    async with program.open():
        await program.sagas.run(program.saga, Order())
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
