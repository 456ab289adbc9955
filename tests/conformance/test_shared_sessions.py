"""A session that is ended while another task is inside a statement on it: an error, and a clean pool."""

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.exc import InvalidRequestError, PendingRollbackError, ResourceClosedError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.util import await_only

from polysaga.databases import SqlNode
from polysaga.databases.dialects.sqlite_file import SQLiteFile
from polysaga.databases.endings import held
from polysaga.databases.lent_sessions import sql_session
from polysaga.errors import DatabaseUnavailable, SessionShared, StepMisused, TransactionLost
from tests.conformance.shops import Refund, Sale, SqlShop, nothing_open, turns
from tests.conformance.test_participant import cancelling, entry, selling
from tests.fixtures.waiting import reached, until, within

Ending = Callable[[AsyncSession], Awaitable[Any]]
_LONG = (
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000000) SELECT count(*) FROM n"
)


class Left:
    """Tasks that a block leaves behind."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Any]] = []

    async def behind(self, work: Awaitable[Any]) -> None:
        """Return when *work* is inside its statement."""
        self.tasks.append(asyncio.ensure_future(work))
        await turns(30)

    async def inside(self, node: SqlNode, session: AsyncSession, work: Awaitable[Any]) -> None:
        """Return when *work* is inside its statement, also if the driver's thread comes late."""
        raw = await (await session.connection()).get_raw_connection()
        lock = node.dialect.statement_lock(raw.dbapi_connection)
        self.tasks.append(asyncio.ensure_future(work))
        await until(lambda: held(lock), "the task is inside its statement")

    async def ends(self) -> list[Any]:
        return await within(asyncio.gather(*self.tasks, return_exceptions=True), "the tasks left behind end")


class Story:
    """A block that has sold something, beside a slow statement, on a pool of one connection."""

    def __init__(self, shop: SqlShop, item: str) -> None:
        self.shop, self.item, self.node, self.left = shop, item, shop.node(connections=1), Left()

    @asynccontextmanager
    async def block(self) -> AsyncIterator[AsyncSession]:
        """Give a block's session, of which another task is inside a slow statement."""
        async with sql_session(self.node, read_only=False) as session:
            await self.shop.sell(session, self.item)
            await self.left.inside(self.node, session, slow(self.shop, session))
            yield session

    async def left_nothing(self) -> list[Any]:
        """Wait for the tasks beside it, see that nothing of the block is left, and return how the tasks ended."""
        ends = await self.left.ends()
        assert await self.shop.sold(self.item) == 0
        await the_next_user_is_served(self.shop, self.node, f"{self.item}-next")
        return ends


def slow(shop: SqlShop, session: AsyncSession) -> Awaitable[Any]:
    if shop.kind.scheme.startswith("sqlite"):
        return session.execute(text(_LONG))
    # Short: servers end it before they look whether the client is gone, and keep its locks as long.
    pause = "SELECT pg_sleep(2)" if shop.kind.scheme.startswith("postgresql") else "SELECT sleep(2)"
    return session.execute(text(pause))


def pages(shop: SqlShop, session: AsyncSession, item: str) -> Awaitable[Any]:
    """Return a statement that takes many turns of the event loop on every kind."""
    rows = [{"receipt": uuid.uuid4().hex, "item": item} for _ in range(200)]
    many = insert(Sale) if shop.kind.mysql else insert(Sale).returning(Sale.receipt)
    return session.execute(many, rows, execution_options={"insertmanyvalues_page_size": 1})


async def the_next_user_is_served(shop: SqlShop, node: Any, item: str) -> None:
    for sold in (1, 2):
        async with sql_session(node, read_only=False) as session:
            await shop.sell(session, item)
        assert await shop.sold(item) == sold
    await nothing_open(shop)


