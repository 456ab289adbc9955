"""MongoDB's pool stays usable whatever is cancelled while it waits for a connection."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator

import pytest
from pymongo.asynchronous import pool as pymongo_pool
from pymongo.asynchronous import topology as pymongo_topology
from pymongo.lock import _async_create_condition, _async_create_lock

from devservers import Server
from polysaga.config import DatabaseSettings, PoolSettings
from polysaga.databases import MongoNode
from polysaga.databases.pymongo_waits import make_safe
from tests.fixtures.left_behind import LEAVES_BEHIND
from tests.fixtures.waiting import reached, within

pytestmark = LEAVES_BEHIND

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


async def test_a_wait_cancelled_as_it_is_notified_leaves_the_notice_to_the_next(node: MongoNode) -> None:
    """The connection that came back would lie idle until the next one's time is up."""
    lock = _async_create_lock()
    condition = _async_create_condition(lock)

    async def wait() -> bool:
        async with condition:
            return await pymongo_pool._async_cond_wait(condition, 60.0)

    first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)  # both wait now
    async with lock:
        condition.notify()
        first.cancel()
    assert await within(second, "the second one goes on")
    assert first.cancelled()


@pytest.mark.parametrize("how", ["other arguments", "another name", "another module"])
def test_a_pymongo_that_waits_in_another_way_is_left_alone(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def theirs(condition: object, timeout: float | None, *, reason: str) -> bool:
        raise NotImplementedError(reason)

    for module in (pymongo_pool, pymongo_topology):
        if how == "other arguments":
            monkeypatch.setattr(module, "_async_cond_wait", theirs)
        else:
            monkeypatch.delattr(module, "_async_cond_wait")
        if how == "another module":
            monkeypatch.setitem(sys.modules, module.__name__, None)
    make_safe()
    for module in (pymongo_pool, pymongo_topology):
        assert getattr(module, "_async_cond_wait", None) in {None, theirs}


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
