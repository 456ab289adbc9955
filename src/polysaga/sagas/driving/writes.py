"""What an owner writes to the journal without a step; each write returns the fact that it has made.

A write whose reply was lost is repeated, and then looks refused: the row tells whether it had happened. A write
that the claim no longer allows raises `Lost`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

from polysaga.sagas.definition.retries import Retry
from polysaga.sagas.driving.attempts import Attempts
from polysaga.sagas.driving.progress import Progress
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.journal.claims import PAUSE
from polysaga.sagas.protocol.interrupts import Lost
from polysaga.sagas.protocol.known import FoundDecided, Surveyed, Written
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.rows import NOBODY, LedgerRow, Row
from polysaga.sagas.protocol.states import Mark, Status

_PATIENCE = 5.0  # seconds that a takeover waits for a ledger: it takes a place of those that may be in flight


class Writes:
    """The journal and the records of one saga, in the hands of its owner."""

    def __init__(self, engine: Engine, progress: Progress, attempts: Attempts) -> None:
        self._engine, self._progress, self._attempts = engine, progress, attempts

    async def take_stock(self, journaled: Mapping[str, str]) -> Surveyed:
        """Read what the journal row, with the results *journaled*, and all ledgers say.

        Raises `OutOfReach` if a database does not answer, and `PayloadUnreadable` for a result that does not fit
        its type any more. The journal's database alone is waited for, because only it can write that the saga is
        put aside.
        """
        progress, engine = self._progress, self._engine
        records = {step: LedgerRow(Mark.DONE, text) for step, text in journaled.items()}
        by_database: dict[str, list[str]] = {}
        for step in progress.definition.steps:
            if step.name not in journaled:
                by_database.setdefault(progress.place(step), []).append(step.name)
        for database, steps in by_database.items():
            participant = engine.participants[database]
            look = partial(participant.look, progress.saga_id, steps)
            patience = Retry(within=None if database == progress.home else _PATIENCE)
            records.update(await self._attempts.persist(look, participant.fault, engine.gates[database], patience))
        progress.values.check(progress.values.results_in(records))
        return Surveyed(records)

    async def note_progress(self, records: int) -> None:
        """Write how many steps have a record: the owners before this one got somewhere."""
        await self._write(
            lambda: self._engine.journal.note_progress(self._progress.claim, records),
            self._progress.known.status,
        )

    async def compensate(self, reason: Reason) -> Written | FoundDecided:
        """Write the decision to compensate; it comes too late for a pivot that has committed all the same."""
        claim = self._progress.claim
        row = await self._refusal(lambda: self._engine.journal.compensate(claim, reason), Status.COMPENSATING)
        if row is None:
            return Written(Status.COMPENSATING, reason)
        if row.claim != claim or row.status not in {Status.COMPLETING, Status.COMPLETED}:
            raise Lost
        # The pivot was cancelled, or its reply was lost.
        return FoundDecided(row.status, self._progress.values.check(row.results))

    async def go_forward(self) -> Written:
        """Write that the saga was decided after all."""
        await self._write(lambda: self._engine.journal.go_forward(self._progress.claim), Status.RUNNING)
        return Written(Status.RUNNING)

    async def finish(self, status: Status, *, patient: bool) -> Written:
        """Write the final status, in a commit that several sagas share; *patient*: no caller waits for it."""
        ending = self._progress.ending(self._progress.known.status, status, self._attempts.history)
        await self._write(lambda: self._engine.finishes.add(ending, patient=patient), status)
        return Written(status)

    async def put_aside(self) -> None:
        """Give up the claim; the saga is due again after a pause."""
        progress, journal, history = self._progress, self._engine.journal, self._attempts.history
        await self._write(lambda: journal.postpone(progress.claim, PAUSE, history), progress.known.status)

    async def park(self, trouble: Reason) -> Written:
        """Ask for a person; the journal keeps why the saga is undone beside why it is parked."""
        progress, journal, history = self._progress, self._engine.journal, self._attempts.history
        known = progress.known
        reason = (known.reason or Reason()).parked_from(known.status, trouble, self._engine.clock.now())
        await self._write(
            lambda: journal.park(progress.claim, known.status, reason, history), Status.NEEDS_ATTENTION
        )
        return Written(Status.NEEDS_ATTENTION, reason)

    async def _write(self, write: Callable[[], Awaitable[bool]], status: Status) -> None:
        """Write to the journal, retry until it answers; raise `Lost` if the claim no longer allows it."""
        if await self._refusal(write, status) is not None:
            raise Lost

    async def _refusal(self, write: Callable[[], Awaitable[bool]], status: Status) -> Row | None:
        """Write to the journal, retry until it answers; return the row if that no longer allows the write."""
        if await self._attempts.persist(write, self._engine.home_participant.fault):
            return None
        claim = self._progress.claim
        load = partial(self._engine.journal.load, claim.saga_id)
        row = await self._attempts.persist(load, self._engine.home_participant.fault)
        if row is None:
            raise Lost
        # A write whose reply was lost looks refused when it is repeated. It may have put the saga aside.
        written = row.status is status and row.claim in {claim, replace(claim, owner=NOBODY)}
        return None if written else row
