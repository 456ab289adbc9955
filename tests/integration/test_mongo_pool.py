"""MongoDB's pool stays usable whatever is cancelled while it waits for a connection."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from pymongo.asynchronous import pool as pymongo_pool
from pymongo.asynchronous import topology as pymongo_topology
from pymongo.lock import _async_create_condition, _async_create_lock

from devservers import Server
from polysaga.config import DatabaseSettings, PoolSettings
from polysaga.databases import MongoNode
from tests.fixtures.waiting import reached, within

WAIT = 0.1  # seconds that a checkout may take


@pytest.fixture
async def node(mongo_server: Server) -> AsyncIterator[MongoNode]:
    url = mongo_server.url("pool")
    pool = PoolSettings(size=2, max_overflow=0, acquire_timeout=WAIT)
    one = MongoNode("pool", "primary", url, DatabaseSettings(url=url, pool=pool))
    await one.ping()
    yield one
    await one.close()


@pytest.mark.parametrize("module", [pymongo_pool, pymongo_topology])
async def test_a_wait_cancelled_as_it_times_out_leaves_no_lock_taken(node: MongoNode, module: object) -> None:
    lock = _async_create_lock()
    condition = _async_create_condition(lock)
    timed_out = asyncio.Event()

    async def wait() -> None:
        async with condition:
            asyncio.get_running_loop().call_later(0.02, timed_out.set)
            await module._async_cond_wait(condition, 0.01)  # type: ignore[attr-defined]

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)  # it waits now, and has let the lock go
    async with lock:
        await reached(timed_out, "the wait has timed out and wants the lock back")
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task], timeout=1)
    assert task.done()
    await within(lock.acquire(), "the lock is free")


async def test_a_storm_of_cancellations_leaves_the_pool_usable(node: MongoNode) -> None:
    chance = random.Random(7)

    async def ask() -> None:
        async with node.session() as session:
            await session["things"].find_one({"_id": 1})

    for _ in range(20):
        tasks = [asyncio.create_task(ask()) for _ in range(80)]
        # Those that wait in the queue time out now; half of them are cancelled in the same moment.
        await asyncio.wait(tasks, timeout=WAIT)
        for _ in range(3):
            for task in tasks:
                if chance.random() < 0.5:
                    task.cancel()
            await asyncio.sleep(0)
        done, pending = await asyncio.wait(tasks, timeout=10)
        assert not pending, f"{len(pending)} of {len(tasks)} questions have no answer"
        for task in done:
            _ = task.cancelled() or task.exception()
    await within(ask(), "the pool lends a connection")
