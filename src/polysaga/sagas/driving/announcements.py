"""What callers of a saga wait for, and what events say of it: each once, as soon as it is certain.

The loop of an execution asks for it after everything that it has done. What is certain follows from the progress
alone; no step and no write to the journal resolves a caller's wait by itself.
"""

import asyncio

from polysaga.errors import Refused, TooLate
from polysaga.events import SagaDecided, SagaFinished
from polysaga.sagas.driving.progress import Progress
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.protocol.interrupts import Stopped
from polysaga.sagas.protocol.outcomes import error_of, first_told
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.states import Mark, Status


class Announcements:
    """The waits of the callers of one saga in this process, and the events about its decision and its end."""

    def __init__(self, engine: Engine, progress: Progress) -> None:
        self._engine, self._progress = engine, progress
        self._began = engine.clock.monotonic()
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._undone: asyncio.Future[None] | None = None  # for `cancel`: the saga is certain to be undone
        self._is_finished = False

    def tell_started(self) -> None:
        """Let callers know that the start is durable."""
        if not self.started.done():  # a runner that closes may have ended the wait
            self.started.set_result(None)

    def tell(self) -> None:
        """Resolve each wait whose outcome is certain now, and emit the event about it."""
        self._tell_outcome()
        self._tell_compensation()
        status = self._progress.status
        if status.final and not self._is_finished:
            self._is_finished = True
            seconds = self._engine.clock.monotonic() - self._began
            self._emit(SagaFinished, status, seconds)

    def tell_decision(self, status: Status) -> None:
        """Emit the event that the saga is decided: *status* says in which direction."""
        reason = self._progress.reason
        self._emit(SagaDecided, status, None if reason is None else reason.message)

    def compensation_certain(self) -> "asyncio.Future[None]":
        """Return a wait for the moment at which the pivot can no longer commit.

        Its error is `TooLate` if the saga is decided, or `NeedsAttention` if it is parked first.
        """
        if self._undone is None:
            self._undone = asyncio.get_running_loop().create_future()
        return self._undone

    def end(self, error: BaseException) -> None:
        """End all waits with *error*: this process cannot answer them."""
        for future in (self.started, self.decided, self._undone):
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # no caller may be waiting; that is not an error

    def _tell_outcome(self) -> None:
        progress = self._progress
        if self.decided.done():
            return
        if progress.status in {Status.COMPENSATED, Status.NEEDS_ATTENTION}:
            self.decided.set_exception(self._error())
            self.decided.exception()  # no caller may be waiting; that is not an error
        elif progress.status is Status.COMPLETED or self._is_decided:
            self.decided.set_result(None)
            self.tell_decision(Status.COMPLETED if progress.status.final else Status.COMPLETING)

    @property
    def _is_decided(self) -> bool:
        # The journal does not know yet of a pivot that is found committed while the saga is being undone.
        return self._progress.decision_known and self._progress.status is not Status.COMPENSATING

    def _tell_compensation(self) -> None:
        undone, progress = self._undone, self._progress
        if undone is None or undone.done():
            return
        if progress.status is Status.NEEDS_ATTENTION:
            undone.set_exception(self._error())
        elif progress.decision_known or progress.status in {Status.COMPLETING, Status.COMPLETED}:
            # A pivot in another database decides before the journal says so.
            status = Status.COMPLETED if progress.status is Status.COMPLETED else Status.COMPLETING
            undone.set_exception(TooLate(progress.saga_id, progress.definition.name, status.value))
        elif progress.status is Status.COMPENSATED or (
            progress.status is Status.COMPENSATING and self._pivot_is_blocked
        ):
            undone.set_result(None)

    @property
    def _pivot_is_blocked(self) -> bool:
        # A pivot in another database can still commit until it is blocked there.
        progress, pivot = self._progress, self._progress.definition.decision
        if pivot is None or pivot.database_name == progress.home:
            return True
        return progress.marks.get(pivot.name) in {Mark.BLOCKED, Mark.COMPENSATED}

    def _emit(self, event: type[SagaDecided] | type[SagaFinished], status: Status, more: object) -> None:
        progress = self._progress
        self._engine.emit(event(progress.saga_id, progress.definition.name, status.value, more))  # type: ignore[arg-type]

    def _error(self) -> Exception:
        """Return what callers get for a saga that is undone or parked."""
        progress, failure = self._progress, self._progress.failure
        parked = progress.status is Status.NEEDS_ATTENTION
        if failure is not None and isinstance(failure.error, Refused) and not parked:
            return first_told(failure.error, progress.saga_id, progress.reason or Reason())
        error = error_of(progress.definition, progress.saga_id, progress.status, progress.reason)
        stopped = failure is None or isinstance(failure.error, Stopped)
        error.__cause__ = None if stopped or failure is None else failure.error
        return error
