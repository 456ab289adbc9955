"""Whole sagas on the embedded default and on PostgreSQL + MongoDB + MariaDB."""

import asyncio
import contextlib
import gc
import math
import os
import time
import weakref
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from polysaga import Refused, StepContext
from polysaga.errors import Busy, KeyReused, NeedsAttention, SagaFailed, SagaUndone
from polysaga.events import (
    ClaimLost,
    SagaDecided,
    SagaFinished,
    SagaNotKnown,
    SagaParked,
    StepDone,
    StepFailed,
    WorkerTicked,
)
from polysaga.sagas import Retry, Status
from polysaga.sagas.definition.definition import define
from polysaga.sagas.driving.execution import MOST_EXPIRIES
from polysaga.sagas.driving.progress import Asked
from polysaga.sagas.journal.journal import Journal
from polysaga.sagas.journal.tables import JOURNAL
from polysaga.sagas.process.worker import Worker
from polysaga.testing import settled
from tests.fixtures.programs import (
    LEDGER_PIVOT,
    PLACE_ORDER,
    QUICK,
    SHAPES,
    SINGLE,
    TWO_LAST_STEPS,
    Gate,
    Order,
    Program,
    Urls,
    make_due,
    take_over,
)
from tests.fixtures.waiting import forever, reached, until

ALL_DONE = {name: 1 for name, *_ in PLACE_ORDER}


async def refuse(db: Any, ctx: StepContext) -> None:
    raise Refused("no lantern left", item="lantern")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_every_shape_of_saga_completes_with_each_effect_once(urls: Urls, shape: Any) -> None:
    async with Program(urls, shape).open() as program:
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        await program.recorder.wait_for(SagaFinished)
        assert await program.effects(handle.id) == {name: 1 for name, *_ in shape}
        assert (await program.sagas.get(handle.id)).status is Status.COMPLETED


async def test_what_drives_a_saga_is_freed_when_it_ends(urls: Urls) -> None:
    """A cycle of references would keep it until the garbage collector comes by, and cost the collector's time."""
    async with Program(urls, PLACE_ORDER).open() as program:
        gc.collect()
        gc.disable()
        try:
            handle = await program.sagas.start(program.saga, Order())
            execution = weakref.ref(program.runner.executions[handle.id])
            await handle.result(30)
            del handle
            await until(lambda: execution() is None, "the execution is freed")
        finally:
            gc.enable()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_a_refusal_in_any_step_before_the_decision_undoes_everything(urls: Urls, shape: Any) -> None:
    async with Program(urls, shape).open() as program:
        for name in [name for name, _, kind, _ in shape if kind != "retriable"]:
            program.hooks = {name: refuse}
            with pytest.raises(Refused, match="no lantern left") as refused:
                await program.sagas.run(program.saga, Order(), timeout=30)
            assert refused.value.saga_id is not None
            assert await program.effects(refused.value.saga_id) == {}
            assert (await program.sagas.get(refused.value.saga_id)).status is Status.COMPENSATED


async def test_compensations_run_in_the_reverse_order_of_the_steps(urls: Urls) -> None:
    chain = [
        (f"step_{n}", db, "compensatable", [f"step_{n - 1}"] if n else [])
        for n, db in enumerate(["orders", "inventory", "points"])
    ]
    async with Program(urls, [*chain, ("decide_it", "inventory", "pivot", ["step_2"])]).open() as program:
        program.on("decide_it", refuse)
        with pytest.raises(Refused) as refused:
            await program.sagas.run(program.saga, Order(), timeout=30)
        assert refused.value.saga_id is not None
        # The pivot, in a ledger of its own, is blocked before anything is undone.
        assert await program.undone_in_order(refused.value.saga_id) == ["decide_it", "step_2", "step_1", "step_0"]


