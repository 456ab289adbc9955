"""What callers of a saga wait for, and what events say of it: each once, as soon as it is certain.

The execution asks for it after every fact. What is certain follows from what is known alone (`certainty.py`); no
step and no write to the journal resolves a caller's wait by itself.
"""

import asyncio

from polysaga.errors import Refused, TooLate
from polysaga.events import SagaDecided, SagaFinished, SagaParked
from polysaga.sagas.driving.progress import Progress
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.protocol.certainty import Answer, answer, is_too_late, is_undone_for_certain
from polysaga.sagas.protocol.interrupts import Stopped
from polysaga.sagas.protocol.known import Known
from polysaga.sagas.protocol.outcomes import error_of, first_told
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.states import Status


class Announcements:
    """The waits of the callers of one saga in this process, and the events about its decision and its end."""

    def __init__(self, engine: Engine, progress: Progress) -> None:
        self._engine, self._progress = engine, progress
        self._began = engine.clock.monotonic()
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._undone: asyncio.Future[None] | None = None  # for `cancel`: the saga is certain to be undone
        self._is_finished = False

    def resume(self, age: float) -> None:
        """Count the time of the saga from its start, *age* seconds ago, also if another process made it."""
        self._began = self._engine.clock.monotonic() - age

    def tell_started(self) -> None:
        """Let callers know that the start is durable."""
        if not self.started.done():  # a runner that closes may have ended the wait
            self.started.set_result(None)

    def tell(self, before: Known | None = None) -> None:
        """Resolve each wait whose outcome is certain now, and emit the event about it.

        *before* is what was known before the last fact; None after a takeover, whose events the owners before it
        have emitted.
        """
        known = self._progress.known
        if before is not None and before.status is not known.status:
            if known.status is Status.COMPENSATING:
                self._emit_decision(Status.COMPENSATING)
            elif known.status is Status.NEEDS_ATTENTION:
                self._emit_parking(known)
        if not self.answered.done():
            self._tell_outcome(known)
        if self._undone is not None and not self._undone.done():
            self._tell_compensation(known, self._undone)
        if known.status.final and not self._is_finished:
            self._is_finished = True
            self._emit(SagaFinished, known.status, self._seconds)

    def compensation_certain(self) -> "asyncio.Future[None]":
        """Return a wait for the moment at which the pivot can no longer commit.

        Its error is `TooLate` if the saga is decided, or `NeedsAttention` if it is parked first.
        """
        if self._undone is None:
            self._undone = asyncio.get_running_loop().create_future()
        return self._undone

    def end(self, error: BaseException) -> None:
        """End all waits with *error*: this process cannot answer them."""
        for future in (self.started, self.answered, self._undone):
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # no caller may be waiting; that is not an error

    def _tell_outcome(self, known: Known) -> None:
        match answer(self._progress.definition, known):
            case Answer.UNDONE | Answer.PARKED:
                self.answered.set_exception(self._error())
                self.answered.exception()  # no caller may be waiting; that is not an error
            case Answer.COMPLETED:
                self.answered.set_result(None)
                self._emit_decision(Status.COMPLETED if known.status.final else Status.COMPLETING)

    def _tell_compensation(self, known: Known, undone: "asyncio.Future[None]") -> None:
        progress = self._progress
        if known.status is Status.NEEDS_ATTENTION:
            undone.set_exception(self._error())
        elif is_too_late(progress.definition, known):
            status = Status.COMPLETED if known.status is Status.COMPLETED else Status.COMPLETING
            undone.set_exception(TooLate(progress.saga_id, progress.definition.name, status.value))
        elif is_undone_for_certain(progress.definition, known, home=progress.home):
            undone.set_result(None)

    def _emit_decision(self, status: Status) -> None:
        reason = self._progress.known.reason
        self._emit(SagaDecided, status, None if reason is None else reason.message, self._seconds)

    def _emit_parking(self, known: Known) -> None:
        parked = None if known.reason is None else known.reason.parked
        told = "" if parked is None else parked.message
        self._engine.emit(SagaParked(self._progress.saga_id, self._progress.definition.name, told))

    def _emit(self, event: type[SagaDecided] | type[SagaFinished], status: Status, *more: object) -> None:
        progress = self._progress
        self._engine.emit(event(progress.saga_id, progress.definition.name, status.value, *more))  # type: ignore[arg-type]

    @property
    def _seconds(self) -> float:
        return self._engine.clock.monotonic() - self._began

    def _error(self) -> Exception:
        """Return what callers get for a saga that is undone or parked."""
        progress, known = self._progress, self._progress.known
        failure, parked = known.failure, known.status is Status.NEEDS_ATTENTION
        if failure is not None and isinstance(failure.error, Refused) and not parked:
            return first_told(failure.error, progress.saga_id, known.reason or Reason())
        error = error_of(progress.definition, progress.saga_id, known.status, known.reason)
        stopped = failure is None or isinstance(failure.error, Stopped)
        error.__cause__ = None if stopped or failure is None else failure.error
        return error
