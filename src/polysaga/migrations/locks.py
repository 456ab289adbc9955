"""One migration of a database at a time, however many processes start at once.

PostgreSQL: an advisory lock that ends with the transaction of the migration. A process that waits for it asks
again from time to time, with no transaction open in between: an index that is made concurrently waits for every
older statement, and that statement must not wait for the lock. MySQL and MariaDB: every DDL statement commits by
itself, so there is no such transaction. A named lock belongs to the connection instead, and ends with it, whatever
ends the process. SQLite: the transaction itself, because `BEGIN IMMEDIATE` excludes every other writer of the
file.

A process that waited for the lock reads the version again once it has it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from polysaga.clock import Clock
from polysaga.databases import SqlNode
from polysaga.errors import DatabaseUnavailable

PATIENCE = 60  # seconds to wait for another process's migration
_UNTIL_NEXT_TRY = 0.1  # seconds between two tries to get PostgreSQL's lock
_CLOCK = Clock()

_KEY = int.from_bytes(b"polysaga")  # any 64-bit number that no other program uses


@asynccontextmanager
async def locked(node: SqlNode) -> AsyncIterator[AsyncConnection]:
    """Lend the only connection that may migrate the database of *node*; the end of the block commits.

    Raises `DatabaseUnavailable`, or the driver's lock timeout, if another process does not finish in time.
    """
    if node.dialect.name == "mysql":
        async with node.writer.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            try:
                await _take_named_lock(node, connection)
                yield connection
            finally:
                # Closing frees the lock even after a cancellation, when no further statement can be sent.
                await connection.invalidate()
        return
    if node.dialect.name != "postgresql":
        async with node.writer.begin() as connection:
            yield connection
        return
    end = _CLOCK.monotonic() + PATIENCE
    while True:
        async with node.writer.begin() as connection:
            if await _took_advisory_lock(node, connection):
                yield connection
                return
        if _CLOCK.monotonic() >= end:
            raise _locked_for_too_long(node)
        await _CLOCK.sleep(_UNTIL_NEXT_TRY)


async def _took_advisory_lock(node: SqlNode, connection: AsyncConnection) -> bool:
    # One lock per schema: tenants that share a database do not wait for each other.
    take = text("SELECT pg_try_advisory_xact_lock(hashtextextended(coalesce(current_schema(), ''), :key))")
    if not await connection.scalar(take, {"key": _KEY}):
        return False
    # Short: while a DDL statement waits for a table, all later statements on it queue behind.
    limit = text("SELECT set_config('lock_timeout', :limit, true)")
    await connection.execute(limit, {"limit": f"{node.settings.lock_timeout * 1000:.0f}ms"})
    return True


async def _take_named_lock(node: SqlNode, connection: AsyncConnection) -> None:
    # Lock names are server-wide and have at most 64 characters, as many as a database's name may have.
    # Not sha1(), which MySQL 9 no longer has.
    take = text("SELECT get_lock(concat('polysaga.', left(sha2(database(), 256), 40)), :patience)")
    if await connection.scalar(take, {"patience": PATIENCE}) != 1:
        raise _locked_for_too_long(node)
    # As on PostgreSQL: all later statements on a table queue behind a DDL statement that waits for it.
    limit = max(1, round(node.settings.lock_timeout))
    await connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {limit}")


def _locked_for_too_long(node: SqlNode) -> DatabaseUnavailable:
    return DatabaseUnavailable(node.database, node.name, f"another process has been migrating it for {PATIENCE} s")
