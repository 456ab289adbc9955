"""Handles: the names a program uses for its databases, declared once, in code, as typed values.

A handle knows nothing until `Databases.open` attaches nodes to it. Sessions always end clean: committed at
the end of a block that succeeded, rolled back after an error or a cancellation, and their connection returned.
"""

import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, TypeAlias, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from polysaga.databases.faults import Fault
from polysaga.databases.mongo import MongoNode, MongoSession
from polysaga.databases.pools import SqlNode
from polysaga.errors import ConfigurationError, DatabaseUnavailable, PoolExhausted, ReadOnlyNode

Node: TypeAlias = SqlNode | MongoNode
NodeT = TypeVar("NodeT", bound=Node)
SessionT = TypeVar("SessionT")


class Database(Generic[NodeT, SessionT]):
    """One named database: a primary and any number of replicas. Use one of the kinds below."""

    def __init__(self, name: str) -> None:
        if not name.isidentifier():
            raise ConfigurationError(f"'{name}' is not a name for a database: use letters, digits and _")
        self.name = name
        self._nodes: tuple[NodeT, ...] = ()
        self._reachable: tuple[NodeT, ...] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def primary(self) -> NodeT:
        """The node that takes writes; raises `ConfigurationError` while the databases are closed."""
        if not self._nodes:
            raise ConfigurationError(
                f"database '{self.name}' is not open: use it inside `async with databases.open(settings)`"
            )
        return self._nodes[0]

    @property
    def replicas(self) -> tuple[NodeT, ...]:
        """The other nodes, in the order of the settings."""
        return self._nodes[1:]

    def attach(self, nodes: tuple[NodeT, ...], reachable: tuple[NodeT, ...]) -> None:
        """Give the handle its nodes (the primary first); `Databases` calls this, nobody else."""
        self._nodes, self._reachable = nodes, reachable

    def reader(self) -> AbstractAsyncContextManager[SessionT]:
        """Lend a session that reads: from a reachable replica at random, or the primary if there is none.

        On SQL databases every statement is its own snapshot and the server refuses writes.
        """
        node = random.choice(self._reachable) if self._reachable else self.primary
        return self._lend(node, read_only=True)

    def writer(self) -> AbstractAsyncContextManager[SessionT]:
        """Lend a session on the primary; the end of the block commits (SQL)."""
        return self._lend(self.primary, read_only=False)

    def _lend(self, node: NodeT, *, read_only: bool) -> AbstractAsyncContextManager[SessionT]:
        raise NotImplementedError


class SqlDatabase(Database[SqlNode, AsyncSession]):
    """PostgreSQL, MySQL, MariaDB or SQLite; hands out SQLAlchemy's `AsyncSession`."""

    def _lend(self, node: SqlNode, *, read_only: bool) -> AbstractAsyncContextManager[AsyncSession]:
        return _sql_session(node, read_only=read_only)


class MongoDatabase(Database[MongoNode, MongoSession]):
    """MongoDB; hands out the driver's database with a session."""

    def _lend(self, node: MongoNode, *, read_only: bool) -> AbstractAsyncContextManager[MongoSession]:
        return node.session(read_only=read_only)


class AnyDatabase(Database[Node, AsyncSession | MongoSession]):
    """A database whose kind only its URL tells, for programs that run on either; ask the session what it is."""

    def _lend(
        self, node: Node, *, read_only: bool
    ) -> AbstractAsyncContextManager[AsyncSession] | AbstractAsyncContextManager[MongoSession]:
        if isinstance(node, MongoNode):
            return node.session(read_only=read_only)
        return _sql_session(node, read_only=read_only)


AnyHandle: TypeAlias = SqlDatabase | MongoDatabase | AnyDatabase


@asynccontextmanager
async def _sql_session(node: SqlNode, *, read_only: bool) -> AsyncIterator[AsyncSession]:
    engine: AsyncEngine = node.reader if read_only else node.writer
    try:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            yield session
            await session.commit()
    except (DBAPIError, PoolTimeout) as error:
        ours = _as_ours(node, error)
        if ours is None:
            raise
        raise ours from error


def _as_ours(node: SqlNode, error: DBAPIError | PoolTimeout) -> Exception | None:
    pool = node.settings.pool
    match node.dialect.fault(error):
        case Fault.POOL_EXHAUSTED:
            return PoolExhausted(node.database, pool.size + pool.max_overflow, pool.acquire_timeout)
        case Fault.DISCONNECTED | Fault.UNREACHABLE:
            return DatabaseUnavailable(node.database, node.name, "the connection was lost")
        case Fault.READ_ONLY:
            return ReadOnlyNode(node.database, node.name)
        case _:
            return None
