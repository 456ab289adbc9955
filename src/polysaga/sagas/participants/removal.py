"""Removes the rows of many sagas from one of our SQL tables, in one statement.

The ids are given in order, so two removers of the same sagas lock rows in one order and meet no deadlock.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from polysaga.databases.dialects import SqlDialect


class Removal:
    """The statement for one table; *saga_id* is the column of the saga's id, *old* a condition."""

    def __init__(self, dialect: SqlDialect, table: str, saga_id: str, old: str) -> None:
        self._dialect = dialect
        if dialect.name == "mysql":
            # No subquery: MariaDB would read the whole table for it.
            self._begin = f"DELETE FROM {table} WHERE {old} AND {saga_id} IN"
            return
        given = dialect.rows_of({"given_id": "uuid"})
        if dialect.name == "postgresql":
            text = f"DELETE FROM {table} AS t USING {given} WHERE t.{saga_id} = given.given_id AND {old}"
        else:
            text = f"DELETE FROM {table} WHERE {saga_id} IN (SELECT given.given_id FROM {given}) AND {old}"
        self._statement = dialect.render(text)

    async def run(self, connection: AsyncConnection, saga_ids: Collection[UUID], values: Mapping[str, Any]) -> int:
        """Remove the rows of *saga_ids* that are old, given *values* for the condition; return how many."""
        if self._dialect.name == "mysql":
            keys = ", ".join(f"0x{one.hex}" for one in sorted(saga_ids))
            statement = self._dialect.render(f"{self._begin} ({keys})")
            return (await connection.exec_driver_sql(statement.sql, statement.bind(values))).rowcount
        rows = json.dumps([{"given_id": str(one)} for one in sorted(saga_ids)])
        statement = self._statement
        result = await connection.exec_driver_sql(statement.sql, statement.bind({**values, "rows": rows}))
        return result.rowcount
