"""SQLite has one writer: a step that waits for what it holds itself gets an error at once."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import CursorResult, text
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError

from polysaga import Databases, Refused, Saga, Sagas, SqlDatabase, StepContext
from polysaga.config import Settings, parse_settings
from polysaga.databases import SqlNode, lent_sessions
from polysaga.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    PoolExhausted,
    SagaFailed,
    SessionOver,
    SessionShared,
    StepMisused,
)
from polysaga.migrations import migrate
from polysaga.sagas.participants.lending import lend
from polysaga.sagas.participants.watching import watch
from tests.fixtures.waiting import pause, reached, until, within

Does = Callable[["Shop", Any], Awaitable[object]]


class Shop:
    """A saga whose only step does what the test says, another one, and two files of which one has two handles."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.orders, self.again, self.points = SqlDatabase("orders"), SqlDatabase("again"), SqlDatabase("points")
        self.databases = Databases(self.orders, self.again, self.points)
        self.outer, self.inner = Saga("outer", input=int), Saga("inner", input=int)
        self.does: Does = Shop.nothing

        @self.outer.step(self.orders, kind="pivot")
        async def work(db: Any, number: int, ctx: StepContext) -> None:
            await self.does(self, db)

        @self.inner.step(self.points, kind="pivot")
        async def rest(db: Any, number: int, ctx: StepContext) -> None: ...

        self.sagas = Sagas(self.databases, self.outer, self.inner, journal=self.orders)

    async def nothing(self, db: Any) -> None: ...

    async def run(self, does: Does) -> None:
        self.does = does
        urls = {"orders": "orders.db", "again": "orders.db", "points": "points.db"}
        files = {name: {"url": f"sqlite+aiosqlite:///{self.directory}/{file}"} for name, file in urls.items()}
        async with self.databases.open(parse_settings({"databases": files})):
            await migrate(self.sagas)
            async with self.sagas.open():
                await within(self.sagas.run(self.outer, 1), "the saga ends", patience=3.0)


async def own_writer(shop: Shop, db: Any) -> None:
    async with shop.orders.writer() as mine:
        await mine.execute(text("SELECT 1"))


async def own_writer_of_another_handle(shop: Shop, db: Any) -> None:
    async with shop.again.writer() as mine:
        await mine.execute(text("SELECT 1"))


async def own_writer_in_a_task(shop: Shop, db: Any) -> None:
    await asyncio.gather(own_writer(shop, db))


async def another_saga(shop: Shop, db: Any) -> None:
    await shop.sagas.run(shop.inner, 1)


async def another_start(shop: Shop, db: Any) -> None:
    await shop.sagas.start(shop.inner, 1)


@pytest.mark.parametrize(
    ("does", "told"),
    [
        (own_writer, "opened a writer of its own.*'orders'.*use the session that the step was given"),
        (own_writer_of_another_handle, "opened a writer of its own.*'again'"),
        (own_writer_in_a_task, "opened a writer of its own"),
        (another_saga, "started saga 'inner', whose journal is on the SQLite file of database 'orders'.*tx="),
        (another_start, "started saga 'inner'"),
    ],
)
async def test_a_step_that_waits_for_itself_is_told_so_at_once(tmp_path: Path, does: Does, told: str) -> None:
    with pytest.raises(SagaFailed, match=told):
        await Shop(tmp_path).run(does)


async def test_what_does_not_wait_for_the_step_is_allowed(tmp_path: Path) -> None:
    left: list[asyncio.Task[None]] = []
    over = asyncio.Event()

    async def afterwards(shop: Shop) -> None:
        await reached(over, "the step is over")
        await own_writer(shop, None)

    async def allowed(shop: Shop, db: Any) -> None:
        async with shop.orders.reader() as reading, shop.points.writer() as writing:
            await reading.execute(text("SELECT 1"))
            await writing.execute(text("SELECT 1"))
        await shop.sagas.start(shop.inner, 1, tx=db)
        left.append(asyncio.ensure_future(afterwards(shop)))

    shop = Shop(tmp_path)

    async def and_then(shop: Shop, db: Any) -> None:
        await allowed(shop, db)

    shop.does = and_then
    urls = {"orders": "orders.db", "again": "orders.db", "points": "points.db"}
    files = {name: {"url": f"sqlite+aiosqlite:///{tmp_path}/{file}"} for name, file in urls.items()}
    async with shop.databases.open(parse_settings({"databases": files})):
        await migrate(shop.sagas)
        async with shop.sagas.open():
            await shop.sagas.run(shop.outer, 1, timeout=10)
            over.set()
            await within(asyncio.gather(*left), "the task that was left behind writes")


