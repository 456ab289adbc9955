"""What PostgreSQL, MySQL and SQLite have in common for Polysaga.

Statements of our own are written once with `:names`. `render` turns them into the driver's placeholders, so the
same text can go through SQLAlchemy (`exec_driver_sql`) or, inside a step's transaction, straight to the
driver: SQLAlchemy's execution layers cost more client time than the statement itself.
"""

import asyncio
import json
import re
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from polysaga.config import DatabaseSettings
from polysaga.databases.dialects.sending import Rendered, Sealed, StatementResult, Write
from polysaga.databases.inspection import Facts
from polysaga.databases.positions import Position
from polysaga.databases.samples import Sample
from polysaga.errors import DatabaseUnavailable
from polysaga.faults import Fault

# Marks in a pooled connection's info.
ANSWERED_AT = "polysaga.answered_at"  # when it was lent last, or a transaction on it ended since, by the clock
COMMITTED = "polysaga.committed"  # nothing is left to roll back
# Marks that are there until the connection is back in the pool.
ENDING = "polysaga.ending"  # the task that ends the transaction
LOAN = "polysaga.loan"  # the loan of the step that has the connection
LOST = "polysaga.lost"  # the error at which the server has rolled back the transaction
SEALED = "polysaga.sealed"  # COMMIT was sent with the last statement
SESSION = "polysaga.session"  # a weak reference to the session that writes on the connection
STREAMS = "polysaga.streams"  # the results that are streamed in the transaction
_NAME = re.compile(r"(?<![:\w]):([a-z_]+)")
_INTERRUPTED = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)  # TLS broken off by the network
_ANSWERS = re.compile(r"(?is)^\s*(select|show)\b|\breturning\b")


def is_of(error: BaseException, *packages: str) -> bool:
    """Return whether the class of *error* comes from one of *packages*."""
    return type(error).__module__.partition(".")[0] in packages


def rows_of_ids(ids: Iterable[UUID]) -> str:
    """Return the JSON that stands for *ids* in `:rows`, as `rows_of` reads it: each as `saga_id`."""
    return json.dumps([{"saga_id": str(one)} for one in ids])


