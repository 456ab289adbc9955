"""Drives one saga from where it stands until it rests.

The journal row is the truth about the status and about the right to drive; a ledger row is the truth about its
step. The execution asks `decide` what comes next and does it. What it knows meanwhile (`progress.py`) may be
lost at any moment. An execution that has lost its claim learns so from a conditional write that changes no row.
It then stops (`Lost`), and the callers of the saga follow the journal.

The caller gets its answer at the decision: the pivot's commit, or the finish where there is no pivot. Retriable
steps and the finishing write follow. Before it compensates, the execution cancels the steps under way and awaits
their end, because they hold the connections that their compensations need
(`test_a_refusal_cancels_the_branch_beside_it_before_anything_is_undone`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from polysaga.errors import PayloadUnreadable
from polysaga.events import ClaimLost, SagaParked
from polysaga.sagas.definition.retries import Retry
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.announcements import Announcements
from polysaga.sagas.driving.attempts import Attempts
from polysaga.sagas.driving.progress import Progress
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.driving.steps import Steps
from polysaga.sagas.journal.claims import PAUSE
from polysaga.sagas.participants import LedgerRow
from polysaga.sagas.participants.fence import FENCE
from polysaga.sagas.protocol.decisions import (
    BlockPivot,
    CancelActive,
    Compensate,
    Finish,
    GoForward,
    Rest,
    RunSteps,
    UndoSteps,
    Verdict,
    Wait,
    decide,
)
from polysaga.sagas.protocol.interrupts import Lost, OutOfReach
from polysaga.sagas.protocol.outcomes import Failure, overdue
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.rows import NOBODY, Row
from polysaga.sagas.protocol.states import Mark, Status
from polysaga.texts import said

_PATIENCE = 5.0  # seconds that a takeover waits for a ledger: it takes a place of those that may be in flight
MOST_EXPIRIES = 10  # lost claims without progress until a saga is parked: it probably kills its process


class Execution:
    """One saga driven by this process."""

    def __init__(self, engine: Engine, progress: Progress) -> None:
        self.engine, self.progress = engine, progress
        progress.renewed_at = engine.clock.monotonic()
        self.announcements = Announcements(engine, progress)
        name, saga_id = progress.definition.name, progress.saga_id
        self.attempts = Attempts(saga_id, name, engine.clock, engine.emit, engine.timeouts)
        self.holds_claim = False  # there is a row, and it names this execution as the owner
        self._trouble = Reason()  # why the saga would be parked
        progress.not_after = engine.clock.now() + FENCE
        self._steps = Steps(engine, progress, self.attempts)
        self._tasks: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[Any] | None = None  # begins or resumes the saga, and drives it
        self._stoppable = self._stopped = False
        self._time_left = progress.birth.deadline  # seconds from when the saga is started here
        self._alarm: asyncio.Task[None] | None = None

    @property
    def renewed_at(self) -> float:
        """The clock's reading from before the claim was made or last prolonged."""
        return self.progress.renewed_at

    def renew(self, at: float) -> None:
        """Note that the claim was prolonged; *at* is the clock's reading before the statement was sent."""
        self.progress.renewed_at = at
        self.progress.not_after = self.engine.clock.now() + FENCE

    def stop(self, failure: Failure) -> None:
        """Undo the saga because of *failure*; no effect once it is decided or compensating."""
        progress = self.progress
        if progress.status is not Status.RUNNING or progress.decision_known or progress.failure is not None:
            return
        progress.failure = failure
        if self._stoppable and self._task is not None:
            self._stopped = True
            self._task.cancel()  # ends what it awaits; `_was_stopped` takes the cancellation back

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
        self._task = asyncio.current_task()
        failure = await self._steps.start()
        if failure is not None:
            self.progress.failure, self.progress.reason = failure, failure.reason()
            self.progress.status = Status.COMPENSATED
            await self._steps.insert(Status.COMPENSATED)
        self.holds_claim = True
        self.announcements.tell_started()
        self.announcements.tell()

    async def resume(self, row: Row) -> bool:
        """Take over where the journal and the ledgers say that the saga stands.

        Returns False if a ledger is unreachable: the saga is put aside for a while, and the claim is given up.
        """
        self._task = asyncio.current_task()
        progress, journal = self.progress, self.engine.journal
        progress.status, progress.reason = row.status, row.error
        self._time_left = row.remaining
        self.attempts.history.extend(row.history)
        try:
            _ = progress.input  # raises now, before any step meets it
            progress.adopt(row.results)
            found = await self._take_stock(row.results)
            for step in row.error.undone_by_hand if row.error is not None else ():
                progress.marks[step] = Mark.COMPENSATED
        except PayloadUnreadable as error:
            await self._park(Reason(message=said(error)))
        except OutOfReach:
            await self._put_aside()
            return False
        else:
            if found > row.progress:
                noted = partial(journal.note_progress, progress.claim, found)
                await self._write(noted, progress.status)
            elif row.expiries > MOST_EXPIRIES:
                told = f"{row.expiries} owners in a row lost their claim without any progress"
                await self._park(Reason(message=told))
        self.announcements.tell_started()
        self.announcements.tell()
        return True

    def hangs(self, hanging: Collection["asyncio.Task[Any]"]) -> bool:
        """Return whether a task of this execution is among *hanging*; if so, its claim must run out."""
        return self._task in hanging or any(task in hanging for task in self._tasks)

    async def drive(self) -> None:
        """Go on until the saga rests; raise `Lost` if the claim is gone."""
        progress = self.progress
        self._task = asyncio.current_task()
        if self._time_left is not None and progress.status is Status.RUNNING:
            self._alarm = asyncio.create_task(self._watch_deadline(self._time_left))
        try:
            while not (progress.status.final or progress.status is Status.NEEDS_ATTENTION):
                if self._task is not None and self._task.cancelling():
                    raise asyncio.CancelledError  # a driver or a step has swallowed it
                match decide(progress.definition, progress.known, journal=progress.home):
                    case RunSteps(steps):
                        await self._begin_all(steps, self._run)
                    case UndoSteps(steps):
                        await self._begin_all(steps, self._undo)
                    case BlockPivot(step):
                        await self._undo(progress.definition.by_name[step])
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
                        return
                self.announcements.tell()
        except OutOfReach:
            await self._put_aside()
        except Lost:
            self.engine.emit(ClaimLost(progress.saga_id, progress.definition.name, progress.claim.epoch))
            raise
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            await self._cancel_active()
            self.announcements.tell()  # also of a step that ended while this task was cancelled

    async def _watch_deadline(self, seconds: float) -> None:
        await self.engine.clock.sleep(seconds)
        self.stop(overdue())

    async def _begin_all(self, steps: tuple[str, ...], run: Callable[[AnyStep], Awaitable[None]]) -> None:
        """Begin *steps* side by side; a single step with nothing beside it runs here, without a task."""
        alone = len(steps) == 1 and not self._tasks
        for name in steps:
            self.progress.marks[name] = Mark.ACTIVE
            step = self.progress.definition.by_name[name]
            if not alone:
                self._tasks.add(asyncio.ensure_future(run(step)))
                continue
            self._stoppable = True
            try:
                await run(step)
            except asyncio.CancelledError:
                if not self._was_stopped():
                    raise
                self.progress.only_done()
            finally:
                self._unstoppable()

    async def _await_some(self) -> None:
        self._stoppable = True
        try:
            ended, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if not self._was_stopped():
                raise
            return
        finally:
            self._unstoppable()
        for task in ended:
            task.result()

    def _was_stopped(self) -> bool:
        """Return whether a cancellation came from `stop` alone, and take that one back."""
        stopped, self._stopped = self._stopped, False
        return stopped and self._task is not None and self._task.uncancel() == 0

    def _unstoppable(self) -> None:
        self._stoppable = False
        if self._stopped:  # the awaited task swallowed the cancellation, or ended before it
            self._was_stopped()

    async def _cancel_active(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            # Their errors no longer matter; asyncio would log errors that are never retrieved.
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = set()
        self.progress.only_done()

    async def _run(self, step: AnyStep) -> None:
        progress = self.progress
        settled = await self._steps.run(step)
        if isinstance(settled.verdict, Verdict) and settled.error is not None:
            if settled.verdict is Verdict.LOST:
                raise Lost from settled.error
            if step.kind == "retriable":
                progress.marks[step.name] = Mark.STUCK
                return
            del progress.marks[step.name]
            progress.failure = progress.failure or Failure(settled.verdict, step.name, settled.error)

    async def _undo(self, step: AnyStep) -> None:
        settled = await self._steps.undo(step)
        if settled.verdict is Verdict.LOST:
            raise Lost from settled.error
        if not settled.done:
            self._stuck(step, settled.error)

    def _stuck(self, step: AnyStep, error: Exception | None) -> None:
        self.progress.marks[step.name] = Mark.STUCK
        if error is not None:
            self._trouble = Failure(Verdict.FAILED, step.name, error).reason()

    async def _compensate(self) -> None:
        progress = self.progress
        if progress.failure is None:  # a failover of the journal lost a decision that a ledger has
            step = next(name for name, mark in progress.marks.items() if mark is not Mark.DONE)
            progress.failure = Failure(Verdict.LATE, step, Lost("another owner had begun to undo the saga"))
        progress.reason = reason = progress.failure.reason()
        journal, claim = self.engine.journal, progress.claim
        row = await self._refusal(lambda: journal.compensate(claim, reason), Status.COMPENSATING)
        if row is None:
            progress.status = Status.COMPENSATING
            progress.marks.clear()  # each step that was done must now be undone
            self.announcements.tell_decision(Status.COMPENSATING)
            return
        if row.claim != claim or row.status not in {Status.COMPLETING, Status.COMPLETED}:
            raise Lost
        # The pivot was cancelled, or its reply was lost; it has committed all the same.
        progress.status, progress.failure, progress.reason = row.status, None, None
        for step, text in row.results.items():
            progress.learn(step, text)

    async def _go_forward(self) -> None:
        progress = self.progress
        await self._write(lambda: self.engine.journal.go_forward(progress.claim), Status.RUNNING)
        progress.failure = progress.reason = None
        progress.only_done()
        await self._take_stock(progress.journaled())

    async def _finish(self, status: Status) -> None:
        progress = self.progress
        if status is Status.COMPENSATED and progress.undoes_fused:
            step = progress.definition.steps[0]
            progress.marks[step.name] = Mark.ACTIVE
            settled = await self._steps.undo_first(step)
            if not settled.done:
                if settled.verdict is Verdict.LOST:
                    raise Lost from settled.error
                self._stuck(step, settled.error)
                return
        else:
            ending = progress.ending(progress.status, status, self.attempts.history)
            await self._write(
                lambda: self.engine.finishes.add(ending, patient=self.announcements.decided.done()), status
            )

    async def _rest(self) -> None:
        """Park a saga that can neither go on nor be undone; postpone one whose steps must still happen."""
        progress = self.progress
        if progress.status is Status.COMPENSATING:
            await self._park(self._trouble)
        elif progress.known.undone:
            step = next(name for name, mark in progress.marks.items() if mark in {Mark.BLOCKED, Mark.COMPENSATED})
            told = f"it is decided, but step '{step}' is {progress.marks[step]}: somebody has begun to resolve it"
            await self._park(Reason(step=step, message=f"{told}; resolve it as completed"))
        else:
            await self._put_aside()

    async def _put_aside(self) -> None:
        """Give up the claim; the saga is due again after a pause."""
        progress, journal, history = self.progress, self.engine.journal, self.attempts.history
        await self._write(lambda: journal.postpone(progress.claim, PAUSE, history), progress.status)

    async def _park(self, trouble: Reason) -> None:
        """Ask for a person; the journal keeps why the saga is undone beside why it is parked."""
        progress, journal, history = self.progress, self.engine.journal, self.attempts.history
        expected = progress.status
        progress.reason = reason = (progress.reason or Reason()).parked_from(expected, trouble)
        await self._write(lambda: journal.park(progress.claim, expected, reason, history), Status.NEEDS_ATTENTION)
        self.engine.emit(SagaParked(progress.saga_id, progress.definition.name, trouble.message))

    async def _write(self, write: Callable[[], Awaitable[bool]], status: Status) -> None:
        """Write to the journal, retry until it answers; raise `Lost` if the claim no longer allows it."""
        if await self._refusal(write, status) is not None:
            raise Lost
        self.progress.status = status

    async def _refusal(self, write: Callable[[], Awaitable[bool]], status: Status) -> Row | None:
        """Write to the journal, retry until it answers; return the row if that no longer allows the write."""
        if await self.attempts.persist(write, self.engine.home.fault):
            return None
        claim = self.progress.claim
        load = partial(self.engine.journal.load, claim.saga_id)
        row = await self.attempts.persist(load, self.engine.home.fault)
        if row is None:
            raise Lost
        # A write whose reply was lost looks refused when it is repeated. It may have put the saga aside.
        written = row.status is status and row.claim in {claim, replace(claim, owner=NOBODY)}
        return None if written else row

    async def _take_stock(self, journaled: Mapping[str, str]) -> int:
        """Read what the journal row and all ledgers say; return how many steps have a record.

        Raises `OutOfReach` if a database does not answer. The journal's database alone is waited for, because only
        it can write that the saga is put aside.
        """
        progress = self.progress
        rows = {step: LedgerRow(Mark.DONE, text) for step, text in journaled.items()}
        by_database: dict[str, list[str]] = {}
        for step in progress.definition.steps:
            if step.name not in journaled:
                by_database.setdefault(progress.place(step), []).append(step.name)
        for database, steps in by_database.items():
            participant = self.engine.participants[database]
            look = partial(participant.look, progress.saga_id, steps)
            patience = Retry(within=None if database == progress.home else _PATIENCE)
            rows.update(
                await self.attempts.persist(look, participant.fault, self.engine.gates[database], patience)
            )
        progress.take_in(rows)
        return len(rows)
