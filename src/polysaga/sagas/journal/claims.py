"""How each SQL database hands out sagas that are due; no two processes get the same one.

PostgreSQL and MySQL skip the rows that another claimer has locked (`FOR UPDATE SKIP LOCKED`); SQLite has one
writer at a time. All claims run at READ COMMITTED: at REPEATABLE READ a MySQL claim that finds less than its
limit locks the gap into which new sagas are inserted. Parked sagas are never handed out, nor sagas whose
definition this process does not know. A saga claimed past its deadline is claimed as `compensating`.
"""

from collections.abc import Collection
from enum import Enum
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from polysaga.databases.dialects import SqlDialect
from polysaga.sagas.journal.paging import quoted
from polysaga.sagas.journal.statements import columns_of_row
from polysaga.sagas.journal.tables import BEFORE_NEVER, JOURNAL
from polysaga.sagas.protocol.outcomes import overdue

PAUSE = 30.0  # seconds until a saga that was put aside is due again
CRASHES = 3  # claims lost in a row: no deployment, but trouble
TOLERATED = 2  # leases, or pauses, for which a saga that is due may wait for a process


class Pick(Enum):
    """Which sagas are handed out."""

    DUE = "their claim has run out, or they were put aside until now"
    JUST_DUE = "the same, but since a moment ago only"
    LATE = "their claim holds, but their deadline has passed a lease ago and their owner has not undone them"
    CLOCK_SET_BACK = "wake_at is further ahead than any lease or pause can put it"


class Claims:
    """The statements that hand out sagas that are due, for one dialect and one set of definitions."""

    def __init__(self, dialect: SqlDialect, fingerprints: Collection[str]) -> None:
        self._dialect, self._columns = dialect, columns_of_row(dialect)
        known = quoted(fingerprints)  # our own hexadecimal digests
        now, render = dialect.statement_clock, dialect.render
        # A scan of the index on the status, which a small table invites, would lock rows that are not due.
        force = " FORCE INDEX (polysaga_journal_due)" if dialect.name == "mysql" else ""
        given = (
            f"FROM {JOURNAL}{force} WHERE {{}} AND status <> 'needs_attention' AND fingerprint {{}} ({known}) "
            "ORDER BY wake_at LIMIT :batch"
        )
        # The last two read all sagas that wake later, so `take` reads without locks first. Parked ones never wake.
        later = f"wake_at > {now} AND wake_at < {BEFORE_NEVER}"
        conditions = {
            Pick.DUE: f"wake_at <= {now}",
            # Reads past nothing that an old snapshot keeps in the index: an entry of each saga finished since.
            Pick.JUST_DUE: f"wake_at > {dialect.ago(':window')} AND wake_at <= {now}",
            Pick.LATE: f"{later} AND status = 'running' AND deadline <= {dialect.ago(':lease')}",
            Pick.CLOCK_SET_BACK: (
                f"{later} AND {dialect.seconds_until('wake_at')} > "
                f"CASE WHEN owner IS NULL THEN {2 * PAUSE} ELSE 2 * lease END"
            ),
        }
        lock = " FOR UPDATE SKIP LOCKED" if dialect.locks_rows else ""
        found = {pick: f"SELECT id {given.format(condition, 'IN')}" for pick, condition in conditions.items()}
        taken = _taken(dialect)
        self._glance = {pick: render(text) for pick, text in found.items()}
        self._select = {pick: render(text + lock) for pick, text in found.items()}
        self._take = {pick: render(self._taking(text + lock, taken)) for pick, text in found.items()}
        self._take_locked = f"UPDATE {JOURNAL} SET {taken} WHERE id IN"
        strangers = given.format(conditions[Pick.DUE], "NOT IN")
        self._strangers = render(f"SELECT id, name, version {strangers}")

    async def take(self, connection: AsyncConnection, values: dict[str, Any], pick: Pick = Pick.DUE) -> list[Any]:
        """Claim at most `:batch` sagas for `:owner` and return their rows, inside one transaction."""
        if pick in {Pick.LATE, Pick.CLOCK_SET_BACK}:
            glance = self._glance[pick]
            if (await connection.exec_driver_sql(glance.sql, glance.bind(values))).first() is None:
                return []
        if self._dialect.returns_rows:
            take = self._take[pick]
            result = await connection.exec_driver_sql(take.sql, take.bind(values))
            return list(result.mappings())
        select = self._select[pick]
        found = await connection.exec_driver_sql(select.sql, select.bind(values))
        locked = ", ".join(f"0x{bytes(key).hex()}" for key in found.scalars())
        if not locked:
            return []
        take = self._dialect.render(f"{self._take_locked} ({locked})")
        await connection.exec_driver_sql(take.sql, take.bind(values))
        result = await connection.exec_driver_sql(f"SELECT {self._columns} FROM {JOURNAL} WHERE id IN ({locked})")
        return list(result.mappings())

    async def strangers(self, connection: AsyncConnection, batch: int) -> list[Any]:
        """Return id, name and version of due sagas whose definition this process does not know."""
        result = await connection.exec_driver_sql(self._strangers.sql, self._strangers.bind({"batch": batch}))
        return list(result.mappings())

    def _taking(self, due: str, taken: str) -> str:
        if self._dialect.name == "postgresql":
            return (
                f"WITH due AS MATERIALIZED ({due}) UPDATE {JOURNAL} AS j SET {taken} FROM due "
                f"WHERE j.id = due.id RETURNING j.{self._columns}"  # only `id` would be ambiguous; it comes first
            )
        return f"UPDATE {JOURNAL} SET {taken} WHERE id IN ({due}) RETURNING {self._columns}"


def _taken(dialect: SqlDialect) -> str:
    """Return the SET clause of a claim; past the deadline the same write decides to compensate."""
    late = f"CASE WHEN status = 'running' AND deadline <= {dialect.statement_clock} THEN"
    return (
        # MySQL assigns from left to right, so `status` comes after the expression that reads it.
        f"error = {late} '{overdue().reason().encoded()}' ELSE error END, "
        f"status = {late} 'compensating' ELSE status END, epoch = epoch + 1, owner = :owner, lease = :lease, "
        f"wake_at = {dialect.later(':lease')}, expiries = expiries + 1"
    )
