"""Dependencies that lend sessions, with FastAPI's function scope: they end before the response starts."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from fastapi import Depends, Request

from polysaga.databases import Consistency, Database
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
    """Return a dependency that lends a session which only reads; see `Database.reader`."""

    async def lend() -> AsyncIterator[SessionT]:
        async with database.reader(
            consistency=consistency, max_lag=max_lag, allow_stale=allow_stale, snapshot=snapshot
        ) as session:
            yield session

    return Depends(lend, scope="function")


def writer(database: Database[Any, SessionT]) -> Any:
    """Return a dependency that lends a session on the primary and commits before the response starts.

    It holds a connection while the handler runs. A handler that also waits for a saga reads in a short block of
    its own instead, `async with database.reader() as session`: a saga that needs the connection which its own
    caller holds would wait for it in vain; on SQLite there is one for all writers.
    """

    async def lend() -> AsyncIterator[SessionT]:
        async with database.writer() as session:
            yield session

    return Depends(lend, scope="function")


def auto(database: Database[Any, SessionT], *, consistency: Consistency | None = None) -> Any:
    """Return a dependency that reads for GET, HEAD, OPTIONS and QUERY, and writes for every other method."""

    async def lend(request: Request) -> AsyncIterator[SessionT]:
        reads = request.method in _READS
        lent: AbstractAsyncContextManager[SessionT] = (
            database.reader(consistency=consistency) if reads else database.writer()
        )
        async with lent as session:
            yield session

    return Depends(lend, scope="function")


def consistency(level: Consistency) -> Any:
    """Return a dependency that makes *level* what readers of the request get that do not ask for another.

    For a route, a router or the application: `APIRouter(dependencies=[consistency("strong")])`.
    """

    async def ask() -> None:
        scope = current()
        if scope is not None:
            scope.consistency = level

    return Depends(ask)
