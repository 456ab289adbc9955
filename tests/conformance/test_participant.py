"""The ledger's promise: a step's effect and its row are one transaction, on every kind of database.

Each effect happens exactly once or is undone exactly once. Races are in `test_participant_races.py`, what a
step may do with the session it is lent in `test_participant_lending.py`.
"""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest

from polysaga.databases import Fault
from polysaga.sagas.participants import Entry, Participant, UndoWork, Work
from polysaga.sagas.protocol.interrupts import Fenced
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark
from tests.conformance.shops import Shop, nothing_open, turns
from tests.fixtures.left_behind import LEAVES_BEHIND

IN_A_DAY = datetime.now(UTC) + timedelta(hours=24)
NASTY = [
    "NUL \0 in the middle",
    "emoji 🦊 and 4 bytes \U0001d518",
    "quotes ' \" ` '' and backslashes \\ \\\\ \\' \\n",
    "percent % %s %(name)s %% and {braces}",
    ":names :saga_id :result ?? $1 @x -- # /* comment */",
    "lone surrogate escaped \\ud800, right to left \u202e, BOM \ufeff, line \u2028",
    " trailing spaces   ",
    "long " + "é🦊" * 60_000,
    "",
]


def cancelling(test: Any) -> Any:
    """Mark a test that cancels: what the drivers then leave to the collector is no failure."""
    for mark in LEAVES_BEHIND:
        test = mark(test)
    return test


def entry(
    step: str = "sell", *, saga_id: UUID | None = None, epoch: int = 1, not_after: datetime = IN_A_DAY
) -> Entry:
    return Entry(saga_id or uuid4(), step, epoch, not_after)


def selling(shop: Shop, item: str, result: str = '"sold"') -> Work:
    async def work(session: Any) -> str:
        await shop.sell(session, item)
        return result

    return work


def refunding(shop: Shop, item: str, told: list[str] | None = None) -> UndoWork:
    async def work(session: Any, result: str) -> None:
        if told is not None:
            told.append(result)
        await shop.refund(session, item)

    return work


async def row_of(participant: Participant, wanted: Entry) -> LedgerRow | None:
    return (await participant.look(wanted.saga_id, [wanted.step])).get(wanted.step)


async def test_an_action_leaves_its_effect_and_a_done_row_with_its_result(shop: Shop, item: str) -> None:
    participant, step = shop.participant(), entry()

    assert await participant.act(step, selling(shop, item, '{"price": 5}')) == '{"price": 5}'

    assert await shop.sold(item) == 1
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, '{"price": 5}')


async def test_a_step_that_does_nothing_still_leaves_its_row(shop: Shop) -> None:
    participant, step = shop.participant(), entry()

    async def nothing(_: Any) -> str:
        return "null"

    await participant.act(step, nothing)

    assert await row_of(participant, step) == LedgerRow(Mark.DONE, "null")


async def test_a_step_that_does_nothing_and_is_blocked_raises(shop: Shop) -> None:
    participant, step = shop.participant(), entry()
    await participant.undo(step, None)

    async def nothing(_: Any) -> str:
        return "null"

    with pytest.raises(Exception) as raised:  # noqa: PT011 - each driver has its own
        await participant.act(step, nothing)

    assert participant.fault(raised.value) is Fault.DUPLICATE_KEY
    assert await row_of(participant, step) == LedgerRow(Mark.BLOCKED, None)


async def test_code_that_raises_leaves_neither_effect_nor_row(shop: Shop, item: str) -> None:
    participant, step = shop.participant(), entry()

    async def work(session: Any) -> str:
        await shop.sell(session, item)
        raise LookupError("the shelf is empty")

    with pytest.raises(LookupError):
        await participant.act(step, work)

    assert await shop.sold(item) == 0
    assert await row_of(participant, step) is None
    await nothing_open(shop)


async def test_a_repeated_action_raises_and_leaves_the_first_result(shop: Shop, item: str) -> None:
    participant, step = shop.participant(), entry()
    await participant.act(step, selling(shop, item, '"first"'))

    with pytest.raises(Exception) as raised:  # noqa: PT011
        await participant.act(replace(step, epoch=2), selling(shop, item, '"second"'))

    assert participant.fault(raised.value) is Fault.DUPLICATE_KEY
    assert await shop.sold(item) == 1
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, '"first"')


async def test_an_action_after_its_undo_leaves_nothing(shop: Shop, item: str) -> None:
    participant, step = shop.participant(), entry()
    assert await participant.undo(step, refunding(shop, item)) == LedgerRow(Mark.BLOCKED, None)

    with pytest.raises(Exception) as raised:  # noqa: PT011
        await participant.act(step, selling(shop, item))

    assert participant.fault(raised.value) is Fault.DUPLICATE_KEY
    assert await shop.sold(item) == 0
    assert await row_of(participant, step) == LedgerRow(Mark.BLOCKED, None)