@cancelling
async def test_a_block_that_ends_under_a_statement_commits_nothing_and_raises(
    server_shop: SqlShop, item: str
) -> None:
    node, left = server_shop.node(connections=1), Left()

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await server_shop.sell(session, item)
            await left.behind(slow(server_shop, session))
            await left.behind(server_shop.sell(session, item))  # waits for the first

    with pytest.raises(SessionShared, match="await every task"):
        await within(block(), "the block ends")
    ends = await left.ends()

    assert [isinstance(end, Exception) for end in ends] == [True, True]
    assert await server_shop.sold(item) == 0
    await the_next_user_is_served(server_shop, node, f"{item}-next")


@cancelling
async def test_the_reason_is_the_same_while_another_task_handles_an_error_of_its_own(
    sql_shop: SqlShop, item: str
) -> None:
    """SQLAlchemy wraps every error that it meets on the connection meanwhile."""
    story = Story(sql_shop, item)

    async def block() -> None:
        async with story.block() as session:
            connection: Any = session.sync_session.connection()
            connection._reentrant_error = True

    with pytest.raises(SessionShared, match="await every task"):
        await within(block(), "the block ends")
    await story.left_nothing()


@cancelling
async def test_a_block_that_fails_while_another_task_gives_the_connection_up_ends_at_once(
    sql_shop: SqlShop, item: str
) -> None:
    """One task was cancelled in its statement; the next waits for the connection that the first is to close."""
    story = Story(sql_shop, item)

    async def block() -> None:
        async with story.block() as session:
            await story.left.behind(sql_shop.sell(session, item))
            story.left.tasks[0].cancel()
            await turns(5)
            raise LookupError(item)

    # Unavailable: the first has closed the connection just before the block rolls back.
    with pytest.raises((LookupError, DatabaseUnavailable)):
        await within(block(), "the block ends", patience=10.0)
    assert isinstance((await story.left_nothing())[0], asyncio.CancelledError)


@cancelling
@pytest.mark.parametrize("moments", [0, 1, 3, 5, 20])
async def test_a_block_does_not_end_well_while_another_task_gives_its_connection_up(
    sql_shop: SqlShop, item: str, moments: int
) -> None:
    """A file's driver skips the commit of a closed connection, and that of no transaction, without an error."""
    story = Story(sql_shop, item)

    async def block() -> None:
        async with story.block():
            story.left.tasks[0].cancel()
            await turns(moments)

    # The other two: the other task has closed the connection just before the block commits.
    with pytest.raises((SessionShared, DatabaseUnavailable, TransactionLost)):
        await within(block(), "the block ends", patience=10.0)
    await story.left_nothing()


@cancelling
async def test_what_waits_behind_an_interrupted_write_is_not_committed(sqlite: SqlShop, item: str) -> None:
    """SQLite rolls back the whole transaction then: what comes next would be one of its own."""
    node, left = sqlite.node(connections=1), Left()
    sale = "INSERT INTO sales (receipt, item) VALUES (?, ?)"
    write = text(_LONG.replace("SELECT count(*) FROM n", "INSERT INTO sales SELECT i, i FROM n WHERE i < 0"))

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            connection = await session.connection()
            cursor = await (await connection.get_raw_connection()).driver_connection.cursor()
            await left.inside(node, session, session.execute(write))
            left.tasks.append(asyncio.ensure_future(cursor.execute(sale, (item, item))))
            await turns(5)
            raise LookupError(item)

    with pytest.raises(LookupError, match=item):
        await within(block(), "the block ends", patience=10.0)
    assert all(isinstance(end, BaseException) for end in await left.ends())
    assert await sqlite.sold(item) == 0
    await the_next_user_is_served(sqlite, node, f"{item}-next")


