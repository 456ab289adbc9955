"""Read whole pages of our tables on the primary, and explain to callers what a database answers instead.

Inside, errors stay the driver's own: retries ask a dialect for their fault. They are explained once, where they
leave to the caller of an operation.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Table
from sqlalchemy.exc import StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from polysaga.databases import Fault, Node, SqlNode
from polysaga.databases.dialects import Rendered
from polysaga.databases.lent_sessions import pool_exhausted
from polysaga.errors import DatabaseUnavailable, SchemaMissing


async def read_rows(
    node: SqlNode, statement: Rendered, values: Mapping[str, Any], line: str
) -> Sequence[Mapping[str, Any]]:
    """Return the rows of *statement*; *line* names the line of migrations that creates its table.

    Uses connections on which SQL servers refuse writes.
    """
    with explaining(node, line, read_only=True):
        async with node.reader.connect() as connection:
            result = await connection.exec_driver_sql(statement.sql, statement.bind(values))
            return [dict(row) for row in result.mappings()]


@contextmanager
def explaining(node: Node, line: str, *, read_only: bool = False) -> Iterator[None]:
    """Raise what the block raises about *node* as Polysaga's own errors; *read_only*: it uses the pool for reads.

    Errors without an own one pass, such as those of a missing privilege.
    """
    drivers = (StatementError, PoolTimeout) if isinstance(node, SqlNode) else (node.driver.PyMongoError,)
    try:
        yield
    except (*drivers, OSError) as error:
        ours = _explained(node, error, line, read_only=read_only)
        if ours is error:
            raise
        raise ours from error


def _explained(node: Node, error: Exception, line: str, *, read_only: bool = False) -> Exception:
    """Return the error to show for *error*: missing tables, a full pool, a server that is away, or itself."""
    fault = node.dialect.fault(error)
    if fault is Fault.SCHEMA_MISSING:
        return SchemaMissing(node.database, line)
    if fault is Fault.POOL_EXHAUSTED and isinstance(node, SqlNode):
        return pool_exhausted(node, read_only=read_only)
    if fault is not None and fault.transient:
        return DatabaseUnavailable(node.database, node.name, fault.value)
    return error


async def require_unique(node: SqlNode, connection: AsyncConnection, table: Table, line: str) -> None:
    """Raise `SchemaMissing` unless the server keeps the rows of *table* unique, as its primary key says.

    A copy of a table may have its columns and its rows only: a step could happen twice, and no error would tell.
    """
    statement = node.dialect.render(node.dialect.unique_sql)
    rows: Iterable[Any] = await connection.exec_driver_sql(statement.sql, statement.bind({"named": table.name}))
    found: dict[str, set[str]] = {}
    for index, column in rows:
        found.setdefault(index, set()).add(column)
    key = [column.name for column in table.primary_key]
    if not any(columns <= set(key) for columns in found.values()):
        columns = ", ".join(key)
        raise SchemaMissing(
            node.database,
            line,
            f"have lost the key of {table.name}, without which a step or a saga could happen twice",
            f"add it: CREATE UNIQUE INDEX {table.name}_key ON {table.name} ({columns})",
        )
