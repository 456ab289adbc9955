"""A step that sends no SQL is one packet on asyncpg: BEGIN, its ledger row and COMMIT, all or nothing."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from polysaga.databases import Fault
from polysaga.sagas.journal.tables import LEDGER
from polysaga.sagas.participants import Entry
from polysaga.sagas.protocol.interrupts import Fenced
from polysaga.sagas.protocol.states import Mark
from tests.integration.test_prepared_writes import Shop, driver_of, new_entry, on_both_loops
from tests.integration.test_prepared_writes import at_once as at_once
from tests.integration.test_prepared_writes import sent as sent
from tests.integration.test_prepared_writes import shop as shop
from tests.integration.test_prepared_writes import url as url

BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"
ON_BOTH_KINDS = pytest.mark.parametrize("bare", [False, True], ids=["session", "connection"])


async def nothing(lent: Any) -> str:
    return "null"


async def act(shop: Shop, *, bare: bool, entry: Entry | None = None, work: Any = nothing) -> Entry:
    entry = entry or new_entry()
    await shop.participant.act(entry, work, bare=bare)
    return entry


async def recorded_all(shop: Shop, *entries: Entry) -> bool:
    """Return whether these entries, and no others, are in the ledger, and the connection for steps is at rest."""
    async with shop.node.writer.connect() as connection:
        assert not (await driver_of(connection)).is_in_transaction()
    return sorted(await shop.recorded()) == sorted(one.saga_id.hex for one in entries)


@ON_BOTH_KINDS
async def test_it_is_one_packet(shop: Shop, sent: list[bytes], *, bare: bool) -> None:
    known = await act(shop, bare=bare)
    sent.clear()
    entries = [await act(shop, bare=bare), await act(shop, bare=bare)]
    assert [BEGIN in packet for packet in sent] == [True, True]
    assert await recorded_all(shop, known, *entries)


@on_both_loops
@ON_BOTH_KINDS
async def test_a_row_that_cannot_be_written_leaves_nothing_open(shop: Shop, *, bare: bool) -> None:
    entries = [await act(shop, bare=bare)]
    late = replace(new_entry(), not_after=datetime.now(UTC) - timedelta(seconds=1))
    for _ in range(2):
        with pytest.raises(Fenced):
            await act(shop, bare=bare, entry=late)
        with pytest.raises(Exception) as raised:  # noqa: PT011 - the driver's own
            await act(shop, bare=bare, entry=entries[0])
        assert shop.participant.fault(raised.value) is Fault.DUPLICATE_KEY
        entries.append(await act(shop, bare=bare))
    assert await recorded_all(shop, *entries)


@on_both_loops
@ON_BOTH_KINDS
async def test_a_server_that_has_gone_is_told_and_replaced(shop: Shop, *, bare: bool) -> None:
    known = await act(shop, bare=bare)

    async def lose(lent: AsyncSession | AsyncConnection) -> str:
        session = (await driver_of(lent)).get_server_pid()
        async with shop.node.reserved.connect() as other:
            await other.execute(text("SELECT pg_terminate_backend(:session, 10000)"), {"session": session})
        return "null"

    with pytest.raises(Exception) as raised:  # noqa: PT011 - the driver's own
        await act(shop, bare=bare, work=lose)
    assert shop.participant.fault(raised.value) is Fault.DISCONNECTED
    assert await recorded_all(shop, known, await act(shop, bare=bare))


@ON_BOTH_KINDS
async def test_a_server_that_only_reads_now_is_told_and_its_connection_replaced(shop: Shop, *, bare: bool) -> None:
    """Behind one name, or a proxy, there may be another server by the next attempt."""
    known = await act(shop, bare=bare)
    async with shop.node.writer.connect() as connection:
        await (await driver_of(connection)).execute("SET default_transaction_read_only = on")
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the driver's own
        await act(shop, bare=bare)
    assert shop.participant.fault(raised.value) is Fault.READ_ONLY
    assert await recorded_all(shop, known, await act(shop, bare=bare))


@on_both_loops
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_the_isolation_that_it_asked_for_changes_nothing(shop: Shop, level: str) -> None:
    async def choose(session: AsyncSession) -> str:
        await session.connection(execution_options={"isolation_level": level})
        return "null"

    entries = [await act(shop, bare=False, work=choose) for _ in range(2)]
    assert await recorded_all(shop, *entries)


@ON_BOTH_KINDS
@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK"])
async def test_an_end_of_nothing_on_the_driver_ends_nothing(shop: Shop, statement: str, *, bare: bool) -> None:
    async def end(lent: AsyncSession | AsyncConnection) -> str:
        await (await driver_of(lent)).execute(statement)
        return "null"

    assert await recorded_all(shop, await act(shop, bare=bare, work=end))


@ON_BOTH_KINDS
async def test_a_savepoint_around_nothing_is_part_of_it(shop: Shop, *, bare: bool) -> None:
    async def save(lent: AsyncSession | AsyncConnection) -> str:
        async with lent.begin_nested():
            pass
        return "null"

    assert await recorded_all(shop, await act(shop, bare=bare, work=save))


@on_both_loops
@ON_BOTH_KINDS
async def test_after_a_storm_of_cancellations_each_step_has_happened_or_not(shop: Shop, *, bare: bool) -> None:
    spread, loop = random.Random(5), asyncio.get_running_loop()
    entries: list[Entry] = []

    async def attempt(longest: float | None) -> float:
        """Act, cancelled at most *longest* seconds after the work; return how long the rest took."""
        entries.append(entry := new_entry())
        began = 0.0

        async def work(lent: Any) -> str:
            nonlocal began
            began = loop.time()
            if longest is not None:
                loop.call_later(spread.uniform(0.0, longest), task.cancel)
            return "null"

        task = asyncio.create_task(shop.participant.act(entry, work, bare=bare))
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert outcome == "null" or isinstance(outcome, asyncio.CancelledError), outcome
        return loop.time() - began

    usual = max([await attempt(None) for _ in range(5)])
    for _ in range(10):
        await asyncio.gather(*(attempt(2 * usual if number % 4 else None) for number in range(8)))
    known = await shop.recorded()
    found = [(entry, await shop.participant.undo(entry, None)) for entry in entries]
    done = [entry for entry, row in found if row.state is Mark.DONE]
    assert len(done) >= 5 + 10 * 2
    assert sorted(entry.saga_id.hex for entry in done) == sorted(known)
    assert await recorded_all(shop, *entries)  # the others are blocked


@ON_BOTH_KINDS
async def test_the_ledger_row_is_of_one_transaction_with_other_last_writes(shop: Shop, *, bare: bool) -> None:
    """The second write fails: the first must not stay."""
    entry, seal = new_entry(), shop.participant.seal_done
    twice: Callable[[str], Any] = lambda result: [*seal(entry)(result), *seal(entry)(result)]  # noqa: E731
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the driver's own
        await shop.participant.transact(nothing, twice, bare=bare)
    assert shop.participant.fault(raised.value) is Fault.DUPLICATE_KEY
    async with shop.node.reader.connect() as connection:
        assert await connection.scalar(text(f"SELECT count(*) FROM {LEDGER}")) == 0
