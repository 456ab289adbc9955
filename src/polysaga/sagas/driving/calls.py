"""Steps without a database: calls to the outside world, recorded in the ledger of the journal's database.

No transaction joins a call and its record, so a call is made *at least once*, each time under the same
idempotency key. What is promised instead:

The owner calls first and then writes the row, in one write that succeeds only while the journal names it as the
owner. Later steps begin after that write. An owner that finds the row uses its result and makes no call.

To compensate, the owner first blocks the row, as for every step; from then on no result can be recorded. A
recorded call is undone with its result. A call without a record may or may not have happened. Its compensation
runs and gets None, unless this process began the saga and made no call. The row becomes `compensated` after the
compensation has run, so a crash repeats it.

A ledger cannot prevent this interleaving: an owner calls; its claim runs out before it can record; the next
owner blocks the row and undoes, perhaps before the call has arrived outside. So a first owner that may not
record looks at the row, and undoes its own call if the row is blocked
(`test_an_owner_that_lost_its_claim_while_it_called_undoes_its_own_call`). To keep that window small, an owner
calls only while its lease lasts, or after the journal has confirmed the claim. A call under way is awaited, for
at most the step's timeout, and not cancelled: a cancelled call could arrive after its own compensation. One case
remains: a process is killed inside the window, and its call arrives late. Only the outside can refuse that call,
by remembering the keys that were undone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from polysaga.databases import Fault
from polysaga.errors import DatabaseUnavailable, Refused
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.attempts import AttemptPlan, Attempts, Settled
from polysaga.sagas.driving.progress import Progress
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.protocol.interrupts import Fenced, Lost
from polysaga.sagas.protocol.known import Did, Fact, Sighting, Undid
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark

T = TypeVar("T")


class Calls:
    """Does and undoes the steps without a database of one saga in this process."""

    def __init__(self, engine: Engine, progress: Progress, attempts: Attempts) -> None:
        self._engine, self._progress, self._attempts = engine, progress, attempts
        # Calls that may have happened outside, with the result if there is one. An outage of the journal must not
        # repeat them.
        self._made: dict[str, str | None] = {}

    def holds_result(self, step: str) -> bool:
        """Return whether *step* was called with a result that the journal may not have."""
        return self._made.get(step) is not None

    async def run(self, step: AnyStep) -> Settled:
        """Call and record; undo the call if another owner is undoing the saga."""
        plan = AttemptPlan(
            self._call_and_record(step), self._fault, self._look(step), retry_any_error=step.kind == "retriable"
        )
        try:
            settled = await self._attempts.settle(step, plan, step.retry)
        except (Lost, asyncio.CancelledError):
            await self._undo_unrecorded_call(step)
            raise
        if not settled.done:
            await self._undo_unrecorded_call(step)
        return settled

    async def undo(self, step: AnyStep) -> Settled:
        """Block the record of the step, then undo what it did, or may have done."""
        progress, home = self._progress, self._engine.home_participant

        async def act(attempt: int) -> Fact:
            row = await home.undo(progress.entry(step), None)
            unmade = progress.claim.epoch == 1 and step.name not in self._made
            null = row.state is Mark.BLOCKED and unmade
            if row.state is not Mark.COMPENSATED and not null:
                await self._undo_call(step, attempt, row)
            return Undid(step.name, Mark.BLOCKED if null else Mark.COMPENSATED)

        plan = AttemptPlan(act, self._fault, phase="undo", retry_any_error=True)
        return await self._attempts.settle(step, plan, step.undo_retry)

    def _call_and_record(self, step: AnyStep) -> Callable[[int], Awaitable[Fact]]:
        progress = self._progress

        async def act(attempt: int) -> Fact:
            text = self._made.get(step.name)
            if text is None:
                await self._confirm_claim()
                text = await _await_uncancelled(self._call(step, attempt))
            if not await self._engine.journal.record_call(progress.claim, step.name, text):
                raise Fenced(f"the claim on step '{step.name}' is gone")
            return Did(step.name, text)

        return act

    async def _call(self, step: AnyStep, attempt: int) -> str:
        made_before = step.name in self._made
        self._made.setdefault(step.name, None)
        try:
            work = self._progress.values.work(step, attempt)
            with self._engine.timeouts.within(step.timeout):
                text = await work(None)
        except Refused:
            if not made_before:
                del self._made[step.name]  # the outside refused the only call: there is nothing to undo
            raise
        self._made[step.name] = text
        return text

    async def _confirm_claim(self) -> None:
        engine, progress = self._engine, self._progress
        if engine.clock.monotonic() - progress.asked.monotonic > engine.settings.lease:
            row = await engine.journal.load(progress.saga_id)
            if row is None or row.claim != progress.claim:
                raise Lost

    def _look(self, step: AnyStep) -> Callable[[], Awaitable[Sighting]]:
        async def look() -> Sighting:
            return self._progress.values.seen(step.name, await self._row(step))

        return look

    async def _undo_unrecorded_call(self, step: AnyStep) -> None:
        """Undo an own call whose record another owner has blocked: that undo may have come too early."""
        if step.name not in self._made or step.undo is None:
            return
        try:
            row = await self._row(step)
        except (DBAPIError, PoolTimeout, DatabaseUnavailable):
            return  # the present owner of the saga undoes it
        if row is None or row.state is Mark.DONE:
            return

        async def act(attempt: int) -> None:
            await self._undo_call(step, attempt, row)

        await self._attempts.settle(
            step, AttemptPlan(act, self._fault, phase="undo", retry_any_error=True), step.undo_retry
        )

    async def _undo_call(self, step: AnyStep, attempt: int, row: LedgerRow) -> None:
        undo = self._progress.values.undo_work(step, attempt)
        assert undo is not None, "only compensatable steps are undone, and none without a database decides"
        await undo(None, row.result or self._made.get(step.name))
        await self._engine.journal.undo_call(self._progress.claim, step.name, self._progress.not_after)

    async def _row(self, step: AnyStep) -> LedgerRow | None:
        return (await self._engine.home_participant.look(self._progress.saga_id, [step.name])).get(step.name)

    def _fault(self, error: BaseException) -> Fault | None:
        fault = self._engine.home_participant.fault(error)
        return Fault.UNREACHABLE if fault is None and isinstance(error, OSError) else fault


async def _await_uncancelled(call: Awaitable[T]) -> T:
    """Return the result of *call*; let a cancellation through only after the call has ended."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # no longer awaited; that is not an error
        raise
