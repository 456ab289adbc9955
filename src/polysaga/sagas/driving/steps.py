"""How each kind of step is done and undone, and where its record is.

    the first step, in the journal's database      the journal row is born with it, undone with the final status
    the pivot, in the journal's database           its commit is one with the journal's step to `completing`
    the last step, in the journal's database       its ledger row and the finish are one commit
    every other step                               its ledger row, in its own database
    a step without a database                      its ledger row, in the journal's database (`calls.py`)

So N steps cost N commits, and at most two more that sagas share: a start and a finish that are not fused.
"""

from collections.abc import Awaitable, Iterable
from dataclasses import replace

from sqlalchemy.exc import TimeoutError as PoolTimeout

from polysaga.databases.dialects.sending import Seal
from polysaga.databases.lent_sessions import pool_exhausted
from polysaga.errors import DatabaseUnavailable, OutcomePending, TryAgain
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.attempts import AttemptPlan, Attempts, Settled
from polysaga.sagas.driving.calls import Calls
from polysaga.sagas.driving.gates import Gate
from polysaga.sagas.driving.progress import Progress
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.participants import Entry
from polysaga.sagas.participants.sql import SqlParticipant
from polysaga.sagas.protocol.interrupts import Joined, Lost
from polysaga.sagas.protocol.known import Born, Did, Fact, Sighting, Undid
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.rows import Birth, Row
from polysaga.sagas.protocol.states import Mark, Status
from polysaga.sagas.protocol.verdicts import Verdict


