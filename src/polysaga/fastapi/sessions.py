"""Dependencies that lend sessions, with FastAPI's function scope: they end before the response starts.

Equal calls return equal dependencies. So two parameters of one request with equal dependencies share a session,
and a test replaces the dependency by repeating the call:

    app.dependency_overrides[reader(orders)] = lambda: session

In a websocket a dependency's session lasts as long as the connection and ends with the handler's function. A
writer commits then, unless there was an error: it rolls back on `WebSocketDisconnect`, which is raised when the
client leaves. A long-lived handler opens its own sessions for each message (`docs/guides/http.md`).
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, cast

from fastapi import Depends, params
from starlette.requests import HTTPConnection

from polysaga.databases import Consistency, Database
from polysaga.databases.handles import check_reads
from polysaga.routing.scopes import current

SessionT = TypeVar("SessionT")

_READS = {"GET", "HEAD", "OPTIONS", "QUERY"}  # QUERY: RFC 10008, safe and with a body


def reader(
    database: Database[Any, SessionT],
    *,
    consistency: Consistency | None = None,
    max_lag: float | None = None,
    allow_stale: bool = False,
    snapshot: bool = False,
) -> Any:
    """Return a dependency that lends a session for reading only; see `Database.reader`.

    The same call is the same key of `app.dependency_overrides`. Raises `ConfigurationError` as that does.
    """
    check_reads(consistency, max_lag)
    return _ReaderDependency(
        database, consistency=consistency, max_lag=max_lag, allow_stale=allow_stale, snapshot=snapshot
    )


def writer(database: Database[Any, SessionT]) -> Any:
    """Return a dependency that lends a session on the primary and commits before the response starts.

    It holds a connection while the handler runs. A handler that also waits for a saga must not use it: the saga
    would wait in vain for a connection that its own caller holds. On SQLite there is one connection for all
    writers. Such a handler reads in a short block instead, `async with database.reader() as session`.

    The same call is the same key of `app.dependency_overrides`.
    """
    return _Writing(database)


def auto(database: Database[Any, SessionT], *, consistency: Consistency | None = None) -> Any:
    """Return a dependency that lends a reader for GET, HEAD, OPTIONS and QUERY, and a writer for all else.

    "All else" is every other method, and websockets, because their messages may be anything. The same call is the
    same key of `app.dependency_overrides`.
    """
    check_reads(consistency)
    return _Either(database, consistency=consistency)


def consistency(level: Consistency) -> Any:
    """Return a dependency that makes *level* the default consistency of the request's readers.

    For a route, a router or the application: `APIRouter(dependencies=[consistency("strong")])`. Raises
    `ConfigurationError` for a *level* that does not exist.
    """
    check_reads(level)

    async def ask() -> None:
        scope = current()
        if scope is not None:
            scope.consistency = level

    return Depends(ask)


class _Lending(params.Depends):
    """Both the dependency that FastAPI takes and the function it calls, so it is the key of its own override."""

    def __init__(self, database: Database[Any, Any], **wishes: Any) -> None:
        super().__init__(cast(Any, self), scope="function")
        # FastAPI's class is frozen.
        object.__setattr__(self, "_database", database)
        object.__setattr__(self, "_wishes", wishes)

    _database: Database[Any, Any]
    _wishes: dict[str, Any]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Lending)
            and type(other) is type(self)
            and (other._database, other._wishes) == (self._database, self._wishes)
        )

    def __hash__(self) -> int:
        return hash((type(self), self._database, *self._wishes.values()))

    def __repr__(self) -> str:
        wishes = "".join(f", {name}={value!r}" for name, value in self._wishes.items() if value)
        return f"{type(self).__name__.lstrip('_').lower()}({self._database.name}{wishes})"


class _ReaderDependency(_Lending):
    async def __call__(self) -> AsyncIterator[Any]:
        async with self._database.reader(**self._wishes) as session:
            yield session


class _Writing(_Lending):
    async def __call__(self) -> AsyncIterator[Any]:
        async with self._database.writer() as session:
            yield session


class _Either(_Lending):
    async def __call__(self, connection: HTTPConnection) -> AsyncIterator[Any]:
        reads = connection.scope.get("method") in _READS
        lent: AbstractAsyncContextManager[Any] = (
            self._database.reader(**self._wishes) if reads else self._database.writer()
        )
        async with lent as session:
            yield session
