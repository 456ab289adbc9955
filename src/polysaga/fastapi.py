"""Polysaga in a FastAPI application: sessions as dependencies, one call for everything else.

    OrdersRead = Annotated[AsyncSession, reader(orders)]
    OrdersWrite = Annotated[AsyncSession, writer(orders)]
    app = FastAPI()
    install(app, databases, sagas=sagas, settings=load_settings)

The dependencies have FastAPI's function scope: their transaction ends before the response starts, so a commit
that fails is never a 200 (`docs/decisions/0001-dependencies-commit-before-the-response.md`). Streams outlive
them and open short sessions of their own with `orders.reader()`.

Errors become problem details (RFC 9457) with a stable `type`, a status, and a sentence that says what to do;
internals and SQL stay in the process.
"""

import asyncio
import importlib
import importlib.util
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python
from sqlalchemy.exc import MultipleResultsFound, NoResultFound, PendingRollbackError, SQLAlchemyError
from starlette.exceptions import HTTPException

from polysaga.asgi import BookmarkMiddleware
from polysaga.config import Settings
from polysaga.databases import AnyHandle, Consistency, Database, Fault
from polysaga.databases.dialects import fault_of
from polysaga.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    DeadlineExceeded,
    KeyReused,
    NeedsAttention,
    OutcomePending,
    PayloadError,
    PolysagaError,
    Refused,
    SagaCancelled,
    SagaUndone,
    TooLate,
    TryAgain,
    UnknownSaga,
    WriteOnReader,
    WrongStatus,
)
from polysaga.events import Emit
from polysaga.migrations import migrate as migrate_tables
from polysaga.routing import Databases
from polysaga.routing.scopes import current
from polysaga.sagas import Sagas
from polysaga.telemetry.logs import LogSubscriber

SessionT = TypeVar("SessionT")

_READS = {"GET", "HEAD", "OPTIONS", "QUERY"}  # QUERY: RFC 10008, safe and with a body
_ABOUT = "urn:polysaga:problem:"


class Problem(BaseModel):
    """An error as RFC 9457 wants it; more members may follow, such as `saga_id`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str  # the path that was asked for


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


def install(
    app: FastAPI,
    databases: Databases,
    *,
    settings: Settings | Callable[[], Settings],
    sagas: Sagas | None = None,
    emit: Emit | None = None,
    migrate: bool = True,
    ready: Callable[[], Awaitable[None]] | None = None,
    refusals: Mapping[str, int] | None = None,
) -> None:
    """Wire *app*: databases and sagas open with it, errors become problems, `/health/*` answers,
    and what a client wrote it reads (`polysaga.asgi`).

    *settings* may be a function, called when the application starts. *migrate* brings our tables up to date at
    the start. *ready* runs when the databases are open, before any saga is driven: a place for the program's
    own tables. *emit* gets every event; without it they are logged (`telemetry.logs`). *refusals* gives the
    HTTP status of a `Refused` by its code; others are 409.
    """
    inner = app.router.lifespan_context
    told = emit or LogSubscriber()

    @asynccontextmanager
    async def lifespan(running: FastAPI) -> AsyncIterator[Any]:
        known = settings() if callable(settings) else settings
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(databases.open(known, emit=told))
            databases.check_secret()
            if migrate and sagas is not None:
                await migrate_tables(sagas, emit=told)
            if ready is not None:
                await ready()
            if sagas is not None:
                await stack.enter_async_context(sagas.open(known.sagas, emit=told))
            yield await stack.enter_async_context(inner(running))

    app.router.lifespan_context = lifespan
    app.add_middleware(BookmarkMiddleware, databases=databases)
    app.include_router(_health(databases))
    _install_handlers(app, dict(refusals or {}))


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what `responses=` of a route needs to show these problems in the OpenAPI document."""
    return {
        status: {"model": Problem, "description": HTTPStatus(status).phrase, "content": {_MEDIA: {}}}
        for status in statuses
    }


