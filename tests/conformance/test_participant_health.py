"""After every failure the pool is whole: one connection, and the next step works on it."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga.databases import Fault
from polysaga.errors import StepMisused
from polysaga.sagas.participants import Participant
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark
from tests.conformance.shops import Shop, SqlShop, nothing_open, turns
from tests.conformance.test_participant import cancelling, entry, refunding, row_of, selling
from tests.fixtures.waiting import forever, until

Failing = Callable[[Shop, Participant], Awaitable[None]]

DEFERRED = {
    "postgresql": "CREATE TABLE IF NOT EXISTS tags (sale varchar(64) "
    "REFERENCES sales (receipt) DEFERRABLE INITIALLY DEFERRED)",
    "sqlite": "CREATE TABLE IF NOT EXISTS tags (sale varchar(64) "
    "REFERENCES sales (receipt) DEFERRABLE INITIALLY DEFERRED)",
}


async def _code_raises(shop: Shop, participant: Participant) -> None:
    async def work(session: Any) -> str:
        await shop.sell(session, "raises")
        raise LookupError

    await participant.act(entry(), work)


async def _code_meets_its_own_key(shop: Shop, participant: Participant) -> None:
    receipt = uuid4().hex

    async def work(session: Any) -> str:
        await shop.sell(session, "twice", receipt)
        await shop.sell(session, "twice", receipt)
        return "null"

    await participant.act(entry(), work)


async def _row_exists(shop: Shop, participant: Participant) -> None:
    step = entry()
    await participant.undo(step, None)
    await participant.act(step, selling(shop, "blocked"))


async def _compensation_raises(shop: Shop, participant: Participant) -> None:
    step = entry()
    await participant.act(step, selling(shop, "refunded"))

    async def work(session: Any, _: str) -> None:
        await shop.refund(session, "refunded")
        raise LookupError

    await participant.undo(step, work)


async def _step_runs_out_of_time(shop: Shop, participant: Participant) -> None:
    await participant.look(uuid4(), [])  # connected: PyMongo may swallow a cancellation while it connects

    async def work(session: Any) -> str:
        await shop.sell(session, "slow")
        await forever()
        return "null"

    async with asyncio.timeout(0.05):
        await participant.act(entry(), work)


async def _step_swallows_its_cancellation(shop: Shop, participant: Participant) -> None:
    async def work(session: Any) -> str:
        await shop.sell(session, "swallowed")
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with suppress(asyncio.CancelledError):
            await shop.sell(session, "swallowed")
        await shop.sell(session, "swallowed")
        return "null"

    await participant.act(entry(), work)
    raise LookupError("a step that swallows may go through; then it is whole")


FAILURES: list[Failing] = [
    _code_raises,
    _code_meets_its_own_key,
    _row_exists,
    _compensation_raises,
    _step_runs_out_of_time,
    _step_swallows_its_cancellation,
]


@pytest.mark.parametrize("fails", FAILURES, ids=lambda fails: fails.__name__.strip("_"))
@cancelling
async def test_the_only_connection_works_after_a_failure(shop: Shop, item: str, fails: Failing) -> None:
    participant = shop.participant(connections=1)

    with pytest.raises(Exception):  # noqa: B017, PT011
        await fails(shop, participant)

    await nothing_open(shop)
    step = entry()
    await participant.act(step, selling(shop, item))
    await participant.undo(step, refunding(shop, item))
    assert (await shop.sold(item), await shop.refunded(item)) == (1, 1)
    await nothing_open(shop)


@cancelling
async def test_a_step_cancelled_twice_gives_its_connection_back(shop: Shop, item: str) -> None:
    participant = shop.participant(connections=1)
    await participant.act(entry(), selling(shop, item))
    for before in (1, 3, 5, 9, 14, 20, 30, 45):
        for between in (1, 2, 4):
            sale = uuid4().hex
            task = asyncio.ensure_future(participant.act(entry(), selling(shop, sale)))
            await turns(before)
            task.cancel()
            await turns(between)
            task.cancel()
            await asyncio.wait([task])

    step = entry()
    await participant.act(step, selling(shop, item))
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, '"sold"')
    await nothing_open(shop)


@cancelling
async def test_a_cancelled_step_ends_as_cancelled_whatever_the_driver_says(shop: Shop, item: str) -> None:
    participant = shop.participant(connections=1)
    await participant.act(entry(), selling(shop, item))
    for before in range(1, 90, 3):
        task = asyncio.ensure_future(participant.act(entry(), selling(shop, item)))
        await turns(before)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None, f"cancelled after {before} turns"


@pytest.mark.parametrize("when", ["before its last statement", "before the row"])
async def test_a_connection_killed_inside_a_step_leaves_nothing_and_is_replaced(
    server_shop: SqlShop, item: str, when: str
) -> None:
    participant, step = server_shop.participant(connections=1), entry()

    async def work(session: Any) -> str:
        await server_shop.sell(session, item)
        await kill(server_shop, await backend(server_shop, session))
        if when == "before its last statement":
            await server_shop.sell(session, item)
        return "null"

    with pytest.raises(Exception) as raised:  # noqa: PT011
        await participant.act(step, work)

    assert participant.fault(raised.value) is Fault.DISCONNECTED
    assert await server_shop.sold(item) == 0
    assert await participant.undo(step, None) == LedgerRow(Mark.BLOCKED, None)
    await participant.act(entry(), selling(server_shop, item))
    assert await server_shop.sold(item) == 1


async def test_a_connection_killed_inside_a_compensation_leaves_the_step_done(
    server_shop: SqlShop, item: str
) -> None:
    participant, step = server_shop.participant(connections=1), entry()
    await participant.act(step, selling(server_shop, item))

    async def work(session: Any, _: str) -> None:
        await server_shop.refund(session, item)
        await kill(server_shop, await backend(server_shop, session))

    with pytest.raises(Exception) as raised:  # noqa: PT011
        await participant.undo(step, work)

    assert participant.fault(raised.value) is Fault.DISCONNECTED
    assert await server_shop.refunded(item) == 0
    await participant.undo(step, refunding(server_shop, item))
    assert await server_shop.refunded(item) == 1


async def test_a_commit_that_fails_leaves_neither_effect_nor_row_nor_transaction(
    sql_shop: SqlShop, item: str
) -> None:
    create = DEFERRED.get(sql_shop.kind.scheme.partition("+")[0])
    if create is None:
        pytest.skip("no deferred constraints: COMMIT does not fail")
    async with sql_shop.observer.begin() as connection:
        await connection.exec_driver_sql(create)
    participant, step = sql_shop.participant(connections=1), entry()

    async def work(session: Any) -> str:
        await sql_shop.sell(session, item)
        await session.execute(text("INSERT INTO tags VALUES ('no such sale')"))
        return "null"

    with pytest.raises(Exception):  # noqa: B017, PT011 - SQLAlchemy's or the driver's own
        await participant.act(step, work)

    await nothing_open(sql_shop)
    assert await sql_shop.sold(item) == 0
    assert await row_of(participant, step) is None
    await participant.act(step, selling(sql_shop, item))
    assert await sql_shop.sold(item) == 1


@cancelling
async def test_a_statement_given_up_by_the_step_itself_dooms_it(server_shop: SqlShop, item: str) -> None:
    participant, step = server_shop.participant(connections=1), entry()
    pause = "SELECT pg_sleep(2)" if server_shop.kind.scheme.startswith("postgresql") else "SELECT sleep(2)"

    async def work(session: Any) -> str:
        await server_shop.sell(session, item)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await session.execute(text(pause))
        await server_shop.sell(session, item)
        return "null"

    with pytest.raises(Exception):  # noqa: B017, PT011
        await participant.act(step, work)

    assert await server_shop.sold(item) == 0
    assert await row_of(participant, step) is None
    await participant.act(step, selling(server_shop, item))
    assert await server_shop.sold(item) == 1


async def test_a_frozen_owner_is_cut_off_by_the_server_and_its_row_never_lands(
    server_shop: SqlShop, item: str
) -> None:
    limit = 0.2 if server_shop.kind.scheme.startswith("postgresql") else 1.0  # MariaDB counts whole seconds
    owner = type(server_shop.participant())(server_shop.node(connections=1, idle=limit))
    step, second = entry(), server_shop.participant()

    async def frozen(session: Any) -> str:
        await server_shop.sell(session, item)
        thread = await backend(server_shop, session)
        await until(lambda: _gone(server_shop, thread), "the server has ended the connection")
        return "null"

    with pytest.raises(Exception) as raised:  # noqa: PT011
        await owner.act(step, frozen)

    assert owner.fault(raised.value) is Fault.DISCONNECTED
    assert await second.undo(step, refunding(server_shop, item)) == LedgerRow(Mark.BLOCKED, None)
    assert (await server_shop.sold(item), await server_shop.refunded(item)) == (0, 0)


async def test_a_connection_that_is_cut_before_the_end_of_its_step_counts_as_lost(
    any_shop: SqlShop, item: str
) -> None:
    """A failover cuts it between the step's last statement and ours: the step is tried again, not undone."""
    participant, step = any_shop.participant(connections=1), entry()

    async def cut(lent: Any) -> str:
        result = await selling(any_shop, item)(lent)
        participant.node.cut()
        return result

    with pytest.raises(Exception) as raised:  # noqa: PT011 - each driver has its own; the fault is what counts
        await participant.act(step, cut)
    assert participant.fault(raised.value) is Fault.DISCONNECTED
    assert await any_shop.sold(item) == 0
    await participant.act(step, selling(any_shop, item))
    assert await any_shop.sold(item) == 1


