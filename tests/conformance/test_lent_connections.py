"""A step that asks for a connection gets the same promise as one with a session: it cannot end its transaction.

The whole suite of `test_participant.py` and its sisters runs on such steps too; here is what only they can try.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError, ResourceClosedError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from polysaga.errors import StepMisused
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark
from tests.conformance.shops import Sale, SqlShop, nothing_open, turns
from tests.conformance.test_participant import cancelling, entry, refunding, row_of, selling
from tests.fixtures.waiting import reached, within

End = Callable[[AsyncConnection], Awaitable[Any]]


async def _commit(connection: AsyncConnection) -> None:
    await connection.commit()


async def _rollback(connection: AsyncConnection) -> None:
    await connection.rollback()


async def _close(connection: AsyncConnection) -> None:
    await connection.close()


async def _aclose(connection: AsyncConnection) -> None:
    await connection.aclose()


async def _invalidate(connection: AsyncConnection) -> None:
    await connection.invalidate()


async def _own_block(connection: AsyncConnection) -> None:
    async with connection:
        pass


async def _begin(connection: AsyncConnection) -> None:
    async with connection.begin():
        pass


async def _transaction_commit(connection: AsyncConnection) -> None:
    if (transaction := connection.get_transaction()) is not None:
        await transaction.commit()


async def _transaction_rollback(connection: AsyncConnection) -> None:
    if (transaction := connection.get_transaction()) is not None:
        await transaction.rollback()


async def _sync_commit(connection: AsyncConnection) -> None:
    await connection.run_sync(lambda sync: sync.commit())


async def _sync_close(connection: AsyncConnection) -> None:
    await connection.run_sync(lambda sync: sync.close())


async def _statement_commit(connection: AsyncConnection) -> None:
    await connection.execute(text("COMMIT"))


async def _statement_rollback(connection: AsyncConnection) -> None:
    await connection.exec_driver_sql("-- start again\n rollback")


async def _autocommit(connection: AsyncConnection) -> None:
    await connection.execution_options(isolation_level="AUTOCOMMIT")


async def _sync_autocommit(connection: AsyncConnection) -> None:
    await connection.run_sync(lambda sync: sync.execution_options(isolation_level="AUTOCOMMIT"))


async def _sync_rollback(connection: AsyncConnection) -> None:
    await connection.run_sync(lambda sync: sync.rollback())


ENDS: list[End] = [
    _commit,
    _rollback,
    _close,
    _aclose,
    _invalidate,
    _own_block,
    _begin,
    _transaction_commit,
    _transaction_rollback,
    _sync_commit,
    _sync_close,
    _statement_commit,
    _statement_rollback,
    _autocommit,
    _sync_autocommit,
    _sync_rollback,
]


def _named(end: object) -> str:
    return getattr(end, "__name__", str(end)).strip("_")


@pytest.mark.parametrize("end", ENDS, ids=_named)
async def test_a_step_that_ends_the_transaction_of_its_connection_fails_and_leaves_nothing(
    bare_shop: SqlShop, item: str, end: End
) -> None:
    participant, step = bare_shop.participant(connections=1), entry()

    async def work(connection: AsyncConnection) -> str:
        await bare_shop.sell(connection, item)
        await end(connection)
        await bare_shop.sell(connection, item)
        return "null"

    with pytest.raises((StepMisused, SQLAlchemyError)):
        await participant.act(step, work)

    assert await bare_shop.sold(item) == 0
    assert await row_of(participant, step) is None
    await participant.act(step, selling(bare_shop, item))  # the only place of the pool is free, and clean
    assert await bare_shop.sold(item) == 1


@pytest.mark.parametrize("end", ENDS, ids=_named)
async def test_a_step_that_ends_it_and_hides_the_error_is_whole_or_not_at_all(
    bare_shop: SqlShop, item: str, end: End
) -> None:
    participant, step = bare_shop.participant(connections=1), entry()

    async def work(connection: AsyncConnection) -> str:
        await bare_shop.sell(connection, item)
        with suppress(StepMisused, SQLAlchemyError):
            await end(connection)
        await bare_shop.sell(connection, item)
        return "null"

    with suppress(StepMisused, SQLAlchemyError):
        await participant.act(step, work)

    done = await row_of(participant, step) is not None
    assert await bare_shop.sold(item) == (2 if done else 0)
    await participant.act(entry(), selling(bare_shop, f"{item}-next"))
    assert await bare_shop.sold(f"{item}-next") == 1


@pytest.mark.parametrize("end", ENDS, ids=_named)
async def test_a_compensation_that_ends_its_transaction_fails_and_leaves_the_step_done(
    bare_shop: SqlShop, item: str, end: End
) -> None:
    participant, step = bare_shop.participant(connections=1), entry()
    await participant.act(step, selling(bare_shop, item))

    async def work(connection: AsyncConnection, _: str | None) -> None:
        await bare_shop.refund(connection, item)
        await end(connection)
        await bare_shop.refund(connection, item)

    with pytest.raises((StepMisused, SQLAlchemyError)):
        await participant.undo(step, work)

    assert await bare_shop.refunded(item) == 0
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, '"sold"')
    await participant.undo(step, refunding(bare_shop, item))
    assert await bare_shop.refunded(item) == 1


@pytest.mark.parametrize("end", ENDS, ids=_named)
async def test_a_step_that_ends_its_transaction_before_its_first_statement_is_whole_or_not_at_all(
    bare_shop: SqlShop, item: str, end: End
) -> None:
    participant, step = bare_shop.participant(connections=1), entry()

    async def work(connection: AsyncConnection) -> str:
        with suppress(StepMisused, SQLAlchemyError):
            await end(connection)
        await bare_shop.sell(connection, item)
        return "null"

    async def fail(connection: AsyncConnection) -> str:
        await work(connection)
        raise LookupError

    with suppress(StepMisused, SQLAlchemyError):
        await participant.act(step, work)
    done = await row_of(participant, step) is not None
    assert await bare_shop.sold(item) == (1 if done else 0)

    with suppress(StepMisused, SQLAlchemyError, LookupError):
        await participant.act(entry(), fail)
    assert await bare_shop.sold(item) == (1 if done else 0)


async def test_a_step_on_a_connection_may_ask_for_a_higher_isolation(bare_shop: SqlShop, item: str) -> None:
    participant, step, levels = bare_shop.participant(connections=1), entry(), []

    async def work(connection: AsyncConnection) -> str:
        levels.append(await connection.get_isolation_level())
        if len(levels) == 1:
            await connection.execution_options(isolation_level="SERIALIZABLE")
            levels.append(await connection.get_isolation_level())
        await bare_shop.sell(connection, item)
        return "null"

    await participant.act(step, work)
    await participant.act(entry(), work)

    assert await bare_shop.sold(item) == 2
    assert levels[1] == "SERIALIZABLE"
    assert levels[2] == levels[0]


async def test_a_transaction_begins_with_the_first_statement_of_the_step(bare_shop: SqlShop, item: str) -> None:
    participant, another = bare_shop.participant(), bare_shop.participant()
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow_to_begin(connection: AsyncConnection) -> str:
        inside.set()
        await reached(go_on, "the other step has committed")
        await bare_shop.sell(connection, item)
        return "null"

    slow = asyncio.create_task(participant.act(entry(), slow_to_begin))
    await reached(inside, "the slow step has its connection")
    await another.act(entry(), selling(bare_shop, item))  # an SQLite file has one writer, and it is free
    go_on.set()
    await slow

    assert await bare_shop.sold(item) == 2


async def test_an_error_inside_a_savepoint_of_a_connection_is_the_steps_own_business(
    bare_shop: SqlShop, item: str
) -> None:
    participant, step, taken = bare_shop.participant(), entry(), f"{item}-taken"

    async def sell_another(connection: AsyncConnection) -> str:
        await bare_shop.sell(connection, "another", taken)
        return "null"

    async def work(connection: AsyncConnection) -> str:
        await bare_shop.sell(connection, item)
        with suppress(DBAPIError):
            async with connection.begin_nested():
                await bare_shop.sell(connection, item)
                await bare_shop.sell(connection, item, taken)
        await bare_shop.sell(connection, item)
        return "null"

    await participant.act(entry(), sell_another)
    await participant.act(step, work)

    assert await bare_shop.sold(item) == 2
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, "null")


async def test_a_savepoint_that_a_step_leaves_open_is_part_of_the_step_or_fails_it(
    bare_shop: SqlShop, item: str
) -> None:
    participant, step = bare_shop.participant(connections=1), entry()

    async def work(connection: AsyncConnection) -> str:
        await bare_shop.sell(connection, item)
        await connection.begin_nested()
        await bare_shop.sell(connection, item)
        return "null"

    with suppress(StepMisused, SQLAlchemyError):
        await participant.act(step, work)

    done = await row_of(participant, step) is not None
    assert await bare_shop.sold(item) == (2 if done else 0)
    await participant.act(entry(), selling(bare_shop, f"{item}-next"))
    assert await bare_shop.sold(f"{item}-next") == 1


async def test_a_step_that_sends_nothing_on_its_connection_has_its_row(bare_shop: SqlShop) -> None:
    participant, step = bare_shop.participant(connections=1), entry()

    async def work(connection: AsyncConnection) -> str:
        return "1"

    await participant.act(step, work)

    assert await row_of(participant, step) == LedgerRow(Mark.DONE, "1")


async def test_a_task_that_outlives_its_step_has_no_connection_to_write_with(
    bare_shop: SqlShop, item: str
) -> None:
    participant, step = bare_shop.participant(connections=1), entry()
    ended = asyncio.Event()

    async def late(connection: AsyncConnection) -> None:
        await reached(ended, "the step ends")
        await bare_shop.sell(connection, item)

    tasks: list[asyncio.Task[None]] = []

    async def work(connection: AsyncConnection) -> str:
        tasks.append(asyncio.create_task(late(connection)))
        return "null"

    await participant.act(step, work)
    ended.set()

    with pytest.raises(ResourceClosedError):
        await tasks[0]
    assert await bare_shop.sold(item) == 0


async def test_a_connection_is_in_no_transaction_when_the_next_step_gets_it(bare_shop: SqlShop, item: str) -> None:
    participant = bare_shop.participant(connections=1)
    ids = []

    async def work(connection: AsyncConnection) -> str:
        ids.append(id((await connection.get_raw_connection()).driver_connection))
        await bare_shop.sell(connection, item)
        if len(ids) % 2:
            raise LookupError
        return "null"

    for number in range(4):
        with suppress(LookupError):
            await participant.act(entry(), work)
        assert await bare_shop.sold(item) == (number + 1) // 2
    assert len(set(ids)) == 1


async def _on(lent: AsyncSession | AsyncConnection) -> AsyncConnection:
    return lent if isinstance(lent, AsyncConnection) else await lent.connection()


async def test_a_step_that_takes_another_connection_of_the_pool_is_whole_or_not_at_all(
    any_shop: SqlShop, item: str
) -> None:
    participant, step = any_shop.participant(connections=1), entry()

    async def work(lent: AsyncSession | AsyncConnection) -> str:
        connection = await _on(lent)
        await any_shop.sell(connection, item)
        await connection.invalidate()
        await connection.run_sync(lambda sync: sync.rollback())
        await any_shop.sell(connection, item)
        return "null"

    with suppress(StepMisused, SQLAlchemyError):
        await participant.act(step, work)

    done = await row_of(participant, step) is not None
    assert await any_shop.sold(item) == (2 if done else 0)
    await participant.act(entry(), selling(any_shop, f"{item}-next"))


async def test_a_step_cannot_commit_on_another_connection_of_the_pool(any_shop: SqlShop, item: str) -> None:
    participant, step = any_shop.participant(connections=1), entry()

    async def work(lent: AsyncSession | AsyncConnection) -> str:
        connection = await _on(lent)
        await connection.invalidate()
        with suppress(Exception):
            await connection.run_sync(lambda sync: sync.rollback())
        await any_shop.sell(connection, item)
        await connection.run_sync(lambda sync: sync.commit())
        return "null"

    with pytest.raises((StepMisused, SQLAlchemyError)):
        await participant.act(step, work)

    assert await any_shop.sold(item) == 0
    assert await row_of(participant, step) is None
    await participant.act(step, selling(any_shop, item))


@cancelling
async def test_a_task_that_is_left_behind_does_not_hide_that_the_row_was_refused(
    any_shop: SqlShop, item: str
) -> None:
    participant = any_shop.participant(connections=1)
    for rounds in range(12):
        step, sold = entry(not_after=datetime.now(UTC) - timedelta(seconds=60)), f"{item[:20]}-{rounds}"
        tasks: list[asyncio.Task[None]] = []

        async def work(lent: AsyncSession | AsyncConnection) -> str:
            await any_shop.sell(lent, sold)  # noqa: B023 - run before the next round
            tasks.append(asyncio.ensure_future(any_shop.sell(lent, f"{sold}-late")))  # noqa: B023
            await turns(rounds)  # noqa: B023
            return "null"

        with suppress(Exception):
            await within(participant.act(step, work), "the step ends")
        await within(asyncio.gather(*tasks, return_exceptions=True), "the task that was left behind ends")
        assert await row_of(participant, step) is None
        assert await any_shop.sold(sold) == 0


@cancelling
@pytest.mark.parametrize("own", [0, 1])
async def test_the_pages_of_a_statement_that_a_step_leaves_behind_land_in_no_other_step(
    any_shop: SqlShop, item: str, own: int
) -> None:
    participant, step = any_shop.participant(connections=1), entry()
    await participant.act(entry(), selling(any_shop, "the first"))
    left: list[asyncio.Task[None]] = []

    async def sell_many(lent: AsyncSession | AsyncConnection) -> None:
        rows = [{"receipt": uuid.uuid4().hex, "item": item} for _ in range(60)]
        many = insert(Sale) if any_shop.kind.mysql else insert(Sale).returning(Sale.receipt)
        await lent.execute(many, rows, execution_options={"insertmanyvalues_page_size": 1})

    async def work(lent: AsyncSession | AsyncConnection) -> str:
        for _ in range(own):
            await any_shop.sell(lent, "its own")
        left.append(asyncio.ensure_future(sell_many(lent)))
        await turns(4 if own else 12)
        return "null"

    with suppress(Exception):
        await within(participant.act(step, work), "the step ends")
    sold = await any_shop.sold(item)
    assert sold == 0 or await row_of(participant, step) is not None

    await within(participant.act(entry(), selling(any_shop, f"{item}-next")), "the next step ends")
    await within(asyncio.gather(*left, return_exceptions=True), "the task that was left behind ends")
    assert await any_shop.sold(item) == sold
    assert await any_shop.sold(f"{item}-next") == 1
    await nothing_open(any_shop)


@cancelling
async def test_a_step_that_leaves_a_slow_statement_behind_fails_at_once(any_shop: SqlShop, item: str) -> None:
    if any_shop.kind.scheme.startswith("sqlite"):
        pytest.skip("SQLite has no statement that waits")
    participant, step = any_shop.participant(connections=1), entry()
    pause = "SELECT pg_sleep(2)" if any_shop.kind.scheme.startswith("postgresql") else "SELECT sleep(2)"
    left: list[asyncio.Task[Any]] = []

    async def work(lent: AsyncSession | AsyncConnection) -> str:
        await any_shop.sell(lent, item)
        for late in (lent.execute(text(pause)), any_shop.sell(lent, item)):
            left.append(asyncio.ensure_future(late))
            await turns(30)  # the first is inside its statement, the second waits for the first
        return "null"

    with pytest.raises(StepMisused, match="left behind"):
        await within(participant.act(step, work), "the step ends")
    ends = await within(asyncio.gather(*left, return_exceptions=True), "the tasks that were left behind end")

    assert [isinstance(end, Exception) for end in ends] == [True, True]
    assert await any_shop.sold(item) == 0
    assert await row_of(participant, step) is None
    await participant.act(step, selling(any_shop, item))  # the only place of the pool is free, and clean
    assert await any_shop.sold(item) == 1


@cancelling
@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed"])
async def test_a_task_that_goes_on_writing_writes_with_its_step_or_not_at_all(
    any_shop: SqlShop, item: str, fails: bool
) -> None:
    participant = any_shop.participant(connections=1)
    await participant.act(entry(), selling(any_shop, "the first"))
    for rounds in range(20):
        step, sold = entry(), f"{item[:20]}-{rounds}"
        left: list[asyncio.Task[None]] = []

        async def go_on(lent: AsyncSession | AsyncConnection) -> None:
            for _ in range(100):
                await turns(rounds % 7)  # noqa: B023 - run before the next round
                with suppress(Exception):
                    await any_shop.sell(lent, sold)  # noqa: B023

        async def work(lent: AsyncSession | AsyncConnection) -> str:
            await any_shop.sell(lent, f"{sold}-own")  # noqa: B023
            left.append(asyncio.ensure_future(go_on(lent)))  # noqa: B023
            await turns(rounds)  # noqa: B023
            if fails:
                raise LookupError
            return "null"

        with suppress(Exception):
            await within(participant.act(step, work), "the step ends")
        with_the_step = await any_shop.sold(sold)
        await within(asyncio.gather(*left), "the task that was left behind ends")
        await within(participant.act(entry(), selling(any_shop, "the next")), "the next step ends")

        done = await row_of(participant, step) is not None
        assert not (done and fails)
        assert await any_shop.sold(f"{sold}-own") == int(done)
        assert await any_shop.sold(sold) == with_the_step
        assert done or with_the_step == 0