async def test_an_undo_of_nothing_runs_no_compensation_however_often_it_comes(shop: Shop, item: str) -> None:
    participant, step = shop.participant(), entry()

    for epoch in (1, 2, 3):
        found = await participant.undo(replace(step, epoch=epoch), refunding(shop, item))
        assert found == LedgerRow(Mark.BLOCKED, None)

    assert await shop.refunded(item) == 0


async def test_an_undo_of_a_done_step_runs_the_compensation_once_with_the_recorded_result(
    shop: Shop, item: str
) -> None:
    participant, step = shop.participant(), entry()
    told: list[str] = []
    await participant.act(step, selling(shop, item, '{"receipt": 7}'))

    first = await participant.undo(replace(step, epoch=2), refunding(shop, item, told))
    second = await participant.undo(replace(step, epoch=3), refunding(shop, item, told))

    assert first == LedgerRow(Mark.DONE, '{"receipt": 7}')
    assert second.state is Mark.COMPENSATED
    assert told == ['{"receipt": 7}']
    assert await shop.refunded(item) == 1


async def test_an_action_after_its_compensation_leaves_nothing_new(shop: Shop, item: str) -> None:
    participant, step = shop.participant(), entry()
    await participant.act(step, selling(shop, item))
    await participant.undo(step, refunding(shop, item))

    with pytest.raises(Exception) as raised:  # noqa: PT011
        await participant.act(replace(step, epoch=2), selling(shop, item))

    assert participant.fault(raised.value) is Fault.DUPLICATE_KEY
    assert (await shop.sold(item), await shop.refunded(item)) == (1, 1)
    found = await row_of(participant, step)
    assert found is not None
    assert found.state is Mark.COMPENSATED


async def test_a_compensation_that_raises_leaves_the_step_done(shop: Shop, item: str) -> None:
    participant, step = shop.participant(), entry()
    await participant.act(step, selling(shop, item))

    async def work(session: Any, result: str) -> None:
        await shop.refund(session, item)
        raise LookupError("the till is shut")

    with pytest.raises(LookupError):
        await participant.undo(step, work)
    assert await shop.refunded(item) == 0
    assert await row_of(participant, step) == LedgerRow(Mark.DONE, '"sold"')

    await participant.undo(step, refunding(shop, item))
    assert await shop.refunded(item) == 1


async def test_blocking_a_pivot_that_is_done_finds_it_and_leaves_it_done(shop: Shop, item: str) -> None:
    participant, step = shop.participant(), entry("confirm")
    await participant.act(step, selling(shop, item, '"confirmed"'))

    assert await participant.undo(replace(step, epoch=2), None) == LedgerRow(Mark.DONE, '"confirmed"')

    assert await row_of(participant, step) == LedgerRow(Mark.DONE, '"confirmed"')
    assert await shop.sold(item) == 1


async def test_an_action_from_another_age_is_refused_and_writes_nothing(shop: Shop, item: str) -> None:
    participant = shop.participant()
    step = entry(not_after=datetime.now(UTC) - timedelta(seconds=1))

    with pytest.raises(Fenced):
        await participant.act(step, selling(shop, item))

    assert await shop.sold(item) == 0
    assert await row_of(participant, step) is None


async def test_an_undo_from_another_age_is_refused_and_writes_nothing(shop: Shop, item: str) -> None:
    """Its saga may be removed by then; a row that it would meet is that of another saga with the same key."""
    participant, absent, done = shop.participant(), entry("absent"), entry("done")
    await participant.act(done, selling(shop, item))
    before, late = await row_of(participant, done), datetime.now(UTC) - timedelta(seconds=1)

    for step in (absent, done):
        for work in (refunding(shop, item), None):
            with pytest.raises(Fenced):
                await participant.undo(replace(step, not_after=late), work)

    assert await shop.sold(item) == 1
    assert [await row_of(participant, step) for step in (absent, done)] == [None, before]
    await nothing_open(shop)
    assert await participant.undo(done, refunding(shop, item)) == before


async def test_the_fence_does_not_depend_on_the_zone_in_which_it_is_written(shop: Shop, item: str) -> None:
    participant = shop.participant()
    east, west = (datetime.now(UTC).astimezone(_zone(hours)) for hours in (14, -12))

    with pytest.raises(Fenced):
        await participant.act(entry(not_after=east - timedelta(seconds=5)), selling(shop, item))
    await participant.act(entry(not_after=west + timedelta(minutes=5)), selling(shop, item))

    assert await shop.sold(item) == 1


