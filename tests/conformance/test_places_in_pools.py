"""Places in a pool: whatever happens to a caller, the next one gets a connection in order, and none stays open.

Every case runs without the garbage collector and keeps the caller's error: what only a collection gives back is
lost in a program that keeps its errors.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import await_only, greenlet_spawn

from polysaga.databases import SqlNode
from polysaga.databases.lent_sessions import sql_session
from polysaga.databases.pools import PoolUse
from tests.conformance.shops import SqlShop
from tests.fixtures.left_behind import LEAVES_BEHIND
from tests.fixtures.waiting import forever, reached, until, within

pytestmark = LEAVES_BEHIND

Scenario = Callable[[SqlNode], Awaitable[None]]


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def use_of(node: SqlNode, name: str = "writer") -> PoolUse:
    (found,) = [use for use in node.pools if use.name == name]
    return found


async def ask(engine: AsyncEngine) -> None:
    connection = await engine.connect()
    try:
        await connection.execute(text("SELECT 1"))
    finally:
        await connection.close()


async def plain(node: SqlNode) -> None:
    await ask(node.writer)


async def of_an_isolation_level(node: SqlNode) -> None:
    await ask(node.writer.execution_options(isolation_level="SERIALIZABLE"))


async def asking_for_an_isolation_level(node: SqlNode) -> None:
    connection = await node.writer.connect()
    try:
        await connection.execution_options(isolation_level="SERIALIZABLE")
        await connection.execute(text("SELECT 1"))
        await connection.commit()
    finally:
        await connection.close()


async def snapshot(node: SqlNode) -> None:
    await ask(node.snapshots)


async def stream(node: SqlNode) -> None:
    connection = await node.writer.connect()
    try:
        result = await connection.stream(text("SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3"))
        await result.fetchone()
    finally:
        await connection.close()


async def session(node: SqlNode) -> None:
    async with sql_session(node, read_only=False) as db:
        await db.execute(text("SELECT 1"))


async def transaction_of_the_driver(node: SqlNode) -> None:
    connection = await node.writer.connect()
    try:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        if node.dialect.name == "mysql":
            await driver.cursor().execute("BEGIN")
        else:
            await driver.execute("BEGIN")
    finally:
        await connection.close()


async def stale(node: SqlNode) -> None:
    node.retire()
    await plain(node)


async def two_at_once(node: SqlNode) -> None:
    first = await node.writer.connect()
    try:
        second = await node.writer.connect()
        try:
            await second.execute(text("SELECT 1"))
        finally:
            await second.close()
    finally:
        await first.close()


SCENARIOS: list[Scenario] = [
    plain,
    of_an_isolation_level,
    asking_for_an_isolation_level,
    snapshot,
    stream,
    session,
    transaction_of_the_driver,
    stale,
    two_at_once,
]


class Cancelling:
    """Awaits *work*, and cancels the task that does so when it waits for the n-th time, for each n in *at*."""

    def __init__(self, work: Awaitable[None], at: set[int]) -> None:
        self._work, self._at, self.waits = work, at, 0

    def __await__(self) -> Generator[Any, Any, None]:
        steps, error = self._work.__await__(), None
        while True:
            try:
                waited_for = steps.send(None) if error is None else steps.throw(error)
            except StopIteration:
                return
            error = None
            self.waits += 1
            if self.waits in self._at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waited_for
            except BaseException as raised:  # noqa: BLE001 - handed to the work
                error = raised


async def run(work: Cancelling) -> None:
    await work


@pytest.mark.filterwarnings("ignore:Previous unbuffered result was left incomplete")  # asyncmy, of a stream
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("again", [0, 1, 2], ids=["once", "and in the next wait", "and two waits later"])
async def test_a_caller_that_is_cancelled_anywhere_leaves_its_place(
    sql_shop: SqlShop, scenario: Scenario, again: int
) -> None:
    pool = "reader" if scenario is snapshot else "writer"
    node = sql_shop.node(connections=2 if scenario is two_at_once else 1)
    if scenario is two_at_once and node.dialect.single_writer:
        pytest.skip("the only writer of a file has no other beside it")
    engine = node.reader if pool == "reader" else node.writer
    await scenario(node)  # which connects
    undisturbed = Cancelling(scenario(node), set())
    await undisturbed
    async with engine.connect() as connection:
        usual = await connection.get_isolation_level()
    kept = []
    for at in range(1, undisturbed.waits + 5):
        disturbed = Cancelling(scenario(node), {at, at + again})
        task = asyncio.ensure_future(run(disturbed))
        await within(asyncio.wait([task]), "the caller ends")
        kept.append(task)
        assert task.cancelled() or at > disturbed.waits, "the cancellation is lost"
        async with asyncio.timeout(5), engine.connect() as connection:
            assert (await connection.execute(text("SELECT 42"))).scalar_one() == 42
            assert await connection.get_isolation_level() == usual
        assert use_of(node, pool).in_use == 0


async def session_of(shop: SqlShop, connection: AsyncConnection) -> int:
    """Return the server's number of the session; 0 for a file."""
    ask = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}.get(
        shop.node().dialect.name
    )
    return 0 if ask is None else int((await connection.execute(text(ask))).scalar_one())


