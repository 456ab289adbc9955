"""Cancelling and deadlines: undone in whatever process, refused once the saga is decided, never half."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pymongo.errors import ServerSelectionTimeoutError

from polysaga import Refused, Status
from polysaga.clock import Clock
from polysaga.errors import (
    DatabaseUnavailable,
    DeadlineExceeded,
    NeedsAttention,
    SagaCancelled,
    SagaUndone,
    TooLate,
    UnknownSaga,
    UnknownVersion,
)
from polysaga.events import SagaClaimed, SagaFinished
from polysaga.sagas.driving.execution import Execution
from polysaga.sagas.participants import Entry
from polysaga.sagas.participants.mongo import MongoParticipant
from polysaga.sagas.protocol.rows import LedgerRow
from tests.fixtures.left_behind import LEAVES_BEHIND
from tests.fixtures.programs import (
    LAST_AT_HOME,
    LEDGER_PIVOT,
    PLACE_ORDER,
    QUICK,
    SINGLE,
    TWO_LAST_STEPS,
    Gate,
    Order,
    Program,
    Urls,
)
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import forever, past, reached, until, within

pytestmark = LEAVES_BEHIND

ALL_DONE = {step: 1 for step, *_ in PLACE_ORDER}
# A step before the decision at which a saga of this shape can be held; in the second another one runs beside it.
STOPS = {
    "alone, pivot in the journal": (PLACE_ORDER, "confirm_order"),
    "beside another, pivot in the journal": (PLACE_ORDER, "credit_points"),
    "pivot in a ledger": (LEDGER_PIVOT, "take"),
    "the pivot itself, in a ledger": (LEDGER_PIVOT, "decide_there"),
    "no pivot": (TWO_LAST_STEPS, "left"),
}


async def at_rest(program: Program) -> None:
    async with asyncio.timeout(30):
        while program.runner.tasks:
            await asyncio.gather(*program.runner.tasks, return_exceptions=True)


async def nothing_left(program: Program, saga_id: UUID) -> None:
    await program.recorder.wait_for(SagaFinished, lambda event: event.saga_id == saga_id)
    assert (await program.sagas.get(saga_id)).status is Status.COMPENSATED
    assert await program.effects(saga_id) == {}


@pytest.mark.parametrize("stop", STOPS)
async def test_a_cancelled_saga_is_undone_and_its_caller_told_so(urls: Urls, stop: str) -> None:
    shape, step = STOPS[stop]
    async with Program(urls, shape).open(lease=60.0) as program:
        gate = Gate()
        program.on(step, gate)
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()

        await handle.cancel("out of patience")

        with pytest.raises(SagaCancelled, match="out of patience") as told:
            await handle.result(30)
        assert (told.value.saga_id, told.value.reason) == (handle.id, "out of patience")
        assert isinstance(told.value, SagaUndone)
        await nothing_left(program, handle.id)
        assert gate.passed == {}, "the step was cancelled, not awaited"


@pytest.mark.parametrize("stop", [stop for stop in STOPS if "itself" not in stop])
async def test_another_process_cancels_in_one_write_and_undoes_the_saga_itself(urls: Urls, stop: str) -> None:
    shape, step = STOPS[stop]
    owner, other = Program(urls, shape), Program(urls, shape)
    async with other.open(lease=60.0), owner.open(lease=60.0):
        gate = Gate()
        owner.on(step, gate)
        handle = await owner.sagas.start(owner.saga, Order())
        await gate.reached()
        before = await other.sagas.get(handle.id)
        cancelling = asyncio.ensure_future(other.sagas.cancel(handle.id))
        await _decided_to_undo(other, handle.id)
        if shape is LEDGER_PIVOT:
            await _blocked(other, handle.id, "decide_there", "inventory")
        gate.open()
        await cancelling

        assert (await other.sagas.get(handle.id)).epoch == before.epoch + 1
        with pytest.raises(SagaCancelled):
            await handle.result(30)
        await nothing_left(other, handle.id)
        await at_rest(owner)
        assert await owner.effects(handle.id) == {}


async def _decided_to_undo(program: Program, saga_id: UUID) -> None:
    async def decided() -> bool:
        return (await program.sagas.get(saga_id)).status is not Status.RUNNING

    await until(decided, "it is decided that the saga is undone")


async def _blocked(program: Program, saga_id: UUID, pivot: str, database: str) -> None:
    participant = program.runner.engine.participants[database]

    async def blocked() -> bool:
        return pivot in await participant.look(saga_id, [pivot])

    await until(blocked, "the pivot is blocked")


async def test_a_cancellation_is_not_certain_while_the_pivot_cannot_be_blocked(urls: Urls) -> None:
    """The pivot's database refuses to block it, so it could still commit: the saga is parked, `cancel` says so."""
    program, gate = Program(urls, LEDGER_PIVOT), Gate()
    program.on("take", gate)
    program.steps["decide_there"].undo_retry = QUICK
    async with program.open():
        inventory: Any = program.runner.engine.participants["inventory"]
        undo = inventory.undo

        async def refuse(entry: Entry, work: Any, **options: Any) -> LedgerRow:
            if entry.step == "decide_there":
                raise RuntimeError("the pivot cannot be blocked")
            row: LedgerRow = await undo(entry, work, **options)
            return row

        inventory.undo = refuse
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        with pytest.raises(NeedsAttention, match="cannot be blocked"):
            await within(program.sagas.cancel(handle.id), "the answer to the cancellation")
        with pytest.raises(NeedsAttention):
            await handle.result(30)
        assert (await program.sagas.get(handle.id)).status is Status.NEEDS_ATTENTION


