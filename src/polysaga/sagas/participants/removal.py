"""Removes the rows of many sagas from one of our SQL tables, in one statement.

Two removers of the same rows lock them in one order, so neither ends as the victim of a deadlock.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from polysaga.databases.dialects import SqlDialect


class Removal:
    """The statement for one table; *key* is its primary key, beginning with the saga's id, *old* a condition."""

    def __init__(self, dialect: SqlDialect, table: str, key: tuple[str, ...], old: str) -> None:
        self._dialect, saga_id = dialect, key[0]
        if dialect.name == "mysql":
            # No subquery: MariaDB would read the whole table for it.
            self._begin = f"DELETE FROM {table} WHERE {old} AND {saga_id} IN"
            return
        given = dialect.rows_of({"given_id": "uuid"})
        text = f"DELETE FROM {table} WHERE {old} AND {saga_id} IN (SELECT given.given_id FROM {given})"
        if dialect.name == "postgresql":
            same = " AND ".join(f"t.{column} = found.{column}" for column in key)
            listed = ", ".join(f"t.{column}" for column in key)
            text = (
                f"WITH found AS MATERIALIZED (SELECT {listed} FROM {given} JOIN {table} AS t "
                f"ON t.{saga_id} = given.given_id WHERE {old} ORDER BY {listed} FOR UPDATE OF t) "
                f"DELETE FROM {table} AS t USING found WHERE {same} AND {old}"
            )
        self._statement = dialect.render(text)

    async def run(
        self, connection: AsyncConnection, saga_ids: Collection[UUID], values: Mapping[str, Any]
    ) -> None:
        """Remove the rows of *saga_ids* that are old, given *values* for the condition."""
        if self._dialect.name == "mysql":
            keys = ", ".join(f"0x{one.hex}" for one in sorted(saga_ids))
            statement = self._dialect.render(f"{self._begin} ({keys})")
            await connection.exec_driver_sql(statement.sql, statement.bind(values))
            return
        rows = json.dumps([{"given_id": str(one)} for one in sorted(saga_ids)])
        statement = self._statement
        await connection.exec_driver_sql(statement.sql, statement.bind({**values, "rows": rows}))
