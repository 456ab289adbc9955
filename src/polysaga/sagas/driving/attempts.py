"""Trying until it is settled: one step, one compensation or one write to the journal.

After any error the owner looks at the record before it judges the error (`verdicts.judge`). The transaction may
have committed although its reply was lost, and a duplicate run fails on the user's own unique key before it meets
our row. A missing record settles nothing; the next attempt, which writes the same row, settles it.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast
from uuid import UUID

from polysaga.clock import Clock
from polysaga.databases import Fault
from polysaga.errors import Refused
from polysaga.events import Emit, StepCompensated, StepDone, StepFailed
from polysaga.frozen import frozen
from polysaga.sagas.definition.retries import Retry
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.gates import Gate
from polysaga.sagas.driving.timeouts import Timeouts
from polysaga.sagas.driving.tracing import SagaTrace
from polysaga.sagas.protocol.interrupts import Joined, Lost, OutOfReach
from polysaga.sagas.protocol.known import Did, Fact, Sighting, Undid
from polysaga.sagas.protocol.reasons import Attempt, HistoryEntry, Tenure
from polysaga.sagas.protocol.states import Mark
from polysaga.sagas.protocol.verdicts import Verdict, judge, passes
from polysaga.texts import said

T = TypeVar("T")
_OUT_OF_REACH = {Fault.UNREACHABLE, Fault.POOL_EXHAUSTED, Fault.TOO_MANY_CONNECTIONS}
_FOR_EVER = Retry(within=None)
_SILENCE = 15.0  # seconds until a database that does not answer is asked anew
# Attempts that are kept of a saga, and how many of them are the first: the others are the last. The journal row
# is written with all of them, and a step may be repeated for weeks.
_NOTED, _NOTED_FIRST = 200, 50
_SAID = 300  # characters of what a failed attempt said
_MAY_HAVE_COMMITTED = {Fault.DISCONNECTED, Fault.UNKNOWN_COMMIT}


@frozen
class AttemptPlan:
    """How to make one attempt, and how to find out afterwards whether it happened."""

    act: Callable[[int], Awaitable[Fact | None]]  # gets the attempt's number
    fault: Callable[[BaseException], Fault | None]
    look: Callable[[], Awaitable[Sighting]] | None = None  # None: only another attempt tells
    phase: str = "do"
    retry_any_error: bool = False  # as compensations do, until the retries are used up
    fail_fast: bool = False  # give up at once if the server is unreachable
    gate: Gate | None = None  # to the database that it works on
    patience: float | None = None  # seconds to wait for the gate; None: no limit


@frozen
class _Underway:
    """One attempt that has begun."""

    step: AnyStep
    phase: str
    number: int
    began: float  # by the monotonic clock
    at_ms: float  # since the start of the saga

    def ended(self, seconds: float, outcome: str, told: str | None = None) -> Attempt:
        """Return its entry in the history."""
        return Attempt(self.step.name, self.phase, self.number, self.at_ms, _ms(seconds), outcome, told)


@frozen
class Settled:
    """How the attempts ended; *error* is the last one, None when the step is done."""

    verdict: Mark | Verdict
    error: Exception | None = None
    uncertain: bool = False  # an attempt may have happened and not be visible yet
    fact: Fact | None = None  # what has happened, if it is done

    @property
    def done(self) -> bool:
        """Return whether it happened, now or earlier."""
        return self.verdict is Mark.DONE


_NOTHING = Sighting(None)


class Attempts:
    """The attempts of one saga in this process, and their history."""

    def __init__(
        self,
        saga_id: UUID,
        saga: str,
        clock: Clock,
        emit: Emit,
        timeouts: Timeouts,
        trace: SagaTrace | None = None,
    ) -> None:
        self._saga_id, self._saga, self._clock, self._emit = saga_id, saga, clock, emit
        self._timeouts, self._trace = timeouts, trace
        self._began = clock.monotonic()  # when the saga was started
        self.history: list[HistoryEntry] = []
        self._current: dict[str, _Underway] = {}  # by step
        self.due: dict[str, float] = {}  # by step that waits for its next attempt: when it comes, by the clock

    def begin(self, epoch: int, process: str, before: Sequence[HistoryEntry] = (), age: float = 0.0) -> None:
        """Begin the history of *process* as the owner, *age* seconds after the start and behind *before*."""
        self._began -= age
        self.history += [*before, Tenure(epoch, _ms(age), process)]

    async def settle(self, step: AnyStep, plan: AttemptPlan, retry: Retry) -> Settled:
        """Retry until it is done, or until the error or *retry* ends it; `Lost` and `Joined` pass through."""
        spent, uncertain = 0.0, False  # seconds, without the wait at the gate: a queue is no reason to give up
        for attempt in itertools.count(1):
            if plan.gate is not None:
                try:
                    await plan.gate.enter(plan.patience)
                except TimeoutError:
                    return Settled(Verdict.UNAVAILABLE, plan.gate.full(plan.patience or 0.0), uncertain)
            began = self._clock.monotonic()
            current = _Underway(step, plan.phase, attempt, began, _ms(began - self._began))
            self._current[step.name] = current
            work = self._through(plan.gate, plan.act(attempt), step.timeout, plan.fault)
            if self._trace is not None and plan.phase != "start":
                work = self._trace.attempt(work, step, plan.phase, attempt)
            fact, error = await work
            if error is None:
                self._note_done(current, fact)
                return Settled(Mark.DONE, fact=fact)
            settled = await self._judged(plan, current, error)
            uncertain = uncertain or settled.uncertain
            if settled.verdict is not Verdict.AGAIN:
                return settled
            if _cancelled():
                raise asyncio.CancelledError  # a broken connection replaced the cancellation by its own error
            failed = self._clock.monotonic()
            spent += failed - began
            wait = retry.delay(attempt, spent, random.random())
            fault = None if settled.error is None else plan.fault(settled.error)
            if wait is None or (plan.fail_fast and fault in _OUT_OF_REACH):
                return Settled(Verdict.UNAVAILABLE, settled.error, uncertain)
            self.due[step.name] = failed + wait
            try:
                await self._clock.sleep(wait)
            finally:
                del self.due[step.name]
            spent += self._clock.monotonic() - failed
        raise AssertionError("unreachable")

    async def persist(
        self,
        work: Callable[[], Awaitable[T]],
        fault: Callable[..., Fault | None],
        gate: Gate | None = None,
        retry: Retry = _FOR_EVER,
    ) -> T:
        """Return the result of *work* on a database, waiting for the database as long as *retry* says.

        Each try has a limit of its own: a connection that went silent must not be waited for. Raises `OutOfReach`
        when the waiting is over.
        """
        started: float | None = None
        for attempt in itertools.count(1):
            if gate is not None:
                await self._enter(gate, retry)
            started = self._clock.monotonic() if started is None else started
            result, error = await self._through(gate, work(), _SILENCE, fault)
            if error is None:
                return cast(T, result)
            if not passes(error, fault(error)):
                raise error
            if _cancelled():
                raise asyncio.CancelledError  # as in `settle`
            wait = retry.delay(attempt, self._clock.monotonic() - started, random.random())
            if wait is None:
                raise OutOfReach from error
            await self._clock.sleep(wait)
        raise AssertionError("unreachable")

    async def _enter(self, gate: Gate, retry: Retry) -> None:
        if retry.within is None:
            await gate.enter()
            return
        try:
            await gate.enter_unless_stuck(_SILENCE)
        except TimeoutError as error:
            raise OutOfReach from error

    def with_last(self, step: str) -> list[HistoryEntry]:
        """Return the history with the attempt of *step* that is under way, as if it ended well just now."""
        current = self._current[step]
        return [*self.history, current.ended(self._clock.monotonic() - current.began, "done")]

    async def _judged(self, plan: AttemptPlan, current: _Underway, error: Exception) -> Settled:
        look = None if plan.look is None else plan.look()
        seen, look_failed = (None, None) if look is None else await self._caught(look, current.step.timeout)
        seen, fault = seen or _NOTHING, plan.fault(error)
        verdict = Verdict.AGAIN if look_failed is not None else judge(error, fault, seen.mark)
        if verdict is Mark.DONE:
            self._note_done(current, seen.fact, found=True)
            return Settled(Mark.DONE, fact=seen.fact)
        self._note_failed(current, error, fault)
        if plan.retry_any_error and verdict is not Verdict.LOST:
            verdict = Verdict.AGAIN
        no_reply = isinstance(error, TimeoutError) or fault in _MAY_HAVE_COMMITTED
        return Settled(verdict, error, seen.mark is None and (no_reply or look_failed is not None))

    def _note_done(self, current: _Underway, fact: Fact | None, *, found: bool = False) -> None:
        step, phase = current.step, current.phase
        null = isinstance(fact, Undid) and fact.mark is Mark.BLOCKED
        found = found or (phase == "undo" and isinstance(fact, Did))  # a pivot that had committed
        seconds = self._note(current, "found" if found else "null" if null else "done")
        where = (self._saga_id, self._saga, step.name, step.database_name, current.number)
        if phase == "do":
            self._emit(StepDone(*where, seconds, found))
        elif isinstance(fact, Undid):
            self._emit(StepCompensated(*where, null, seconds))

    def _note_failed(self, current: _Underway, error: Exception, fault: Fault | None) -> None:
        step, told = current.step, said(error)
        outcome = type(error).__name__ if fault is None else fault.value
        seconds = self._note(current, outcome, told[:_SAID])
        kind = "refused" if isinstance(error, Refused) else "error" if fault is None else fault.value
        phase = "undo" if current.phase == "undo" else "do"  # a start does the first step
        where = (self._saga_id, self._saga, step.name, step.database_name, current.number)
        self._emit(StepFailed(*where, kind, told, phase, seconds))

    def _note(self, current: _Underway, outcome: str, told: str | None = None) -> float:
        """Keep the outcome of an attempt; return the seconds that it took."""
        seconds = self._clock.monotonic() - current.began
        if current.phase != "start":
            self.history.append(current.ended(seconds, outcome, told))
            if len(self.history) > _NOTED:
                del self.history[_NOTED_FIRST]
        return seconds

    async def _through(
        self, gate: Gate | None, work: Awaitable[T], timeout: float, fault: Callable[..., Fault | None]
    ) -> tuple[T | None, Exception | None]:
        """Do as `_caught` and leave *gate* with the outcome; a hanging attempt leaves it too."""
        if gate is None:
            return await self._caught(work, timeout)
        error: BaseException | None = None
        inside = True

        def hangs() -> None:
            # Nothing ends the attempt. Steps behind it would wait, and this process would keep their claims.
            nonlocal inside
            inside = False
            gate.leave(TimeoutError(), None)

        try:
            result, error = await self._caught(work, timeout, hangs)
        finally:
            if inside:
                gate.leave(error, None if error is None else fault(error))
        return result, error

    async def _caught(
        self, work: Awaitable[T], timeout: float, hangs: Callable[[], None] | None = None
    ) -> tuple[T | None, Exception | None]:
        """Await *work* for at most *timeout* seconds and return its result or its error."""
        try:
            with self._timeouts.within(timeout, hangs):
                return await work, None
        except (Lost, Joined):
            raise
        except asyncio.CancelledError:
            if _cancelled():
                raise
            return None, RuntimeError("a step awaited something that was cancelled")
        except Exception as error:  # noqa: BLE001 - border: a step is the user's code and may raise anything
            return None, error


def _ms(seconds: float) -> float:
    return int(seconds * 10_000) / 10  # `round` takes ten times as long


def _cancelled() -> bool:
    """Return whether this task is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
