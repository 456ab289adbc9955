"""Handles: the names a program uses for its databases, declared once, in code, as typed values.

A handle knows nothing until `Databases.open` attaches nodes to it. A database with replicas also gets its
`Routes`, which decide where each session goes; without replicas there is nothing to decide. Sessions always end
clean: committed at the end of a block that succeeded, rolled back after an error or a cancellation, and their
connection returned.
"""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, cast, get_args

from sqlalchemy import Connection, event
from sqlalchemy.exc import IllegalStateChangeError, InvalidRequestError, PendingRollbackError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from polysaga.clock import Clock
from polysaga.databases.dialects.sql import SESSION
from polysaga.databases.endings import end_here
from polysaga.databases.mongo_node import MongoNode, MongoSession
from polysaga.databases.single_writer import ONE_WRITER, refuse_if_held
from polysaga.databases.sql_node import SqlNode
from polysaga.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    NoPrimary,
    PoolExhausted,
    ReadOnlyNode,
    SessionOver,
    SessionShared,
    TransactionLost,
)
from polysaga.faults import Fault
from polysaga.limits import going_on

Node: TypeAlias = SqlNode | MongoNode
NodeT = TypeVar("NodeT", bound=Node)
SessionT = TypeVar("SessionT")
Consistency: TypeAlias = Literal["eventual", "session", "strong"]
_CONSISTENCIES: tuple[Consistency, ...] = get_args(Consistency)


@dataclass(frozen=True, slots=True)
class Wish:
    """The options of a reader; None takes the value of the settings."""

    consistency: Consistency | None = None
    max_lag: float | None = None  # seconds
    allow_stale: bool = False
    snapshot: bool = False


def check_reads(consistency: object, max_lag: object = None) -> None:
    """Raise `ConfigurationError` for a consistency that does not exist, or a lag that is no number of seconds."""
    if consistency is not None and consistency not in _CONSISTENCIES:
        raise ConfigurationError(f"consistency={consistency!r} is none of {', '.join(_CONSISTENCIES)}")
    if max_lag is None:
        return
    if not isinstance(max_lag, int | float) or isinstance(max_lag, bool) or not max_lag >= 0:
        raise ConfigurationError(f"max_lag={max_lag!r} is no lag: give seconds as a number, 0 or more")


_PLAIN = Wish()
_LONGEST_NAME = 64  # characters
_PATIENCE = 30.0  # seconds that the end of a session waits for a task that still uses it
_MOMENT = 0.02  # seconds
_CONCURRENT = "isce"  # SQLAlchemy's code: another task is acquiring a connection, or beginning a savepoint
# For programs that call `polysaga.fastapi.install`, and so never call `open` themselves.
WITH_THE_APPLICATION = (
    "; `install` opens it with the lifespan of its application: test inside `with TestClient(app) as client`, and "
    "an application that mounts another one enters `mounted.router.lifespan_context(mounted)` in its own lifespan"
)


class Routes(Protocol):
    """Where the sessions of a database with replicas go; the routing half implements it."""

    def reader(self, wish: Wish) -> AbstractAsyncContextManager[Any]:
        """Lend a session on the node that *wish* and the scope's bookmark allow."""

    def writer(self) -> AbstractAsyncContextManager[Any]:
        """Lend a session on the primary; refuse at once if there is none."""

    def wrote(self) -> None:
        """Make later reads of this scope see what is committed by now."""


