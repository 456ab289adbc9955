"""Several owners of one step at once: the ledger lets one effect through, and a late owner learns the truth.

Nothing here waits for time: owners meet at events, and "now it waits" is what the server says.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from polysaga.databases import Fault
from polysaga.sagas.participants import Entry, Work
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark
from tests.conformance.shops import Shop, settled, turns
from tests.conformance.test_participant import entry, refunding, row_of, selling
from tests.fixtures.waiting import reached

ROUNDS = 12


def meeting(shop: Shop, item: str, here: asyncio.Barrier) -> Work:
    """Return a step that begins its transaction, waits for the others, and then sells."""

    async def work(session: Any) -> str:
        await shop.touch(session, "nowhere")
        await reached(here, "the others are here")
        await shop.sell(session, item)
        return '"sold"'

    return work


async def test_two_owners_of_one_step_leave_one_effect(shop: Shop, item: str) -> None:
    step = entry()
    owners = [shop.participant() for _ in range(2)]
    here = asyncio.Barrier(2 if shop.kind.side_by_side else 1)

    outcomes = await asyncio.gather(
        *(
            owner.act(replace(step, epoch=epoch), meeting(shop, item, here))
            for epoch, owner in enumerate(owners, 1)
        ),
        return_exceptions=True,
    )

    assert await shop.sold(item) == 1
    assert [outcome for outcome in outcomes if outcome == '"sold"'] == ['"sold"']
    assert await row_of(owners[0], step) == LedgerRow(Mark.DONE, '"sold"')
    (late,) = (outcome for outcome in outcomes if isinstance(outcome, BaseException))
    assert owners[0].fault(late) in {Fault.DUPLICATE_KEY, Fault.SERIALIZATION}


async def test_an_owner_and_a_compensator_at_once_leave_the_step_whole_or_undone(shop: Shop, item: str) -> None:
    for number in range(ROUNDS):
        step, sale = entry(), f"{item}-{number}"[:64]
        owner, compensator = shop.participant(), shop.participant()

        acted: Any
        found: Any
        acted, found = await asyncio.gather(
            owner.act(step, selling(shop, sale)),
            settled(compensator, lambda: compensator.undo(step, refunding(shop, sale)), []),  # noqa: B023
            return_exceptions=True,
        )

        sold, refunded = await shop.sold(sale), await shop.refunded(sale)
        assert isinstance(found, LedgerRow)
        assert (sold, refunded) == ((1, 1) if found.state is Mark.DONE else (0, 0))
        assert sold == 1 or isinstance(acted, BaseException), "an action that was undone reported success"


async def test_a_step_blocked_while_its_code_runs_leaves_nothing(shop: Shop, item: str) -> None:
    if not shop.kind.side_by_side:
        pytest.skip("one writer at a time: no other can block a step whose transaction has begun")
    step, owner, compensator = entry(), shop.participant(), shop.participant()
    inside, go = asyncio.Event(), asyncio.Event()

    async def work(session: Any) -> str:
        await shop.sell(session, item)
        inside.set()
        await reached(go, "the test lets it go on")
        return '"late"'

    acting = asyncio.ensure_future(owner.act(step, work))
    await reached(inside, "the task is inside")
    assert await compensator.undo(step, refunding(shop, item)) == LedgerRow(Mark.BLOCKED, None)
    go.set()
    with pytest.raises(Exception) as raised:  # noqa: PT011
        await acting

    assert owner.fault(raised.value) in {Fault.DUPLICATE_KEY, Fault.SERIALIZATION}
    assert (await shop.sold(item), await shop.refunded(item)) == (0, 0)
    assert await row_of(owner, step) == LedgerRow(Mark.BLOCKED, None)


@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
async def test_an_undo_that_meets_an_uncommitted_action_finds_out_how_it_ended(
    shop: Shop, item: str, commits: bool
) -> None:
    step, compensator, told = entry(), shop.participant(), list[str]()
    faults: list[Fault] = []
    async with shop.uncommitted_action(step, item) as pending:
        undoing = asyncio.ensure_future(
            settled(compensator, lambda: compensator.undo(step, refunding(shop, item, told)), faults)
        )
        await shop.somebody_waits()
        assert not undoing.done()
        await (pending.commit() if commits else pending.rollback())
        found = await undoing

    if commits:
        assert found == LedgerRow(Mark.DONE, '"sold"')
        assert told == ['"sold"']
        assert (await shop.sold(item), await shop.refunded(item)) == (1, 1)
    else:
        assert found == LedgerRow(Mark.BLOCKED, None)
        assert told == []
        assert (await shop.sold(item), await shop.refunded(item)) == (0, 0)
    assert shop.kind.waits is False or faults == []


@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
async def test_a_second_owner_that_meets_an_uncommitted_action_does_the_step_only_if_it_rolls_back(
    shop: Shop, item: str, commits: bool
) -> None:
    step, second = entry(epoch=2), shop.participant()
    async with shop.uncommitted_action(replace(step, epoch=1), item) as pending:
        acting = asyncio.ensure_future(settled(second, lambda: second.act(step, selling(shop, item)), []))
        await shop.somebody_waits()
        await (pending.commit() if commits else pending.rollback())
        outcome: Any = (await asyncio.gather(acting, return_exceptions=True))[0]

    if commits:
        assert second.fault(outcome) is Fault.DUPLICATE_KEY
    else:
        assert outcome == '"sold"'
    assert await shop.sold(item) == 1


@pytest.mark.parametrize("situation", ["done", "nothing", "action commits", "action rolls back"])
async def test_three_compensators_at_once_undo_exactly_once(
    shop: Shop, item: str, situation: str, record_property: Callable[[str, object], None]
) -> None:
    compensators = [shop.participant() for _ in range(3)]
    seen: Counter[str] = Counter()
    for number in range(ROUNDS if shop.kind.sql else ROUNDS // 3):
        sale = f"{item}-{number}"[:64]
        found = await _three(shop, compensators, situation, sale, seen)

        undone = 1 if situation in {"done", "action commits"} else 0
        assert sum(row.state is Mark.DONE for row in found) == undone
        assert (await shop.sold(sale), await shop.refunded(sale)) == (undone, undone)

    record_property("transient errors", dict(seen))
    allowed = shop.kind.errors_at_once
    assert set(seen) <= allowed
    if situation in {"done", "action commits"} and shop.kind.waits:
        assert not seen, "an owner that waits for a row that stays meets no error"


async def _three(
    shop: Shop, compensators: list[Any], situation: str, sale: str, seen: Counter[str]
) -> list[LedgerRow]:
    step, faults = entry(), list[Fault]()

    def undo_all() -> list["asyncio.Future[LedgerRow]"]:
        return [
            asyncio.ensure_future(
                settled(one, lambda one=one: one.undo(step, refunding(shop, sale)), faults)  # type: ignore[misc]
            )
            for one in compensators
        ]

    if situation.startswith("action"):
        async with shop.uncommitted_action(step, sale) as pending:
            undoing = undo_all()
            await shop.somebody_waits()
            await (pending.commit() if situation == "action commits" else pending.rollback())
            found = list(await asyncio.gather(*undoing))
    else:
        if situation == "done":
            await compensators[0].act(step, selling(shop, sale))
        found = list(await asyncio.gather(*undo_all()))
    seen.update(fault.value for fault in faults)
    return found


async def test_opposite_lock_orders_cost_a_retry_and_leave_each_effect_once(shop: Shop, item: str) -> None:
    if not shop.kind.side_by_side:
        pytest.skip("one writer at a time: no two transactions can hold locks")
    left, right = f"{item}l", f"{item}r"
    await shop.put_up(left, right)
    here = asyncio.Barrier(2)

    def crossing(first: str, second: str, sale: str) -> Work:
        tried: list[int] = []

        async def work(session: Any) -> str:
            await shop.touch(session, first)
            tried.append(1)
            if len(tried) == 1:
                await reached(here, "the others are here")
            await shop.touch(session, second)
            await shop.sell(session, sale)
            return "null"

        return work

    faults: list[Fault] = []
    jobs: list[tuple[Entry, str, str]] = [(entry(), left, right), (entry(), right, left)]
    works = [crossing(first, second, item) for _, first, second in jobs]
    owners = [shop.participant(), shop.participant()]
    await asyncio.gather(
        *(
            settled(owner, lambda owner=owner, job=job, work=work: owner.act(job[0], work), faults)  # type: ignore[misc]
            for owner, job, work in zip(owners, jobs, works, strict=True)
        )
    )

    assert set(faults) <= {Fault.DEADLOCK, Fault.SERIALIZATION}
    assert faults, "one of the two had to give way"
    assert await shop.sold(item) == 2


async def test_opposite_lock_orders_of_two_owners_of_one_step_leave_one_effect(shop: Shop, item: str) -> None:
    if not shop.kind.side_by_side:
        pytest.skip("one writer at a time: no two transactions can hold locks")
    left, right = f"{item}l", f"{item}r"
    await shop.put_up(left, right)
    step, here = entry(), asyncio.Barrier(2)

    def crossing(first: str, second: str) -> Work:
        tried: list[int] = []

        async def work(session: Any) -> str:
            await shop.touch(session, first)
            tried.append(1)
            if len(tried) == 1:
                await reached(here, "the others are here")
            await shop.touch(session, second)
            await shop.sell(session, item)
            return "null"

        return work

    one, other = shop.participant(), shop.participant()
    forth, back = crossing(left, right), crossing(right, left)
    outcomes = await asyncio.gather(
        settled(one, lambda: one.act(step, forth), []),
        settled(other, lambda: other.act(replace(step, epoch=2), back), []),
        return_exceptions=True,
    )

    assert await shop.sold(item) == 1
    assert sum(outcome == "null" for outcome in outcomes) == 1
    (late,) = (outcome for outcome in outcomes if isinstance(outcome, BaseException))
    assert one.fault(late) is Fault.DUPLICATE_KEY


async def test_steps_of_different_sagas_do_not_wait_for_each_other(shop: Shop, item: str) -> None:
    if not shop.kind.side_by_side:
        pytest.skip("one writer at a time")
    owner, other = shop.participant(), shop.participant(lock_timeout=1.0)
    inside, go = asyncio.Event(), asyncio.Event()

    async def waiting(session: Any) -> str:
        await shop.sell(session, item)
        inside.set()
        await reached(go, "the test lets it go on")
        return "null"

    async with shop.uncommitted_action(entry(), f"{item}x"):
        acting = asyncio.ensure_future(owner.act(entry(), waiting))
        await reached(inside, "the task is inside")
        saga = uuid4()
        await other.act(entry(saga_id=saga), selling(shop, item))
        await other.undo(entry("never", saga_id=saga), refunding(shop, item))
        await other.undo(entry(saga_id=saga), refunding(shop, item))
        go.set()
        await acting

    assert (await shop.sold(item), await shop.refunded(item)) == (2, 1)


async def test_a_compensation_that_is_under_way_is_not_run_by_a_second_compensator(shop: Shop, item: str) -> None:
    step, first, second = entry(), shop.participant(), shop.participant()
    await first.act(step, selling(shop, item))
    inside, go = asyncio.Event(), asyncio.Event()

    async def slowly(session: Any, _: str) -> None:
        await shop.refund(session, item)
        inside.set()
        await reached(go, "the test lets it go on")

    undoing = asyncio.ensure_future(first.undo(step, slowly))
    await reached(inside, "the task is inside")
    late = asyncio.ensure_future(settled(second, lambda: second.undo(step, refunding(shop, item)), []))
    await shop.somebody_waits()
    assert not late.done()
    go.set()
    await undoing
    await turns(1)

    assert (await late).state is Mark.COMPENSATED
    assert await shop.refunded(item) == 1
