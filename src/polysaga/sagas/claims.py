"""How each SQL database hands out overdue work, so that no two processes get the same saga.

PostgreSQL and MySQL skip the rows that another claimer has locked (`FOR UPDATE SKIP LOCKED`); SQLite has one
writer at a time. READ COMMITTED throughout: at REPEATABLE READ a MySQL claim that finds less than its limit
holds the gap in which new sagas are born. Parked sagas are never handed out, nor those whose definition this
process does not know.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from polysaga.databases.dialects import SqlDialect
from polysaga.sagas.statements import columns_of_row
from polysaga.sagas.tables import JOURNAL


class Claims:
    """The statements that hand out and take back overdue sagas, for one dialect and one set of definitions."""

    def __init__(self, dialect: SqlDialect, fingerprints: Collection[str]) -> None:
        self._dialect, self._columns = dialect, columns_of_row(dialect)
        # Our own hexadecimal digests, so they may stand in the text.
        known = ", ".join(f"'{fingerprint}'" for fingerprint in sorted(fingerprints)) or "''"
        overdue = (
            f"FROM {JOURNAL} WHERE wake_at <= {dialect.statement_clock} AND status <> 'needs_attention' "
            "AND fingerprint {} ({}) ORDER BY wake_at LIMIT :batch"
        )
        lock = " FOR UPDATE SKIP LOCKED" if dialect.locks_rows else ""
        due = f"SELECT id {overdue.format('IN', known)}{lock}"
        taken = (
            f"epoch = epoch + 1, owner = :owner, lease = :lease, wake_at = {dialect.later(':lease')}, "
            "expiries = expiries + 1"
        )
        render = dialect.render
        self._select = render(due)
        self._take = render(f"UPDATE {JOURNAL} SET {taken} WHERE id IN ({due}) RETURNING {self._columns}")
        if dialect.name == "postgresql":
            self._take = render(
                f"WITH due AS MATERIALIZED ({due}) UPDATE {JOURNAL} AS j SET {taken} FROM due "
                f"WHERE j.id = due.id RETURNING j.{self._columns}"
            )
        self._take_locked = f"UPDATE {JOURNAL} SET {taken} WHERE id IN ({{}})"
        self._strangers = render(f"SELECT id, name, version {overdue.format('NOT IN', known)}")

    async def take(self, connection: AsyncConnection, values: dict[str, Any]) -> list[Any]:
        """Claim at most `:batch` overdue sagas for `:owner` and return their rows, inside one transaction."""
        if self._dialect.returns_rows:
            result = await connection.exec_driver_sql(self._take.sql, self._take.bind(values))
            return list(result.mappings())
        found = await connection.exec_driver_sql(self._select.sql, self._select.bind(values))
        locked = ", ".join(f"0x{bytes(key).hex()}" for key in found.scalars())
        if not locked:
            return []
        take = self._dialect.render(self._take_locked.format(locked))
        await connection.exec_driver_sql(take.sql, take.bind(values))
        result = await connection.exec_driver_sql(f"SELECT {self._columns} FROM {JOURNAL} WHERE id IN ({locked})")
        return list(result.mappings())

    async def strangers(self, connection: AsyncConnection, batch: int) -> list[Any]:
        """Return id, name and version of overdue sagas whose definition this process does not know."""
        result = await connection.exec_driver_sql(self._strangers.sql, self._strangers.bind({"batch": batch}))
        return list(result.mappings())