class Database(Generic[NodeT, SessionT]):
    """One named database: a primary and any number of replicas. Use one of the kinds below."""

    def __init__(self, name: str) -> None:
        """Declare the database that the settings name *name*; raise `ConfigurationError` for an unusable name."""
        # Bookmarks, cookies and environment variables name databases: a name that they cannot spell would be lost.
        if not isinstance(name, str):
            raise ConfigurationError(
                f"{name!r} is not a name for a database: give a text, e.g. SqlDatabase('orders')"
            )
        if not (name.isidentifier() and name.isascii() and len(name) <= _LONGEST_NAME):
            raise ConfigurationError(
                f"'{name}' is not a name for a database: use A-Z, a-z, 0-9 and _, "
                f"at most {_LONGEST_NAME} characters"
            )
        if "__" in name or name.endswith("_"):
            raise ConfigurationError(
                f"'{name}' is not a name for a database: two underscores separate the words of an environment "
                f"variable, POLYSAGA_DATABASES__{name.upper()}__URL would be read in another way"
            )
        self.name = name
        self._nodes: tuple[NodeT, ...] = ()
        self._servers: tuple[NodeT, ...] = ()
        self._routes: Routes | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def primary(self) -> NodeT:
        """The node that takes writes; raises `ConfigurationError` while the databases are closed."""
        if not self._nodes:
            raise ConfigurationError(
                f"database '{self.name}' is not open: use it inside `async with databases.open(settings)`"
                f"{WITH_THE_APPLICATION}"
            )
        return self._nodes[0]

    @property
    def replicas(self) -> tuple[NodeT, ...]:
        """The other nodes, in the order of the settings."""
        return self._nodes[1:]

    @property
    def nodes(self) -> tuple[NodeT, ...]:
        """Every node that may answer: `primary`, which follows the primary server, and the one of each server."""
        return tuple(dict.fromkeys((*self._nodes, *self._servers)))

    def attach(
        self, nodes: tuple[NodeT, ...], routes: Routes | None = None, servers: tuple[NodeT, ...] = ()
    ) -> None:
        """Give the handle its nodes (the primary first) and routes; only `Databases` calls this.

        *servers* are the nodes that *routes* may choose, whatever their roles become.
        """
        self._nodes, self._routes, self._servers = nodes, routes, servers
        self._loop = _running() if nodes else None

    def reader(
        self,
        *,
        consistency: Consistency | None = None,
        max_lag: float | None = None,
        allow_stale: bool = False,
        snapshot: bool = False,
    ) -> AbstractAsyncContextManager[SessionT]:
        """Lend a session that reads: from a replica that has all that this scope must see, or from the primary.

        *consistency*: `session` sees what the scope wrote and what its bookmark names; `eventual` may be up to
        *max_lag* seconds behind; `strong` reads from the primary. With *allow_stale* a replica that is further
        behind answers if no other node may. On SQL databases the server refuses writes, and every statement is its
        own snapshot; *snapshot* makes the session one (REPEATABLE READ).

        Raises `NoReplica` if no node may answer in time, `NoPrimary` for a `strong` read without a primary (SQL),
        and `ConfigurationError` for a value that makes no sense, or in another event loop than the one that opened
        the databases.
        """
        plain = consistency is None and max_lag is None and not allow_stale and not snapshot
        if not plain:
            check_reads(consistency, max_lag)
        wish = _PLAIN if plain else Wish(consistency, max_lag, allow_stale, snapshot)
        if self._routes is not None:
            return self._in_its_loop(self._routes.reader(wish))
        return self._in_its_loop(self._lend(self.primary, read_only=True, snapshot=snapshot))

    def writer(self) -> AbstractAsyncContextManager[SessionT]:
        """Lend a session on the primary; the end of the block commits (SQL).

        Raises `NoPrimary` if the database has replicas and no primary now, or no replicas and a server that only
        reads now, and `ConfigurationError` in another event loop than the one that opened the databases.
        """
        if self._routes is not None:
            return self._in_its_loop(self._routes.writer())
        return self._in_its_loop(self._lend(self.primary, read_only=False))

    def wrote(self) -> None:
        """Make later reads of this scope see what is committed by now, by any session of any process.

        Sessions of `writer` do this by themselves. It costs nothing without replicas, and nothing before the next
        read or bookmark.
        """
        if self._routes is not None:
            self._routes.wrote()

    def _in_its_loop(self, lent: AbstractAsyncContextManager[SessionT]) -> AbstractAsyncContextManager[SessionT]:
        """Return *lent*, or in code without an event loop what checks the loop when it is entered.

        A connection made in another loop would stay in the pool and fail later, in another session.
        """
        running = _running()
        if running is None and self._loop is not None:
            return self._checked_when_entered(lent)
        self._refuse_another_loop(running)
        return lent

    @asynccontextmanager
    async def _checked_when_entered(self, lent: AbstractAsyncContextManager[SessionT]) -> AsyncIterator[SessionT]:
        self._refuse_another_loop(_running())
        async with lent as session:
            yield session

    def _refuse_another_loop(self, running: asyncio.AbstractEventLoop | None) -> None:
        if self._loop is not None and running is not self._loop:
            raise ConfigurationError(
                f"database '{self.name}' was opened in another event loop: use it in the loop that opened it "
                "(from another thread by asyncio.run_coroutine_threadsafe, beside a TestClient by portal.call) "
                "or open the databases anew in this one"
            )

    def _lend(
        self, node: NodeT, *, read_only: bool, snapshot: bool = False
    ) -> AbstractAsyncContextManager[SessionT]:
        raise NotImplementedError