async def test_a_pivot_under_way_elsewhere_and_a_cancellation_have_one_answer(urls: Urls) -> None:
    """Either row may come first in the pivot's database; both callers hear the same."""
    owner, other = Program(urls, LEDGER_PIVOT), Program(urls, LEDGER_PIVOT)
    async with other.open(lease=60.0), owner.open(lease=60.0):
        gate = Gate()
        owner.on("decide_there", gate)
        handle = await owner.sagas.start(owner.saga, Order())
        await gate.reached()
        cancelling = asyncio.ensure_future(other.sagas.cancel(handle.id))
        await _decided_to_undo(other, handle.id)
        gate.open()
        (late,) = await asyncio.gather(cancelling, return_exceptions=True)
        (told,) = await asyncio.gather(handle.result(30), return_exceptions=True)
        await _until_final(other, handle.id)
        await at_rest(owner)
        if late is None:
            assert isinstance(told, SagaCancelled)
            assert await owner.effects(handle.id) == {}
        else:
            assert isinstance(late, TooLate)
            assert told.step == "decide_there"
            assert await owner.effects(handle.id) == {step: 1 for step, *_ in LEDGER_PIVOT}


async def test_who_cancels_what_is_being_undone_waits_while_the_database_of_its_pivot_is_away(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner has decided to undo and freezes before it blocks the pivot; another process is asked to cancel."""
    owner, other = Program(urls, LEDGER_PIVOT), Program(urls, LEDGER_PIVOT)
    async with other.open(lease=60.0), owner.open(lease=60.0):
        gate, looked, awake = Gate(), asyncio.Event(), asyncio.Event()
        owner.on("take", gate)
        handle = await owner.sagas.start(owner.saga, Order())
        await gate.reached()
        mine = owner.runner.engine.participants["inventory"]
        theirs = other.runner.engine.participants["inventory"]
        undo, look = mine.undo, theirs.look

        async def freeze(*given: Any, **options: Any) -> Any:
            await reached(awake, "the test wakes it up")
            return await undo(*given, **options)

        async def be_away(*given: Any) -> Any:
            if looked.is_set():
                return await look(*given)
            looked.set()
            if isinstance(theirs, MongoParticipant):
                raise ServerSelectionTimeoutError("no primary")
            raise DatabaseUnavailable("inventory", "127.0.0.1", "unreachable")

        monkeypatch.setattr(mine, "undo", freeze)
        monkeypatch.setattr(theirs, "look", be_away)
        first = asyncio.ensure_future(owner.sagas.cancel(handle.id))
        await _decided_to_undo(other, handle.id)
        second = asyncio.ensure_future(other.sagas.cancel(handle.id))
        await reached(looked, "the other process has looked")
        awake.set()

        async with asyncio.timeout(30):
            assert await asyncio.gather(first, second) == [None, None]
        await at_rest(owner)
        assert await owner.effects(handle.id) == {}


@pytest.mark.parametrize("here", [True, False], ids=["by its owner", "by another process"])
@pytest.mark.parametrize("shape", [PLACE_ORDER, LEDGER_PIVOT, LAST_AT_HOME], ids=["journal", "ledger", "last"])
async def test_after_the_decision_a_saga_goes_forward_only(urls: Urls, shape: Any, here: bool) -> None:
    owner, other = Program(urls, shape), Program(urls, shape)
    last = shape[-1][0]
    async with other.open(lease=60.0), owner.open(lease=60.0):
        gate = Gate()
        owner.on(last, gate)
        handle = await owner.sagas.start(owner.saga, Order())
        await gate.reached()

        with pytest.raises(TooLate) as late:
            await (handle.cancel() if here else other.sagas.cancel(handle.id))
        gate.open()

        assert late.value.saga_id == handle.id
        assert "can no longer be undone" in str(late.value)
        await handle.result(30)
        await _until_final(owner, handle.id)
        assert await owner.effects(handle.id) == {step: 1 for step, *_ in shape}


async def _until_final(program: Program, saga_id: UUID) -> None:
    async def final() -> bool:
        return (await program.sagas.get(saga_id)).status.final

    await until(final, "the saga has ended", patience=60)


async def test_cancelling_what_is_at_rest_is_told_apart(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        sagas = program.sagas
        done = await sagas.start(program.saga, Order())
        await done.result(30)
        await program.recorder.wait_for(SagaFinished)
        with pytest.raises(TooLate):
            await done.cancel()
        with pytest.raises(UnknownSaga):
            await sagas.cancel(uuid4())

        async def refuse(db: Any, ctx: Any) -> None:
            raise Refused("no lantern left")

        program.on("credit_points", refuse)
        undone = await sagas.start(program.saga, Order())
        with pytest.raises(Refused):
            await undone.result(30)
        await undone.cancel()
        with pytest.raises(Refused):
            await undone.result(30)


async def test_cancelling_twice_is_cancelling_once(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        gate = Gate()
        program.on("reserve_stock", gate)
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        await asyncio.gather(handle.cancel("first"), handle.cancel("second"), program.sagas.cancel(handle.id))
        with pytest.raises(SagaCancelled, match="first"):
            await handle.result(30)
        await nothing_left(program, handle.id)


async def test_a_parked_saga_is_for_a_person_and_not_cancelled(urls: Urls) -> None:
    async def stumble(db: Any, ctx: Any) -> None:
        raise ZeroDivisionError("cannot undo")

    program = Program(urls, PLACE_ORDER)
    program.steps["reserve_stock"].undo_retry = QUICK
    gate = Gate()
    program.on("undo:reserve_stock", stumble)
    program.on("confirm_order", gate)
    async with program.open():
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        await handle.cancel()
        with pytest.raises(NeedsAttention, match="cannot undo"):
            await handle.result(30)
        with pytest.raises(NeedsAttention):
            await handle.cancel()


async def test_a_saga_of_an_unknown_version_is_left_alone_by_who_would_cancel_it(urls: Urls) -> None:
    old, new = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER[:-1])
    async with old.open(lease=60.0), new.open(lease=60.0):
        gate = Gate()
        old.on("reserve_stock", gate)
        handle = await old.sagas.start(old.saga, Order())
        await gate.reached()
        with pytest.raises(UnknownVersion):
            await new.sagas.cancel(handle.id)
        gate.open()
        await handle.result(30)


@pytest.mark.parametrize("step", ["credit_points", "confirm_order"], ids=["beside another", "alone"])
async def test_a_step_may_cancel_its_own_saga(urls: Urls, step: str) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:

        async def give_up(db: Any, ctx: Any) -> None:
            await program.sagas.cancel(ctx.saga_id, why="from inside")

        program.on(step, give_up)
        handle = await program.sagas.start(program.saga, Order())
        with pytest.raises(SagaCancelled, match="from inside"):
            await handle.result(30)
        await nothing_left(program, handle.id)


async def test_a_pivot_that_commits_while_it_is_cancelled_has_the_last_word(urls: Urls) -> None:
    """The cancellation meets the pivot when its transaction is committed and only the reply is missing."""
    async with Program(urls, PLACE_ORDER).open(lease=60.0) as program:
        home, committed = program.runner.engine.home_participant, asyncio.Event()
        transact = home.transact

        async def commit_and_be_silent(work: Any, seal: Any, **options: Any) -> str:
            result: str = await transact(work, seal, **options)
            if "confirm_order" in result:
                committed.set()
                await forever()
            return result

        home.transact = commit_and_be_silent
        handle = await program.sagas.start(program.saga, Order())
        await reached(committed, "the pivot is committed")

        with pytest.raises(TooLate):
            await handle.cancel()

        assert (await handle.result(30)).step == "confirm_order"
        finished = await program.recorder.wait_for(SagaFinished)
        assert finished.status == "completed"
        assert await program.effects(handle.id) == ALL_DONE


@pytest.mark.parametrize("stop", STOPS)
async def test_a_saga_past_its_deadline_is_undone_by_its_owner(urls: Urls, stop: str) -> None:
    shape, step = STOPS[stop]
    program = Program(urls, shape)
    program.saga.deadline = 0.2
    async with program.open(lease=60.0):
        gate = Gate()
        program.on(step, gate)
        handle = await program.sagas.start(program.saga, Order())
        with pytest.raises(DeadlineExceeded, match="before its deadline") as told:
            await handle.result(30)
        assert isinstance(told.value, SagaUndone)
        await nothing_left(program, handle.id)
        assert gate.passed == {}
        state = await program.sagas.get(handle.id)
        assert state.deadline is not None
        assert 0.1 < (state.deadline - state.created_at).total_seconds() < 0.3


async def test_a_deadline_does_not_matter_once_the_saga_is_decided(urls: Urls) -> None:
    program = Program(urls, PLACE_ORDER)
    program.saga.deadline = 0.5
    async with program.open(lease=60.0):

        async def outlast_it(db: Any, ctx: Any) -> None:
            await past(Clock().now() + timedelta(seconds=0.8))

        program.on("record_event", outlast_it)
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        finished = await program.recorder.wait_for(SagaFinished)
        assert finished.status == "completed"
        assert await program.effects(handle.id) == ALL_DONE


@pytest.fixture
def unaware(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """Let no owner notice that a deadline passes; return the sagas whose deadlines would have been watched."""
    watched: list[UUID] = []

    async def look_away(execution: Execution, seconds: float) -> None:
        watched.append(execution.progress.saga_id)

    monkeypatch.setattr(Execution, "_watch_deadline", look_away)
    return watched


async def test_a_frozen_owners_saga_past_its_deadline_is_undone_by_another_process(
    urls: Urls, unaware: list[UUID]
) -> None:
    """The owner holds its claim for an hour and has forgotten the deadline; another one has a short lease."""
    owner, other = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    owner.saga.deadline = other.saga.deadline = 0.3
    async with other.open(lease=1.0), owner.open(lease=3600.0):
        gate = Gate()
        owner.on("reserve_stock", gate)
        handle = await owner.sagas.start(owner.saga, Order())
        await gate.reached()

        assert unaware == [handle.id], "the owner had set its alarm"

        claimed = await other.recorder.wait_for(SagaClaimed)
        gate.open()

        assert claimed.saga_id == handle.id
        await nothing_left(other, handle.id)
        with pytest.raises(DeadlineExceeded):
            await handle.result(30)


async def test_a_pivot_that_only_its_ledger_knows_outlives_the_deadline_of_its_saga(urls: Urls) -> None:
    """The owner freezes behind the pivot; past the deadline another one claims to undo, and finds it done."""
    owner, other = Program(urls, LEDGER_PIVOT), Program(urls, LEDGER_PIVOT)
    owner.saga.deadline = other.saga.deadline = 0.3
    async with other.open(lease=1.0), owner.open(lease=3600.0):
        gate = Gate()
        owner.on("tell", gate)
        handle = await owner.sagas.start(owner.saga, Order())
        await handle.result(30)

        finished = await other.recorder.wait_for(SagaFinished)
        gate.open()
        await at_rest(owner)

        assert finished.status == "completed"
        assert await owner.effects(handle.id) == {step: 1 for step, *_ in LEDGER_PIVOT}
        state = await other.sagas.get(handle.id)
        assert (state.status, state.deadline, state.error) == (Status.COMPLETED, None, None)
        assert len(other.recorder.of(SagaClaimed)) == 1, "the deadline is gone with the decision"
        assert (await other.sagas.verify()).clean


async def test_a_claim_after_the_deadline_is_a_decision_to_undo(urls: Urls, unaware: list[UUID]) -> None:
    left, other = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    left.saga.deadline = other.saga.deadline = 0.2
    async with left.open(lease=60.0, drain=0.01):
        left.on("reserve_stock", Gate())
        handle = await left.sagas.start(left.saga, Order())
        state = await left.sagas.get(handle.id)
        assert state.deadline is not None
        await past(state.deadline)
        assert unaware == [handle.id]
    assert state.status is Status.RUNNING
    async with other.open(lease=60.0):
        await nothing_left(other, handle.id)
        state = await other.sagas.get(handle.id)
        assert state.error is not None
        assert state.error.kind == "overdue"


async def test_a_saga_that_decides_with_its_first_step_is_never_too_late(urls: Urls) -> None:
    program = Program(urls, SINGLE)
    program.saga.deadline = 0.01
    async with program.open():

        async def outlast_it(db: Any, ctx: Any) -> None:
            await past(Clock().now() + timedelta(seconds=0.05))

        program.on("only", outlast_it)
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        with pytest.raises(TooLate):
            await handle.cancel()
        assert await program.effects(handle.id) == {"only": 1}