class Steps:
    """Does and undoes the steps of one saga in this process."""

    def __init__(self, engine: Engine, progress: Progress, attempts: Attempts) -> None:
        self._engine, self._progress, self._attempts = engine, progress, attempts
        self._calls = Calls(engine, progress, attempts)

    async def start(self) -> Settled:
        """Make the start durable; return how that ended, a fused first step that refused or failed included.

        Raises `Joined` if the saga exists already, `TryAgain` if the journal's database is unreachable or busy.
        """
        progress = self._progress
        if progress.fused is None:
            return await self.insert(Status.RUNNING)
        step = progress.definition.by_name[progress.fused]
        settled = await self._attempts.settle(step, self._first_plan(step), step.retry)
        if settled.verdict is Verdict.UNAVAILABLE:
            raise self._unavailable(settled) from settled.error
        return settled

    async def insert(self, status: Status, reason: Reason | None = None) -> Settled:
        """Insert the journal row without a step, in a commit that several sagas share."""
        progress, journal = self._progress, self._engine.journal
        birth = replace(progress.birth, status=status, error=reason, history=tuple(self._attempts.history))

        async def act(_: int) -> Fact:
            await self._engine.starts.add(birth)
            return Born(status, reason)

        async def look() -> Sighting:
            row = self._own(await journal.load(progress.saga_id))
            if row is None:
                return Sighting(None)
            if row.status is status:
                return Sighting(Mark.DONE, Born(status, reason))
            # The reply to a first attempt was lost; it has committed late, so the step happened after all.
            return Sighting(Mark.DONE, Born(row.status, results=progress.values.check(row.results)))

        step = progress.definition.steps[0]
        plan = AttemptPlan(act, self._engine.home_participant.fault, look, phase="start", fail_fast=True)
        settled = await self._attempts.settle(step, plan, step.retry)
        if not settled.done:
            raise self._unavailable(settled) from settled.error
        return settled

    def hold_results(self, steps: Iterable[str]) -> bool:
        """Return whether one of *steps* was called with a result that the journal may not have."""
        return any(map(self._calls.holds_result, steps))

    def run(self, step: AnyStep) -> Awaitable[Settled]:
        """Do *step*, in whichever database its record is."""
        if step.database is None:
            return self._calls.run(step)
        pivot_at_home = step is self._progress.definition.decision and self._at_home(step)
        plan = self._pivot_plan(step) if pivot_at_home else self._ledger_plan(step)
        return self._attempts.settle(step, plan, step.retry)

    async def undo(self, step: AnyStep) -> Settled:
        """Undo *step*, or block it for ever; a deciding step that is done stays done."""
        if step.database is None:
            return await self._calls.undo(step)
        progress = self._progress
        participant = self._engine.participants[progress.place(step)]

        async def act(attempt: int) -> Fact:
            work = progress.values.undo_work(step, attempt)
            found = await participant.undo(progress.entry(step), work, bare=step.bare)
            if work is None and found.state is Mark.DONE:
                return progress.values.did(step.name, found)
            return Undid(step.name, Mark.BLOCKED if found.state is Mark.BLOCKED else Mark.COMPENSATED)

        gate = self._engine.gates[progress.place(step)]
        plan = AttemptPlan(act, participant.fault, phase="undo", retry_any_error=True, gate=gate)
        return await self._attempts.settle(step, plan, step.undo_retry)

    async def undo_first(self, step: AnyStep) -> Settled:
        """Undo the step that was born with the journal row, in one commit with the final status."""
        progress, home = self._progress, self._engine.home_participant

        seal = self._engine.journal.seal_finish(
            lambda _: progress.ending(Status.COMPENSATING, Status.COMPENSATED, self._attempts.with_last(step.name))
        )

        undone = Undid(step.name, Mark.COMPENSATED, Status.COMPENSATED)

        async def act(attempt: int) -> Fact:
            undo = progress.values.undo_work(step, attempt)
            assert undo is not None

            async def work(session: object) -> str:
                await undo(session, progress.values.text(step.name))
                return "null"

            await home.transact(work, seal, bare=step.bare)
            return undone

        async def look() -> Sighting:
            row = self._still_ours(await self._engine.journal.load(progress.saga_id))
            return Sighting(Mark.DONE, undone) if row.status is Status.COMPENSATED else Sighting(None)

        plan = AttemptPlan(act, home.fault, look, phase="undo", retry_any_error=True, gate=self._home_gate)
        return await self._attempts.settle(step, plan, step.undo_retry)

    def _first_plan(self, step: AnyStep) -> AttemptPlan:
        progress, home = self._progress, self._engine.home_participant
        status = self._status_after(step) if step is progress.definition.decision else Status.RUNNING

        def birth(result: str) -> Birth:
            history = self._attempts.with_last(step.name) if status.final else self._attempts.history
            return progress.birth.with_first_step(status, {step.name: result}, history)

        async def act(attempt: int) -> Fact:
            work = progress.values.work(step, attempt)
            result = await home.transact(work, self._engine.journal.seal_start(birth), bare=step.bare)
            return Did(step.name, result, status)

        async def look() -> Sighting:
            row = self._own(await self._engine.journal.load(progress.saga_id))
            return Sighting(None) if row is None else self._done_in(row, step)

        patience = self._engine.settings.start_timeout
        return AttemptPlan(act, home.fault, look, fail_fast=True, gate=self._home_gate, patience=patience)

    def _pivot_plan(self, step: AnyStep) -> AttemptPlan:
        progress, home, journal = self._progress, self._engine.home_participant, self._engine.journal
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

        async def act(attempt: int) -> Fact:
            work = progress.values.work(step, attempt)
            return Did(step.name, await home.transact(work, seal, bare=step.bare), status)

        async def look() -> Sighting:
            row = self._still_ours(await journal.load(progress.saga_id))
            if row.status not in {Status.COMPLETING, Status.COMPLETED}:
                return Sighting(None)
            return self._done_in(row, step)

        return AttemptPlan(act, home.fault, look, gate=self._home_gate)

    def _ledger_plan(self, step: AnyStep) -> AttemptPlan:
        progress = self._progress
        participant = self._engine.participants[progress.place(step)]
        last = self._at_home(step) and progress.ends_with(step)

        async def act(attempt: int) -> Fact:
            work, entry = progress.values.work(step, attempt), progress.entry(step)
            if last and isinstance(participant, SqlParticipant):
                seal = self._last_seal(participant, entry)
                result = await participant.transact(work, seal, bare=step.bare)
                return Did(step.name, result, Status.COMPLETED)
            return Did(step.name, await participant.act(entry, work, bare=step.bare))

        async def look() -> Sighting:
            row = (await participant.look(progress.saga_id, [step.name])).get(step.name)
            return progress.values.seen(step.name, row)

        gate = self._engine.gates[progress.place(step)]
        return AttemptPlan(act, participant.fault, look, retry_any_error=step.kind == "retriable", gate=gate)

    def _last_seal(self, participant: SqlParticipant, entry: Entry) -> Seal:
        progress, expected = self._progress, self._progress.known.status
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

    def _done_in(self, row: Row, step: AnyStep) -> Sighting:
        """Return what the journal row says of *step*, which committed with it."""
        results = self._progress.values.check({step.name: row.results[step.name]})
        return Sighting(Mark.DONE, Did(step.name, results[step.name], row.status))

    def _unavailable(self, settled: Settled) -> Exception:
        """Return the error for the caller of a saga that could not be started."""
        node, error = self._engine.journal.node, settled.error
        assert error is not None
        if settled.uncertain:
            # A commit may have arrived all the same; a repeat under the same key finds out.
            return OutcomePending(self._progress.saga_id, self._progress.definition.name)
        if isinstance(error, TryAgain):
            return error
        if isinstance(error, PoolTimeout):
            return pool_exhausted(node, read_only=False)
        fault = self._engine.home_participant.fault(error)
        if fault is None or not fault.transient:
            return error
        return DatabaseUnavailable(node.database, node.name, fault.value)