class SqlDatabase(Database[SqlNode, AsyncSession]):
    """PostgreSQL, MySQL, MariaDB or SQLite; hands out SQLAlchemy's `AsyncSession`.

    The step of a saga gets an `AsyncConnection` instead if its first parameter is annotated with it.
    """

    bare = AsyncConnection

    def _lend(
        self, node: SqlNode, *, read_only: bool, snapshot: bool = False
    ) -> AbstractAsyncContextManager[AsyncSession]:
        return sql_session(node, read_only=read_only, snapshot=snapshot)


class MongoDatabase(Database[MongoNode, MongoSession]):
    """MongoDB; hands out the driver's database with a session."""

    def _lend(
        self, node: MongoNode, *, read_only: bool, snapshot: bool = False
    ) -> AbstractAsyncContextManager[MongoSession]:
        return node.session(read_only=read_only)


class AnyDatabase(Database[Node, AsyncSession | MongoSession]):
    """A database whose URL alone decides its kind, for programs that run on either; check the session's type."""

    def _lend(
        self, node: Node, *, read_only: bool, snapshot: bool = False
    ) -> AbstractAsyncContextManager[AsyncSession] | AbstractAsyncContextManager[MongoSession]:
        if isinstance(node, MongoNode):
            return node.session(read_only=read_only)
        return sql_session(node, read_only=read_only, snapshot=snapshot)


AnyHandle: TypeAlias = SqlDatabase | MongoDatabase | AnyDatabase


class LentSession(Session):
    """A session that ends with the block it was lent for; any later use raises `SessionOver`."""

    _over: str | None = None

    def end(self, database: str) -> None:
        """Refuse every use from now on."""
        self._over = database

    def refuse_if_over(self) -> None:
        """Raise `SessionOver` after the end."""
        if self._over is not None:
            raise SessionOver(self._over)

    def is_lost(self) -> bool:
        """Return whether the transaction has ended under the session: with a failed flush, or its connection."""
        transaction = self.get_transaction()
        if transaction is None:
            return False
        connections = {one for one in transaction._connections if isinstance(one, Connection)}  # noqa: SLF001
        return not transaction.is_active or any(one.invalidated for one in connections)

    def _autobegin_t(self, begin: bool = False) -> SessionTransaction:  # noqa: FBT001, FBT002 - SQLAlchemy's
        # Every use of the database comes through here first. Session.close() alone would not do: a closed session
        # can begin anew. A session closed for good could not be closed early and then used on in its block.
        self.refuse_if_over()
        return super()._autobegin_t(begin)

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """Flush; a cancellation stays one although the block has ended, and nothing is left to roll back."""
        try:
            super().flush(objects)
        except InvalidRequestError as error:
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, asyncio.CancelledError):
                    raise cause from None
                cause = cause.__context__
            raise


@event.listens_for(LentSession, "after_begin")
def _note_session(session: LentSession, _: SessionTransaction, connection: Connection) -> None:
    connection.info[SESSION] = weakref.ref(session)  # what it is flushing must not be committed by half