async def ended(shop: SqlShop, number: int) -> bool:
    asked = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE pid = :number",
        "mysql": "SELECT count(*) FROM information_schema.processlist WHERE id = :number",
    }.get(shop.node().dialect.name)
    if asked is None:
        return True
    async with shop.observer.connect() as connection:
        return bool((await connection.execute(text(asked), {"number": number})).scalar_one() == 0)


async def test_a_connection_that_is_detached_ends_with_its_owner(sql_shop: SqlShop) -> None:
    node = sql_shop.node(connections=1)
    connection = await node.writer.connect()
    number = await session_of(sql_shop, connection)
    await connection.commit()
    (await connection.get_raw_connection()).detach()
    await connection.close()
    await until(lambda: ended(sql_shop, number), "the server has ended the session")
    await plain(node)


@pytest.mark.filterwarnings("ignore:The garbage collector is trying")
async def test_a_connection_that_is_forgotten_ends_when_it_is_collected(sql_shop: SqlShop) -> None:
    node = sql_shop.node(connections=1)
    connection = await node.writer.connect()
    number = await session_of(sql_shop, connection)
    del connection
    gc.collect()
    await until(lambda: ended(sql_shop, number), "the server has ended the session")
    await within(plain(node), "its place is lent again", patience=5.0)


async def test_what_is_lent_while_the_node_closes_ends_when_it_comes_back(sql_shop: SqlShop) -> None:
    node = sql_shop.node(connections=1)
    connection = await node.writer.connect()
    number = await session_of(sql_shop, connection)
    await node.close()
    await connection.close()
    await until(lambda: ended(sql_shop, number), "the server has ended the session")


@pytest.mark.parametrize("name", ["invalidate", "close"])
async def test_a_listener_that_fails_keeps_no_connection_open(sql_shop: SqlShop, name: str) -> None:
    node = sql_shop.node(connections=1)
    numbers = []

    def fail(*_: Any) -> None:
        raise LookupError

    async def use() -> None:
        connection = await node.writer.connect()
        numbers.append(await session_of(sql_shop, connection))
        await connection.close()

    engine = node.writer.sync_engine
    for listened in {"checkin", name}:
        event.listen(engine, listened, fail)
    await use()
    for listened in {"checkin", name}:
        event.remove(engine, listened, fail)
    await use()
    await until(lambda: ended(sql_shop, numbers[0]), "the server has ended the session that came back broken")
    await node.close()
    await until(lambda: ended(sql_shop, numbers[1]), "the server has ended the other one")


async def test_callers_that_wait_get_every_place_that_becomes_free(sql_shop: SqlShop) -> None:
    """Two connections come back before a waiting caller runs: the second has no room among the idle ones."""
    node = sql_shop.node(connections=2)
    if node.dialect.single_writer:
        pytest.skip("the only writer of a file has no other beside it")
    node.writer.sync_engine.pool._pool.maxsize = 1  # type: ignore[attr-defined] # one is kept, one is overflow
    node.writer.sync_engine.pool._overflow, node.writer.sync_engine.pool._max_overflow = -1, 1  # type: ignore[attr-defined]
    lent = [await node.writer.connect() for _ in range(2)]
    waiting = [asyncio.ensure_future(node.writer.connect().start()) for _ in range(2)]
    await until(lambda: use_of(node).waiting == 2, "two callers wait")
    await asyncio.gather(*(one.close() for one in lent))
    got = await within(asyncio.gather(*waiting), "both have a connection", patience=2.0)
    assert (use_of(node).in_use, use_of(node).idle) == (2, 0)
    for one in got:
        await one.close()
    assert (use_of(node).in_use, use_of(node).idle) == (0, 1)