async def test_a_reader_whose_connection_is_cut_at_its_end_leaves_no_error_in_the_log(
    asyncpg: SqlShop, caplog: pytest.LogCaptureFixture
) -> None:
    node = asyncpg.node(connections=1)
    for _ in range(2):
        async with node.reader.connect() as connection:
            await connection.execute(text("SELECT 1"))
            node.cut()
    async with node.reader.connect() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@cancelling
async def test_a_statement_cancelled_before_its_rows_were_read_keeps_no_lock(
    sqlite: SqlShop, item: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server ends the transaction of a file."""
    participant, step = sqlite.participant(connections=1), entry()
    execute = aiosqlite.Cursor.execute

    async def cancelled(cursor: aiosqlite.Cursor, sql: str, *parameters: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        if "RETURNING" in sql:
            task.cancel()  # the thread executes it all the same, and no task will read the row
        return await execute(cursor, sql, *parameters)

    gc.disable()
    try:
        with monkeypatch.context() as patch, suppress(asyncio.CancelledError):
            patch.setattr(aiosqlite.Cursor, "execute", cancelled)
            await asyncio.ensure_future(participant.undo(step, refunding(sqlite, item)))
        await nothing_open(sqlite)
    finally:
        gc.enable()

    await participant.act(step, selling(sqlite, item))
    assert await sqlite.sold(item) == 1


async def test_what_a_step_tried_to_commit_is_not_committed_by_the_next_one(sql_shop: SqlShop, item: str) -> None:
    participant = sql_shop.participant(connections=1)

    async def work(session: Any) -> str:
        await sql_shop.sell(session, f"{item}x")
        await (await session.connection()).commit()
        return "null"

    for _ in range(2):
        with pytest.raises(StepMisused):
            await participant.act(entry(), work)
        await participant.act(entry(), selling(sql_shop, item))

    assert (await sql_shop.sold(item), await sql_shop.sold(f"{item}x")) == (2, 0)
    await nothing_open(sql_shop)


async def test_a_step_that_misuses_its_session_leaves_the_pool_whole(sql_shop: SqlShop, item: str) -> None:
    participant = sql_shop.participant(connections=1)

    async def work(session: Any) -> str:
        await sql_shop.sell(session, item)
        await session.commit()
        return "null"

    for _ in range(3):
        with pytest.raises(StepMisused):
            await participant.act(entry(), work)
    await nothing_open(sql_shop)
    await participant.act(entry(), selling(sql_shop, item))
    assert await sql_shop.sold(item) == 1


async def test_a_commit_on_a_connection_that_was_cut_is_never_told_as_done(
    server_shop: SqlShop, item: str
) -> None:
    node = server_shop.node(connections=1)
    async with AsyncSession(node.writer) as session:
        await server_shop.sell(session, item)
        await kill(server_shop, await backend(server_shop, session))
        with pytest.raises(Exception) as raised:  # noqa: PT011
            await session.commit()

    assert node.dialect.fault(raised.value) is Fault.DISCONNECTED
    assert await server_shop.sold(item) == 0


async def backend(shop: SqlShop, session: Any) -> int:
    """Return the number by which the server knows the session's connection."""
    query = "pg_backend_pid()" if shop.kind.scheme.startswith("postgresql") else "connection_id()"
    return int((await session.execute(text(f"SELECT {query}"))).scalar_one())


async def kill(shop: SqlShop, thread: int) -> None:
    """Make the server cut a connection, and return when it is gone."""
    postgres = shop.kind.scheme.startswith("postgresql")
    async with shop.observer.connect() as connection:
        await connection.exec_driver_sql(
            f"SELECT pg_terminate_backend({thread})" if postgres else f"KILL {thread}"
        )
    await until(lambda: _gone(shop, thread), "the server has ended the connection")


async def _gone(shop: SqlShop, thread: int) -> bool:
    postgres = shop.kind.scheme.startswith("postgresql")
    column, table = ("pid", "pg_stat_activity") if postgres else ("id", "information_schema.processlist")
    return await shop.count(text(f"SELECT count(*) FROM {table} WHERE {column} = {thread}")) == 0