async def test_a_writer_inside_a_writer_is_told_of_the_one_connection(tmp_path: Path) -> None:
    orders = SqlDatabase("orders")
    url = f"sqlite+aiosqlite:///{tmp_path}/orders.db"
    settings = parse_settings({"databases": {"orders": {"url": url, "pool": {"acquire_timeout": 0.05}}}})
    async with Databases(orders).open(settings), orders.writer() as outer:
        await outer.execute(text("SELECT 1"))
        with pytest.raises(PoolExhausted, match=r"the one connection.*open no session inside another"):
            async with orders.writer() as inner:
                await inner.execute(text("SELECT 1"))


@contextmanager
def used_elsewhere(file: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """Have another program write to a new *file* that is not in WAL mode yet."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (id INTEGER)")
        other.execute(f"BEGIN {mode}")
        yield other


def settings_of(file: Path, **own: Any) -> Settings:
    return parse_settings({"databases": {"orders": {"url": f"sqlite+aiosqlite:///{file}", **own}}})


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Return an event that is set when SQLite has, most likely, refused to turn a file to WAL."""
    refused, execute = asyncio.Event(), aiosqlite.Connection.execute_fetchall

    async def note(self: Any, sql: str, *values: Any) -> Any:
        if "journal_mode" in sql:
            asyncio.get_running_loop().call_later(0.1, refused.set)
        return await execute(self, sql, *values)

    monkeypatch.setattr(aiosqlite.Connection, "execute_fetchall", note)
    return refused


@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
async def test_a_new_file_is_opened_as_soon_as_another_program_lets_it_go(
    tmp_path: Path, mode: str, refused: asyncio.Event
) -> None:
    file, orders = tmp_path / "orders.db", SqlDatabase("orders")
    with used_elsewhere(file, mode) as other:
        async with AsyncExitStack() as stack:
            opening = asyncio.ensure_future(stack.enter_async_context(Databases(orders).open(settings_of(file))))
            await reached(refused, "the connection wants WAL mode")
            assert not opening.done()
            other.execute("COMMIT")
            await within(opening, "the file is free")
        with closing(sqlite3.connect(file)) as later:
            assert later.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
async def test_a_new_file_that_another_program_keeps_is_waited_for_as_long_as_a_lock(
    tmp_path: Path, mode: str
) -> None:
    file = tmp_path / "orders.db"
    with used_elsewhere(file, mode):
        one, begun = settings_of(file, lock_timeout=0.2, pool={"connect_timeout": 0.2}), time.monotonic()
        with pytest.raises(
            DatabaseUnavailable, match=r"locked by another program, for longer than databases.orders.lock_timeout"
        ):
            async with Databases(SqlDatabase("orders")).open(one):
                pass
        assert 0.2 <= time.monotonic() - begun < 3


@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
async def test_a_wait_for_a_new_file_can_be_cancelled(tmp_path: Path, mode: str, refused: asyncio.Event) -> None:
    file = tmp_path / "orders.db"
    settings = settings_of(file, lock_timeout=60.0).databases["orders"]
    node = SqlNode("orders", "primary", f"sqlite+aiosqlite:///{file}", settings)
    with used_elsewhere(file, mode):
        asking = asyncio.ensure_future(node.ping())
        await reached(refused, "the connection wants WAL mode")
        asking.cancel()
        await within(asyncio.wait([asking]), "the wait is cancelled")
        assert asking.cancelled()
        await until(lambda: not workers(), "SQLite's thread has ended", patience=10.0)
    await node.close()


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "connection_worker" in thread.name]


async def test_a_connection_waits_for_locks_when_its_file_is_in_wal_mode(tmp_path: Path) -> None:
    file = tmp_path / "orders.db"
    node = SqlNode("orders", "primary", f"sqlite+aiosqlite:///{file}", settings_of(file).databases["orders"])
    for engine in (node.reader, node.writer):
        async with engine.connect() as connection:
            assert (await connection.exec_driver_sql("PRAGMA busy_timeout")).scalar() == 5000
    await node.close()


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "orders.db"
    file.write_text("id,name\n1,Ada\n" * 100)
    with pytest.raises(ConfigurationError, match=r"file is not a database.*correct databases.orders.url"):
        async with Databases(SqlDatabase("orders")).open(settings_of(file)):
            pass
    await until(lambda: not workers(), "SQLite's thread has ended", patience=10.0)