def problem(
    request: Request,
    status: int,
    detail: str,
    *,
    kind: str = "about:blank",
    members: Mapping[str, Any] | None = None,
    retry_after: float = 1.0,
) -> Response:
    """Return a response with problem details; *kind* is the stable name, *members* are added to the body.

    *retry_after* is in seconds and goes out with 503.
    """
    if status < HTTPStatus.OK or status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        return Response(status_code=status)
    blank = kind == "about:blank"
    body = {
        **(members or {}),
        "type": kind if blank else _ABOUT + kind,
        "title": _phrase(status) if blank else kind.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "instance": request.url.path,
    }
    headers = {"Retry-After": f"{retry_after:.0f}"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse(to_jsonable_python(body, fallback=str), status, headers, media_type=_MEDIA)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"


_MEDIA = "application/problem+json"
_log = logging.getLogger("polysaga")
_AGAIN = "A database is busy or out of reach. Please try again."
_INTERNAL = "Something went wrong inside the service; nothing was left half-done."


def _health(databases: Databases) -> APIRouter:
    router = APIRouter(prefix="/health", tags=["operations"])

    @router.get("/live", summary="Is the process alive?")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/ready", summary="Do all primaries answer?")
    async def ready(response: Response) -> dict[str, Any]:
        handles = list(databases)
        answers = await asyncio.gather(*(_answer(handle) for handle in handles))
        fine = all(answer == "ok" for answer in answers)
        response.status_code = HTTPStatus.OK if fine else HTTPStatus.SERVICE_UNAVAILABLE
        found = {handle.name: answer for handle, answer in zip(handles, answers, strict=True)}
        return {"status": "ready" if fine else "not ready", "databases": found}

    return router


async def _answer(handle: AnyHandle) -> str:
    try:
        await handle.primary.ping()
    except (DatabaseUnavailable, ConfigurationError):
        return "unreachable"
    except SQLAlchemyError:  # the pool's timeout among them
        return "busy"
    return "ok"


def _install_handlers(app: FastAPI, refusals: Mapping[str, int]) -> None:
    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, PolysagaError)
        return _of_ours(request, error, refusals)

    app.add_exception_handler(PolysagaError, ours)
    app.add_exception_handler(SQLAlchemyError, _of_drivers)
    if importlib.util.find_spec("pymongo") is not None:
        app.add_exception_handler(importlib.import_module("pymongo.errors").PyMongoError, _of_drivers)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_anything)


def _of_ours(request: Request, error: PolysagaError, refusals: Mapping[str, int]) -> Response:
    named = getattr(error, "saga_id", None)
    saga = {} if named is None else {"saga_id": str(named)}
    answer = partial(problem, request)
    match error:
        case Refused():
            status = refusals.get(error.code, HTTPStatus.CONFLICT)
            return answer(status, str(error), kind=error.code, members={**error.facts, **saga})
        case OutcomePending():
            detail = "The outcome is not known yet; ask again by the id or with the same key."
            return answer(HTTPStatus.SERVICE_UNAVAILABLE, detail, kind="outcome-pending", members=saga)
        case SagaCancelled():
            return answer(HTTPStatus.CONFLICT, "This was cancelled and undone.", kind="cancelled", members=saga)
        case DeadlineExceeded():
            detail = "This was not decided in time and undone. Please try again, with a new key."
            return answer(HTTPStatus.SERVICE_UNAVAILABLE, detail, kind="deadline-exceeded", members=saga)
        case SagaUndone():
            detail = "A database kept failing and everything was undone. Please try again, with a new key."
            return answer(HTTPStatus.SERVICE_UNAVAILABLE, detail, kind="saga-undone", members=saga)
        case TryAgain():
            return answer(
                HTTPStatus.SERVICE_UNAVAILABLE,
                _AGAIN,
                kind="try-again",
                members=saga,
                retry_after=error.retry_after,
            )
        case KeyReused():
            detail = "This key was used for another request; use a new key for a new request."
            return answer(HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind="key-reused")
        case PayloadError():
            return answer(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), kind="payload")
        case TooLate() | WrongStatus():
            kind = "too-late" if isinstance(error, TooLate) else "wrong-status"
            return answer(HTTPStatus.CONFLICT, str(error), kind=kind, members=saga)
        case UnknownSaga():
            return answer(HTTPStatus.NOT_FOUND, str(error), kind="unknown-saga", members=saga)
        case NeedsAttention():
            detail = "This needs a person, who has been told; it can be asked for by its id."
            return answer(HTTPStatus.INTERNAL_SERVER_ERROR, detail, kind="needs-attention", members=saga)
        case WriteOnReader():
            error.endpoint = f"{request.method} {getattr(request.scope.get('route'), 'path', request.url.path)}"
            return _internal(request, error)
        case _:
            return _internal(request, error, saga)


async def _of_drivers(request: Request, error: Exception) -> Response:
    fault = fault_of(error)
    if isinstance(error, NoResultFound):
        return problem(request, HTTPStatus.NOT_FOUND, "There is no such row.", kind="no-result")
    if isinstance(error, MultipleResultsFound):
        detail = "Several rows were found where one was expected; a unique constraint is missing."
        return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, detail, kind="multiple-results")
    if isinstance(error, PendingRollbackError):
        detail = "A session was used on after an error in its transaction; end the block at the first error."
        return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, detail, kind="pending-rollback")
    if fault is Fault.DUPLICATE_KEY:
        return problem(request, HTTPStatus.CONFLICT, "This exists already.", kind=fault.value)
    if fault is not None and fault.transient:
        return problem(request, HTTPStatus.SERVICE_UNAVAILABLE, _AGAIN, kind=fault.value)
    return _internal(request, error)


def _internal(request: Request, error: Exception, members: Mapping[str, Any] | None = None) -> Response:
    # The client learns nothing of the cause, so the log must have it.
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, _INTERNAL, kind="internal", members=members)


async def _of_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        {
            "field": ".".join(str(part) for part in one["loc"]),
            "message": str(one["msg"]).removeprefix("Value error, "),
        }
        for one in error.errors()
    ]
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in found)
    return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind="validation", members={"errors": found})


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = problem(request, error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _of_anything(request: Request, error: Exception) -> Response:
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, _INTERNAL, kind="internal")
