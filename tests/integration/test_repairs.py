"""What people do to sagas that cannot go on: only what their status allows, and never without a line about it."""

import asyncio
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import OperationalError

from polysaga import Status
from polysaga.errors import (
    DatabaseUnavailable,
    DefinitionError,
    NeedsAttention,
    PayloadError,
    Refused,
    SagaCancelled,
    TooLate,
    UnknownSaga,
    WrongStatus,
)
from polysaga.events import SagaClaimed, SagaFinished, SagaParked, SagaRepaired, StepDone, StepFailed
from polysaga.sagas import Parking, Reason, SagaFilter, SagaState
from polysaga.sagas.journal import queries
from polysaga.sagas.operations.repair import SagaRepair
from tests.fixtures.programs import (
    LEDGER_PIVOT,
    PLACE_ORDER,
    QUICK,
    TWO_LAST_STEPS,
    Gate,
    Order,
    Program,
    Urls,
    make_due,
)
from tests.fixtures.setups import urls as urls

ME = {"by": "ada", "why": "the shelf was counted by hand"}
QUICK_LEASE = 0.8
EVERYTHING = {step: 1 for step, *_ in PLACE_ORDER}


async def stumble(db: Any, ctx: Any) -> None:
    raise ZeroDivisionError("cannot do it")


async def refuse(db: Any, ctx: Any) -> None:
    raise Refused("no lantern left")


def stuck_going_back(urls: Urls, step: str = "reserve_stock") -> Program:
    """A program whose sagas are refused at the end and then cannot undo *step*."""
    program = Program(urls, PLACE_ORDER)
    program.steps[step].undo_retry = QUICK
    program.on(f"undo:{step}", stumble)
    program.on("confirm_order", refuse)
    return program


def stuck_going_forward(urls: Urls) -> Program:
    """A program whose sagas are decided and then cannot do their last step; they are put aside."""
    program = Program(urls, PLACE_ORDER)
    program.steps["record_event"].retry = QUICK
    program.on("record_event", stumble)
    return program


async def parked(program: Program, **more: Any) -> UUID:
    with pytest.raises(NeedsAttention) as raised:
        await program.sagas.run(program.saga, Order(), timeout=30, **more)
    return raised.value.saga_id


async def put_aside(program: Program) -> UUID:
    """Run a saga until its process has given it up for a while."""
    handle = await program.sagas.start(program.saga, Order())
    await handle.result(30)
    await at_rest(program)
    state = await program.sagas.get(handle.id)
    assert (state.status, state.owner) == (Status.COMPLETING, None)
    return handle.id


async def at_rest(program: Program) -> None:
    runner = program.runner
    async with asyncio.timeout(30):
        while runner.tasks:
            await asyncio.gather(*runner.tasks, return_exceptions=True)


async def finished(program: Program, saga_id: UUID) -> SagaState:
    await program.recorder.wait_for(SagaFinished, lambda event: event.saga_id == saga_id)
    return await program.sagas.get(saga_id)


