"""How each kind of step is done and undone, and where its record is.

    the first step, in the journal's database      the journal row is born with it, undone with the final status
    the pivot, in the journal's database           its commit is one with the journal's step to `completing`
    the last step, in the journal's database       its ledger row and the finish are one commit
    every other step                               its ledger row, in its own database
    a step without a database                      its ledger row, in the journal's database (`calls.py`)

So N steps cost N commits, and at most two more that sagas share: a start and a finish that are not fused.
"""

from collections.abc import Awaitable
from dataclasses import replace

from sqlalchemy.exc import TimeoutError as PoolTimeout

from polysaga.databases.dialects.sending import Seal
from polysaga.errors import DatabaseUnavailable, OutcomePending, PoolExhausted, TryAgain
from polysaga.events import StepCompensated
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.attempts import Attempts, Once, Settled
from polysaga.sagas.driving.calls import Calls
from polysaga.sagas.driving.gates import Gate
from polysaga.sagas.driving.progress import Progress
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.participants import Entry
from polysaga.sagas.participants.sql import SqlParticipant
from polysaga.sagas.protocol.decisions import Verdict
from polysaga.sagas.protocol.interrupts import Joined, Lost
from polysaga.sagas.protocol.outcomes import Failure
from polysaga.sagas.protocol.rows import Birth, Row
from polysaga.sagas.protocol.states import Mark, Status


