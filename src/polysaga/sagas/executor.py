"""Drives one saga from where it stands until it rests.

Who owns the truth: the journal row about the status and the right to drive, the ledger row about a step. The
executor asks `decide` what comes next and does it; what it knows meanwhile (`progress.py`) may be lost at any
moment. An executor that lost its claim learns it from a conditional write that changes no row; it then stops
(`Lost`), and whoever waits for the saga follows the journal.

The reply may go out at the decision: the pivot's commit, or the finish where there is no pivot. Retriable
steps and the finishing write come behind it. Before compensating, the steps still under way are cancelled and
awaited: they would hold the connections that their compensations need
(`test_a_refusal_cancels_the_branch_beside_it_before_anything_is_undone`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from polysaga.errors import PayloadUnreadable, Refused
from polysaga.events import ClaimLost, SagaDecided, SagaFinished, SagaParked
from polysaga.sagas.attempts import Attempts
from polysaga.sagas.decisions import (
    BlockPivot,
    CancelActive,
    Compensate,
    Finish,
    GoForward,
    Mark,
    Rest,
    Run,
    Status,
    Undo,
    Verdict,
    Wait,
    decide,
)
from polysaga.sagas.definition import AnyStep
from polysaga.sagas.engine import Engine
from polysaga.sagas.journal import NOBODY, Row
from polysaga.sagas.outcomes import Failure, error_of
from polysaga.sagas.participants import LedgerRow
from polysaga.sagas.payloads import decode
from polysaga.sagas.progress import Progress
from polysaga.sagas.signals import Lost
from polysaga.sagas.steps import Steps

FENCE = timedelta(hours=24)  # after the last renewal of a claim no ledger accepts its owner's rows
MOST_EXPIRIES = 10  # lost claims without progress until a saga is parked: it probably kills its process
_POSTPONED = 30.0  # seconds until a saga whose retriable step keeps failing is driven again


class Execution:
    """One saga driven by this process."""

    def __init__(self, engine: Engine, progress: Progress) -> None:
        self.engine, self.progress = engine, progress
        self.began = progress.renewed_at = engine.clock.monotonic()
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.decided: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        name, saga_id = progress.definition.name, progress.saga_id
        self.attempts = Attempts(saga_id, name, engine.clock, engine.emit, engine.deadlines)
        self.holds_claim = False  # there is a row, and it names us
        self._trouble: Mapping[str, Any] = {}  # what the saga is parked for, if it comes to that
        progress.not_after = engine.clock.now() + FENCE
        self._steps = Steps(engine, progress, self.attempts)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def renewed_at(self) -> float:
        """The clock's reading from before the claim was made or last prolonged."""
        return self.progress.renewed_at

    def renew(self, at: float) -> None:
        """Note that the claim was prolonged; *at* is the clock's reading from before the statement was sent."""
        self.progress.renewed_at = at
        self.progress.not_after = self.engine.clock.now() + FENCE

    async def begin(self) -> None:
        """Make the start durable, with the first step if that lives in the journal's database.

        Raises `Joined` if the saga exists, `TryAgain` if the journal cannot be reached. A refusal in the
        first step leaves a final row.
        """
        failure = await self._steps.start()
        if failure is not None:
            self.progress.failure, self.progress.reason = failure, failure.as_data()
            self.progress.status = Status.COMPENSATED
            await self._steps.insert(Status.COMPENSATED)
        self.holds_claim = True
        self.started.set_result(None)
        self._announce()

    async def resume(self, row: Row) -> None:
        """Take over where the journal and the ledgers say that the saga stands."""
        self.holds_claim = True
        progress, journal = self.progress, self.engine.journal
        progress.status, progress.reason = row.status, row.error
        self.attempts.history.extend(row.history)
        try:
            saga = progress.definition.saga
            progress.input = decode(saga.input, row.input, what=f"the input of saga {progress.saga_id}")
            found = await self._take_stock(row.results)
            for step in (row.error or {}).get("undone_by_hand", ()):
                progress.marks[step] = Mark.COMPENSATED
        except PayloadUnreadable as error:
            await self._park({"message": str(error)})
        else:
            if found > row.progress:
                noted = partial(journal.note_progress, progress.claim, found)
                await self._write(noted, progress.status)
            elif row.expiries > MOST_EXPIRIES:
                told = f"{row.expiries} owners in a row lost their claim without any progress"
                await self._park({"message": told})
        self.started.set_result(None)
        self._announce()

    async def drive(self) -> None:
        """Go on until the saga rests; raise `Lost` if the claim is gone."""
        progress = self.progress
        try:
            while not (progress.status.final or progress.status is Status.NEEDS_ATTENTION):
                match decide(progress.definition, progress.known, journal=progress.home):
                    case Run(steps):
                        await self._begin_all(steps, self._run)
                    case Undo(steps):
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
        except Lost:
            self.engine.emit(ClaimLost(progress.saga_id, progress.definition.name, progress.claim.epoch))
            raise
        finally:
            await self._cancel_active()

    async def _begin_all(self, steps: tuple[str, ...], run: Callable[[AnyStep], Awaitable[None]]) -> None:
        """Begin *steps* side by side; a single one with nothing beside it runs here, without a task."""
        alone = len(steps) == 1 and not self._tasks
        for name in steps:
            self.progress.marks[name] = Mark.ACTIVE
            step = self.progress.definition.by_name[name]
            if alone:
                await run(step)
            else:
                task = asyncio.ensure_future(run(step))
                self._tasks.add(task)

    async def _await_some(self) -> None:
        ended, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()

    async def _cancel_active(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            # Their errors, if any, are of no interest any more; not to ask for them would be loud.
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = set()
        self.progress.only_done()

    async def _run(self, step: AnyStep) -> None:
        progress = self.progress
        settled = await self._steps.run(step)
        if settled.done:
            self._announce()
        elif isinstance(settled.verdict, Verdict) and settled.error is not None:
            if settled.verdict is Verdict.LOST:
                raise Lost from settled.error
            if step.kind == "retriable":
                progress.marks[step.name] = Mark.STUCK
                return
            del progress.marks[step.name]
            progress.failure = progress.failure or Failure(settled.verdict, step.name, settled.error)

    async def _undo(self, step: AnyStep) -> None:
        settled = await self._steps.undo(step)
        if not settled.done:
            self._stuck(step, settled.error)

    def _stuck(self, step: AnyStep, error: Exception | None) -> None:
        self.progress.marks[step.name] = Mark.STUCK
        if error is not None:
            self._trouble = Failure(Verdict.FAILED, step.name, error).as_data()

    async def _compensate(self) -> None:
        progress = self.progress
        if progress.failure is None:  # the journal has forgotten a decision that a ledger remembers
            step = next(name for name, mark in progress.marks.items() if mark is not Mark.DONE)
            progress.failure = Failure(Verdict.LATE, step, Lost("another owner had begun to undo the saga"))
        progress.reason = reason = progress.failure.as_data()
        await self._write(lambda: self.engine.journal.compensate(progress.claim, reason), Status.COMPENSATING)
        progress.marks.clear()  # what was done going forward is what must be visited going back
        self._announce_decision(Status.COMPENSATING)

    async def _go_forward(self) -> None:
        progress = self.progress
        await self._write(lambda: self.engine.journal.go_forward(progress.claim), Status.RUNNING)
        progress.failure = progress.reason = None
        progress.only_done()
        await self._take_stock(progress.journaled())
        self._announce()

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
            await self._write(lambda: self.engine.finishes.add(ending, patient=self.decided.done()), status)
        self._announce()

    async def _rest(self) -> None:
        """Put the saga aside: park what cannot be undone, postpone what must still happen."""
        progress, journal, history = self.progress, self.engine.journal, self.attempts.history
        if progress.status is not Status.COMPENSATING:
            await self._write(lambda: journal.postpone(progress.claim, _POSTPONED, history), progress.status)
            return
        await self._park(self._trouble)

    async def _park(self, trouble: Mapping[str, Any]) -> None:
        """Ask for a person; what the saga is undone for stays beside what it is parked for."""
        progress, journal, history = self.progress, self.engine.journal, self.attempts.history
        expected = progress.status
        progress.reason = reason = {**(progress.reason or {}), "parked": {**trouble, "from": expected.value}}
        await self._write(lambda: journal.park(progress.claim, expected, reason, history), Status.NEEDS_ATTENTION)
        self.engine.emit(SagaParked(progress.saga_id, progress.definition.name, str(trouble.get("message"))))
        self._announce()

    async def _write(self, write: Callable[[], Awaitable[bool]], status: Status) -> None:
        """Write to the journal, for as long as it takes; raise `Lost` if the claim no longer allows it."""
        if not await self.attempts.persist(write, self.engine.home.fault):
            load = partial(self.engine.journal.load, self.progress.saga_id)
            row = await self.attempts.persist(load, self.engine.home.fault)
            # The write whose reply was lost looks refused when it is repeated; it may have put the saga aside.
            claim = self.progress.claim
            if row is None or row.status is not status or row.claim not in {claim, replace(claim, owner=NOBODY)}:
                raise Lost
        self.progress.status = status

    async def _take_stock(self, journaled: Mapping[str, str]) -> int:
        """Take in what the journal row and all ledgers say; return how many steps have a record."""
        progress = self.progress
        rows = {step: LedgerRow(Mark.DONE, text) for step, text in journaled.items()}
        by_database: dict[str, list[str]] = {}
        for step in progress.definition.steps:
            if step.name not in journaled:
                by_database.setdefault(progress.place(step), []).append(step.name)
        for database, steps in by_database.items():
            participant = self.engine.participants[database]
            look = partial(participant.look, progress.saga_id, steps)
            rows.update(await self.attempts.persist(look, participant.fault))
        progress.take_in(rows)
        return len(rows)

    def _announce(self) -> None:
        """Tell who waits, once, as soon as the outcome is certain."""
        progress = self.progress
        if progress.status in {Status.COMPENSATED, Status.NEEDS_ATTENTION}:
            if not self.decided.done():
                self.decided.set_exception(self._error())
                self.decided.exception()  # nobody may be waiting; that is not an error
        elif (progress.decision_known or progress.status is Status.COMPLETED) and not self.decided.done():
            self.decided.set_result(progress.output)
            self._announce_decision(Status.COMPLETED if progress.status.final else Status.COMPLETING)
        if progress.status.final:
            seconds = self.engine.clock.monotonic() - self.began
            self.engine.emit(
                SagaFinished(progress.saga_id, progress.definition.name, progress.status.value, seconds)
            )

    def _announce_decision(self, status: Status) -> None:
        progress = self.progress
        message = None if progress.reason is None else str(progress.reason.get("message"))
        self.engine.emit(SagaDecided(progress.saga_id, progress.definition.name, status.value, message))

    def _error(self) -> Exception:
        progress, failure = self.progress, self.progress.failure
        parked = progress.status is Status.NEEDS_ATTENTION
        if failure is not None and isinstance(failure.error, Refused) and not parked:
            failure.error.saga_id = progress.saga_id
            return failure.error
        error = error_of(progress.definition, progress.saga_id, progress.status, progress.reason or {})
        error.__cause__ = None if failure is None else failure.error
        return error