def _end_here(session: Session) -> None:
    transaction = session.get_transaction()
    # All connections of the session. It may be about to get a savepoint, which waits behind a slow statement.
    for connection in {} if transaction is None else set(transaction._connections):  # noqa: SLF001
        if isinstance(connection, Connection):
            end_here(connection)


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class PatientSession(AsyncSession):
    """Gives its connection back even if a task that its user left behind is still acquiring it.

    If one task of an `asyncio.gather` over one session fails, another may still connect: `gather` cancels none.
    """

    async def close(self) -> None:
        """Close the session as soon as no other task uses it; wait for that at most 30 seconds.

        It is closed also if that takes longer, or if this call is cancelled.
        """
        try:
            await super().close()
        except IllegalStateChangeError:
            closing = going_on(self._close_when_unused())
            await asyncio.wait({closing}, timeout=_PATIENCE)
            if closing.done():
                closing.result()

    async def _close_when_unused(self) -> None:
        clock = Clock()
        while True:  # the other task waits for a connection and its locks, as long as the settings let it
            await clock.sleep(_MOMENT)
            await self.run_sync(_end_here)
            with contextlib.suppress(IllegalStateChangeError):
                return await super().close()


@asynccontextmanager
async def sql_session(
    node: SqlNode, *, read_only: bool, snapshot: bool = False, bind: AsyncConnection | None = None
) -> AsyncIterator[AsyncSession]:
    """Lend a session on *node*; commit at the end; raise errors about the node as Polysaga's own.

    With *bind* it is on this connection of *node*, which stays with the caller.
    """
    if not read_only:
        refuse_if_held(node, "opened a writer of its own", "use the session that the step was given")
    engine = bind or ((node.snapshots if snapshot else node.reader) if read_only else node.writer)
    session = PatientSession(engine, sync_session_class=LentSession, expire_on_commit=False)
    lent = cast(LentSession, session.sync_session)
    try:
        try:
            try:
                yield session
                await _commit(session, node.database)
            except PendingRollbackError as error:
                raise_if_lost(lent, node.database, error)
                raise
        except BaseException:
            lent.end(node.database)
            # A dead connection has nothing to roll back: the caller gets the error that ended the block.
            with contextlib.suppress(StatementError, PoolTimeout, OSError):
                await close_shielded(session)
            raise
        lent.end(node.database)
        await close_shielded(session)
    except (StatementError, PoolTimeout) as error:
        ours = as_ours(node, error, read_only=read_only)
        if ours is None:
            raise
        raise ours from error


def raise_if_lost(lent: LentSession, database: str, error: PendingRollbackError) -> None:
    """Raise `TransactionLost` if *error*, which leaves the block, is about *lent* and no other session."""
    if lent.is_lost():
        raise TransactionLost(database) from error


async def close_shielded(session: AsyncSession) -> None:
    """Close *session*, also if the caller is cancelled meanwhile: it must give its connection back."""
    await asyncio.shield(going_on(session.close()))


async def _commit(session: AsyncSession, database: str) -> None:
    try:
        await session.commit()
    except InvalidRequestError as error:
        if error.code != _CONCURRENT:
            raise
        raise SessionShared(database) from error


def as_ours(node: SqlNode, error: Exception, *, read_only: bool) -> Exception | None:
    """Return Polysaga's own error if *error* is about the node, or about the session; else None."""
    if isinstance(error, StatementError) and isinstance(error.orig, SessionShared | TransactionLost):
        # SQLAlchemy wraps every error on a connection on which another task handles one.
        return type(error.orig)(node.database)
    if isinstance(error, StatementError) and isinstance(error.orig, DatabaseUnavailable):
        return error.orig
    match node.dialect.fault(error):
        case Fault.POOL_EXHAUSTED:
            return pool_exhausted(node, read_only=read_only)
        case Fault.DISCONNECTED | Fault.UNREACHABLE:
            return DatabaseUnavailable(node.database, node.name, "the connection was lost")
        case Fault.READ_ONLY:
            return ReadOnlyNode(node.database, node.name) if read_only else NoPrimary(node.database)
        case _:
            return None


def pool_exhausted(node: SqlNode, *, read_only: bool) -> PoolExhausted:
    """Return the error for a caller for whom no connection to *node* became free in time."""
    pool, one = node.settings.pool, node.dialect.single_writer and not read_only
    if one:
        return PoolExhausted(node.database, 1, pool.acquire_timeout, ONE_WRITER)
    return PoolExhausted(node.database, pool.size + pool.max_overflow, pool.acquire_timeout)