async def test_a_parked_saga_tells_why_where_and_in_which_direction(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        saga_id = await parked(program, key="k-1")
        state = await program.sagas.get(saga_id)
        assert (state.status, state.parked_from) == (Status.NEEDS_ATTENTION, Status.COMPENSATING)
        assert state.step == "reserve_stock"
        assert state.reason is not None
        assert "cannot do it" in state.reason
        assert state.error is not None
        assert (state.error.kind, state.error.message) == ("refused", "no lantern left")
        assert (state.name, state.version, state.key, state.known) == ("place-order", 1, "k-1", True)
        assert (state.owner, state.driven_here, state.audit, state.deadline) == (None, False, (), None)
        assert state.wake_at is None
        assert state.finished_at is None
        assert state.input == '{"item":"lantern"}'


async def test_a_saga_retried_after_its_cause_is_gone_is_undone_and_keeps_its_refusal(urls: Urls) -> None:
    async with stuck_going_back(urls).open(lease=QUICK_LEASE) as program:
        saga_id = await parked(program, key="k-1")
        epoch = (await program.sagas.get(saga_id)).epoch
        del program.hooks["undo:reserve_stock"]

        (told,) = await program.sagas.retry(saga_id, **ME)

        assert (told.done, told.before, told.after) == (True, Status.NEEDS_ATTENTION, Status.COMPENSATING)
        state = await finished(program, saga_id)
        assert state.status is Status.COMPENSATED
        assert state.epoch > epoch + 1, "the person's claim, then the worker's"
        assert await program.effects(saga_id) == {}
        (line,) = state.audit
        assert (line.by, line.action, line.why) == ("ada", "retry", ME["why"])
        assert line.details["before"]["status"] == "needs_attention"
        assert line.details["after"]["status"] == "compensating"
        assert line.details["after"]["epoch"] == epoch + 1
        assert abs((line.at - state.created_at).total_seconds()) < 600
        assert program.recorder.of(SagaRepaired)[0].by == "ada"
        with pytest.raises(Refused, match="no lantern left"):
            await program.sagas.run(program.saga, Order(), key="k-1", timeout=30)


async def test_a_dry_run_tells_what_would_happen_and_changes_nothing(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        saga_id = await parked(program)
        before = await program.sagas.get(saga_id)
        sagas = program.sagas

        told = [
            *await sagas.retry(saga_id, dry_run=True, **ME),
            *await sagas.skip(saga_id, "reserve_stock", dry_run=True, **ME),
            *await sagas.resolve(saga_id, "compensated", dry_run=True, **ME),
            *await sagas.retry(SagaFilter(), dry_run=True, **ME),
        ]

        assert [one.after for one in told] == ["compensating", "compensating", "compensated", "compensating"]
        assert not any(one.done for one in told)
        assert await sagas.get(saga_id) == before


@pytest.mark.parametrize("step", ["reserve_stock", "open_order"], ids=["in a ledger", "in the journal"])
async def test_a_step_undone_by_hand_is_not_undone_again(urls: Urls, step: str) -> None:
    async with stuck_going_back(urls, step).open(lease=QUICK_LEASE) as program:
        saga_id = await parked(program)

        await program.sagas.skip(saga_id, step, **ME)

        state = await finished(program, saga_id)
        assert state.status is Status.COMPENSATED
        # Its compensation never ran here; the person has done by hand what it would have done.
        assert await program.effects(saga_id) == {step: 1}
        assert state.audit[0].details["asked"] == {"step": step, "result": None}


async def test_a_step_done_by_hand_is_not_done_again_and_its_result_is_the_persons(urls: Urls) -> None:
    async with stuck_going_forward(urls).open(lease=QUICK_LEASE) as program:
        saga_id = await put_aside(program)

        await program.sagas.skip(saga_id, "record_event", {"step": "by hand", "attempt": 0}, **ME)

        state = await finished(program, saga_id)
        assert state.status is Status.COMPLETED
        assert await program.effects(saga_id) == {step: 1 for step in EVERYTHING if step != "record_event"}
        assert "by hand" in state.audit[0].details["asked"]["result"]


async def test_a_late_run_of_a_skipped_step_changes_nothing(urls: Urls) -> None:
    """The first owner is inside the step while a person, who takes it for dead, skips the step."""
    slow, other = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    gate = Gate()
    slow.on("record_event", gate)
    other.steps["record_event"].retry = QUICK
    other.on("record_event", stumble)
    async with other.open(lease=QUICK_LEASE), slow.open(lease=3600.0):
        handle = await slow.sagas.start(slow.saga, Order())
        await gate.reached()
        await make_due(slow, handle.id)
        await other.recorder.wait_for(StepFailed)
        await at_rest(other)

        await other.sagas.skip(handle.id, "record_event", {"step": "by hand", "attempt": 0}, **ME)
        await finished(other, handle.id)
        gate.open()
        await at_rest(slow)

        assert gate.passed == {"record_event": 1}
        assert await slow.effects(handle.id) == {step: 1 for step in EVERYTHING if step != "record_event"}


async def test_a_step_that_happens_while_a_person_skips_it_keeps_its_result_and_the_person_is_told(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit trail said that the person's result stands."""
    slow, other, gate = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER), Gate()
    slow.on("record_event", gate)
    other.steps["record_event"].retry = QUICK
    other.on("record_event", stumble)
    async with other.open(lease=QUICK_LEASE), slow.open(lease=3600.0):
        handle = await slow.sagas.start(slow.saga, Order())
        await gate.reached()
        await make_due(slow, handle.id)
        await other.recorder.wait_for(StepFailed)
        await at_rest(other)
        journal = other.runner.engine.journal
        claim = journal.take_for_person

        async def land_first(*given: Any) -> bool:
            gate.open()
            await at_rest(slow)
            return await claim(*given)

        monkeypatch.setattr(journal, "take_for_person", land_first)
        with pytest.raises(WrongStatus, match="step 'record_event' has another outcome meanwhile"):
            await other.sagas.skip(handle.id, "record_event", {"step": "by hand", "attempt": 0}, **ME)

        assert (await other.sagas.get(handle.id)).audit == ()
        await other.sagas.retry(handle.id, **ME)
        assert (await finished(other, handle.id)).status is Status.COMPLETED
        assert await slow.effects(handle.id) == EVERYTHING


async def parked_while_running(program: Program, step: str) -> UUID:
    """Park a saga whose *step* is still to be done, as after many processes that ended in it."""
    gate = Gate()
    program.on(step, gate)
    handle = await program.sagas.start(program.saga, Order())
    await gate.reached()
    runner = program.runner
    await program.recorder.wait_for(StepDone, lambda event: event.step == "reserve_stock")
    row = await runner.engine.journal.load(handle.id)
    assert row is not None
    error = Reason(kind="failed", message="x", parked=Parking(status=Status.RUNNING, message="y"))
    assert await runner.engine.journal.park(row.claim, Status.RUNNING, error, [])
    runner.abandon(runner.executions[handle.id])
    await at_rest(program)
    del program.hooks[step]
    return handle.id


@pytest.mark.parametrize("going", ["forward", "back"])
async def test_a_skip_that_was_broken_off_before_the_journal_can_be_repeated(
    urls: Urls, going: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its step had its record already, so it was refused, and the audit trail never had who said so."""
    back = going == "back"
    async with (stuck_going_back(urls) if back else Program(urls, PLACE_ORDER)).open(lease=QUICK_LEASE) as program:
        saga_id = await parked(program) if back else await parked_while_running(program, "credit_points")
        step, result = ("reserve_stock", None) if back else ("credit_points", {"step": "x", "attempt": 0})

        async def die(*_: Any, **__: Any) -> bool:
            raise ZeroDivisionError("the program ends")

        with monkeypatch.context() as patched:
            patched.setattr(program.runner.engine.journal, "repair", die)
            with pytest.raises(ZeroDivisionError):
                await program.sagas.skip(saga_id, step, result, **ME)
        assert (await program.sagas.get(saga_id)).status is Status.NEEDS_ATTENTION
        if not back:
            with pytest.raises(WrongStatus, match="done already"):
                await program.sagas.skip(saga_id, step, {"step": "another", "attempt": 0}, **ME)

        await program.sagas.skip(saga_id, step, result, **ME)

        state = await finished(program, saga_id)
        assert state.status is (Status.COMPENSATED if back else Status.COMPLETED)
        assert [line.action for line in state.audit] == ["skip"]


@pytest.mark.parametrize("shape", [PLACE_ORDER, LEDGER_PIVOT], ids=["pivot in the journal", "pivot in a ledger"])
async def test_a_person_undoes_a_running_saga_and_its_caller_is_told_so(urls: Urls, shape: Any) -> None:
    async with Program(urls, shape).open(lease=QUICK_LEASE) as program:
        gate, step = Gate(), shape[1][0] if shape is PLACE_ORDER else shape[0][0]
        program.on(step, gate)
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()

        (told,) = await program.sagas.compensate(handle.id, **ME)
        await program.recorder.wait_for(SagaClaimed)
        gate.open()

        assert (told.before, told.after) == (Status.RUNNING, Status.COMPENSATING)
        with pytest.raises(SagaCancelled, match=r"by ada: the shelf"):
            await handle.result(30)
        await finished(program, handle.id)
        assert await program.effects(handle.id) == {}


async def test_a_decided_saga_is_never_undone_by_a_person(urls: Urls) -> None:
    async with stuck_going_forward(urls).open() as program:
        saga_id = await put_aside(program)
        for undo in (
            program.sagas.compensate(saga_id, **ME),
            program.sagas.resolve(saga_id, "compensated", **ME),
        ):
            with pytest.raises(TooLate) as late:
                await undo
            assert (late.value.saga_id, late.value.status) == (saga_id, "completing")
        assert (await program.sagas.get(saga_id)).audit == ()


async def test_a_repaired_saga_goes_on_at_once_in_the_process_of_the_person(urls: Urls) -> None:
    program = stuck_going_back(urls)
    async with program.open(lease=3600.0):  # the worker ticks four times an hour
        saga_id = await parked(program)
        del program.hooks["undo:reserve_stock"]
        await program.sagas.retry(saga_id, **ME)
        await finished(program, saga_id)
        assert (await program.sagas.get(saga_id)).status is Status.COMPENSATED


async def test_a_pivot_in_a_ledger_is_asked_before_a_person_ends_a_saga(urls: Urls) -> None:
    program = Program(urls, LEDGER_PIVOT)
    program.steps["tell"].retry = QUICK
    program.on("tell", stumble)
    async with program.open() as program:
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        await at_rest(program)
        assert (await program.sagas.get(handle.id)).status is Status.RUNNING

        for dry_run in (True, False):
            with pytest.raises(TooLate, match="completing"):
                await program.sagas.compensate(handle.id, dry_run=dry_run, **ME)
        found = await program.sagas.inspector().examine(handle.id)
        assert next(one.problem for one in found.options if one.action == "compensate") is not None
        with pytest.raises(TooLate):
            await program.sagas.resolve(handle.id, "compensated", **ME)
        assert (await program.sagas.get(handle.id)).audit == ()
        await program.sagas.resolve(handle.id, "completed", **ME)

        assert (await program.sagas.get(handle.id)).status is Status.COMPLETED
        assert await program.effects(handle.id) == {"take": 1, "decide_there": 1}
        again = await handle.result(30)
        assert again.step == "decide_there"


async def test_a_saga_is_compensated_although_the_database_of_its_pivot_does_not_answer(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner asks that database before it undoes anything."""
    async with Program(urls, LEDGER_PIVOT).open(lease=QUICK_LEASE) as program:
        gate = Gate()
        program.on("take", gate)
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        with monkeypatch.context() as patched:
            patched.setattr(SagaRepair, "_look", away)
            (told,) = await program.sagas.compensate(handle.id, **ME)
        assert told.done
        await program.recorder.wait_for(SagaClaimed)
        gate.open()
        await finished(program, handle.id)
        assert await program.effects(handle.id) == {}


async def away(*_: Any) -> Any:
    raise DatabaseUnavailable("inventory", "primary", "it is away")


async def test_a_pivot_in_a_ledger_is_asked_before_a_person_skips_a_compensation(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, elsewhere = Program(urls, LEDGER_PIVOT), Program(urls, LEDGER_PIVOT)
    program.steps["tell"].retry = QUICK
    program.on("tell", stumble)
    # A lease so long that no worker comes before the person, whose process drives no saga.
    async with program.open(lease=600.0) as program, elsewhere.connected():
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        await at_rest(program)
        with monkeypatch.context() as patched:
            patched.setattr(SagaRepair, "_look", away)
            await elsewhere.sagas.compensate(handle.id, **ME)

        with pytest.raises(TooLate):
            await elsewhere.sagas.skip(handle.id, "take", **ME)

        runner = program.runner
        found = await runner.engine.participants["points"].look(handle.id, ["take"])
        assert found["take"].state == "done"


async def test_a_saga_resolved_as_compensated_runs_no_compensation_any_more(urls: Urls) -> None:
    async with stuck_going_back(urls).open(lease=QUICK_LEASE) as program:
        saga_id = await parked(program, key="k-1")

        (told,) = await program.sagas.resolve(saga_id, "compensated", **ME)

        assert told.after is Status.COMPENSATED
        state = await program.sagas.get(saga_id)
        assert (state.status, state.wake_at) == (Status.COMPENSATED, None)
        assert state.finished_at is not None
        assert state.error is not None
        assert state.error.resolved.by == "ada"
        assert (await program.sagas.verify()).clean
        assert await program.effects(saga_id) == {"reserve_stock": 1, "open_order": 1}
        with pytest.raises(Refused):
            await program.sagas.run(program.saga, Order(), key="k-1", timeout=30)


async def test_a_saga_resolved_as_completed_leaves_its_missing_steps_undone_for_ever(urls: Urls) -> None:
    async with stuck_going_forward(urls).open() as program:
        saga_id = await put_aside(program)
        await program.sagas.resolve(saga_id, "completed", **ME)
        assert (await program.sagas.get(saga_id)).status is Status.COMPLETED
        runner = program.runner
        found = await runner.engine.participants["inventory"].look(saga_id, ["record_event"])
        assert found["record_event"].state == "blocked"
        assert (await program.sagas.verify()).clean


async def test_what_was_resolved_as_completed_by_half_is_parked_with_the_reason_and_can_be_resolved_again(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person's program dies between the ledgers and the journal; the next owner meets a step that is blocked."""
    async with stuck_going_forward(urls).open(lease=QUICK_LEASE) as program:
        saga_id = await put_aside(program)
        runner = program.runner

        async def die(*_: Any, **__: Any) -> bool:
            raise asyncio.CancelledError

        with monkeypatch.context() as dying:
            dying.setattr(runner.engine.journal, "repair", die)
            with pytest.raises(asyncio.CancelledError):
                await program.sagas.resolve(saga_id, "completed", **ME)
        await make_due(program, saga_id)

        parked = await program.recorder.wait_for(SagaParked)
        state = await program.sagas.get(saga_id)
        assert (state.status, state.parked_from) == (Status.NEEDS_ATTENTION, Status.COMPLETING)
        assert state.step == "record_event"
        assert "step 'record_event' is blocked" in parked.reason
        assert "resolve it as completed" in parked.reason
        with pytest.raises(WrongStatus, match="undone already; resolve it as completed"):
            await program.sagas.skip(saga_id, "record_event", {"step": "x", "attempt": 0}, **ME)

        await program.sagas.resolve(saga_id, "completed", **ME)
        assert (await program.sagas.get(saga_id)).status is Status.COMPLETED
        assert (await program.sagas.verify()).clean


@pytest.mark.parametrize("action", ["resolve", "skip"])
async def test_a_step_that_happens_while_a_person_says_it_is_undone_is_told_and_stays(
    urls: Urls, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is looked at: the step has no row. Its late run commits. The person's row is written: too late.

    Marked as undone, the step would stand in a saga that is compensated, and `verify` would not see it.
    """
    slow, other = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    gate = Gate()
    slow.on("reserve_stock", gate)
    async with other.open(lease=QUICK_LEASE), slow.open(lease=3600.0):
        handle = await slow.sagas.start(slow.saga, Order())
        await gate.reached()
        runner = other.runner
        journal = runner.engine.journal
        row = await journal.load(handle.id)
        assert row is not None
        assert await journal.compensate(row.claim, Reason(kind="failed", message="x"))
        parking = Parking(status=Status.COMPENSATING, message="y")
        error = Reason(kind="failed", message="x", parked=parking)
        assert await journal.park(row.claim, Status.COMPENSATING, error, [])
        claim = journal.take_for_person

        async def land_first(*given: Any) -> bool:
            gate.open()
            await at_rest(slow)
            return await claim(*given)

        monkeypatch.setattr(journal, "take_for_person", land_first)
        repair = {
            "resolve": lambda: other.sagas.resolve(handle.id, "compensated", **ME),
            "skip": lambda: other.sagas.skip(handle.id, "reserve_stock", **ME),
        }[action]
        with pytest.raises(WrongStatus, match="step 'reserve_stock' has happened meanwhile"):
            await repair()

        assert gate.passed == {"reserve_stock": 1}
        assert (await slow.effects(handle.id))["reserve_stock"] == 1
        assert (await other.sagas.get(handle.id)).status is Status.NEEDS_ATTENTION
        # Told so, the person has it undone.
        await other.sagas.retry(handle.id, **ME)
        assert (await finished(other, handle.id)).status is Status.COMPENSATED
        assert (await slow.effects(handle.id))["reserve_stock"] == 0


async def test_an_undecided_saga_cannot_be_completed_by_a_persons_word(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        saga_id = await parked(program)
        with pytest.raises(WrongStatus, match="resolve it as compensated"):
            await program.sagas.resolve(saga_id, "completed", **ME)


async def test_what_a_status_does_not_allow_is_refused_with_the_remedy(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        sagas, gate = program.sagas, Gate()
        program.on("credit_points", gate)
        handle = await sagas.start(program.saga, Order())
        await gate.reached()
        for refused in (
            sagas.retry(handle.id, **ME),
            sagas.skip(handle.id, "credit_points", {"step": "x", "attempt": 1}, **ME),
            sagas.resolve(handle.id, "compensated", **ME),
        ):
            with pytest.raises(WrongStatus, match="a process has claimed it"):
                await refused
        gate.open()
        await handle.result(30)
        await finished(program, handle.id)
        with pytest.raises(WrongStatus, match="at rest for good"):
            await sagas.retry(handle.id, **ME)
        with pytest.raises(TooLate):
            await sagas.compensate(handle.id, **ME)
        with pytest.raises(UnknownSaga):
            await sagas.retry(uuid4(), **ME)


async def test_orders_that_make_no_sense_are_refused_before_anything_is_written(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        sagas, saga_id = program.sagas, await parked(program)
        before = await sagas.get(saga_id)
        with pytest.raises(PayloadError, match="by="):
            await sagas.retry(saga_id, by="", why="x")
        with pytest.raises(PayloadError, match="why="):
            await sagas.retry(saga_id, by="ada", why=" ")
        with pytest.raises(PayloadError, match="without NUL"):
            await sagas.retry(saga_id, by="ada\0", why="x")
        with pytest.raises(PayloadError, match="older_than"):
            await sagas.find(SagaFilter(older_than=-1.0))
        with pytest.raises(PayloadError, match="a name"):
            await sagas.find(SagaFilter(name="\0"))
        with pytest.raises(DefinitionError, match="no step 'nowhere'; its steps are open_order"):
            await sagas.skip(saga_id, "nowhere", **ME)
        with pytest.raises(WrongStatus, match="the step that decides"):
            await sagas.skip(saga_id, "confirm_order", **ME)
        with pytest.raises(WrongStatus, match="undone already"):
            await sagas.skip(saga_id, "credit_points", **ME)
        with pytest.raises(WrongStatus, match="never undone"):
            await sagas.skip(saga_id, "record_event", **ME)
        assert await sagas.get(saga_id) == before


async def test_a_result_of_the_wrong_type_is_refused(urls: Urls) -> None:
    async with stuck_going_forward(urls).open() as program:
        saga_id = await put_aside(program)
        with pytest.raises(PayloadError, match="not what the step returns"):
            await program.sagas.skip(saga_id, "record_event", {"stepp": 1}, **ME)


async def test_a_database_that_is_down_leaves_the_saga_parked_for_the_same_repair(urls: Urls) -> None:
    async with stuck_going_back(urls).open(lease=QUICK_LEASE) as program:
        saga_id = await parked(program)
        runner = program.runner
        participant = runner.engine.participants["inventory"]
        undo, down = participant.undo, True

        async def fail(*arguments: Any, **options: Any) -> Any:
            if down:
                raise TimeoutError
            return await undo(*arguments, **options)

        participant.undo = fail  # type: ignore[method-assign]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("polysaga.sagas.operations.repair._PATIENCE", 0.2)
            with pytest.raises(DatabaseUnavailable, match="repair it again"):
                await program.sagas.skip(saga_id, "reserve_stock", **ME)
        state = await program.sagas.get(saga_id)
        assert (state.status, state.audit) == (Status.NEEDS_ATTENTION, ())
        down = False

        await program.sagas.skip(saga_id, "reserve_stock", **ME)
        assert (await finished(program, saga_id)).status is Status.COMPENSATED


async def test_many_are_repaired_by_a_filter_and_each_tells_its_own_problem(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stuck_going_back(urls).open() as program:
        sagas = program.sagas
        ids = {await parked(program) for _ in range(3)}
        first = min(ids)
        await sagas.resolve(first, "compensated", **ME)
        monkeypatch.setattr(queries, "_LOOK", 1)  # a search that ends early is no reason to repair fewer
        both = SagaFilter(status=[Status.NEEDS_ATTENTION, Status.COMPENSATED])

        told = await sagas.resolve(both, "compensated", limit=10, **ME)

        assert {one.saga_id for one in told if one.done} == ids - {first}
        (refused,) = [one for one in told if not one.done]
        assert refused.saga_id == first
        assert refused.problem is not None
        assert "at rest for good" in refused.problem
        assert await sagas.retry(SagaFilter(), **ME) == ()


async def test_an_error_of_a_driver_is_the_problem_of_its_saga_and_the_others_are_repaired(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stuck_going_back(urls).open() as program:
        ids = [await parked(program) for _ in range(2)]
        carry_out = SagaRepair.carry_out

        async def broken(repair: SagaRepair, after: Status) -> bool:
            if repair._row.claim.saga_id == ids[0]:
                raise OperationalError("UPDATE", {}, Exception("disk I/O error"))
            return await carry_out(repair, after)

        monkeypatch.setattr(SagaRepair, "carry_out", broken)
        told = {one.saga_id: one for one in await program.sagas.retry(SagaFilter(), **ME)}
        assert [told[each].done for each in ids] == [False, True]
        assert told[ids[0]].problem


async def test_a_filter_for_waiting_sagas_repairs_those_and_not_the_parked_ones(urls: Urls) -> None:
    """They are not parked, which is what a filter without a status means otherwise."""
    async with stuck_going_forward(urls).open() as program:
        saga_id, wanted = await put_aside(program), SagaFilter(waiting=True)
        assert (await program.sagas.freeze(wanted)).ids == (saga_id,)
        assert (await program.sagas.freeze(SagaFilter(name="place-order"))).ids == ()
        (told,) = await program.sagas.retry(wanted, dry_run=True, **ME)
        assert (told.saga_id, told.problem) == (saga_id, None)
        del program.hooks["record_event"]
        (done,) = await program.sagas.retry(wanted, **ME)
        assert done.done
        assert (await finished(program, saga_id)).status is Status.COMPLETED


async def test_a_skip_and_the_line_about_it_are_one(urls: Urls) -> None:
    """A repair that finds the saga moved writes neither."""
    async with stuck_going_back(urls).open() as program:
        saga_id = await parked(program)
        runner = program.runner
        journal = runner.engine.journal
        row = await journal.load(saga_id)
        assert row is not None
        line = {"id": uuid4(), "actor": "ada", "action": "retry", "why": "x", "details": "{}"}
        stale = row.claim.__class__(saga_id, row.claim.epoch - 1, row.claim.owner)
        known: dict[str, Any] = {"results": row.results, "error": row.error}
        assert not await journal.repair(stale, row.status, Status.COMPENSATING, audit=line, **known)
        assert (await program.sagas.get(saga_id)).audit == ()
        with pytest.raises(Exception, match=r"(?i)null|audit"):
            await journal.repair(row.claim, row.status, Status.COMPENSATING, audit={**line, "why": None}, **known)
        assert (await program.sagas.get(saga_id)).status is Status.NEEDS_ATTENTION


async def test_sagas_are_found_newest_first_page_by_page(urls: Urls) -> None:
    async with Program(urls, TWO_LAST_STEPS).open() as program:
        ids = []
        for number in range(5):
            handle = await program.sagas.start(program.saga, Order(item=f"n{number}"), key=f"k-{number}")
            await handle.result(30)
            ids.append(handle.id)

        seen, after = [], None
        while True:
            page = await program.sagas.find(limit=2, after=after)
            seen += [saga.id for saga in page.sagas]
            after = page.next
            if after is None:
                break

        assert len(seen) == 5
        assert set(seen) == set(ids)
        created = [(await program.sagas.get(one)).created_at for one in seen]
        assert created == sorted(created, reverse=True)
        (found,) = (await program.sagas.find(SagaFilter(key="k-3"))).sagas
        assert found.id == ids[3]
        assert (await program.sagas.find(SagaFilter(key="k-3", name="other"))).sagas == ()
        for bad in ("yesterday", "~", "2026-01-01~x"):
            with pytest.raises(PayloadError, match="cursor"):
                await program.sagas.find(after=bad)
        with pytest.raises(PayloadError, match="1 to 1000"):
            await program.sagas.find(limit=0)


async def test_sagas_are_found_by_what_is_known_of_them(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        stuck = await parked(program)
        del program.hooks["confirm_order"]
        done = await program.sagas.start(program.saga, Order())
        await done.result(30)
        await finished(program, done.id)

        async def found(**wanted: Any) -> set[UUID]:
            return {saga.id for saga in (await program.sagas.find(SagaFilter(**wanted))).sagas}

        assert await found() == {stuck, done.id}
        assert await found(status=Status.NEEDS_ATTENTION) == {stuck}
        assert await found(status=[Status.COMPLETED, Status.RUNNING]) == {done.id}
        assert await found(error="CANNOT do") == {stuck}
        assert await found(error="c%o") == set()
        assert await found(older_than=3600.0) == set()
        assert await found(older_than=0.0) == {stuck, done.id}
        assert await found(name="place-order", known=True) == {stuck, done.id}
        assert await found(known=False) == set()


async def test_sagas_that_this_process_does_not_know_are_found_as_such_and_can_be_retried(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as old:
        saga_id = await parked(old)
    async with Program(urls, PLACE_ORDER[:-1]).open() as new:
        (found,) = (await new.sagas.find(SagaFilter(known=False))).sagas
        assert (found.id, found.known) == (saga_id, False)
        assert (await new.sagas.find(SagaFilter(known=True))).sagas == ()
        (told,) = await new.sagas.skip(SagaFilter(), "reserve_stock", **ME)
        assert told.problem is not None
        assert "another version" in told.problem
        await new.sagas.retry(saga_id, **ME)
        assert (await new.sagas.get(saga_id)).status is Status.COMPENSATING
        assert not new.recorder.of(SagaParked)


async def test_a_saga_may_be_named_by_the_text_of_its_id(urls: Urls) -> None:
    program = Program(urls, PLACE_ORDER)
    async with program.open():
        handle = await program.sagas.start(program.saga, Order())
        await handle.result()
        text: Any = str(handle.id)
        assert (await program.sagas.get(text)).id == handle.id
        with pytest.raises(TooLate):
            await program.sagas.cancel(text)
        with pytest.raises((TooLate, WrongStatus)):
            await program.sagas.retry(text, **ME)
        nonsense: Any
        for nonsense in ("order-7", "", 7, None):
            for ask in (program.sagas.get, program.sagas.cancel, partial(program.sagas.retry, **ME)):
                with pytest.raises(PayloadError, match="no id of a saga"):
                    await ask(nonsense)


async def test_a_status_may_be_its_text(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        saga = await parked(program)
        wanted: tuple[Any, ...] = ("needs_attention", ["needs_attention", Status.RUNNING], {"needs_attention"})
        for status in wanted:
            found = await program.sagas.find(SagaFilter(status=status, ids=[saga]))
            assert [one.id for one in found.sagas] == [saga]
        given: Any = [str(saga)]
        assert [one.id for one in (await program.sagas.find(SagaFilter(ids=given))).sagas] == [saga]
        done = await program.sagas.retry(SagaFilter(status="needs_attention"), dry_run=True, **ME)
        assert [one.saga_id for one in done] == [saga]


SENSELESS: list[tuple[dict[str, Any], str]] = [
    ({"status": "parked"}, "'parked' is no status of a saga: give one of running, completing, .*needs_attention"),
    ({"status": ["running", "junk"]}, "'junk' is no status"),
    ({"status": [None]}, "None is no status"),
    ({"older_than": "5"}, "older_than is 5 seconds; give it 0 or more"),
    ({"name": 5}, "a name must be text"),
    ({"error": 5}, "error is 5; give the text to search for"),
    ({"since": "2026-01-01"}, "since is '2026-01-01'; give an aware time"),
    ({"ids": ["junk"]}, "'junk' is no id of a saga"),
]


@pytest.mark.parametrize(("wanted", "says"), SENSELESS, ids=[repr(wanted) for wanted, _ in SENSELESS])
async def test_a_filter_that_makes_no_sense_is_one_error(urls: Urls, wanted: dict[str, Any], says: str) -> None:
    program = Program(urls, PLACE_ORDER)
    async with program.connected():
        with pytest.raises(PayloadError, match=says):
            await program.sagas.find(SagaFilter(**wanted))


async def test_a_repair_that_does_not_exist_is_one_error(urls: Urls) -> None:
    program = Program(urls, PLACE_ORDER)
    junk: Any = "done"
    async with program.connected():
        says = "a saga is resolved as completed or compensated, not as done"
        with pytest.raises(PayloadError, match=says):
            await program.sagas.resolve(uuid4(), junk, **ME)
        with pytest.raises(PayloadError, match=says):
            program.sagas.begin_batch("resolve", [uuid4()], outcome=junk, **ME)
        with pytest.raises(PayloadError, match="resolved as completed or compensated, not as None"):
            program.sagas.begin_batch("resolve", [uuid4()], **ME)
        with pytest.raises(PayloadError, match="'done' is no repair of a saga: give one of retry, skip"):
            program.sagas.begin_batch(junk, [uuid4()], **ME)
