"""Handles: the names a program uses for its databases, declared once, in code, as typed values.

A handle knows nothing until `Databases.open` attaches nodes to it. A database with replicas also gets its
`Routes`, which decide where each session goes; without replicas there is nothing to decide.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, get_args

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from polysaga.databases.lent_sessions import sql_session
from polysaga.databases.mongo_node import MongoNode, MongoSession
from polysaga.databases.opener import Opener, running
from polysaga.databases.sql_node import SqlNode
from polysaga.errors import ConfigurationError

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
# For programs that call `polysaga.fastapi.install`, and so never call `open` themselves.
WITH_THE_APPLICATION = (
    "; `install` opens it with the lifespan of its application: serve it without `--lifespan off`, test inside "
    "`with TestClient(app) as client`, and an application that mounts another one enters "
    "`mounted.router.lifespan_context(mounted)` in its own lifespan"
)
_IN_ITS_LOOP = (
    "use it in the loop that opened it (from another thread by asyncio.run_coroutine_threadsafe, beside a "
    "TestClient by portal.call) or open the databases anew in this one"
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
        self._opener: Opener | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def primary(self) -> NodeT:
        """The node that takes writes.

        Raises `ConfigurationError` while the databases are closed, and in another event loop than the one that
        opened them.
        """
        primary, loop = self._primary, running()
        if loop is not None:  # else for a look at the node only
            self._refuse_another_loop(loop)
        return primary

    @property
    def _primary(self) -> NodeT:
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
        self._opener = Opener.here() if nodes else None

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
        return self._in_its_loop(self._lend(self._primary, read_only=True, snapshot=snapshot))

    def writer(self) -> AbstractAsyncContextManager[SessionT]:
        """Lend a session on the primary; the end of the block commits (SQL).

        Raises `NoPrimary` if the database has replicas and no primary now, or no replicas and a server that only
        reads now, and `ConfigurationError` in another event loop than the one that opened the databases.
        """
        if self._routes is not None:
            return self._in_its_loop(self._routes.writer())
        return self._in_its_loop(self._lend(self._primary, read_only=False))

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
        loop = running()
        if loop is None and self._opener is not None:
            return self._checked_when_entered(lent)
        self._refuse_another_loop(loop)
        return lent

    @asynccontextmanager
    async def _checked_when_entered(self, lent: AbstractAsyncContextManager[SessionT]) -> AsyncIterator[SessionT]:
        self._refuse_another_loop(running())
        async with lent as session:
            yield session

    def _refuse_another_loop(self, asking: asyncio.AbstractEventLoop | None) -> None:
        if self._opener is not None:
            self._opener.refuse_another_loop(asking, f"database '{self.name}' was", _IN_ITS_LOOP)

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
