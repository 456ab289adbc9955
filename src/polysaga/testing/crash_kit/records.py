"""The records of one saga in the journal and the ledgers, read by an observer that takes no part in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from polysaga.databases.dialects import Rendered
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.journal.tables import JOURNAL
from polysaga.sagas.protocol.rows import Row
from polysaga.sagas.protocol.states import Mark, Status

_LONG_AGO = -3600.0  # seconds from now


@dataclass(frozen=True, slots=True)
class Records:
    """The journal row, None if there is none, and the state of every ledger row by database and step."""

    row: Row | None
    ledgers: Mapping[str, Mapping[str, Mark]]

    def state(self, step: str) -> Mark | None:
        """Return the recorded state of *step*, from ledger or journal; None if there is no record."""
        for rows in self.ledgers.values():
            if step in rows:
                return rows[step]
        if self.row is not None and step in self.row.results:
            return Mark.COMPENSATED if self.row.status is Status.COMPENSATED else Mark.DONE
        return None

    def lines(self) -> list[str]:
        """Return the records as text, a line for each database."""
        row = self.row
        kept = (
            "no row"
            if row is None
            else f"{row.status.value}, epoch {row.claim.epoch}, keeps {sorted(row.results)}"
        )
        told = [f"journal: {kept}"]
        for database, rows in self.ledgers.items():
            said = ", ".join(f"{step} {mark.value}" for step, mark in sorted(rows.items())) or "no rows"
            told.append(f"ledger of {database}: {said}")
        return told


class Observer:
    """Reads the records through its own connections, and plays the passing of time and the operator."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.home = engine.journal.node.database  # where the journal is
        dialect = engine.journal.node.dialect
        self._wake = dialect.render(
            f"UPDATE {JOURNAL} SET wake_at = {dialect.later(':seconds')} WHERE id = :id AND wake_at IS NOT NULL"
        )
        self._pass_deadline = dialect.render(
            f"UPDATE {JOURNAL} SET deadline = {dialect.later(':seconds')} "
            "WHERE id = :id AND deadline IS NOT NULL AND wake_at IS NOT NULL"
        )
        self._resume = dialect.render(
            f"UPDATE {JOURNAL} SET status = 'compensating' WHERE id = :id AND status = 'needs_attention'"
        )
        self._forget = dialect.render(f"DELETE FROM {JOURNAL} WHERE id = :id")

    async def row(self, saga_id: UUID) -> Row | None:
        """Return the journal row."""
        return await self._engine.journal.load(saga_id)

    async def records(self, saga_id: UUID, definition: Definition) -> Records:
        """Return all records of the saga."""
        ledgers: dict[str, dict[str, Mark]] = {}
        for name, participant in self._engine.participants.items():
            steps = [step.name for step in definition.steps if (step.database_name or self.home) == name]
            if steps:
                rows = await participant.look(saga_id, steps)
                ledgers[name] = {step: row.state for step, row in rows.items()}
        return Records(await self.row(saga_id), ledgers)

    async def end_lease(self, saga_id: UUID) -> None:
        """Make the saga's lease, or its pause, end now."""
        await self._change(self._wake, saga_id, seconds=0.0)

    async def pass_deadline(self, saga_id: UUID) -> None:
        """Make the deadline have passed by more than a lease; no effect if the saga has none any more."""
        await self._change(self._pass_deadline, saga_id, seconds=_LONG_AGO)

    async def resume(self, saga_id: UUID) -> None:
        """Play an operator who has removed the cause and retries the parked saga: it compensates."""
        await self._change(self._resume, saga_id)

    async def forget(self, saga_id: UUID) -> None:
        """Remove a saga that never came to rest, so no owner claims it in a later run."""
        await self._change(self._forget, saga_id)

    async def _change(self, statement: Rendered, saga_id: UUID, **values: object) -> None:
        journal = self._engine.journal
        bound = {"id": journal.node.dialect.key(saga_id), **values}
        async with journal.node.writer.begin() as connection:
            await connection.exec_driver_sql(statement.sql, statement.bind(bound))
