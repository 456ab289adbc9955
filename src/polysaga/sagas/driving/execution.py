"""Drives one saga from where it stands until it rests.

The journal row is the truth about the status and about the right to drive; a ledger row is the truth about its
step. The execution asks `decide` what comes next, does it, and applies the facts that come back (`_learn`). Its
callers hear at once what has become certain. What it knows meanwhile (`progress.py`) may be lost at any moment. An
execution that has lost its claim learns so from a conditional write that changes no row. It then stops (`Lost`),
and the callers of the saga follow the journal.

The caller gets its answer at the decision: the pivot's commit, or the finish where there is no pivot. Retriable
steps and the finishing write follow. Before it compensates, the execution cancels the steps under way and awaits
their end, because they hold the connections that their compensations need
(`test_a_refusal_cancels_the_branch_beside_it_before_anything_is_undone`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from math import inf
from typing import Any

from polysaga.errors import PayloadUnreadable
from polysaga.events import ClaimLost
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.announcements import Announcements
from polysaga.sagas.driving.attempts import Attempts, Settled
from polysaga.sagas.driving.driver import Driver
from polysaga.sagas.driving.progress import Asked, Progress
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.driving.steps import Steps
from polysaga.sagas.driving.tracing import SagaTrace
from polysaga.sagas.driving.writes import Writes
from polysaga.sagas.protocol.decisions import (
    BlockPivot,
    CancelActive,
    Compensate,
    Finish,
    GoForward,
    Move,
    Rest,
    RunSteps,
    UndoSteps,
    Wait,
    decide,
    fused_in,
)
from polysaga.sagas.protocol.interrupts import Lost, OutOfReach
from polysaga.sagas.protocol.known import (
    RULED_OUT,
    Begun,
    Claimed,
    Fact,
    Failed,
    Interrupted,
    Stuck,
    Surveyed,
)
from polysaga.sagas.protocol.outcomes import Failure, overdue
from polysaga.sagas.protocol.plans import planned
from polysaga.sagas.protocol.reasons import DESERTED, Reason
from polysaga.sagas.protocol.rows import Row
from polysaga.sagas.protocol.states import Mark, Status
from polysaga.sagas.protocol.verdicts import Verdict
from polysaga.texts import said

MOST_EXPIRIES = 10  # lost claims without progress until a saga is parked: it probably kills its process


class Execution:
    """One saga driven by this process."""

    def __init__(self, engine: Engine, progress: Progress, trace: SagaTrace | None = None) -> None:
        self.engine, self.progress, self.trace = engine, progress, trace
        self.announcements = Announcements(engine, progress)
        name, saga_id = progress.definition.name, progress.saga_id
        self.attempts = Attempts(saga_id, name, engine.clock, engine.emit, engine.timeouts, trace)
        self.holds_claim = False  # there is a row, and it names this execution as the owner
        self._steps = Steps(engine, progress, self.attempts)
        self._writes = Writes(engine, progress, self.attempts)
        self._tasks: set[asyncio.Task[None]] = set()
        self._driver = Driver()
        self._time_left = progress.birth.deadline  # seconds from when the saga is started here
        self._late_at = inf  # when the deadline passes, by the monotonic clock

    @property
    def renewed_at(self) -> float:
        """The monotonic clock's reading from before the claim was made or last prolonged."""
        return self.progress.asked.monotonic

    def renew(self, asked: Asked) -> None:
        """Note that the claim was prolonged by a statement that was sent after *asked*."""
        self.progress.asked = asked

    def stop(self, failure: Failure) -> None:
        """Undo the saga because of *failure*; no effect once it is decided or compensating."""
        known, definition = self.progress.known, self.progress.definition
        if known.status is not Status.RUNNING or known.decided(definition) or known.failure is not None:
            return
        self._learn(Failed(failure))
        self._driver.interrupt()

    async def request_compensation(self, failure: Failure) -> None:
        """Ask for compensation; return once the pivot can no longer commit.

        Raises `TooLate` if the saga is decided, `NeedsAttention` if it is parked first, `Lost` if the claim is
        gone.
        """
        certain = self.announcements.compensation_certain()
        self.stop(failure)
        self.announcements.tell()
        await asyncio.shield(certain)

    async def begin(self) -> None:
        """Make the start durable, with the first step if that lives in the journal's database.

        Raises `Joined` if the saga exists, `TryAgain` if the journal cannot be reached. A refusal in the
        first step leaves a final row.
        """
        self._driver.take_seat()
        self.attempts.begin(self.progress.claim.epoch, self.engine.process)
        settled = await self._steps.start()
        if not settled.done:
            failure = _failure(settled, self.progress.definition.steps[0])
            self._learn(Failed(failure))
            settled = await self._steps.insert(Status.COMPENSATED, failure.reason())
        self.holds_claim = True
        if self.trace is not None:
            self.trace.started(None)
        self.announcements.tell_started()
        self._learn_from(settled)

    async def resume(self, row: Row) -> bool:
        """Take over where the journal and the ledgers say that the saga stands.

        Returns False if a ledger is unreachable: the saga is put aside for a while, and the claim is given up.
        """
        self._driver.take_seat()
        progress = self.progress
        born_alone = fused_in(progress.definition, progress.home, row.results) is None
        # Callers get their answers when the ledgers are known, too.
        progress.learn(Claimed(row.status, row.error, born_alone))
        self._time_left = row.remaining
        self.attempts.begin(row.claim.epoch, self.engine.process, row.history, row.age)
        self.announcements.resume(row.age)
        try:
            _ = progress.values.input  # raises now, before any step meets it
            surveyed = await self._writes.take_stock(row.results)
        except PayloadUnreadable as error:
            self._learn(await self._writes.park(Reason(message=said(error))))
        except OutOfReach:
            await self._writes.put_aside()
            return False
        else:
            progress.learn(surveyed)
            found = len(surveyed.records)
            if found > row.progress:
                await self._writes.note_progress(found)
            elif row.expiries > MOST_EXPIRIES:
                self._learn(await self._writes.park(self._deserted(row.expiries, surveyed)))
        self.announcements.tell_started()
        self.announcements.tell()
        return True

    def _deserted(self, times: int, surveyed: Surveyed) -> Reason:
        """Return why a saga is parked that no process has brought on: it probably kills them, or hangs."""
        progress = self.progress
        moves = planned(progress.definition, progress.known, surveyed.records, home=progress.home)
        told = f"{times} processes in a row ended, or hung, while they drove this saga"
        if not moves:
            return Reason(
                kind=DESERTED, message=f"{told}; all of its steps are done, so another saga may be the cause"
            )
        what = f"undoing {moves[0].step}" if moves[0].phase == "undo" else moves[0].step
        return Reason(kind=DESERTED, step=moves[0].step, message=f"{told}; next comes {what}")

    def hangs(self, hanging: Collection["asyncio.Task[Any]"]) -> bool:
        """Return whether a task of this execution is among *hanging*; if so, its claim must run out."""
        return self._driver.is_among(hanging) or any(task in hanging for task in self._tasks)

    def pauses(self, seconds: float) -> bool:
        """Return whether nothing is under way here, and nothing will be for over *seconds*.

        All steps that have begun wait for their next attempt, and the journal has the outcome of everything else.
        """
        known, due = self.progress.known, self.attempts.due
        if not due or not self.holds_claim or self._steps.hold_results(due):
            return False
        running = known.status is Status.RUNNING
        if (running and known.failure is not None) or any(task.done() for task in self._tasks):
            return False  # a stop, or the outcome of a step, that the driving task has not heard of yet
        active = {name for name, mark in known.marks.items() if mark is Mark.ACTIVE}
        next_at = min(*due.values(), self._late_at if running else inf)
        return active <= due.keys() and next_at > self.engine.clock.monotonic() + seconds

    async def drive(self) -> None:
        """Go on until the saga rests; raise `Lost` if the claim is gone."""
        progress = self.progress
        self._driver.take_seat()
        alarm = None
        if self._time_left is not None and progress.known.status is Status.RUNNING:
            self._late_at = self.engine.clock.monotonic() + self._time_left
            alarm = asyncio.create_task(self._watch_deadline(self._time_left))
        try:
            while not progress.known.at_rest:
                self._driver.refuse_if_cancelled()
                move = decide(progress.definition, progress.known, home=progress.home)
                await self._carry_out(move)
                if isinstance(move, Rest):
                    return
        except OutOfReach:
            await self._writes.put_aside()
        except Lost:
            self.engine.emit(ClaimLost(progress.saga_id, progress.definition.name, progress.claim.epoch))
            raise
        finally:
            if alarm is not None:
                alarm.cancel()
            await self._cancel_tasks()

    async def _carry_out(self, move: Move) -> None:
        match move:
            case RunSteps(steps):
                await self._begin_all(steps, self._run)
            case UndoSteps(steps):
                await self._begin_all(steps, self._undo)
            case BlockPivot(step):
                await self._undo(self.progress.definition.by_name[step])
            case Wait():
                await self._await_some()
            case CancelActive():
                await self._cancel_active()
            case Compensate():
                await self._compensate()
            case GoForward():
                await self._go_forward()
            case Finish(status):
                await self._finish(status)
            case Rest():
                await self._rest()

    def _learn(self, fact: Fact) -> None:
        """Apply *fact*, and tell callers what has become certain by it."""
        before = self.progress.known
        self.progress.learn(fact)
        self.announcements.tell(before)

    def _learn_from(self, settled: Settled) -> None:
        """Apply what has happened; raise `Lost` if the claim is gone."""
        if settled.verdict is Verdict.LOST:
            raise Lost from settled.error
        if settled.fact is not None:
            self._learn(settled.fact)

    async def _watch_deadline(self, seconds: float) -> None:
        await self.engine.clock.sleep(seconds)
        self.stop(overdue())

    async def _begin_all(self, steps: tuple[str, ...], run: Callable[[AnyStep], Awaitable[None]]) -> None:
        """Begin *steps* side by side; a single step with nothing beside it runs here, without a task."""
        single = len(steps) == 1 and not self._tasks
        self._learn(Begun(steps))
        begun = [run(self.progress.definition.by_name[name]) for name in steps]
        if not single:
            self._tasks.update(asyncio.ensure_future(one) for one in begun)
        elif await self._driver.interrupted_in(begun[0]):
            self._learn(Interrupted())

    async def _await_some(self) -> None:
        ended: set[asyncio.Task[None]] = set()

        async def some() -> None:
            nonlocal ended
            ended, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

        await self._driver.interrupted_in(some())
        for task in ended:
            task.result()

    async def _cancel_active(self) -> None:
        await self._cancel_tasks()
        self._learn(Interrupted())

    async def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            # Their errors no longer matter; asyncio would log errors that are never retrieved.
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = set()

    async def _run(self, step: AnyStep) -> None:
        settled = await self._steps.run(step)
        self._learn_from(settled)
        if not settled.done:
            retriable = step.kind == "retriable"
            self._learn(Stuck(step.name) if retriable else Failed(_failure(settled, step), step.name))

    async def _undo(self, step: AnyStep) -> None:
        self._end_undo(step, await self._steps.undo(step))

    def _end_undo(self, step: AnyStep, settled: Settled) -> None:
        self._learn_from(settled)
        if not settled.done:
            assert settled.error is not None
            self._learn(Stuck(step.name, Failure(Verdict.FAILED, step.name, settled.error).reason()))

    async def _compensate(self) -> None:
        known = self.progress.known
        failure = known.failure
        if failure is None:  # a failover of the journal lost a decision that a ledger has
            step = next(name for name, mark in known.marks.items() if mark is not Mark.DONE)
            failure = Failure(Verdict.LATE, step, Lost("another owner had begun to undo the saga"))
            self._learn(Failed(failure))
        self._learn(await self._writes.compensate(failure.reason()))

    async def _go_forward(self) -> None:
        self._learn(await self._writes.go_forward())
        self._learn(await self._writes.take_stock(self.progress.journaled()))

    async def _finish(self, status: Status) -> None:
        progress = self.progress
        if status is Status.COMPENSATED and progress.undoes_fused:
            step = progress.definition.steps[0]
            self._learn(Begun((step.name,)))
            self._end_undo(step, await self._steps.undo_first(step))
            return
        self._learn(await self._writes.finish(status, patient=self.announcements.answered.done()))

    async def _rest(self) -> None:
        """Park a saga that can neither go on nor be undone; postpone one whose steps must still happen."""
        known = self.progress.known
        if known.status is Status.COMPENSATING:
            self._learn(await self._writes.park(known.trouble))
        elif known.undoing_elsewhere:
            step = next(name for name, mark in known.marks.items() if mark in RULED_OUT)
            told = f"it is decided, but step '{step}' is {known.marks[step]}: a person has begun to resolve it"
            trouble = Reason(step=step, message=f"{told}; resolve it as completed")
            self._learn(await self._writes.park(trouble))
        else:
            await self._writes.put_aside()


def _failure(settled: Settled, step: AnyStep) -> Failure:
    """Return why the saga is undone after *step* was not done."""
    assert settled.error is not None
    assert isinstance(settled.verdict, Verdict)
    return Failure(settled.verdict, step.name, settled.error)