async def two_tasks_at_once(_: Shop | None, db: Any) -> None:
    await asyncio.gather(db.execute(text("SELECT 1")), db.execute(text("SELECT 2")))


async def test_a_step_that_uses_its_session_in_two_tasks_costs_no_connection(tmp_path: Path) -> None:
    """The second task is refused while the first one begins, which goes on when the step has failed."""
    shop = Shop(tmp_path)
    with pytest.raises(SagaFailed, match="concurrent operations are not permitted"):
        await shop.run(two_tasks_at_once)
    await shop.run(Shop.nothing)


async def test_a_writer_that_is_used_in_two_tasks_gives_its_connection_back(tmp_path: Path) -> None:
    shop = SqlDatabase("shop")
    known = parse_settings({"databases": {"shop": {"url": f"sqlite+aiosqlite:///{tmp_path}/shop.db"}}})
    async with Databases(shop).open(known):
        for _ in range(2):
            with pytest.raises(InvalidRequestError, match="concurrent operations are not permitted"):
                async with shop.writer() as db:
                    await within(two_tasks_at_once(None, db), "the tasks end")
        async with shop.writer() as db:
            await within(db.execute(text("SELECT 1")), "the writer is free", patience=3.0)


async def test_a_session_ends_although_a_task_of_its_own_waits_longer_for_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lent_sessions, "_PATIENCE", 0.1)
    orders, left = SqlDatabase("orders"), list[asyncio.Future[Any]]()
    file = tmp_path / "orders.db"
    async with Databases(orders).open(settings_of(file, lock_timeout=60.0)):
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")

            async def leave_and_fail() -> None:
                async with orders.writer() as db:
                    left.append(asyncio.ensure_future(db.execute(text("SELECT 1"))))
                    await pause()
                    raise LookupError

            with pytest.raises(LookupError):  # the program's own
                await leave_and_fail()
            assert not left[0].done()
            other.execute("COMMIT")
        (outcome,) = await within(
            asyncio.gather(*left, return_exceptions=True), "the other task has begun, too late"
        )
        assert isinstance(outcome, CursorResult | SessionShared | SQLAlchemyError), outcome
        async with orders.writer() as db:
            await within(db.execute(text("SELECT 1")), "the writer is free", patience=10.0)


async def test_a_task_that_outlives_a_refused_step_writes_nothing(tmp_path: Path) -> None:
    """It gets its connection while the step's session waits to close, when the step is over already."""
    file, left = tmp_path / "orders.db", list[asyncio.Task[None]]()
    node = SqlNode("orders", "primary", f"sqlite+aiosqlite:///{file}", settings_of(file).databases["orders"])
    watch(node)
    async with node.writer.begin() as connection:
        await connection.execute(text("CREATE TABLE written (id INTEGER)"))

    async def write(session: Any) -> None:
        await session.execute(text("INSERT INTO written VALUES (1)"))
        await session.commit()

    async def refuse() -> None:
        async with lend(node) as session:
            left.append(asyncio.ensure_future(write(session)))
            await pause()
            raise Refused("sold out")

    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        asyncio.get_running_loop().call_later(0.2, other.execute, "COMMIT")
        with pytest.raises(Refused):
            await refuse()
        (error,) = await within(asyncio.gather(*left, return_exceptions=True), "the task has ended")
        assert isinstance(error, StepMisused | SQLAlchemyError)
        assert other.execute("SELECT count(*) FROM written").fetchone() == (0,)
    assert not node.in_use
    await node.close()


async def test_a_task_that_goes_on_beside_a_failed_block_takes_no_connection_with_it(tmp_path: Path) -> None:
    """Between the end of `close` and that of the block it could begin anew: about one round in ten did."""
    orders = SqlDatabase("orders")

    async def go_on(session: Any) -> None:
        while True:  # until the session says that it is over, however long the block takes to end
            with suppress(SQLAlchemyError):
                await session.execute(text("SELECT 1"))
            await asyncio.sleep(0)

    async def fail(moments: int) -> None:
        async with orders.writer() as session:
            left.append(asyncio.ensure_future(go_on(session)))
            for _ in range(moments):
                await asyncio.sleep(0)
            raise ZeroDivisionError

    left: list[asyncio.Task[None]] = []
    async with Databases(orders).open(settings_of(tmp_path / "orders.db", pool={"acquire_timeout": 1.0})):
        for number in range(40):
            with pytest.raises((ZeroDivisionError, SQLAlchemyError)):
                await fail(number)
            with pytest.raises((SessionOver, SessionShared)):
                await within(left.pop(), "the task has ended")
            assert not orders.primary.in_use, f"round {number}"