class Steps:
    """Does and undoes the steps of one saga in this process."""

    def __init__(self, engine: Engine, progress: Progress, attempts: Attempts) -> None:
        self._engine, self._progress, self._attempts = engine, progress, attempts
        self._calls = Calls(engine, progress, attempts)

    async def start(self) -> Failure | None:
        """Make the start durable; return the failure of a fused first step that refused or failed.

        Raises `Joined` if the saga exists already, `TryAgain` if the journal's database is unreachable or busy.
        """
        progress = self._progress
        if progress.fused is None:
            await self.insert(Status.RUNNING)
            return None
        step = progress.definition.by_name[progress.fused]
        settled = await self._attempts.settle(step, self._first_once(step), step.retry)
        if isinstance(settled.verdict, Mark):
            return None
        assert settled.error is not None
        if settled.verdict is Verdict.UNAVAILABLE:
            raise self._unavailable(settled) from settled.error
        return Failure(settled.verdict, step.name, settled.error)

    async def insert(self, status: Status) -> None:
        """Insert the journal row without a step, in a commit that several sagas share."""
        progress, journal = self._progress, self._engine.journal
        birth = replace(
            progress.birth, status=status, error=progress.reason, history=tuple(self._attempts.history)
        )

        async def act(_: int) -> None:
            await self._engine.starts.add(birth)

        async def look() -> Mark | None:
            row = self._own(await journal.load(progress.saga_id))
            if row is None:
                return None
            if row.status is not status:
                # The reply to a first attempt was lost; it has committed late, so the step happened after all.
                progress.status, progress.failure, progress.reason = row.status, None, None
                for step, text in row.results.items():
                    progress.learn(step, text)
            return Mark.DONE

        step = progress.definition.steps[0]
        once = Once(act, self._engine.home.fault, look, phase="start", fail_fast=True)
        settled = await self._attempts.settle(step, once, step.retry)
        if not settled.done:
            raise self._unavailable(settled) from settled.error

    def run(self, step: AnyStep) -> Awaitable[Settled]:
        """Do *step*, in whichever database its record is, and mark it as done."""
        if step.database is None:
            return self._calls.run(step)
        pivot_at_home = step is self._progress.definition.decision and self._at_home(step)
        once = self._pivot_once(step) if pivot_at_home else self._ledger_once(step)
        return self._attempts.settle(step, once, step.retry)

    async def undo(self, step: AnyStep) -> Settled:
        """Undo *step*, or block it for ever; a deciding step that is done stays done and is marked so."""
        if step.database is None:
            return await self._calls.undo(step)
        progress = self._progress
        participant = self._engine.participants[progress.place(step)]

        async def act(attempt: int) -> str | None:
            work = progress.undo_work(step, attempt)
            found = await participant.undo(progress.entry(step), work)
            if work is None and found.state is Mark.DONE:
                progress.learn(step.name, found.result or "null")
                return "found"
            null = found.state is Mark.BLOCKED
            progress.marks[step.name] = Mark.BLOCKED if null else Mark.COMPENSATED
            self._compensated(step, attempt, null=null)
            return "null" if null else None

        gate = self._engine.gates[progress.place(step)]
        once = Once(act, participant.fault, phase="undo", retry_any_error=True, gate=gate)
        return await self._attempts.settle(step, once, step.undo_retry)

    async def undo_first(self, step: AnyStep) -> Settled:
        """Undo the step that was born with the journal row, in one commit with the final status."""
        progress, home = self._progress, self._engine.home

        seal = self._engine.journal.seal_finish(
            lambda _: progress.ending(Status.COMPENSATING, Status.COMPENSATED, self._attempts.with_last(step.name))
        )

        async def act(attempt: int) -> None:
            undo = progress.undo_work(step, attempt)
            assert undo is not None

            async def work(session: object) -> str:
                await undo(session, progress.text(step.name))
                return "null"

            await home.transact(work, seal)
            progress.marks[step.name], progress.status = Mark.COMPENSATED, Status.COMPENSATED
            self._compensated(step, attempt, null=False)

        async def look() -> Mark | None:
            row = self._still_ours(await self._engine.journal.load(progress.saga_id))
            if row.status is not Status.COMPENSATED:
                return None
            progress.marks[step.name], progress.status = Mark.COMPENSATED, Status.COMPENSATED
            return Mark.DONE

        once = Once(act, home.fault, look, phase="undo", retry_any_error=True, gate=self._home_gate)
        return await self._attempts.settle(step, once, step.undo_retry)

    def _first_once(self, step: AnyStep) -> Once:
        progress, home = self._progress, self._engine.home
        status = self._status_after(step) if step is progress.definition.decision else Status.RUNNING

        def birth(result: str) -> Birth:
            history = self._attempts.with_last(step.name) if status.final else ()
            return progress.birth.as_row(status, {step.name: result}, history)

        async def act(attempt: int) -> None:
            result = await home.transact(progress.work(step, attempt), self._engine.journal.seal_start(birth))
            progress.did(step, result)
            progress.status = status

        async def look() -> Mark | None:
            row = self._own(await self._engine.journal.load(progress.saga_id))
            if row is None:
                return None
            progress.learn(step.name, row.results[step.name])
            progress.status = row.status
            return Mark.DONE

        patience = self._engine.settings.start_timeout
        return Once(act, home.fault, look, fail_fast=True, gate=self._home_gate, patience=patience)

    def _pivot_once(self, step: AnyStep) -> Once:
        progress, home, journal = self._progress, self._engine.home, self._engine.journal
        status = self._status_after(step)
        if status.final:
            seal = journal.seal_finish(
                lambda result: progress.ending(
                    Status.RUNNING,
                    Status.COMPLETED,
                    self._attempts.with_last(step.name),
                    **{step.name: result},
                )
            )
        else:
            seal = journal.seal_decision(progress.claim, lambda result: progress.journaled(**{step.name: result}))

        async def act(attempt: int) -> None:
            progress.did(step, await home.transact(progress.work(step, attempt), seal))
            progress.status = status

        async def look() -> Mark | None:
            row = self._still_ours(await journal.load(progress.saga_id))
            if row.status not in {Status.COMPLETING, Status.COMPLETED}:
                return None
            progress.learn(step.name, row.results[step.name])
            progress.status = row.status
            return Mark.DONE

        return Once(act, home.fault, look, gate=self._home_gate)

    def _ledger_once(self, step: AnyStep) -> Once:
        progress = self._progress
        participant = self._engine.participants[progress.place(step)]
        last = self._at_home(step) and progress.ends_with(step)

        async def act(attempt: int) -> None:
            work, entry = progress.work(step, attempt), progress.entry(step)
            if last and isinstance(participant, SqlParticipant):
                progress.did(step, await participant.transact(work, self._last_seal(participant, entry)))
                progress.status = Status.COMPLETED
            else:
                progress.did(step, await participant.act(entry, work))

        async def look() -> Mark | None:
            row = (await participant.look(progress.saga_id, [step.name])).get(step.name)
            if row is not None and row.state is Mark.DONE:
                progress.learn(step.name, row.result or "null")
            return None if row is None else row.state

        gate = self._engine.gates[progress.place(step)]
        return Once(act, participant.fault, look, retry_any_error=step.kind == "retriable", gate=gate)

    def _last_seal(self, participant: SqlParticipant, entry: Entry) -> Seal:
        progress, expected = self._progress, self._progress.status
        done = participant.seal_done(entry)
        finish = self._engine.journal.seal_finish(
            lambda result: progress.ending(expected, Status.COMPLETED, self._attempts.with_last(entry.step))
        )
        return lambda result: [*done(result), *finish(result)]

    @property
    def _home_gate(self) -> Gate:
        return self._engine.gates[self._progress.home]

    def _at_home(self, step: AnyStep) -> bool:
        return step.database_name == self._progress.home

    def _status_after(self, pivot: AnyStep) -> Status:
        return Status.COMPLETING if self._progress.definition.following[pivot.name] else Status.COMPLETED

    def _own(self, row: Row | None) -> Row | None:
        """Return the row if this execution owns it; raise `Joined` if another one does."""
        if row is not None and row.claim != self._progress.claim:
            raise Joined
        return row

    def _still_ours(self, row: Row | None) -> Row:
        if row is None or row.claim != self._progress.claim:
            raise Lost
        return row

    def _compensated(self, step: AnyStep, attempt: int, *, null: bool) -> None:
        progress = self._progress
        self._engine.emit(
            StepCompensated(
                progress.saga_id, progress.definition.name, step.name, step.database_name, attempt, null
            )
        )

    def _unavailable(self, settled: Settled) -> Exception:
        """Return the error for the caller of a saga that could not be started."""
        settings, error = self._engine.journal.node.settings.pool, settled.error
        assert error is not None
        if settled.uncertain:
            # A commit may have arrived all the same; a repeat under the same key finds out.
            return OutcomePending(self._progress.saga_id, self._progress.definition.name)
        if isinstance(error, TryAgain):
            return error
        if isinstance(error, PoolTimeout):
            one = self._engine.journal.node.dialect.single_writer
            size = 1 if one else settings.size + settings.max_overflow
            return PoolExhausted(self._progress.home, size, settings.acquire_timeout)
        fault = self._engine.home.fault(error)
        if fault is None or not fault.transient:
            return error
        return DatabaseUnavailable(self._progress.home, self._engine.journal.node.name, fault.value)