class SqlDialect:
    """What an SQL database reports about itself, and what its driver needs."""

    name: ClassVar[str]
    extra: ClassVar[str]
    clock: ClassVar[str]  # SQL: the server's time now, advancing also inside a transaction
    statement_clock: ClassVar[str]  # SQL: the same, usable as an index condition
    single_writer: ClassVar[bool] = False  # one connection for all writers of a process
    locks_rows: ClassVar[bool] = True  # supports SELECT ... FOR UPDATE
    returns_rows: ClassVar[bool] = True  # supports UPDATE ... RETURNING
    keeps_cursors: ClassVar[bool] = False  # a server-side cursor outlives its transaction
    rolls_back_on_return: ClassVar[bool] = True  # a rollback asks the server only if a transaction is open
    replicates: ClassVar[bool] = True  # has primaries and replicas; if not, the first address is the primary
    snapshot: ClassVar[str] = "REPEATABLE READ"  # the isolation level of a transaction that reads one snapshot
    free_autocommit: ClassVar[bool] = False  # autocommit can be switched without a round trip

    def render(self, sql: str) -> Rendered:
        """Return *sql*, written with `:names`, in the driver's placeholders."""
        order: list[str] = []

        def place(match: re.Match[str]) -> str:
            return self._placeholder(match[1], order)

        return Rendered(_NAME.sub(place, sql), tuple(order), _ANSWERS.search(sql) is not None)

    def later(self, seconds: str) -> str:
        """Return SQL for the server's time now plus the parameter named *seconds*."""
        raise NotImplementedError

    def ago(self, seconds: str) -> str:
        """Return SQL for the server's time now minus the parameter named *seconds*, usable on an index."""
        raise NotImplementedError

    def seconds_until(self, moment: str) -> str:
        """Return SQL for the seconds from the server's time now to the column *moment*, as a double."""
        raise NotImplementedError

    def rows_of(self, columns: Mapping[str, str]) -> str:
        """Return SQL for a FROM item, `given`, that turns the JSON array in `:rows` into rows of *columns*.

        The types are `uuid`, `text`, `bigint`; one parameter, one plan, any number of rows.
        """
        raise NotImplementedError

    def key_of(self, column: str) -> str:
        """Return SQL that turns *column*, a `uuid` of `rows_of`, into a primary key as tables store it."""
        return column

    def ids_of_rows(self) -> str:
        """Return SQL for a query, the primary keys in the JSON that `rows_of_ids` makes of ids, in `:rows`."""
        return f"SELECT {self.key_of('given.saga_id')} FROM {self.rows_of({'saga_id': 'uuid'})}"

    def address(self, url: URL) -> URL:
        """Return *url* without what `options` reads: server, account and database are left."""
        return url.set(query={})

    def options(self, url: URL) -> dict[str, Any]:
        """Return the options in the query of *url* as arguments of the driver's `connect`.

        Raises `UnusableOption` for an option that is not passed on.
        """
        raise NotImplementedError

    def engine_arguments(self, url: URL, settings: DatabaseSettings) -> dict[str, Any]:
        """Return what `create_async_engine` needs beyond the pool: options, isolation, the server's limits."""
        raise NotImplementedError

    def reader_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return *arguments* of a writer engine as those of an engine on which the server refuses writes."""
        connect = self.refusing_writes(arguments["connect_args"])
        return {**arguments, "isolation_level": "AUTOCOMMIT", "connect_args": connect}

    def refusing_writes(self, connect: dict[str, Any]) -> dict[str, Any]:
        """Return *connect*, arguments of the driver, with those that let the server refuse writes."""
        raise NotImplementedError

    def without_settings(self, connect: dict[str, Any]) -> dict[str, Any]:
        """Return *connect*, arguments of the driver, without what a pooler may refuse; see `poolers`."""
        return connect

    def session_settings(self, connect: dict[str, Any]) -> dict[str, str]:
        """Return the settings that `without_settings` removes from *connect*, for `set_session`."""
        return {}

    def refuses_settings(self, error: BaseException) -> bool:
        """Return whether *error* comes from a pooler that refuses clients with settings at login."""
        return False

    async def behind_pooler(self, driver: Any) -> bool:
        """Return whether a pooler stands between the driver's own connection and the server."""
        return False

    async def session_of(self, driver: Any) -> int:
        """Return the number of the server's session in which the driver's own connection runs statements."""
        raise NotImplementedError

    def mixes_sessions(self, error: BaseException) -> bool:
        """Return whether *error* shows that two statements of one connection ran in different sessions."""
        return False

    async def set_session(self, driver: Any, settings: Mapping[str, str]) -> None:
        """Set *settings* for as long as the session of the server lasts."""
        raise NotImplementedError

    def prepare(self, engine: AsyncEngine, *, read_only: bool) -> None:
        """Register what the dialect must do on events of *engine*; most dialects need nothing."""

    def configure(self, connection: Any, *, read_only: bool) -> None:
        """Set on a new *connection* what its driver has no argument for."""

    def connector(self, adapter: Any) -> Callable[..., Any]:
        """Return a function whose result, awaited, is a connection as the driver's own; it limits the whole login.

        *adapter* is SQLAlchemy's, which has loaded the driver.
        """
        raise NotImplementedError

    def discard_what_comes(self, login: "asyncio.Future[Any]") -> None:
        """Discard the connection that *login* has made, or will make, for a caller that waits no longer."""

        def discard(ended: "asyncio.Future[Any]") -> None:
            if not ended.cancelled() and ended.exception() is None:
                self.discard(ended.result())

        login.add_done_callback(discard)

    def line_arguments(self, url: URL, settings: DatabaseSettings) -> dict[str, Any]:
        """Return the driver's arguments to connect for questions outside of transactions."""
        return self.refusing_writes(self.engine_arguments(url, settings)["connect_args"])

    def hindrance(self, error: BaseException) -> str | None:
        """Return the remedy if the driver's *error* at login has its cause on this program's side; else None."""
        return None

    async def hang_up(self, driver: Any) -> None:
        """Close the driver's own connection without waiting for the server."""
        self.discard(driver)

    def cut(self, driver: Any) -> None:
        """Break the driver's own connection at once; tasks that wait for an answer get an error.

        Its owner still closes it.
        """
        raise NotImplementedError

    def statement_lock(self, adapted: Any) -> asyncio.Lock:
        """Return the lock that a task holds while it is in a statement on SQLAlchemy's *adapted* connection."""
        lock: asyncio.Lock = adapted._execute_mutex  # noqa: SLF001 - nothing public leads to it
        return lock

    def discard(self, driver: Any) -> None:
        """Cut the driver's own connection, and close it: it has no owner that would."""
        self.cut(driver)

    async def sample(self, driver: Any) -> Sample:
        """Return role, epoch and position of the server at the driver's own connection, in one round trip.

        Like `capture` it runs outside of a transaction, needs no more than an ordinary account's privileges, and
        raises the driver's own errors. The caller sets a time limit.
        """
        raise NotImplementedError

    def waits(self, driver: Any) -> bool:
        """Return whether the server at the driver's own connection supports `wait_for`."""
        return False

    async def wait_for(self, driver: Any, position: Position, seconds: float) -> bool:
        """Return True once a replica may have reached *position*, or after *seconds*; False if it cannot wait.

        The replica's next sample decides: a wait for a place in a log does not show the epoch of that place.
        """
        return False

    def missing_file(self, url: URL) -> str | None:
        """Return the path of the file that a connection to *url* would create; None if it would create none."""
        return None

    # A row with index and column for each column of each index that keeps the rows of :named unique, all of them.
    unique_sql: ClassVar[str]
    may_create: ClassVar[str]  # fails, or answers false, if the account may not create tables; changes nothing
    facts_sql: ClassVar[str]  # one row for `facts`, asked over a connection for plain reads

    def facts(self, row: Sequence[Any], *, replicas: bool) -> Facts:
        """Return the facts in *row*, the answer to `facts_sql`; with *replicas* also those for replica reads."""
        raise NotImplementedError

    async def capture(self, driver: Any) -> Position | None:
        """Return a position on a primary that is past every transaction committed before the call.

        None if the database keeps no positions (SQLite; MariaDB and MySQL without a binary log).
        """
        raise NotImplementedError

    async def send(self, driver: Any, statement: Rendered, values: Mapping[str, Any]) -> StatementResult:
        """Run *statement* on the driver's own connection, inside the transaction that is open there."""
        raise NotImplementedError

    async def seal(self, driver: Any, writes: Sequence[Write]) -> Sealed:
        """Send the last statements of the transaction that is open on the driver's own connection.

        A dialect may send COMMIT along with them, if that saves a round trip.
        """
        return await self.write(driver, writes)

    async def write(self, driver: Any, writes: Sequence[Write]) -> Sealed:
        """Send *writes* in the open transaction of the driver's own connection; COMMIT is left to the caller."""
        for write in writes:
            if (await self.send(driver, write.statement, write.values)).count != 1:
                return Sealed.FENCED
        return Sealed.WRITTEN

    def seals_with_commit(self, driver: Any) -> bool:
        """Return whether `seal` will send COMMIT along."""
        return False

    def forget_transaction(self, adapted: Any) -> None:
        """Let SQLAlchemy's *adapted* connection, and its driver, take note that `seal` has sent COMMIT."""

    def begin(self, adapted: Any) -> None:
        """Let SQLAlchemy's *adapted* connection begin now, if it would with its next statement only."""

    def begun(self, driver: Any) -> bool:
        """Return whether a statement sent to *driver* now would run inside the session's transaction."""
        return True

    def check_commit(self, driver: Any) -> bool:
        """Return whether the server can commit, as far as *driver* knows; raise its error if it is closed."""
        return True

    def lost_at(self, error: BaseException, driver: Any) -> bool:
        """Return whether the whole transaction was rolled back at *error*, raw from SQLAlchemy's adapter.

        PostgreSQL's is not: it goes on in a savepoint, and answers to COMMIT.
        """
        return False

    def misses_savepoint(self, error: BaseException, driver: Any) -> bool:
        """Return whether *error* says that a savepoint went with its transaction: that there is no such one."""
        return False

    def follows_loss(self, error: BaseException) -> bool:
        """Return whether *error* only says that the transaction was rolled back at an earlier one."""
        return False

    def refuses_commit(self, error: BaseException) -> bool:
        """Return whether *error* of a COMMIT says that an earlier error had rolled back the transaction."""
        return False

    def in_transaction(self, driver: Any) -> bool:
        """Return whether the server has told *driver* that a transaction is open, or has not told what is open."""
        raise NotImplementedError

    def key(self, value: UUID) -> Any:
        """Return *value* in the driver's form of a primary key."""
        raise NotImplementedError

    def key_from(self, value: Any) -> UUID:
        """Return the UUID that `key` turned into *value*."""
        raise NotImplementedError

    def moment(self, value: datetime) -> Any:
        """Return the aware *value* in the driver's form of a point in time."""
        return value

    def moment_from(self, value: Any) -> datetime:
        """Return the database's *value* as an aware time in UTC."""
        stamp: datetime = datetime.fromisoformat(value) if isinstance(value, str) else value
        return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)

    def fault(self, error: BaseException) -> Fault | None:
        """Return the fault of *error*, wrapped by SQLAlchemy or raw; None if it is not the database's."""
        if isinstance(error, DatabaseUnavailable):
            return Fault.UNREACHABLE
        if isinstance(error, PoolTimeout):
            return Fault.POOL_EXHAUSTED
        if isinstance(error, DBAPIError):
            if error.connection_invalidated:
                return Fault.DISCONNECTED
            # SQLAlchemy wraps asyncio drivers twice; the innermost error has the code.
            raw = error.orig
            return self._code_fault(raw.__cause__ or raw) if raw is not None else None
        if isinstance(error, StatementError):
            # SQLAlchemy wraps what is raised before the driver executes: by a type of the program, or while a
            # connection that was lost is replaced.
            return self.fault(error.orig) if isinstance(error.orig, DatabaseUnavailable | PoolTimeout) else None
        return self._code_fault(error)

    def said(self, error: BaseException) -> str | None:
        """Return class, code and names of a driver's *error*, without values; None if it is not the driver's."""
        raise NotImplementedError

    def misfit(self, error: BaseException) -> bool:
        """Return whether *error*, raised by connecting, shows that the URL asks for what cannot be had."""
        # SQLAlchemy and some drivers wrap the original error.
        chain: list[BaseException] = [error]
        while (cause := chain[-1].__cause__) is not None:
            chain.append(cause)
        return any(_is_misfit(one) or self._misfit(one) for one in chain)

    def _misfit(self, error: BaseException) -> bool:
        raise NotImplementedError

    def _placeholder(self, name: str, order: list[str]) -> str:
        raise NotImplementedError

    def _code_fault(self, error: BaseException) -> Fault | None:
        raise NotImplementedError


def _is_misfit(error: BaseException) -> bool:
    """Return whether *error* is about options, certificates or a server without TLS, whatever the database."""
    no_tls = isinstance(error, ssl.SSLError) and not isinstance(error, _INTERRUPTED)
    return no_tls or isinstance(error, TypeError | ValueError)
