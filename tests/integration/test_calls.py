"""Steps without a database: called at least once under one key, recorded once, undone by who called in vain."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from polysaga import Refused, StepContext
from polysaga.errors import TryAgain
from polysaga.events import ClaimLost, SagaFinished, StepCompensated, StepDone
from polysaga.sagas import Status
from tests.fixtures.programs import (
    WITH_CALLS,
    Gate,
    Note,
    Order,
    Outside,
    Program,
    Urls,
    take_over,
)

ALONE = 3600.0  # seconds of a lease whose worker ticks once; tests move claims by hand
DONE = {name: 1 for name, *_ in WITH_CALLS}
Shape = Sequence[tuple[str, str, str, Sequence[str]]]


def owners(urls: Urls, shape: Shape = WITH_CALLS) -> tuple[Program, Program]:
    """Two processes on the same databases that call the same world outside."""
    outside = Outside()
    return Program(urls, shape, outside=outside), Program(urls, shape, outside=outside)


async def refuse(db: Any, ctx: StepContext) -> None:
    raise Refused("no lantern left")


async def test_after_a_takeover_a_recorded_result_is_used_and_the_call_not_repeated(urls: Urls) -> None:
    first, second = owners(urls)
    gate = Gate()
    first.on("confirm_order", gate)
    async with second.open(lease=ALONE), first.open(lease=ALONE, drain=0.01):
        handle = await first.sagas.start(first.saga, Order())
        await gate.reached()
        await take_over(second, handle.id)
        assert (await second.recorder.wait_for(SagaFinished)).status == "completed"
        assert second.outside.asked == {"charge_card": 1, "send_mail": 1}
        assert await second.effects(handle.id) == DONE


async def test_a_call_whose_owner_died_before_it_was_recorded_is_repeated_under_the_same_key(urls: Urls) -> None:
    first, second = owners(urls)
    gate = Gate()
    first.on("after:charge_card", gate)
    async with second.open(lease=ALONE), first.open(lease=ALONE, drain=0.01):
        handle = await first.sagas.start(first.saga, Order())
        await gate.reached()
        await take_over(second, handle.id)
        assert (await second.recorder.wait_for(SagaFinished)).status == "completed"
        assert second.outside.asked["charge_card"] == 2
        assert await second.effects(handle.id) == DONE
        # The first owner wakes up with a result that is not recorded: it is refused and undoes nothing.
        gate.open()
        await first.recorder.wait_for(ClaimLost)
        assert second.outside.asked["undo:charge_card"] == 0
        found = [done for done in first.recorder.of(StepDone) if done.step == "charge_card"]
        assert [done.found for done in found] == [True]


async def test_an_owner_that_lost_its_claim_while_it_called_undoes_its_own_call(urls: Urls) -> None:
    """Its call arrives outside after the compensation of the owner that undid the saga."""
    late, other = owners(urls)
    gate = Gate()
    late.on("charge_card", gate)
    other.on("reserve_stock", refuse)
    other.on("charge_card", refuse)
    async with other.open(lease=ALONE), late.open(lease=ALONE):
        late.on("reserve_stock", Gate())  # it gets no further than its call
        handle = await late.sagas.start(late.saga, Order())
        await gate.reached()
        await take_over(other, handle.id)
        assert (await other.recorder.wait_for(SagaFinished)).status == "compensated"
        assert other.outside.told == [None]  # the second owner did not know whether the first had called
        gate.open()
        await other.outside.undone("charge_card", 2)
        assert other.outside.told == [None, Note(step="charge_card", attempt=1)]
        assert await other.effects(handle.id) == {}
        assert (await other.sagas.get(handle.id)).status is Status.COMPENSATED


async def test_an_owner_whose_lease_ran_out_asks_the_journal_before_it_calls(urls: Urls) -> None:
    shape: Shape = [
        ("credit_points", "points", "compensatable", []),
        ("charge_card", "outside", "compensatable", ["credit_points"]),
        ("ship", "inventory", "pivot", ["charge_card"]),
    ]
    frozen, other = owners(urls, shape)
    gate = Gate()

    async def freeze(db: Any, ctx: StepContext) -> None:
        await gate(db, ctx)
        raise TimeoutError  # its next attempt finds the row that the other owner has written

    frozen.on("credit_points", freeze)
    async with other.open(lease=ALONE), frozen.open(lease=ALONE):
        handle = await frozen.sagas.start(frozen.saga, Order())
        await gate.reached()
        await take_over(other, handle.id)
        await other.recorder.wait_for(SagaFinished)
        runner = frozen.runner
        runner.executions[handle.id].renew(-2 * ALONE)
        gate.open()
        await frozen.recorder.wait_for(ClaimLost)
        assert other.outside.asked == {"charge_card": 1}


async def test_a_call_under_way_is_awaited_before_the_saga_is_undone(urls: Urls) -> None:
    async with Program(urls, WITH_CALLS).open() as program:
        gate = Gate()
        program.on("charge_card", gate)

        async def refuse_beside_the_call(db: Any, ctx: StepContext) -> None:
            await gate.reached()
            asyncio.get_running_loop().call_later(0.1, gate.open)
            raise Refused("no lantern left")

        program.on("reserve_stock", refuse_beside_the_call)
        with pytest.raises(Refused) as refused:
            await program.sagas.run(program.saga, Order(), timeout=30)
        assert program.outside.told == [Note(step="charge_card", attempt=1)]
        assert refused.value.saga_id is not None
        assert await program.effects(refused.value.saga_id) == {}


async def test_a_call_of_which_no_reply_came_is_undone_without_a_result(urls: Urls) -> None:
    async with Program(urls, WITH_CALLS).open() as program:

        async def time_out_then_refuse(db: Any, ctx: StepContext) -> None:
            raise TimeoutError if ctx.attempt == 1 else Refused("card expired")

        program.on("after:charge_card", time_out_then_refuse)
        with pytest.raises(Refused, match="card expired") as refused:
            await program.sagas.run(program.saga, Order(), timeout=30)
        assert program.outside.told == [None]
        assert refused.value.saga_id is not None
        assert await program.effects(refused.value.saga_id) == {}


async def test_a_call_that_was_refused_at_once_has_nothing_to_undo(urls: Urls) -> None:
    async with Program(urls, WITH_CALLS).open() as program:
        program.on("charge_card", refuse)
        with pytest.raises(Refused):
            await program.sagas.run(program.saga, Order(), timeout=30)
        assert program.outside.told == []
        (nothing,) = [undone for undone in program.recorder.of(StepCompensated) if undone.step == "charge_card"]
        assert nothing.null
        assert nothing.database is None


@pytest.mark.parametrize("error", [TryAgain("busy"), ConnectionResetError()], ids=["try-again", "os-error"])
async def test_what_time_heals_outside_is_tried_again_with_the_same_key(urls: Urls, error: Exception) -> None:
    async with Program(urls, WITH_CALLS).open() as program:
        keys = []

        async def stumble(db: Any, ctx: StepContext) -> None:
            keys.append(ctx.idempotency_key)
            if ctx.attempt < 3:
                raise error

        program.on("charge_card", stumble)
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        assert keys == [f"{handle.id}:charge_card"] * 3


async def test_an_outage_of_the_journal_does_not_repeat_a_call(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Program(urls, WITH_CALLS).open() as program:
        runner = program.runner
        journal = runner.engine.journal
        record, failures = journal.record_call, iter([True, True])

        async def lose_the_reply(*given: Any) -> bool:
            done = await record(*given)
            if next(failures, False):
                raise ConnectionResetError
            return done

        async def never_arrive(*given: Any) -> bool:
            if next(failures, False):
                raise ConnectionResetError
            return await record(*given)

        for broken in (never_arrive, lose_the_reply):
            failures = iter([True, True])
            monkeypatch.setattr(journal, "record_call", broken)
            program.outside.asked.clear()
            handle = await program.sagas.start(program.saga, Order())
            await handle.result(30)
            assert program.outside.asked["charge_card"] == 1


@pytest.mark.parametrize("recorded", [True, False])
async def test_a_compensation_whose_owner_died_is_repeated(urls: Urls, recorded: bool) -> None:
    """Between the block and the call that undoes, and between that call and its note."""
    first, second = owners(urls)
    gate = Gate()
    first.on("undo:charge_card", gate)
    first.on("confirm_order" if recorded else "charge_card", refuse)
    if not recorded:
        first.on("charge_card", _time_out_then_refuse)
    async with second.open(lease=ALONE), first.open(lease=ALONE, drain=0.01):
        handle = await first.sagas.start(first.saga, Order())
        await gate.reached()
        await take_over(second, handle.id)
        assert (await second.recorder.wait_for(SagaFinished)).status == "compensated"
        told = second.outside.told
        assert told == [Note(step="charge_card", attempt=1) if recorded else None]
        gate.open()
        with pytest.raises(Refused):
            await handle.result(30)
        await second.outside.undone("charge_card", 2)
        assert told[0] == told[1]
        assert await second.effects(handle.id) == {}


async def _time_out_then_refuse(db: Any, ctx: StepContext) -> None:
    raise TimeoutError if ctx.attempt == 1 else Refused("card expired")
