"""Our own tables: two lines of history, `journal` and `ledger`, each with its own version table.

The journal's line runs in the journal's database. The ledger's line runs in every database that takes part in a
saga, the journal's included. Any number of processes may migrate at once: one of them locks the database
(`locks.py`), and the others find the work done. No lock is taken if there is nothing to do
(`tests/integration/test_migrations.py::test_of_four_processes_that_start_at_once_one_migrates`). On MongoDB the
ledger is a collection with a single version: it exists.
"""

from collections.abc import Awaitable, Callable, Iterator

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from polysaga.config import masked
from polysaga.databases import AnyHandle, MongoNode, Node, SqlNode
from polysaga.errors import ConfigurationError, DatabaseUnavailable
from polysaga.events import Emit, Events, Migration, TablesAhead, ignore
from polysaga.migrations import mongo
from polysaga.migrations.history import JOURNAL, LEDGER, History, tables_lost, visible_tables
from polysaga.migrations.locks import locked
from polysaga.migrations.ours import include_name, include_object
from polysaga.sagas import Sagas
from polysaga.sagas.driving.resources import journal_node

__all__ = ["Migration", "include_name", "include_object", "migrate", "pending"]


class _IsAhead(ConfigurationError):
    """A later version has migrated the database, to revision *current*."""

    def __init__(self, node: Node, history: History, current: str) -> None:
        super().__init__(
            f"the {history.line} of database '{node.database}' is at revision {current}, which this version of "
            f"Polysaga does not know (it knows up to {history.head}); install the version that migrated it, "
            "or a later one"
        )
        self.current = current


async def migrate(sagas: Sagas, *, emit: Emit = ignore, may_be_ahead: bool = False) -> list[Migration]:
    """Bring the journal and every ledger of *sagas* up to date; return, and emit, what this call changed.

    The databases must be open. Runs on the primaries, one database after the other. A database that is up to date
    is left alone, so a call at every start costs only a few queries. Raises `ConfigurationError` if the login may
    not create tables, if a database is ahead of this program, or if it was migrated and has lost a table. Raises
    `DatabaseUnavailable` if a database is unreachable or its lock is not free in time.

    With *may_be_ahead* a database that is ahead is left alone, with the event `TablesAhead`: a version works on
    the tables of the next one, so its processes may be started again while others replace them.
    """
    events = Events(emit)

    async def change(node: Node, history: History) -> Migration:
        migration = await _migrate(node, history)
        if migration.needed:
            events(migration)
        return migration

    return await _everywhere(sagas, change, events, may_be_ahead=may_be_ahead)


async def pending(sagas: Sagas, *, emit: Emit = ignore, may_be_ahead: bool = False) -> list[Migration]:
    """Return what `migrate` would do now, and change nothing.

    The databases must be open. Raises the same errors as `migrate`, and emits `TablesAhead` as it does.
    """
    return await _everywhere(sagas, _compare, Events(emit), may_be_ahead=may_be_ahead)


async def _everywhere(
    sagas: Sagas, work: Callable[[Node, History], Awaitable[Migration]], emit: Emit, *, may_be_ahead: bool
) -> list[Migration]:
    found = []
    for handle, history in _places(sagas):
        try:
            migration = await work(handle.primary, history)
        except _IsAhead as error:
            if not may_be_ahead:
                raise
            emit(TablesAhead(handle.name, history.line, error.current, history.head))
            continue
        if migration.needed:
            found.append(migration)
    return found


def _places(sagas: Sagas) -> Iterator[tuple[AnyHandle, History]]:
    yield sagas.journal, History(JOURNAL)
    ledger = History(LEDGER)
    # The journal's database comes first: `Sagas.open` looks for a ledger there even if no step runs on it.
    for handle in dict.fromkeys((sagas.journal, *sagas.participants)):
        yield handle, ledger


async def _migrate(node: Node, history: History) -> Migration:
    if isinstance(node, MongoNode):
        _check_line(node, history)
        created = await mongo.create(node)
        return Migration(node.database, history.line, None if created else mongo.HEAD, mongo.HEAD)
    found = await _compare(node, history)
    if not found.needed:
        return found  # without the lock: a process frozen while it holds the lock would delay every start
    try:
        async with locked(node) as connection:
            migration = await _look(node, history, connection)
            if migration.needed:
                if migration.current is not None and node.dialect.name == "postgresql":
                    await _prepare(node, history, connection)
                await connection.run_sync(history.upgrade)
            return migration
    except (DBAPIError, PoolTimeout) as error:
        raise _explained(node, history, error) from error


async def _prepare(node: SqlNode, history: History, locking: AsyncConnection) -> None:
    """Do what runs outside of a transaction, beside the transaction of *locking*, which has the lock meanwhile."""
    # It may be idle for long. A SET also ends the snapshot of the SELECT before it, which a build would wait for.
    await locking.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
    async with node.single.connect() as connection:
        await connection.run_sync(history.prepare)


async def _compare(node: Node, history: History) -> Migration:
    if isinstance(node, MongoNode):
        _check_line(node, history)
        current = await mongo.current(node)
        return Migration(node.database, history.line, current, mongo.HEAD)
    try:
        async with node.reader.connect() as connection:
            return await _look(node, history, connection)
    except (DBAPIError, PoolTimeout) as error:
        raise _explained(node, history, error) from error


def _check_line(node: MongoNode, history: History) -> None:
    if history.line == JOURNAL:
        journal_node(node)  # refuses it


async def _look(node: SqlNode, history: History, connection: AsyncConnection) -> Migration:
    current = await connection.run_sync(history.current)
    if current is not None and current not in history.revisions:
        raise _IsAhead(node, history, current)
    if lost := history.lost(current, await connection.run_sync(visible_tables)):
        raise tables_lost(node.database, history.line, lost)
    return Migration(node.database, history.line, current, history.head)


def _explained(node: SqlNode, history: History, error: DBAPIError | PoolTimeout) -> Exception:
    fault = node.dialect.fault(error)
    if isinstance(error, PoolTimeout) or error.orig is None:
        reason = "no connection became free in time"
    else:
        # SQLAlchemy wraps the errors of asyncio drivers twice; the innermost one has the server's own text.
        reason = masked(" ".join(str(error.orig.__cause__ or error.orig).split()))
    if fault is not None and fault.transient:
        return DatabaseUnavailable(
            node.database, node.name, f"the {history.line} cannot be migrated now ({reason})"
        )
    return ConfigurationError(
        f"database '{node.database}' at {node.name} refuses the migration of its {history.line} ({reason}); "
        "use a login that may create and alter tables"
    )
