"""What the processes on one journal did in each minute: how it is written, read and removed.

A row per process and minute; the process replaces the row of the current minute while it lasts. The rows are for
charts and lists: no saga depends on them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from polysaga.databases import Fault, SqlNode
from polysaga.sagas.definition.payloads import as_json
from polysaga.sagas.journal.tables import PULSE

KEPT = 7200.0  # seconds
SHOWN = 3600.0  # seconds that a first reading goes back
_MAY_COUNT = as_json({"counts": True}).strip("{}")  # in the facts of a process that has metrics
_OVERLAP = 30.0  # seconds that a row may become visible after its `seen_at`
_REMOVED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class PulseRow:
    """What one process did in one minute."""

    process: UUID
    minute: int  # since 1970, by the clock of the process
    seen_at: datetime  # when the process wrote it last, by the journal's clock
    facts: Mapping[str, Any]


class Pulses:
    """The statements for one journal."""

    def __init__(self, node: SqlNode) -> None:
        self._node, dialect = node, node.dialect
        set_ = f"SET seen_at = {dialect.clock}, facts = :facts"
        replaced = (
            f"ON CONFLICT (process, minute) DO UPDATE {set_}"
            if dialect.returns_rows
            else f"ON DUPLICATE KEY UPDATE {set_.removeprefix('SET ')}"
        )
        self._put = dialect.render(
            f"INSERT INTO {PULSE} (process, minute, seen_at, facts) "
            f"VALUES (:process, :minute, {dialect.clock}, :facts) {replaced}"
        )
        self._read = dialect.render(
            f"SELECT process, minute, seen_at, facts FROM {PULSE} WHERE seen_at > {dialect.ago(':age')}"
        )
        # The server searches the text: facts are long, and every process asks every few seconds.
        self._candidates = dialect.render(
            f"SELECT DISTINCT process FROM {PULSE} WHERE seen_at > {dialect.ago(':age')} AND facts LIKE :counts"
        )
        self._old = dialect.render(
            f"SELECT process, minute FROM {PULSE} WHERE seen_at < {dialect.ago(':age')} LIMIT :most"
        )
        self._remove = dialect.render(
            f"DELETE FROM {PULSE} WHERE process = :process AND minute = :minute "
            f"AND seen_at < {dialect.ago(':age')}"
        )

    async def put(self, process: UUID, minute: int, facts: Mapping[str, Any]) -> None:
        """Write what *process* did in *minute*, in place of what it wrote before."""
        values = {"process": self._node.dialect.key(process), "minute": minute, "facts": as_json(facts)}
        async with self._node.single.begin() as connection:
            await connection.exec_driver_sql(self._put.sql, self._put.bind(values))

    async def read(self, age: float = SHOWN) -> Sequence[PulseRow]:
        """Return the rows that were written in the last *age* seconds, or became visible since."""
        values = {"age": age + _OVERLAP}
        async with self._node.single.connect() as connection:
            found = await connection.exec_driver_sql(self._read.sql, self._read.bind(values))
            rows = found.all()
        key_from, moment_from = self._node.dialect.key_from, self._node.dialect.moment_from
        return [
            PulseRow(key_from(process), minute, moment_from(seen_at), json.loads(facts))
            for process, minute, seen_at, facts in map(tuple, rows)
        ]

    async def candidates(self, age: float) -> Sequence[UUID]:
        """Return the processes that said in the last *age* seconds that they may count for the metrics of all."""
        values = {"age": age, "counts": f"%{_MAY_COUNT}%"}
        async with self._node.reader.connect() as connection:
            rows = (await connection.exec_driver_sql(self._candidates.sql, self._candidates.bind(values))).all()
        return [self._node.dialect.key_from(process) for (process,) in rows]

    def fault(self, error: BaseException) -> Fault | None:
        """Classify *error*."""
        return self._node.dialect.fault(error)

    async def remove_old(self) -> None:
        """Remove rows that were written more than two hours ago, some at a time; harmless when repeated."""
        values = {"age": KEPT, "most": _REMOVED_AT_ONCE}
        async with self._node.single.connect() as connection:
            found = (await connection.exec_driver_sql(self._old.sql, self._old.bind(values))).all()
        if not found:
            return
        async with self._node.writer.begin() as connection:
            # One by one, by the whole key and in one order, so that two processes do not deadlock.
            for process, minute in sorted(map(tuple, found), key=str):
                row = {"process": process, "minute": minute, "age": KEPT}
                await connection.exec_driver_sql(self._remove.sql, self._remove.bind(row))