class Stop:
    """Lets a flush stand between its two statements, where the driver is free."""

    def __init__(self, node: SqlNode) -> None:
        self.inside, self.go_on = asyncio.Event(), asyncio.Event()
        event.listen(node.writer.sync_engine, "before_cursor_execute", self._stand)

    def _stand(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO sales"):
            self.inside.set()
            await_only(reached(self.go_on, "the flush goes on"))

    async def begin_flush(self, session: AsyncSession, left: Left) -> None:
        """Return when a task of *left* stands in a flush of *session*, which has statements pending."""
        left.tasks.append(asyncio.ensure_future(session.flush()))
        await reached(self.inside, "the flush stands between its statements")


def both(item: str) -> list[Any]:
    """Return a sale and a refund that one flush writes, the refund first."""
    receipt = uuid.uuid4().hex
    return [Refund(receipt=receipt, item=item), Sale(receipt=receipt, item=item)]


@cancelling
@pytest.mark.parametrize(
    "how", ["at its end", "by its commit", "by its connection's commit", "by session.begin()"]
)
async def test_a_block_does_not_commit_half_of_what_another_task_flushes(
    sql_shop: SqlShop, item: str, how: str
) -> None:
    node, left = sql_shop.node(connections=1), Left()
    stop = Stop(node)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session, AsyncExitStack() as stack:
            if how == "by session.begin()":
                await stack.enter_async_context(session.begin())
            session.add_all(both(item))
            connection = await session.connection()
            await stop.begin_flush(session, left)
            if how == "by its commit":
                await session.commit()
            elif how == "by its connection's commit":
                await connection.commit()

    ending = asyncio.ensure_future(block())
    try:
        with pytest.raises(SessionShared):
            await within(ending, "the block ends", patience=40.0)
    finally:
        stop.go_on.set()
    assert isinstance((await left.ends())[0], Exception)
    assert (await sql_shop.sold(item), await sql_shop.refunded(item)) == (0, 0)
    await the_next_user_is_served(sql_shop, node, f"{item}-next")


@cancelling
@pytest.mark.parametrize("by", ["its session", "its connection"])
@pytest.mark.parametrize("again", [False, True], ids=["and raises", "and commits again"])
async def test_a_flush_that_goes_on_after_the_refusal_commits_nothing(
    sql_shop: SqlShop, item: str, again: bool, by: str
) -> None:
    """SQLite would commit each statement after the rollback by itself, the other servers in a new transaction."""
    node, left = sql_shop.node(connections=1), Left()
    stop = Stop(node)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            session.add_all(both(item))
            connection = await session.connection()
            ended: AsyncSession | AsyncConnection = session if by == "its session" else connection
            await stop.begin_flush(session, left)
            try:
                await ended.commit()
            except SessionShared:
                stop.go_on.set()
                await left.ends()
                if not again:
                    raise
            await ended.commit()

    with pytest.raises((SessionShared, TransactionLost, InvalidRequestError)):
        await within(block(), "the block ends", patience=40.0)
    assert (await sql_shop.sold(item), await sql_shop.refunded(item)) == (0, 0)
    await the_next_user_is_served(sql_shop, node, f"{item}-next")


@cancelling
@pytest.mark.parametrize("by", ["its session", "its connection"])
@pytest.mark.parametrize(
    "order", ["flush rollback sell", "rollback flush sell", "rollback sell flush", "rollback begin flush"]
)
async def test_nothing_of_a_refused_flush_is_committed_with_what_comes_later(
    sql_shop: SqlShop, item: str, order: str, by: str
) -> None:
    """The code swallows the refusal, rolls back, and goes on beside the flush."""
    node, left = sql_shop.node(connections=1), Left()
    stop = Stop(node)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            session.add_all(both(item))
            connection = await session.connection()
            used: AsyncSession | AsyncConnection = session if by == "its session" else connection
            await stop.begin_flush(session, left)
            with pytest.raises(SessionShared):
                await used.commit()
            for act in order.split():
                with suppress(SessionShared, TransactionLost, InvalidRequestError):
                    if act == "flush":
                        stop.go_on.set()
                        await left.ends()
                    elif act == "rollback":
                        await used.rollback()
                    elif act == "begin":
                        await used.begin()
                    else:
                        await used.execute(insert(Refund), {"receipt": uuid.uuid4().hex, "item": f"{item}-later"})
            await used.commit()

    with suppress(SessionShared, TransactionLost, InvalidRequestError):
        await within(block(), "the block ends", patience=40.0)
    stop.go_on.set()
    await left.ends()
    assert (await sql_shop.sold(item), await sql_shop.refunded(item)) == (0, 0)
    await the_next_user_is_served(sql_shop, node, f"{item}-next")


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_connection_whose_transaction_another_task_has_ended_is_used_on(
    sql_shop: SqlShop, item: str, end: str
) -> None:
    """As by `asyncio.wait_for(connection.commit(), 5)`, which makes a task of its own in Python 3.11."""
    node = sql_shop.node(connections=1)
    async with node.writer.connect() as connection:
        for number in range(2):
            await sql_shop.sell(connection, f"{item}-{number}")
            await asyncio.ensure_future(getattr(connection, end)())
        await sql_shop.sell(connection, f"{item}-2")
        await connection.commit()
    sold = [await sql_shop.sold(f"{item}-{number}") for number in range(3)]
    assert sold == ([1, 1, 1] if end == "commit" else [0, 0, 1])
    await the_next_user_is_served(sql_shop, node, f"{item}-next")


@cancelling
async def test_a_connection_is_used_on_once_the_refused_flush_has_ended(sql_shop: SqlShop, item: str) -> None:
    node, left = sql_shop.node(connections=1), Left()
    stop = Stop(node)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            session.add_all(both(item))
            connection = await session.connection()
            await stop.begin_flush(session, left)
            with pytest.raises(SessionShared):
                await connection.commit()
            stop.go_on.set()
            await left.ends()
            await session.rollback()
            await connection.rollback()
            await sql_shop.sell(session, f"{item}-later")

    await within(block(), "the block ends", patience=40.0)
    sold = [await sql_shop.sold(one) for one in (item, f"{item}-later")]
    assert (sold, await sql_shop.refunded(item)) == ([0, 1], 0)
    await the_next_user_is_served(sql_shop, node, f"{item}-next")


@cancelling
@pytest.mark.parametrize("moments", [0, 1, 2, 5])
async def test_a_task_that_is_cancelled_in_its_flush_is_cancelled_although_the_block_ends(
    sql_shop: SqlShop, item: str, moments: int
) -> None:
    """SQLAlchemy rolls the flush back, finds that the block has done so, and tells that in its place."""
    node, left = sql_shop.node(connections=1), Left()
    stop = Stop(node)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            session.add_all(both(item))
            await stop.begin_flush(session, left)
            left.tasks[0].cancel()
            await turns(moments)
            raise LookupError(item)

    with pytest.raises(LookupError, match=item):
        await within(block(), "the block ends", patience=40.0)
    assert isinstance((await left.ends())[0], asyncio.CancelledError)
    assert left.tasks[0].cancelled()
    stop.go_on.set()
    assert (await sql_shop.sold(item), await sql_shop.refunded(item)) == (0, 0)
    await the_next_user_is_served(sql_shop, node, f"{item}-next")


@cancelling
async def test_a_step_does_not_commit_half_of_what_another_task_flushes(sql_shop: SqlShop, item: str) -> None:
    participant, left = sql_shop.participant(connections=1), Left()
    stop = Stop(participant.node)

    async def work(session: AsyncSession) -> str:
        session.add_all(both(item))
        await stop.begin_flush(session, left)
        return "null"

    ending = asyncio.ensure_future(participant.act(entry(), work))
    try:
        with pytest.raises(StepMisused, match="a task that a step left behind"):
            await within(ending, "the step ends", patience=40.0)
    finally:
        stop.go_on.set()
    await left.ends()
    assert (await sql_shop.sold(item), await sql_shop.refunded(item)) == (0, 0)


@cancelling
async def test_the_others_of_a_failed_gather_leave_nothing_in_the_pool(server_shop: SqlShop, item: str) -> None:
    node, left = server_shop.node(connections=1), Left()

    async def fail() -> None:
        await turns(30)
        raise LookupError

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await server_shop.sell(session, item)
            left.tasks.append(asyncio.ensure_future(slow(server_shop, session)))
            await asyncio.gather(fail(), left.tasks[0])

    with pytest.raises(LookupError):
        await within(block(), "the block ends")

    assert isinstance((await left.ends())[0], Exception)
    assert await server_shop.sold(item) == 0
    await the_next_user_is_served(server_shop, node, f"{item}-next")


async def _rollback(session: AsyncSession) -> None:
    await session.rollback()


async def _close(session: AsyncSession) -> None:
    await session.close()


@cancelling
@pytest.mark.parametrize("end", [_rollback, _close])
async def test_a_session_may_be_used_on_after_its_statement_was_given_up(
    server_shop: SqlShop, item: str, end: Ending
) -> None:
    node, left = server_shop.node(connections=1), Left()

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await server_shop.sell(session, item)
            await left.behind(slow(server_shop, session))
            await end(session)
            await server_shop.sell(session, f"{item}-again")

    await within(block(), "the block ends")

    assert isinstance((await left.ends())[0], Exception)
    assert await server_shop.sold(item) == 0
    assert await server_shop.sold(f"{item}-again") == 1
    await the_next_user_is_served(server_shop, node, f"{item}-next")


@cancelling
@pytest.mark.parametrize("begun", [False, True], ids=["commit", "begin"])
async def test_a_commit_within_the_block_is_refused_as_well(server_shop: SqlShop, item: str, begun: bool) -> None:
    node, left = server_shop.node(connections=1), Left()

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            if begun:
                async with session.begin():
                    await server_shop.sell(session, item)
                    await left.behind(slow(server_shop, session))
            else:
                await server_shop.sell(session, item)
                await left.behind(slow(server_shop, session))
                await session.commit()

    with pytest.raises(SessionShared):
        await within(block(), "the block ends")

    assert isinstance((await left.ends())[0], Exception)
    assert await server_shop.sold(item) == 0
    await the_next_user_is_served(server_shop, node, f"{item}-next")


@cancelling
async def test_a_reader_that_ends_under_a_statement_leaves_nothing_in_the_pool(
    server_shop: SqlShop, item: str
) -> None:
    node, left = server_shop.node(connections=1), Left()

    async def block() -> None:
        async with sql_session(node, read_only=True) as session:
            await session.execute(text("SELECT 1"))
            await left.behind(slow(server_shop, session))

    with suppress(SessionShared):
        await within(block(), "the block ends")
    assert isinstance((await left.ends())[0], Exception)

    async with sql_session(node, read_only=True) as session:
        assert (await session.execute(text("SELECT 7"))).scalar() == 7
    await nothing_open(server_shop)


@cancelling
async def test_what_a_statement_writes_page_by_page_is_committed_whole_or_not_at_all(
    sql_shop: SqlShop, item: str
) -> None:
    node = sql_shop.node(connections=1)
    for rounds in range(12):
        left, sold = Left(), f"{item[:20]}-{rounds}"

        async def block() -> None:
            async with sql_session(node, read_only=False) as session:
                await sql_shop.sell(session, f"{sold}-own")  # noqa: B023 - run before the next round
                left.tasks.append(asyncio.ensure_future(pages(sql_shop, session, sold)))  # noqa: B023
                await turns(rounds)  # noqa: B023

        with suppress(Exception):
            await within(block(), "the block ends")
        own, paged = await sql_shop.sold(f"{sold}-own"), await sql_shop.sold(sold)
        await left.ends()

        assert paged in {0, 200}
        assert own or not paged
        assert await sql_shop.sold(sold) == paged
        await the_next_user_is_served(sql_shop, node, f"{sold}-next")


@cancelling
async def test_a_task_that_goes_on_writing_is_refused_while_the_block_ends(sql_shop: SqlShop, item: str) -> None:
    node = sql_shop.node(connections=1)
    for rounds in range(20):
        left, sold = Left(), f"{item[:20]}-{rounds}"

        async def go_on(session: AsyncSession) -> None:
            for _ in range(100):
                await turns(1 + rounds % 7)  # noqa: B023 - run before the next round
                with suppress(Exception):
                    await sql_shop.sell(session, sold)  # noqa: B023

        async def block() -> None:
            async with sql_session(node, read_only=False) as session:
                await sql_shop.sell(session, f"{sold}-own")  # noqa: B023
                left.tasks.append(asyncio.ensure_future(go_on(session)))  # noqa: B023
                await turns(rounds)  # noqa: B023

        with suppress(Exception):
            await within(block(), "the block ends")
        own, others = await sql_shop.sold(f"{sold}-own"), await sql_shop.sold(sold)
        await left.ends()

        assert own or not others
        assert await sql_shop.sold(sold) == others
        await the_next_user_is_served(sql_shop, node, f"{sold}-next")


@cancelling
async def test_a_long_statement_on_a_file_is_interrupted(sqlite: SqlShop, item: str) -> None:
    story = Story(sqlite, item)

    async def block() -> None:
        async with story.block():
            pass

    with pytest.raises(SessionShared):
        await within(block(), "the block ends", patience=10.0)
    assert isinstance((await story.left_nothing())[0], Exception)


@cancelling
async def test_an_interrupt_that_comes_before_its_statement_is_repeated(
    sqlite: SqlShop, item: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread has seen that the connection is kept, and has not begun the statement: SQLite forgets it then."""
    node, in_thread, interrupted = sqlite.node(connections=1), asyncio.Event(), threading.Event()
    loop, refuse, cut = asyncio.get_running_loop(), SQLiteFile.refuse_if_given_up, SQLiteFile.cut
    checks = list[str]()

    def refuse_then_stand(file: SQLiteFile) -> None:
        refuse(file)
        if checks and checks.pop(0) == "the last before the statement":
            loop.call_soon_threadsafe(in_thread.set)
            interrupted.wait(20)

    def interrupt(file: SQLiteFile) -> None:
        cut(file)
        interrupted.set()

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await sqlite.sell(session, item)
            checks.extend(("the cursor is made", "the last before the statement"))
            await slow(sqlite, session)

    monkeypatch.setattr(SQLiteFile, "refuse_if_given_up", refuse_then_stand)
    monkeypatch.setattr(SQLiteFile, "cut", interrupt)
    task = asyncio.ensure_future(block())
    await reached(in_thread, "the thread is about to execute")
    task.cancel()
    await within(asyncio.wait({task}), "the caller is cancelled", patience=10.0)
    assert task.cancelled()
    assert await sqlite.sold(item) == 0
    await the_next_user_is_served(sqlite, node, f"{item}-next")


@cancelling
async def test_a_caller_that_is_cancelled_in_a_long_statement_is_cancelled_at_once(
    sql_shop: SqlShop, item: str
) -> None:
    """On a file the rollback, which frees the lock, waited for the end of the statement."""
    story = Story(sql_shop, item)

    async def block() -> None:
        async with story.block():
            story.left.tasks[0].cancel()
            await within(asyncio.wait(story.left.tasks), "the caller is cancelled", patience=10.0)
            raise LookupError(item)

    with pytest.raises(LookupError, match=item):
        await block()
    await story.left_nothing()


@cancelling
@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed"])
async def test_a_savepoint_that_waits_behind_a_slow_statement_does_not_hold_the_block_up(
    server_shop: SqlShop, item: str, fails: bool
) -> None:
    node, left = server_shop.node(connections=1), Left()

    async def part(session: AsyncSession) -> None:
        async with session.begin_nested():
            await server_shop.sell(session, item)

    async def block() -> None:
        async with sql_session(node, read_only=False) as session:
            await server_shop.sell(session, item)
            await left.behind(slow(server_shop, session))
            await left.behind(part(session))
            if fails:
                raise LookupError

    with pytest.raises(LookupError if fails else SessionShared):
        await within(block(), "the block ends", patience=10.0)
    assert [isinstance(end, Exception) for end in await left.ends()] == [True, True]
    assert await server_shop.sold(item) == 0
    await the_next_user_is_served(server_shop, node, f"{item}-next")


@cancelling
async def test_a_task_that_writes_on_the_connection_of_a_session_makes_no_block_hang(
    sql_shop: SqlShop, item: str
) -> None:
    """MySQL's pool sends a ROLLBACK of its own after the end: the task read its answer."""
    node = sql_shop.node(connections=1)
    for rounds in range(25):
        left, sold = Left(), f"{item[:20]}-{rounds}"

        async def go_on(connection: AsyncConnection) -> None:
            for _ in range(1_000):
                await turns(1)
                try:
                    await sql_shop.sell(connection, sold)  # noqa: B023 - run before the next round
                except (ResourceClosedError, PendingRollbackError):
                    return
                except (SessionShared, SQLAlchemyError):
                    continue

        async def block() -> None:
            async with sql_session(node, read_only=False) as session:
                await sql_shop.sell(session, f"{sold}-own")  # noqa: B023
                left.tasks.append(asyncio.ensure_future(go_on(await session.connection())))  # noqa: B023
                await turns(10 + 5 * rounds)  # noqa: B023

        with suppress(SessionShared):
            await within(block(), "the block ends", patience=10.0)
        own, others = await sql_shop.sold(f"{sold}-own"), await sql_shop.sold(sold)
        await left.ends()
        assert own or not others
        assert await sql_shop.sold(sold) == others
        await the_next_user_is_served(sql_shop, node, f"{sold}-next")


@pytest.mark.parametrize("moments", [0, 1, 2])
async def test_nothing_is_written_while_the_isolation_level_is_put_back(
    sql_shop: SqlShop, item: str, moments: int
) -> None:
    node, inside, left = sql_shop.node(connections=1), asyncio.Event(), Left()
    dialect: Any = node.writer.sync_engine.dialect
    put_back = dialect.reset_isolation_level

    def put_back_slowly(connection: Any) -> None:
        inside.set()
        put_back(connection)

    dialect.reset_isolation_level = put_back_slowly

    async def late(connection: AsyncConnection) -> None:
        await reached(inside, "the level is put back")
        await turns(moments)
        await sql_shop.sell(connection, f"{item}-late")

    async with sql_session(node, read_only=False) as session:
        connection = await session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        await sql_shop.sell(session, item)
        left.tasks.append(asyncio.ensure_future(late(connection)))
        await turns(3)
    await the_next_user_is_served(sql_shop, node, f"{item}-next")

    assert isinstance((await left.ends())[0], SessionShared | SQLAlchemyError)
    assert await sql_shop.sold(item) == 1
    assert await sql_shop.sold(f"{item}-late") == 0


@cancelling
async def test_the_next_user_is_not_refused_for_a_step_that_was_closed_late(
    server_shop: SqlShop, item: str
) -> None:
    participant, left = server_shop.participant(connections=1), Left()
    node = participant.node
    await participant.act(entry(), selling(server_shop, "the first"))

    async def part(session: AsyncSession) -> None:
        async with session.begin_nested():
            await server_shop.sell(session, f"{item}-left")

    async def work(session: AsyncSession) -> str:
        await server_shop.sell(session, item)
        await left.behind(slow(server_shop, session))
        await left.behind(part(session))
        raise LookupError

    step = asyncio.ensure_future(participant.act(entry(), work))

    async def is_back() -> bool:
        return len(left.tasks) == 2 and node.pools[0].idle == 1

    await until(is_back, "the connection is back in the pool, or was replaced")
    await the_next_user_is_served(server_shop, node, f"{item}-next")
    with pytest.raises(LookupError):
        await within(step, "the step ends")
    await left.ends()
    assert await server_shop.sold(item) == 0
