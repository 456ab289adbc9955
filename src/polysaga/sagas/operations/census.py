"""How many sagas are unfinished, and how many starts wait: what one process counts for the metrics of all.

The counts come from the index on `wake_at`, which has the unfinished sagas only. So they cost the same however
many have finished. Each count ends after `MOST` rows.

## One reader

All processes would count the same. Each process writes in `polysaga_pulse` that it is there, at least twice a
minute, and whether it has metrics (`process/pulse.py`): a process without metrics could not show its counts. Of
those with metrics that were there in the last `SEEN` seconds, by the journal's clock, the one with the least id
counts. One that dies is seen no more, and the next takes its place. A process that starts may take the place of
another. For one interval both may count then, or a reader that was frozen may show old counts. They are for
people: no decision about a saga depends on them. Without any row, because the account may not write them, every
process counts.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from polysaga.limits import limited
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.journal.figures import late_if, late_values
from polysaga.sagas.journal.pulses import Pulses
from polysaga.sagas.journal.tables import BEFORE_NEVER, JOURNAL
from polysaga.sagas.participants.outboxes import Backlog, Outbox
from polysaga.sagas.participants.reading import explaining, read_rows
from polysaga.sagas.protocol.states import Status
from polysaga.texts import said

MOST = 100_000  # rows that one count reads
SEEN = 75.0  # seconds; a process that does nothing writes every thirty
_PATIENCE = 10.0  # seconds until a database that does not answer is left out


@dataclass(frozen=True, slots=True)
class UnfinishedGroup:
    """The unfinished sagas of one name and status."""

    name: str
    status: Status
    count: int
    late: int  # no process has taken them over in time
    oldest: float  # seconds since the oldest was started


@dataclass(frozen=True, slots=True)
class CensusResult:
    """What was counted; *complete* is False if there are more rows than were read."""

    unfinished: tuple[UnfinishedGroup, ...]
    outboxes: Mapping[str, Backlog]  # by database
    problems: Mapping[str, str]  # why an outbox is missing
    complete: bool


class Census:
    """The questions; made by `Sagas.census`. The databases must be open."""

    def __init__(
        self,
        engine: Engine,
        process: UUID | None = None,
        candidacy: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Count for *process*, of which others hear by its *candidacy*; None: it drives no sagas."""
        self._node, self._outboxes = engine.journal.node, engine.outboxes
        self._pulses, self._process, self._candidacy = Pulses(self._node), process, candidacy
        self._lease, dialect = engine.settings.lease, engine.journal.node.dialect
        render = dialect.render
        force = " FORCE INDEX (polysaga_journal_due)" if dialect.name == "mysql" else ""
        age = f"-({dialect.seconds_until('created_at')})"

        def groups(condition: str, late: str) -> Any:
            rows = (
                f"SELECT name, status, CASE WHEN {late} THEN 1 ELSE 0 END AS late, {age} AS age "
                f"FROM {JOURNAL}{force} WHERE {condition} ORDER BY wake_at LIMIT :most"
            )
            return render(
                "SELECT name, status, count(*) AS number, sum(late) AS late, max(age) AS oldest "
                f"FROM ({rows}) AS found GROUP BY name, status"
            )

        # Apart: parked ones stand at the end of the index, where a long queue would hide them.
        self._parked = groups(f"wake_at > {BEFORE_NEVER}", "1 = 0")
        self._moving = groups(f"wake_at < {BEFORE_NEVER}", late_if(dialect))

    def candidate(self) -> AbstractContextManager[None]:
        """Let this process be one of those that may count, while the block runs."""
        return self._candidacy()

    async def elected(self) -> bool:
        """Return whether this process is the one that counts now; one that begins may be one more."""
        with explaining(self._node, "journal", read_only=True):
            candidates = await self._pulses.candidates(SEEN)
        return min(candidates, default=self._process) == self._process

    async def count(self) -> CensusResult:
        """Count; raise `SchemaMissing`, or `DatabaseUnavailable` if the journal's primary does not answer.

        An outbox that does not answer within ten seconds is one of the `problems`.
        """
        outboxes = asyncio.gather(*(self._backlog(outbox) for outbox in self._outboxes.values()))
        try:
            found = [*await self._groups(self._moving, late_values(self._lease))]
            found += await self._groups(self._parked, {})
        finally:
            backlogs = await outboxes
        read = max(
            sum(group.count for group in found if group.status is not Status.NEEDS_ATTENTION),
            sum(group.count for group in found if group.status is Status.NEEDS_ATTENTION),
        )
        answers = dict(zip(self._outboxes, backlogs, strict=True))
        return CensusResult(
            tuple(found),
            {name: answer for name, answer in answers.items() if isinstance(answer, Backlog)},
            {name: answer for name, answer in answers.items() if isinstance(answer, str)},
            read < MOST,
        )

    async def _groups(self, statement: Any, values: Mapping[str, Any]) -> list[UnfinishedGroup]:
        rows = await read_rows(self._node, statement, {**values, "most": MOST}, "journal")
        return [
            UnfinishedGroup(
                row["name"], Status(row["status"]), int(row["number"]), int(row["late"]), float(row["oldest"])
            )
            for row in rows
        ]

    async def _backlog(self, outbox: Outbox) -> Backlog | str:
        """Return what an outbox has, or why it is unknown: a database that is down must not hide the others."""
        (outcome,) = await asyncio.gather(limited(outbox.backlog(MOST), _PATIENCE), return_exceptions=True)
        return said(outcome) if isinstance(outcome, BaseException) else outcome