async def test_a_refusal_cancels_the_branch_beside_it_before_anything_is_undone(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        gate = Gate()
        program.on("credit_points", gate)

        async def refuse_when_the_other_branch_is_inside(db: Any, ctx: StepContext) -> None:
            await gate.reached()
            raise Refused("no lantern left")

        program.on("reserve_stock", refuse_when_the_other_branch_is_inside)
        with pytest.raises(Refused) as refused:
            await program.sagas.run(program.saga, Order(), timeout=30)
        assert gate.passed == {}
        assert refused.value.saga_id is not None
        assert await program.effects(refused.value.saga_id) == {}


async def test_one_key_is_one_saga_however_often_and_however_concurrently_it_is_started(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        handles = await asyncio.gather(*(program.sagas.start(program.saga, Order(), key="k-1") for _ in range(8)))
        assert len({handle.id for handle in handles}) == 1
        outputs = [await handle.result(30) for handle in handles]
        assert all(output == outputs[0] for output in outputs)
        await program.recorder.wait_for(SagaFinished)
        again = await program.sagas.start(program.saga, Order(), key="k-1")
        assert again.joined
        assert await again.result(30) == outputs[0]
        assert await program.effects(again.id) == ALL_DONE


async def test_two_processes_with_one_key_at_once_are_one_saga(urls: Urls) -> None:
    first, second = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    async with first.open(), second.open():
        handles = await asyncio.gather(
            *(program.sagas.start(program.saga, Order(), key="k-2") for program in (first, second))
        )
        outputs = [await handle.result(30) for handle in handles]
        assert handles[0].id == handles[1].id
        assert outputs[0] == outputs[1]
        await asyncio.wait(
            [asyncio.ensure_future(program.recorder.wait_for(SagaFinished)) for program in (first, second)],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert await first.effects(handles[0].id) == ALL_DONE


async def test_a_key_with_another_input_is_refused_and_starts_nothing(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        await program.sagas.run(program.saga, Order(item="lantern"), key="k-3", timeout=30)
        with pytest.raises(KeyReused, match="k-3"):
            await program.sagas.run(program.saga, Order(item="candle"), key="k-3", timeout=30)


async def test_a_refusal_is_told_again_to_whoever_comes_later_with_the_same_key(urls: Urls) -> None:
    for name in ("open_order", "credit_points"):
        async with Program(urls, PLACE_ORDER).open() as program:
            program.on(name, refuse)
            for _ in range(2):
                with pytest.raises(Refused, match="no lantern left") as refused:
                    await program.sagas.run(program.saga, Order(), key=f"k-{name}", timeout=30)
                assert refused.value.facts == {"item": "lantern"}


async def test_a_bug_in_a_step_undoes_the_saga_and_keeps_the_traceback(urls: Urls) -> None:
    async def stumble(db: Any, ctx: StepContext) -> None:
        raise ZeroDivisionError("one by nought")

    async with Program(urls, PLACE_ORDER).open() as program:
        program.on("credit_points", stumble)
        with pytest.raises(SagaFailed, match="credit_points") as failed:
            await program.sagas.run(program.saga, Order(), timeout=30)
        state = await program.sagas.get(failed.value.saga_id)
        assert state.error is not None
        assert "stumble" in state.error.traceback
        assert await program.effects(state.id) == {}


class Speechless(ValueError):
    """An error that cannot make its own text, like some of C extensions and of detached objects."""

    def __str__(self) -> str:
        raise RuntimeError("detached")


@pytest.mark.parametrize("step", ["open_order", "credit_points", "confirm_order"])
async def test_an_error_that_names_a_file_which_is_not_utf_8_undoes_the_saga_like_any_other(
    urls: Urls, step: str
) -> None:
    """Half of a surrogate pair cannot be written: the saga was never undone, and the worker's rounds failed."""

    async def stumble(db: Any, ctx: StepContext) -> None:
        raise ValueError(os.fsdecode(b"no file order-\xff.csv"))

    async with Program(urls, PLACE_ORDER).open() as program:
        program.on(step, stumble)
        with pytest.raises(SagaFailed, match=r"order-.udcff\.csv") as failed:
            await program.sagas.run(program.saga, Order(), timeout=30)
        state = await settled(program.sagas, failed.value.saga_id)
        assert state.status == "compensated"
        assert await program.effects(state.id) == {}


class SpeechlessRefusal(Refused):
    def __str__(self) -> str:
        raise RuntimeError("detached")


async def test_an_error_without_a_text_undoes_the_saga_like_any_other(urls: Urls) -> None:
    async def stumble(db: Any, ctx: StepContext) -> None:
        raise Speechless

    async with Program(urls, PLACE_ORDER).open() as program:
        program.on("credit_points", stumble)
        with pytest.raises(SagaFailed, match="Speechless") as failed:
            await program.sagas.run(program.saga, Order(), timeout=30)
        assert await program.effects(failed.value.saga_id) == {}
        assert "Speechless" in program.recorder.of(StepFailed)[0].reason


async def test_a_refusal_without_a_text_undoes_the_saga_like_any_other(urls: Urls) -> None:
    async def refuse_silently(db: Any, ctx: StepContext) -> None:
        raise SpeechlessRefusal("it is not shown")

    async with Program(urls, PLACE_ORDER).open() as program:
        program.on("credit_points", refuse_silently)
        with pytest.raises(SpeechlessRefusal) as refused:
            await program.sagas.run(program.saga, Order(), timeout=30)
        assert refused.value.saga_id is not None
        assert await program.effects(refused.value.saga_id) == {}


async def test_a_step_that_fails_for_a_while_is_repeated_and_happens_once(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:

        async def fail_twice(db: Any, ctx: StepContext) -> None:
            if ctx.attempt < 3:
                raise TimeoutError

        program.on("reserve_stock", fail_twice)
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        await program.recorder.wait_for(SagaFinished)
        assert len(program.recorder.of(StepFailed)) == 2
        assert await program.effects(handle.id) == ALL_DONE


async def test_a_step_that_keeps_failing_undoes_the_saga_and_says_try_again(urls: Urls) -> None:
    async def time_out(db: Any, ctx: StepContext) -> None:
        raise TimeoutError

    program = Program(urls, PLACE_ORDER)
    program.steps["credit_points"].retry = QUICK
    async with program.open():
        program.on("credit_points", time_out)
        with pytest.raises(SagaUndone) as undone:
            await program.sagas.run(program.saga, Order(), timeout=30)
        assert await program.effects(undone.value.saga_id) == {}


async def test_a_retriable_step_is_repeated_also_after_a_bug(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:

        async def stumble_twice(db: Any, ctx: StepContext) -> None:
            if ctx.attempt < 3:
                raise ZeroDivisionError

        program.on("record_event", stumble_twice)
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        await program.recorder.wait_for(SagaFinished)
        assert await program.effects(handle.id) == ALL_DONE


async def test_a_retriable_step_out_of_patience_is_put_aside_and_stays_decided(urls: Urls) -> None:
    async def stumble(db: Any, ctx: StepContext) -> None:
        raise ZeroDivisionError

    program = Program(urls, PLACE_ORDER)
    program.steps["record_event"].retry = QUICK
    async with program.open():
        program.on("record_event", stumble)
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        await _until_nobody_drives(program)
        state = await program.sagas.get(handle.id)
        assert state.status is Status.COMPLETING
        assert state.history[-1].outcome == "ZeroDivisionError"


async def test_a_compensation_that_never_works_parks_the_saga_while_the_others_are_undone(urls: Urls) -> None:
    async def stumble(db: Any, ctx: StepContext) -> None:
        raise ZeroDivisionError("cannot undo")

    program = Program(urls, PLACE_ORDER)
    program.steps["reserve_stock"].undo_retry = QUICK
    async with program.open():
        program.on("undo:reserve_stock", stumble)
        program.on("confirm_order", refuse)
        with pytest.raises(NeedsAttention, match="cannot undo") as parked:
            await program.sagas.run(program.saga, Order(), timeout=30)
        assert program.recorder.of(SagaParked)
        failures = [event for event in program.recorder.of(StepFailed) if event.step == "reserve_stock"]
        assert {event.phase for event in failures} == {"undo"}
        state = await program.sagas.get(parked.value.saga_id)
        assert state.status is Status.NEEDS_ATTENTION
        # What stands before the stuck step in the graph waits; what stands beside it does not.
        assert await program.effects(state.id) == {"open_order": 1, "reserve_stock": 1}


async def test_a_client_that_goes_away_cancels_nothing(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        gate = Gate()
        program.on("reserve_stock", gate)
        request = asyncio.ensure_future(program.sagas.run(program.saga, Order()))
        await gate.reached()
        request.cancel()
        gate.open()
        finished = await program.recorder.wait_for(SagaFinished)
        assert finished.status == "completed"
        assert await program.effects(finished.saga_id) == ALL_DONE


async def test_past_the_bound_callers_wait_and_are_then_told_to_try_again(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open(max_in_flight=1, start_timeout=0.2) as program:
        gate = Gate()
        program.on("reserve_stock", gate)
        handle = await program.sagas.start(program.saga, Order())
        with pytest.raises(Busy):
            await program.sagas.start(program.saga, Order())
        gate.open()
        await handle.result(30)


@pytest.mark.parametrize("shape", [PLACE_ORDER, TWO_LAST_STEPS, SINGLE], ids=["place-order", "two", "single"])
async def test_the_output_is_what_the_deciding_step_returned(urls: Urls, shape: Any) -> None:
    async with Program(urls, shape).open() as program:
        output = await program.sagas.run(program.saga, Order(), timeout=30)
        decision = {id(PLACE_ORDER): "confirm_order", id(SINGLE): "only"}.get(id(shape))
        assert (output and output.step) == decision


async def test_a_saga_of_an_unknown_version_is_left_alone_and_reported(urls: Urls) -> None:
    old = Program(urls, PLACE_ORDER)
    async with old.open(drain=0.01) as program:
        gate = Gate()
        program.on("reserve_stock", gate)
        handle = await program.sagas.start(program.saga, Order())
    new = Program(urls, PLACE_ORDER[:-1])
    async with new.open(lease=0.4):
        reported = await new.recorder.wait_for(SagaNotKnown)
        assert reported.saga_id == handle.id
        assert (await new.sagas.get(handle.id)).status is Status.RUNNING


async def test_a_drained_process_hands_its_sagas_to_another_at_once(urls: Urls) -> None:
    leaving, staying = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    async with staying.open(lease=1.0):
        async with leaving.open(lease=3600.0, drain=0.01):
            leaving.on("credit_points", Gate())
            handle = await leaving.sagas.start(leaving.saga, Order())
            await leaving.recorder.wait_for(type(leaving.recorder.events[0]))
        finished = await staying.recorder.wait_for(SagaFinished)
        assert finished.saga_id == handle.id
        assert await staying.effects(handle.id) == ALL_DONE


async def test_a_process_ends_although_a_step_swallows_its_cancellation(urls: Urls) -> None:
    """A driver, or a step, turns the cancellation into a result: the process must not begin the next step."""
    leaving, staying = Program(urls, LEDGER_PIVOT), Program(urls, LEDGER_PIVOT)
    inside, next_step = asyncio.Event(), Gate()

    async def swallow(db: Any, ctx: StepContext) -> None:
        inside.set()
        with contextlib.suppress(asyncio.CancelledError):
            await forever()

    leaving.on("take", swallow)
    leaving.on("decide_there", next_step)
    async with staying.open(lease=1.0):
        async with leaving.open(lease=3600.0, drain=0.01):
            handle = await leaving.sagas.start(leaving.saga, Order())
            await reached(inside, "the task is inside")
        assert not next_step.arrived.is_set()
        finished = await staying.recorder.wait_for(SagaFinished)
        assert (finished.saga_id, finished.status) == (handle.id, "completed")
        assert await staying.effects(handle.id) == {step: 1 for step, *_ in LEDGER_PIVOT}


async def test_a_frozen_owner_that_wakes_up_changes_nothing(urls: Urls) -> None:
    """The first owner stops inside a step until the second has taken the saga over and finished it."""
    frozen, other = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    gate = Gate()

    async def freeze_before_the_transaction(db: Any, ctx: StepContext) -> None:
        await gate(db, ctx)
        raise TimeoutError  # what it had is gone; its next attempt comes too late

    frozen.on("credit_points", freeze_before_the_transaction)
    frozen.steps["credit_points"].retry = Retry(within=5.0)
    # A lease it cannot renew: its worker ticks once an hour.
    async with other.open(lease=3600.0), frozen.open(lease=3600.0):
        handle = await frozen.sagas.start(frozen.saga, Order())
        await gate.reached()
        await take_over(other, handle.id)
        finished = await other.recorder.wait_for(SagaFinished)
        assert finished.status == "completed"
        gate.open()
        assert await handle.result(30) is not None
        await frozen.recorder.wait_for(ClaimLost)
    assert finished.saga_id == handle.id


def freeze_in(program: Program, ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Freeze *program* for two days between the answer to the journal's *ask* and the next line of code."""
    engine, behind = program.runner.engine, [timedelta(days=2)]
    monkeypatch.setattr(engine.clock, "now", lambda: datetime.now(UTC) - behind[0])
    monkeypatch.setattr(engine.clock, "monotonic", lambda: time.monotonic() - behind[0].total_seconds())
    asks = getattr(engine.journal, ask)

    async def ask_and_freeze(*asked: Any, **more: Any) -> Any:
        answer = await asks(*asked, **more)
        behind[0] = timedelta()
        return answer

    monkeypatch.setattr(engine.journal, ask, ask_and_freeze)


async def test_an_owner_that_is_frozen_for_days_as_it_takes_over_changes_nothing(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then the saga may have ended, and its ledger rows may be removed: nothing there refuses a second run."""
    first, frozen, gate = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER), Gate()
    first.on("credit_points", gate)
    async with first.open(lease=3600.0), frozen.open(lease=3600.0):
        handle = await first.sagas.start(first.saga, Order())
        await gate.reached()
        await first.recorder.wait_for(StepDone, lambda done: done.step == "reserve_stock")
        await make_due(frozen, handle.id)
        freeze_in(frozen, "claim", monkeypatch)
        await Worker(frozen.runner).tick()
        await frozen.recorder.wait_for(ClaimLost)
        assert await first.effects(handle.id) == {"open_order": 1, "reserve_stock": 1}


async def test_an_owner_that_is_frozen_as_it_renews_knows_how_old_its_claim_is(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, gate = Program(urls, PLACE_ORDER), Gate()
    program.on("credit_points", gate)
    async with program.open(lease=3600.0):
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        runner = program.runner
        execution = runner.executions[handle.id]
        execution.renew(Asked(-math.inf, datetime.now(UTC)))
        freeze_in(program, "renew", monkeypatch)
        await Worker(runner).tick()
        assert execution.progress.not_after < datetime.now(UTC)
        assert runner.engine.clock.monotonic() - execution.renewed_at > 3600.0
        gate.open()


async def test_a_claim_that_ends_with_its_saga_is_not_taken_for_a_lost_one(urls: Urls) -> None:
    """The row is final, its owner has not seen the answer yet, and the worker finds nothing to renew."""
    program, gate = Program(urls, PLACE_ORDER), Gate()
    async with program.open(lease=0.4):
        runner = program.runner
        add = runner.engine.finishes.add

        async def add_and_stop(item: Any, *, patient: bool = False) -> bool:
            answer = await add(item, patient=patient)
            await gate(None, StepContext(item.claim.saga_id, "finish", 1, {}))
            return answer

        runner.engine.finishes.add = add_and_stop  # type: ignore[method-assign]
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        ticks = len(program.recorder.of(WorkerTicked))
        await program.recorder.wait_for(
            WorkerTicked, lambda _: len(program.recorder.of(WorkerTicked)) >= ticks + 3
        )
        gate.open()
        finished = await program.recorder.wait_for(SagaFinished)
    assert (finished.saga_id, finished.status) == (handle.id, "completed")
    assert not program.recorder.of(ClaimLost)


@pytest.mark.parametrize(
    ("lost", "status"), [(MOST_EXPIRIES - 1, "completed"), (MOST_EXPIRIES, "needs_attention")]
)
async def test_a_saga_whose_owners_keep_dying_without_progress_is_parked(
    urls: Urls, lost: int, status: str
) -> None:
    """A step may be what kills them. The count begins anew with the first owner that finds a new record."""
    first, second, last = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    frozen = Gate()
    second.on("credit_points", frozen)
    async with first.open(lease=3600.0), second.open(lease=3600.0, drain=0.01):
        first.on("credit_points", Gate())
        handle = await first.sagas.start(first.saga, Order())
        await first.recorder.wait_for(StepDone, lambda done: done.step == "reserve_stock")
        await take_over(second, handle.id)
        await frozen.reached()
        await _lose_owners(second, handle.id, lost)
        async with last.open(lease=3600.0):
            await last.recorder.wait_for(SagaParked if status == "needs_attention" else SagaFinished)
            found = await last.sagas.get(handle.id)
    assert found.status == status
    if status == "needs_attention":
        assert found.step == "credit_points"
        assert "11 processes in a row ended, or hung" in (found.reason or "")


async def test_the_time_of_a_saga_counts_from_its_start_also_after_a_takeover(urls: Urls) -> None:
    first, second, gate = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER), Gate()
    first.on("credit_points", gate)
    async with first.open(lease=3600.0, drain=0.01), second.open(lease=3600.0):
        handle = await first.sagas.start(first.saga, Order())
        await gate.reached()
        node = first.runner.engine.journal.node
        older = node.dialect.render(f"UPDATE {JOURNAL} SET created_at = {node.dialect.ago(':seconds')}")
        async with node.writer.begin() as connection:
            await connection.exec_driver_sql(older.sql, older.bind({"seconds": 100.0}))
        await take_over(second, handle.id)

        decided, ended = await second.recorder.wait_for(SagaDecided), await second.recorder.wait_for(SagaFinished)

        assert 100 <= decided.seconds <= ended.seconds < 200
        gate.open()


async def _lose_owners(program: Program, saga_id: Any, count: int) -> None:
    """Let *count* owners claim the saga one after the other, each with a lease that runs out at once."""
    journal = (await make_due(program, saga_id)).engine.journal
    dying = Journal(journal.node, [define(program.saga).fingerprint], lease=0.0)
    for _ in range(count):
        assert [row.claim.saga_id for row in await dying.claim(1)] == [saga_id]


async def _until_nobody_drives(program: Program) -> None:
    runner = program.runner
    async with asyncio.timeout(30):
        await asyncio.gather(*runner.tasks)
