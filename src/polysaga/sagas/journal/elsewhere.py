"""Finds a journal that the program has left behind in another of its databases.

A key is found in the journal only, and so is the first step of a saga if it is in the journal's own database. A
program that begins with an empty journal would do what another journal knows to be done, or to be under way.
"""

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from polysaga.databases import Fault, Node, SqlNode
from polysaga.databases.dialects.sending import Rendered, sender
from polysaga.databases.dialects.sql import rows_of_ids
from polysaga.errors import ConfigurationError, DatabaseUnavailable
from polysaga.sagas.journal.paging import quoted
from polysaga.sagas.journal.tables import JOURNAL

_NEWEST = 10_000  # sagas of another journal among which those of this program are looked for: it may be shared
_MOST = 100  # of them, those that are compared
_CLOCKS = 12 * 3600.0  # seconds by which the two databases may disagree on what is too old to be kept
_NONE = {Fault.SCHEMA_MISSING, Fault.DENIED}  # there is no other journal, or it is none of this login's


async def require_one_journal(
    home: SqlNode, others: Collection[Node], names: Collection[str], *, retention: float
) -> None:
    """Raise `ConfigurationError` if one of *others* has sagas called *names* that the journal in *home* lacks.

    They are looked for among the newest 10,000 of each journal: a start must not take longer beside a large one. A
    database that does not answer is passed over, and so are sagas that are kept for no longer than *retention*.
    """
    for node in others:
        if not isinstance(node, SqlNode):
            continue
        try:
            there = await _sagas_in(node, names, age=retention - _CLOCKS)
        except (DBAPIError, PoolTimeout, DatabaseUnavailable) as error:
            fault = node.dialect.fault(error)
            if fault is None or not (fault.transient or fault in _NONE):
                raise
            continue
        missing = there - await _found(home, there) if there else there
        if missing:
            raise ConfigurationError(
                f"database '{node.database}' has a journal with sagas of this program, such as {min(missing)}; "
                f"the journal in '{home.database}' lacks them: their steps could happen twice; keep the journal "
                f"in '{node.database}', or read docs/guides/changing-a-saga.md"
            )


async def _sagas_in(node: SqlNode, names: Collection[str], *, age: float) -> set[UUID]:
    dialect = node.dialect
    newest = f"SELECT id, name, finished_at FROM {JOURNAL} ORDER BY created_at DESC, id DESC LIMIT {_NEWEST}"
    statement = dialect.render(
        f"SELECT id FROM ({newest}) AS newest WHERE name IN ({quoted(names)}) "
        f"AND (finished_at IS NULL OR finished_at > {dialect.ago(':age')}) LIMIT {_MOST}"
    )
    async with node.single.connect() as connection:
        # Asked beforehand: servers log a statement about a table that is missing as an error.
        if not await connection.run_sync(_has_journal):
            return set()
        return await _ids(node, connection, statement, {"age": age})


def _has_journal(connection: Connection) -> bool:
    """Return whether the first schema has a journal; a later schema of the search path may be another tenant's."""
    inspector = inspect(connection)
    return inspector.has_table(JOURNAL, schema=inspector.default_schema_name)


async def _found(home: SqlNode, saga_ids: Collection[UUID]) -> set[UUID]:
    statement = home.dialect.render(f"SELECT id FROM {JOURNAL} WHERE id IN ({home.dialect.ids_of_rows()})")
    async with home.single.connect() as connection:
        return await _ids(home, connection, statement, {"rows": rows_of_ids(saga_ids)})


async def _ids(
    node: SqlNode, connection: AsyncConnection, statement: Rendered, values: Mapping[str, Any]
) -> set[UUID]:
    rows = (await sender(connection)(statement, values)).rows
    return {node.dialect.key_from(key) for (key,) in rows}