async def test_a_caller_that_waits_gets_the_place_of_one_that_does_not_connect(
    sql_shop: SqlShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, inside = sql_shop.node(connections=1), asyncio.Event()
    await node.ping()

    def connect_for_ever(*_: Any, **__: Any) -> None:
        inside.set()
        await_only(forever())

    with monkeypatch.context() as disturbed:
        disturbed.setattr(node, "_connect", connect_for_ever)
        connecting = asyncio.ensure_future(plain(node))
        await reached(inside, "the first caller connects")
        waiting = asyncio.ensure_future(plain(node))
        await until(lambda: use_of(node).waiting == 1, "the second caller waits")
    connecting.cancel()
    await within(waiting, "the second caller connects", patience=2.0)
    assert (use_of(node).in_use, use_of(node).idle) == (0, 1)


@pytest.mark.parametrize("statement", ["BEGIN", "BEGIN; SELECT pg_sleep(1)"])
async def test_a_statement_of_the_driver_that_is_being_cancelled_is_not_lent_on(
    asyncpg: SqlShop, statement: str
) -> None:
    node = asyncpg.node(connections=1)
    connection = await node.writer.connect()
    driver: Any = (await connection.get_raw_connection()).driver_connection

    async def use() -> None:
        try:
            await driver.execute(statement)
        finally:
            await connection.close()

    task = asyncio.ensure_future(run(Cancelling(use(), {1})))
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()
    async with node.writer.connect() as another:
        assert (await another.get_raw_connection()).driver_connection is not driver
        assert (await another.execute(text("SELECT 1"))).scalar_one() == 1


async def test_a_file_is_free_although_a_cursor_of_a_broken_connection_is_kept(sqlite: SqlShop) -> None:
    """While a statement has rows left, an interrupt that came for it interrupts a rollback, too."""
    node = sqlite.node(connections=1)
    connection = await node.writer.connect()
    await connection.execute(text("SELECT 1"))
    driver: Any = (await connection.get_raw_connection()).driver_connection
    unread = await driver.execute("SELECT 1 UNION ALL SELECT 2")
    node.dialect.cut(driver)
    await connection.invalidate()
    await connection.close()
    await within(plain(node), "the next caller has the file", patience=2.0)
    assert unread is not None


@pytest.mark.parametrize("by", ["session", "place"])
@pytest.mark.parametrize("cancelled", [False, True], ids=["closed", "cancelled"])
async def test_what_two_tasks_give_up_at_once_is_not_taken_from_the_next_user(
    sql_shop: SqlShop, monkeypatch: pytest.MonkeyPatch, by: str, cancelled: bool
) -> None:
    """The first still closes the connection when the place has its next user."""
    node = sql_shop.node(connections=1)
    pool = node.writer.sync_engine.pool
    closing, go_on, close = asyncio.Event(), asyncio.Event(), pool._close_connection

    def slowly(connection: Any, *, terminate: bool = False) -> None:
        try:
            if not closing.is_set():
                closing.set()
                await_only(reached(go_on, "the next user has the place"))
        finally:
            close(connection, terminate=terminate)

    monkeypatch.setattr(pool, "_close_connection", slowly)
    user = await node.writer.connect()
    raw: Any = await user.get_raw_connection()
    given_up = raw if by == "session" else raw._connection_record
    first = asyncio.ensure_future(greenlet_spawn(given_up.invalidate))
    await reached(closing, "the first closes the connection")
    await greenlet_spawn(raw.invalidate)

    async with node.writer.connect() as following:
        await following.execute(text("SELECT 1"))
        if cancelled:
            first.cancel()
        go_on.set()
        await within(asyncio.wait({first}), "the first has closed it")
        await following.execute(text("SELECT 1"))
        theirs = (await following.get_raw_connection()).driver_connection
        await following.rollback()
    async with node.writer.connect() as third:
        assert (await third.get_raw_connection()).driver_connection is theirs
    await user.close()
    assert (use_of(node).in_use, use_of(node).idle) == (0, 1)


async def test_a_return_that_fails_late_takes_nothing_from_the_next_user(
    sql_shop: SqlShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another task gives the connection up while its return rolls back."""
    node = sql_shop.node(connections=1)
    if not node.dialect.rolls_back_on_return:
        pytest.skip("its connections are returned without a rollback of SQLAlchemy's")
    dialect: Any = node.writer.sync_engine.dialect
    returning, go_on, roll_back = asyncio.Event(), asyncio.Event(), dialect.do_rollback

    def fail_late(lent: Any) -> None:
        if returning.is_set():
            roll_back(lent)
        else:
            returning.set()
            await_only(reached(go_on, "the next user has the place"))
            raise OSError("the connection is gone")

    user = await node.writer.connect()
    raw: Any = await user.get_raw_connection()
    monkeypatch.setattr(dialect, "do_rollback", fail_late)
    first = asyncio.ensure_future(greenlet_spawn(raw.close))
    await reached(returning, "the first returns the connection")
    await greenlet_spawn(raw.invalidate)

    async with node.writer.connect() as following:
        await following.execute(text("SELECT 1"))
        go_on.set()
        await within(asyncio.wait({first}), "the first has returned")
        await following.execute(text("SELECT 1"))
        assert use_of(node).in_use == 1
        await following.rollback()
    await user.close()
    assert (use_of(node).in_use, use_of(node).idle) == (0, 1)