async def test_results_come_back_as_they_went_in(shop: Shop, item: str) -> None:
    participant = shop.participant()
    for value in NASTY:
        step, told = entry(), list[str]()
        result = json.dumps({"said": value}, ensure_ascii=False)

        await participant.act(step, selling(shop, item, result))
        found = await row_of(participant, step)
        await participant.undo(step, refunding(shop, item, told))

        assert found == LedgerRow(Mark.DONE, result)
        assert told == [result]


async def test_steps_and_sagas_are_told_apart_also_by_case(shop: Shop, item: str) -> None:
    participant, saga = shop.participant(), uuid4()
    names = ["sell", "SELL", "Sell", "sell_", "sel", "s" * 64]
    for name in names:
        await participant.act(entry(name, saga_id=saga), selling(shop, item, json.dumps(name)))
    await participant.undo(entry("SELL", saga_id=saga), refunding(shop, item))

    rows = await participant.look(saga, [*names, "never"])

    assert {name: row.state for name, row in rows.items()} == {
        name: Mark.COMPENSATED if name == "SELL" else Mark.DONE for name in names
    }
    assert {name: row.result for name, row in rows.items()} == {name: json.dumps(name) for name in names}
    assert await participant.look(uuid4(), names) == {}


async def test_looking_for_some_steps_tells_nothing_of_the_others(shop: Shop, item: str) -> None:
    participant, saga = shop.participant(), uuid4()
    for name in ("one", "two"):
        await participant.act(entry(name, saga_id=saga), selling(shop, item))

    assert set(await participant.look(saga, ["two"])) == {"two"}
    assert await participant.look(saga, []) == {}


async def test_the_records_of_some_sagas_are_read_at_once(shop: Shop, item: str) -> None:
    participant, wanted, other = shop.participant(), entry(), entry()
    for one in (wanted, other):
        await participant.act(one, selling(shop, item))

    found = await participant.records([wanted.saga_id, uuid4()])

    assert [(one.saga_id, one.step, one.state) for one in found] == [(wanted.saga_id, wanted.step, Mark.DONE)]
    assert [(one.database, one.result) for one in found] == [(participant.node.database, '"sold"')]
    assert await participant.records([]) == []


async def test_a_ledger_that_is_there_passes_its_check(shop: Shop) -> None:
    await shop.participant().check(datetime.now(UTC))


@cancelling
async def test_wherever_an_action_is_cancelled_its_effect_and_its_row_agree(shop: Shop, item: str) -> None:
    participant = shop.participant(connections=1)
    await participant.look(uuid4(), [])  # connected, so that the turns are spent inside the transaction
    for points in _points():
        step, sale = entry(), uuid4().hex
        cancelled = await _cancelled(participant.act(step, selling(shop, sale)), points)
        # Not finding the row would settle nothing: the COMMIT may still be on its way. Blocking settles it.
        found = await participant.undo(step, None)
        assert await shop.sold(sale) == (1 if found.state is Mark.DONE else 0), f"after {points} turns"
        if not cancelled:
            assert found.state is Mark.DONE
            break
    await nothing_open(shop)


@cancelling
async def test_wherever_an_undo_is_cancelled_its_effect_and_its_row_agree(shop: Shop, item: str) -> None:
    participant = shop.participant(connections=1)
    for points in _points():
        step, sale = entry(), uuid4().hex
        await participant.act(step, selling(shop, sale))
        cancelled = await _cancelled(participant.undo(step, refunding(shop, sale)), points)
        before = await participant.undo(step, None)  # waits for a COMMIT that is still on its way
        assert await shop.refunded(sale) == (1 if before.state is Mark.COMPENSATED else 0), f"after {points} turns"
        await participant.undo(step, refunding(shop, sale))
        assert await shop.refunded(sale) == 1
        if not cancelled:
            break
    await nothing_open(shop)


def _points() -> list[int]:
    """Return after how many turns of the loop to cancel: densely at first, then until it is through."""
    return [*range(0, 45, 3), *(round(45 * 1.15**step) for step in range(1, 80))]


async def _cancelled(work: Any, points: int) -> bool:
    """Cancel *work* after *points* turns of the loop; False if it ended before that."""
    task = asyncio.ensure_future(work)
    for _ in range(points):
        if task.done():
            break
        await turns(1)
    task.cancel()
    await asyncio.wait([task])
    if task.cancelled():
        return True
    task.result()
    return False


def _zone(hours: int) -> timezone:
    return timezone(timedelta(hours=hours))
