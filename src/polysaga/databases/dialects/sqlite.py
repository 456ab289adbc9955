"""SQLite, through aiosqlite: the embedded default, one file per database, WAL, one writer at a time.

The writer engine has a single connection, so writers queue in the pool, in order, instead of in SQLite's
busy handler, which sleeps and is unfair. `BEGIN IMMEDIATE` takes the write lock before the first read: a
deferred transaction that reads and then writes would meet SQLITE_BUSY at once.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit
from uuid import UUID

from sqlalchemy import URL, Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import MissingGreenlet, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from polysaga.clock import Clock
from polysaga.config import DatabaseSettings
from polysaga.databases.dialects.aiosqlite_connection import connection_class
from polysaga.databases.dialects.options import UnusableOption, choice, options, switch, text, whole
from polysaga.databases.dialects.sending import Rendered, StatementResult
from polysaga.databases.dialects.sql import SqlDialect, is_of
from polysaga.databases.dialects.sqlite_file import RolledBack, SQLiteFile
from polysaga.databases.inspection import UNGUARDED, Facts
from polysaga.databases.positions import Position
from polysaga.databases.samples import NodeRole, Sample
from polysaga.faults import Fault
from polysaga.limits import going_on

_FAULTS = {
    "SQLITE_BUSY": Fault.LOCK_TIMEOUT,
    "SQLITE_BUSY_SNAPSHOT": Fault.SERIALIZATION,
    "SQLITE_LOCKED": Fault.LOCK_TIMEOUT,
    "SQLITE_READONLY": Fault.READ_ONLY,
    "SQLITE_CONSTRAINT_PRIMARYKEY": Fault.DUPLICATE_KEY,
    "SQLITE_CONSTRAINT_UNIQUE": Fault.DUPLICATE_KEY,
    "SQLITE_CONSTRAINT_ROWID": Fault.DUPLICATE_KEY,
    "SQLITE_CANTOPEN": Fault.UNREACHABLE,
    "SQLITE_PROTOCOL": Fault.LOCK_TIMEOUT,
    "SQLITE_INTERRUPT": Fault.STATEMENT_TIMEOUT,
    "SQLITE_FULL": Fault.OUT_OF_RESOURCES,
    "SQLITE_NOMEM": Fault.OUT_OF_RESOURCES,
    "SQLITE_IOERR": Fault.SERVER_TROUBLE,
    "SQLITE_IOERR_NOMEM": Fault.OUT_OF_RESOURCES,
    "SQLITE_SCHEMA": Fault.STALE_PLAN,
}

_REFUSED = {
    "timeout": "set databases.{database}.lock_timeout",
    "isolation_level": "leave it out: transactions are begun by Polysaga",
    "autocommit": "leave it out: transactions are begun by Polysaga",
    "detect_types": "leave it out: types are SQLAlchemy's",
    "check_same_thread": "leave it out: each connection has a thread of its own",
    "factory": "leave it out: it can be set in a program only",
    "nolock": "leave it out: without locks two connections spoil the file",
}
_URI = {"mode": choice("ro", "rw", "rwc"), "cache": choice("private", "shared"), "vfs": text, "psow": switch}
_KNOWN = {"uri": switch, "cached_statements": whole, "immutable": switch, **_URI}
_UNKNOWN = "leave it out; pragmas are Polysaga's: WAL, synchronous = FULL, foreign_keys = ON"

_UNTIL_NEXT_TRY = 0.01  # seconds before a connection retries to switch its file to WAL

_AGAIN = 0.05  # seconds after which what a thread executes is interrupted again

_BROKEN = (sqlite3.Error, ValueError)  # ValueError: the connection is closed already
# What Python, SQLAlchemy and aiosqlite say of a closed connection.
_CLOSED = {"Cannot operate on a closed database.", "no active connection", "Connection closed"}

# Names of errors with texts that name objects and conditions, never values.
_PLAIN = ("CONSTRAINT", "BUSY", "LOCKED", "READONLY", "FULL", "IOERR")


class SQLite(SqlDialect):
    """Times are text in UTC with milliseconds, so they sort."""

    name = "sqlite"
    extra: ClassVar[str] = "sqlite"
    clock = "strftime('%Y-%m-%dT%H:%M:%f', 'now')"
    statement_clock = clock
    single_writer = True
    keeps_cursors = True
    replicates = False
    snapshot = "SERIALIZABLE"
    locks_rows = False

    def later(self, seconds: str) -> str:
        return f"strftime('%Y-%m-%dT%H:%M:%f', 'now', {seconds} || ' seconds')"

    def ago(self, seconds: str) -> str:
        return f"strftime('%Y-%m-%dT%H:%M:%f', 'now', (-1 * {seconds}) || ' seconds')"

    def seconds_until(self, moment: str) -> str:
        return f"(julianday({moment}) - julianday('now')) * 86400.0"

    def rows_of(self, columns: Mapping[str, str]) -> str:
        picked = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in columns)
        return f"(SELECT {picked} FROM json_each(:rows)) AS given"

    def begun(self, driver: Any) -> bool:
        return bool(driver.in_transaction)

    def check_commit(self, driver: Any) -> bool:
        try:
            file = driver._conn  # noqa: SLF001 - aiosqlite skips the commit of a closed file
        except ValueError as error:
            raise sqlite3.OperationalError(*error.args) from error
        file.refuse_if_given_up()
        return not file.has_lost()

    def lost_at(self, error: BaseException, driver: Any) -> bool:
        try:
            return isinstance(error, sqlite3.Error) and bool(driver._conn.has_lost())  # noqa: SLF001 - its own file
        except (ValueError, sqlite3.ProgrammingError):  # it is closed, and commits nothing
            return False

    def misses_savepoint(self, error: BaseException, driver: Any) -> bool:
        told = isinstance(error, sqlite3.Error) and _text(error).startswith("no such savepoint")
        return told and not self.in_transaction(driver)

    def follows_loss(self, error: BaseException) -> bool:
        return isinstance(error, RolledBack)

    def in_transaction(self, driver: Any) -> bool:
        try:
            return bool(driver.in_transaction)
        except (ValueError, sqlite3.ProgrammingError):  # it is closed
            return False

    def key(self, value: UUID) -> Any:
        return str(value)

    def key_from(self, value: Any) -> UUID:
        return UUID(value)

    def address(self, url: URL) -> URL:
        return url  # SQLAlchemy splits the query between Python's driver and SQLite's own URI

    def options(self, url: URL) -> dict[str, Any]:
        found = options(url.query, _KNOWN, _REFUSED, _UNKNOWN)
        own = next((name for name in found if name in {*_URI, "immutable"}), None)
        is_uri = (url.database or "").startswith("file:")
        if own is not None and not (found.get("uri") and is_uri):
            raise UnusableOption(own, "is SQLite's own", "write sqlite+aiosqlite:///file:PATH?uri=true&OPTION=...")
        if "uri" in found and found["uri"] is not is_uri:
            raise UnusableOption(
                "uri", "does not fit the file's name", "write file:PATH with uri=true, or neither"
            )
        return {}

    def engine_arguments(self, url: URL, settings: DatabaseSettings) -> dict[str, Any]:
        return {"connect_args": {"timeout": settings.lock_timeout, "factory": SQLiteFile}}

    def refusing_writes(self, connect: dict[str, Any]) -> dict[str, Any]:
        return connect  # `configure` lets it

    def configure(self, connection: Any, *, read_only: bool) -> None:
        try:
            connection.isolation_level = None
            connection.run_async(lambda driver: _configure(driver, read_only=read_only))
        except BaseException:
            # Waits for the connection's thread: it reports to the event loop, which may end with this error.
            connection.terminate()
            raise

    def prepare(self, engine: AsyncEngine, *, read_only: bool) -> None:
        @event.listens_for(engine.sync_engine, "invalidate")
        def let_go(connection: DBAPIConnection, _: object, error: object) -> None:
            # The rollback would wait for a statement whose caller has gone.
            self.cut(connection.driver_connection)
            # The lock of the file is free before the connection is closed, which takes longer.
            with contextlib.suppress(MissingGreenlet, *_BROKEN):
                connection.run_async(self._give_up)

        # Python begins before a statement that writes. That is too late for a snapshot, and for a writer that has
        # read before: another may have written in between.
        statement = "BEGIN" if read_only else "BEGIN IMMEDIATE"

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Connection) -> None:
            if read_only and connection._is_autocommit_isolation():  # noqa: SLF001 - each read for itself
                return
            adapted: Any = connection.connection.dbapi_connection
            try:
                if adapted.driver_connection.in_transaction:
                    adapted.rollback()  # left by a COMMIT that failed
                adapted.run_async(lambda driver: driver.execute_fetchall(statement))
            except sqlite3.Error as error:
                if self._code_fault(error) is Fault.READ_ONLY:
                    connection.invalidate()  # it stays so when the file can be written again
                raise OperationalError(statement, None, error) from error
            except asyncio.CancelledError:
                # The thread may still execute BEGIN; a connection with the lock must not be lent again.
                connection.invalidate()
                raise

    async def _give_up(self, driver: Any) -> None:
        """Roll back as soon as the thread is free, also if the caller does not wait for that."""
        await asyncio.shield(going_on(self._interrupt_and_give_up(driver)))

    async def _interrupt_and_give_up(self, driver: Any) -> None:
        giving_up = asyncio.ensure_future(driver._execute(driver._conn.give_up))  # noqa: SLF001
        while not (await asyncio.wait({giving_up}, timeout=_AGAIN))[0]:
            self.cut(driver)  # SQLite forgets an interrupt that comes before the first step of a statement
        giving_up.result()

    def connector(self, adapter: Any) -> Callable[..., Any]:
        connection = connection_class(adapter.aiosqlite)

        def connect(file: str, **named: Any) -> Awaitable[Any]:
            return connection(partial(sqlite3.connect, file, **named))  # type: ignore[no-any-return]

        return connect

    def missing_file(self, url: URL) -> str | None:
        name = url.database or ""
        path = Path(unquote(urlsplit(name).path) if name.startswith("file:") else name)
        return None if path.exists() or not path.parent.is_dir() else str(path)

    def line_arguments(self, url: URL, settings: DatabaseSettings) -> dict[str, Any]:
        return {}

    async def hang_up(self, driver: Any) -> None:
        await driver.close()

    def cut(self, driver: Any) -> None:
        with contextlib.suppress(ValueError, sqlite3.ProgrammingError):  # it is closed
            file = driver._conn  # noqa: SLF001 - `Connection.interrupt` of aiosqlite is a coroutine
            (file.cut if isinstance(file, SQLiteFile) else file.interrupt)()  # else it only asks how its node is

    def discard(self, driver: Any) -> None:
        driver.stop()

    async def sample(self, driver: Any) -> Sample:
        return Sample(NodeRole.PRIMARY, None)

    unique_sql = (
        "SELECT i.name, c.name FROM pragma_index_list(:named) AS i, pragma_index_info(i.name) AS c "
        'WHERE i."unique" AND NOT i.partial'
    )
    may_create = "SELECT 1"  # the BEGIN IMMEDIATE before it fails on a read-only file
    facts_sql = (
        "SELECT sqlite_version(), (julianday('now') - 2440587.5) * 86400.0, query_only FROM pragma_query_only"
    )

    def facts(self, row: Sequence[Any], *, replicas: bool) -> Facts:
        version, clock, read_only = row
        return Facts(version, clock, bool(read_only), () if read_only else (UNGUARDED,))

    async def capture(self, driver: Any) -> Position | None:
        return None

    async def send(self, driver: Any, statement: Rendered, values: Mapping[str, Any]) -> StatementResult:
        # One hop to the connection's thread, where a cursor of our own would cost three. What another task, that a
        # step left behind, changes on this connection meanwhile is not counted.
        rows, changed = await driver._execute(_executed, driver._conn, statement.sql, statement.bind(values))  # noqa: SLF001
        return StatementResult(rows, len(rows) if statement.answers else changed)

    def moment(self, value: datetime) -> Any:
        # Not strftime: it writes the year 900 with three digits, and texts are compared.
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")

    def _placeholder(self, name: str, order: list[str]) -> str:
        order.append(name)
        return "?"

    def said(self, error: BaseException) -> str | None:
        if not is_of(error, "sqlite3", "aiosqlite"):
            return None
        kind, name = type(error).__name__, getattr(error, "sqlite_errorname", None)
        if name is None:
            return f"{kind}: {_text(error)}"  # the module's own, about types and names of parameters
        plain = name.removeprefix("SQLITE_").startswith(_PLAIN) or _text(error).startswith("no such ")
        return f"{kind} ({name}): {_text(error)}" if plain else f"{kind} ({name})"

    def _misfit(self, error: BaseException) -> bool:
        return "no such vfs" in _text(error) or getattr(error, "sqlite_errorname", None) == "SQLITE_NOTADB"

    def _code_fault(self, error: BaseException) -> Fault | None:
        name = getattr(error, "sqlite_errorname", None)
        if name is None:
            return Fault.DISCONNECTED if isinstance(error, _BROKEN) and _text(error) in _CLOSED else None
        if name == "SQLITE_ERROR" and ("no such table" in _text(error) or "no such column" in _text(error)):
            return Fault.SCHEMA_MISSING
        # An extended name that is not listed counts as its base: SQLITE_BUSY_RECOVERY, SQLITE_IOERR_WRITE.
        return _FAULTS.get(name) or _FAULTS.get("_".join(name.split("_")[:2]))


def _text(error: BaseException) -> str:
    # Not str(error): a program may raise an error of this class with what has no text.
    return next((part for part in error.args if isinstance(part, str)), "")


async def _configure(driver: Any, *, read_only: bool) -> None:
    await _turn_to_wal(driver)
    for pragma in ("synchronous = FULL", "foreign_keys = ON", f"query_only = {'ON' if read_only else 'OFF'}"):
        await driver.execute_fetchall(f"PRAGMA {pragma}")


async def _turn_to_wal(driver: Any) -> None:
    """Switch the file to WAL; while other connections do the same, wait as long as for any lock.

    SQLite does not wait here. Two connections that have read the file's header and want to write it would wait for
    each other, so it refuses both at once (https://www.sqlite.org/rescode.html#busy).
    """
    ((milliseconds,),) = await driver.execute_fetchall("PRAGMA busy_timeout")
    clock = Clock()
    end = clock.monotonic() + milliseconds / 1000
    # Where SQLite does wait, it waits in its thread, which a cancellation does not end.
    await driver.execute_fetchall("PRAGMA busy_timeout = 0")
    while True:
        try:
            await driver.execute_fetchall("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or clock.monotonic() >= end:
                raise
            await clock.sleep(_UNTIL_NEXT_TRY)
        else:
            break
    await driver.execute_fetchall(f"PRAGMA busy_timeout = {milliseconds}")


def _executed(connection: sqlite3.Connection, sql: str, values: Any) -> tuple[list[Any], int]:
    """Return the rows and the number of changed ones; runs in the connection's thread."""
    cursor = connection.execute(sql, values)
    return cursor.fetchall(), cursor.rowcount
