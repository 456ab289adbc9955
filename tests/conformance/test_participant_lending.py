"""The transaction of a step is not the step's: it cannot end it, and after an error it cannot go on.

Whatever a step tries, its effect and its row stay together: both or neither.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.event import registry
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga.databases import MongoSession
from polysaga.errors import StepMisused
from polysaga.sagas.participants import watching
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark
from tests.conformance.shops import PARTICIPANTS, MongoShop, Refund, Sale, Shop, SqlShop
from tests.conformance.test_participant import entry, refunding, row_of, selling

End = Callable[[AsyncSession], Awaitable[Any]]


async def _commit(session: AsyncSession) -> None:
    await session.commit()


async def _rollback(session: AsyncSession) -> None:
    await session.rollback()


async def _close(session: AsyncSession) -> None:
    await session.close()


async def _reset(session: AsyncSession) -> None:
    await session.reset()


async def _invalidate(session: AsyncSession) -> None:
    await session.invalidate()


async def _own_block(session: AsyncSession) -> None:
    async with session:
        pass


async def _connection_commit(session: AsyncSession) -> None:
    await (await session.connection()).commit()


async def _connection_rollback(session: AsyncSession) -> None:
    await (await session.connection()).rollback()


async def _connection_close(session: AsyncSession) -> None:
    await (await session.connection()).close()


async def _transaction_commit(session: AsyncSession) -> None:
    transaction = session.get_transaction()
    assert transaction is not None
    await transaction.commit()


async def _statement_commit(session: AsyncSession) -> None:
    await session.execute(text("COMMIT"))


async def _statement_rollback(session: AsyncSession) -> None:
    await session.execute(text("-- start again\n rollback"))


ENDS: list[End] = [
    _commit,
    _rollback,
    _close,
    _reset,
    _invalidate,
    _own_block,
    _connection_commit,
    _connection_rollback,
    _connection_close,
    _transaction_commit,
    _statement_commit,
    _statement_rollback,
]


def _named(end: object) -> str:
    return getattr(end, "__name__", str(end)).strip("_")


@pytest.mark.parametrize("end", ENDS, ids=_named)
async def test_a_step_that_ends_its_transaction_fails_and_leaves_nothing(
    sql_shop: SqlShop, item: str, end: End
) -> None:
    participant, step = sql_shop.participant(), entry()

    async def work(session: AsyncSession) -> str:
        await sql_shop.sell(session, item)
        await end(session)
        await sql_shop.sell(session, item)
        return "null"

    with pytest.raises((StepMisused, SQLAlchemyError)):
        await participant.act(step, work)

    assert await sql_shop.sold(item) == 0
    assert await row_of(participant, step) is None


async def test_a_step_that_ends_its_transaction_and_hides_the_error_is_whole_or_not_at_all(
    sql_shop: SqlShop, item: str
) -> None:
    participant = sql_shop.participant()
    for end in ENDS:
        step, sale = entry(), f"{item}{_named(end)}"[-64:]

        async def work(session: AsyncSession) -> str:
            await sql_shop.sell(session, sale)  # noqa: B023 - run before the next round
            with suppress(StepMisused, SQLAlchemyError):
                await end(session)  # noqa: B023
            await sql_shop.sell(session, sale)  # noqa: B023
            return "null"

        with suppress(StepMisused, SQLAlchemyError):
            await participant.act(step, work)

        done = await row_of(participant, step) is not None
        assert await sql_shop.sold(sale) == (2 if done else 0), _named(end)


@pytest.mark.parametrize(
    "end", [_commit, _connection_commit, _transaction_commit, _statement_commit, _statement_rollback], ids=_named
)
async def test_a_compensation_that_ends_its_transaction_fails_and_leaves_the_step_done(
    sql_shop: SqlShop, item: str, end: End
) -> None:
    participant, step = sql_shop.participant(), entry()
    await participant.act(step, selling(sql_shop, item))

    async def work(session: AsyncSession, _: str) -> None:
        await sql_shop.refund(session, item)
        await end(session)

    with pytest.raises((StepMisused, SQLAlchemyError)):
        await participant.undo(step, work)

    assert await sql_shop.refunded(item) == 0
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, '"sold"')


async def test_a_step_that_begins_a_block_of_its_own_cannot_commit_with_it(sql_shop: SqlShop, item: str) -> None:
    participant, step = sql_shop.participant(), entry()
    await participant.undo(step, None)

    async def work(session: AsyncSession) -> str:
        async with session.begin():
            await sql_shop.sell(session, item)
        return "null"

    with pytest.raises(Exception):  # noqa: B017, PT011 - at the latest its row is refused
        await participant.act(step, work)

    assert await sql_shop.sold(item) == 0


async def test_several_statements_in_one_do_not_smuggle_a_commit(sql_shop: SqlShop, item: str) -> None:
    participant, step = sql_shop.participant(), entry()

    async def work(session: AsyncSession) -> str:
        await sql_shop.sell(session, item)
        connection = await session.connection()
        await connection.exec_driver_sql("SELECT 1; COMMIT")
        return "null"

    with pytest.raises(StepMisused):
        await participant.act(step, work)

    assert await sql_shop.sold(item) == 0
    assert await row_of(participant, step) is None


async def test_a_semicolon_in_a_string_is_no_second_statement(sql_shop: SqlShop, item: str) -> None:
    participant, step = sql_shop.participant(), entry()

    async def work(session: AsyncSession) -> str:
        await sql_shop.sell(session, item)
        connection = await session.connection()
        found = await connection.exec_driver_sql("SELECT 'a; commit' /* ; commit */ ;")
        return f'"{found.scalar_one()}"'

    assert await participant.act(step, work) == '"a; commit"'
    assert await sql_shop.sold(item) == 1


async def test_a_step_cannot_turn_its_transaction_off(sql_shop: SqlShop, item: str) -> None:
    participant, step = sql_shop.participant(), entry()
    await participant.undo(step, None)

    async def work(session: AsyncSession) -> str:
        await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        await sql_shop.sell(session, item)
        return "null"

    with pytest.raises(Exception):  # noqa: B017, PT011 - at the latest its row is refused
        await participant.act(step, work)

    assert await sql_shop.sold(item) == 0


async def test_a_step_may_ask_for_a_higher_isolation(sql_shop: SqlShop, item: str) -> None:
    participant, step = sql_shop.participant(connections=1), entry()

    async def work(session: AsyncSession) -> str:
        await session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        await sql_shop.sell(session, item)
        return "null"

    await participant.act(step, work)
    await participant.act(entry(), selling(sql_shop, item))

    assert await sql_shop.sold(item) == 2
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, "null")


async def test_a_step_that_swallows_a_driver_error_is_doomed(shop: Shop, item: str) -> None:
    participant, step, taken = shop.participant(), entry(), f"{item}-taken"
    await participant.act(entry(), _selling_receipt(shop, "another", taken))

    async def work(session: Any) -> str:
        await shop.sell(session, item)
        with pytest.raises(Exception):  # noqa: B017, PT011 - swallowed, as users do
            await shop.sell(session, item, taken)
        return "null"

    with pytest.raises(Exception):  # noqa: B017, PT011 - each database says it in its own way
        await participant.act(step, work)

    assert await shop.sold(item) == 0
    assert await row_of(participant, step) is None


async def test_an_engine_that_got_the_place_in_memory_of_one_that_is_gone_is_watched(
    sql_shop: SqlShop, item: str
) -> None:
    node = sql_shop.node()
    place = id(node.writer.sync_engine)
    registry._key_to_collection[place, "handle_error", id(watching._doom)]  # as if it were the listener of another
    participant, step = PARTICIPANTS[node.dialect.name](node), entry()

    async def work(session: AsyncSession) -> str:
        with suppress(DBAPIError):
            await sql_shop.sell(session, item, "taken")
            await sql_shop.sell(session, item, "taken")
        return "null"

    with pytest.raises(StepMisused):
        await participant.act(step, work)
    assert await row_of(participant, step) is None


async def test_a_compensation_that_swallows_a_driver_error_is_doomed(shop: Shop, item: str) -> None:
    participant, step, taken = shop.participant(), entry(), f"{item}-taken"
    await participant.act(entry(), _selling_receipt(shop, "another", taken))
    await participant.act(step, selling(shop, item))

    async def work(session: Any, _: str) -> None:
        await shop.refund(session, item)
        with pytest.raises(Exception):  # noqa: B017, PT011
            await shop.sell(session, item, taken)

    with pytest.raises(Exception):  # noqa: B017, PT011
        await participant.undo(step, work)

    assert await shop.refunded(item) == 0
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, '"sold"')


async def test_an_error_inside_a_savepoint_is_the_steps_own_business(sql_shop: SqlShop, item: str) -> None:
    participant, step, taken = sql_shop.participant(), entry(), f"{item}-taken"
    await participant.act(entry(), _selling_receipt(sql_shop, "another", taken))

    async def work(session: AsyncSession) -> str:
        await sql_shop.sell(session, item)
        with suppress(DBAPIError):
            async with session.begin_nested():
                await sql_shop.sell(session, item)
                await sql_shop.sell(session, item, taken)
        await sql_shop.sell(session, item)
        return "null"

    await participant.act(step, work)

    assert await sql_shop.sold(item) == 2
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, "null")


async def test_an_error_inside_a_savepoint_as_first_thing_is_the_steps_own_business(
    sql_shop: SqlShop, item: str
) -> None:
    participant, step, taken = sql_shop.participant(), entry(), f"{item}-taken"
    await participant.act(entry(), _selling_receipt(sql_shop, "another", taken))

    async def work(session: AsyncSession) -> str:
        with pytest.raises(DBAPIError):
            async with session.begin_nested():
                await sql_shop.sell(session, item, taken)
        return "null"

    await participant.act(step, work)

    assert await row_of(participant, step) == LedgerRow(Mark.DONE, "null")


async def test_what_a_step_added_to_its_session_is_written_before_the_row(sql_shop: SqlShop, item: str) -> None:
    participant, step = sql_shop.participant(), entry()

    async def work(session: AsyncSession) -> str:
        session.add(Sale(receipt=item, item=item))
        return "null"

    async def undo(session: AsyncSession, _: str) -> None:
        sale = (await session.execute(select(Sale).where(Sale.item == item))).scalar_one()
        session.add(Refund(receipt=sale.receipt, item=item))
        await session.delete(sale)

    await participant.act(step, work)
    assert await sql_shop.sold(item) == 1
    await participant.undo(step, undo)
    assert (await sql_shop.sold(item), await sql_shop.refunded(item)) == (0, 1)


async def test_an_object_that_cannot_be_written_takes_the_row_with_it(sql_shop: SqlShop, item: str) -> None:
    participant, step = sql_shop.participant(), entry()
    await participant.act(entry(), _selling_receipt(sql_shop, "another", item))

    async def work(session: AsyncSession) -> str:
        await sql_shop.sell(session, item)
        session.add(Sale(receipt=item, item=item))
        return "null"

    with pytest.raises(DBAPIError):
        await participant.act(step, work)

    assert await sql_shop.sold(item) == 0
    assert await row_of(participant, step) is None


async def test_a_refusal_that_the_step_hides_leaves_its_transaction_whole(sql_shop: SqlShop, item: str) -> None:
    participant, step = sql_shop.participant(), entry()

    async def work(session: AsyncSession) -> str:
        for end in (session.commit, session.rollback, session.close):
            with pytest.raises(StepMisused):
                await end()
            await sql_shop.sell(session, item)
        return "null"

    await participant.act(step, work)

    assert await sql_shop.sold(item) == 3
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, "null")


async def test_operations_without_a_session_are_inside_the_transaction_all_the_same(
    mongo: MongoShop, item: str
) -> None:
    participant, step = mongo.participant(), entry()

    async def work(session: MongoSession) -> str:
        await session["sales"].insert_one({"item": item})
        await session.database["sales"].insert_many([{"item": item}, {"item": item}])
        await session.database.client[session.database.name]["sales"].insert_one({"item": item})
        await session["sales"].find_one_and_update({"item": item}, {"$set": {"seen": True}})
        await session["sales"].update_many({"item": item}, {"$set": {"seen": True}})
        assert await session["sales"].count_documents({"item": item}) == 4
        raise LookupError

    with pytest.raises(LookupError):
        await participant.act(step, work)

    assert await mongo.sold(item) == 0
    assert await row_of(participant, step) is None


async def _abort(session: MongoSession) -> None:
    await session.client_session.abort_transaction()


async def _abort_and_begin(session: MongoSession) -> None:
    await session.client_session.abort_transaction()
    await session.client_session.start_transaction()


async def _commit_mongo(session: MongoSession) -> None:
    await session.client_session.commit_transaction()


async def _commit_and_begin(session: MongoSession) -> None:
    await session.client_session.commit_transaction()
    await session.client_session.start_transaction()


async def _end_session(session: MongoSession) -> None:
    await session.client_session.end_session()


@pytest.mark.parametrize(
    "end", [_abort, _abort_and_begin, _commit_mongo, _commit_and_begin, _end_session], ids=_named
)
async def test_a_step_that_ends_the_transaction_of_its_mongo_session_fails_and_leaves_nothing(
    mongo: MongoShop, item: str, end: Callable[[MongoSession], Awaitable[None]]
) -> None:
    participant, step = mongo.participant(), entry()

    async def work(session: MongoSession) -> str:
        await mongo.sell(session, item)
        await end(session)
        return "null"

    with pytest.raises(StepMisused):
        await participant.act(step, work)

    assert await mongo.sold(item) == 0
    assert await row_of(participant, step) is None


async def test_an_undo_after_all_that_still_works(shop: Shop, item: str) -> None:
    participant, step = shop.participant(connections=1), entry()

    async def work(session: Any) -> str:
        await shop.sell(session, item)
        raise StepMisused("as if")

    with pytest.raises(StepMisused):
        await participant.act(step, work)
    await participant.act(step, selling(shop, item))
    await participant.undo(step, refunding(shop, item))

    assert (await shop.sold(item), await shop.refunded(item)) == (1, 1)


def _selling_receipt(shop: Shop, item: str, receipt: str) -> Callable[[Any], Awaitable[str]]:
    async def work(session: Any) -> str:
        await shop.sell(session, item, receipt)
        return "null"

    return work
