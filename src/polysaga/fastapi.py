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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import MultipleResultsFound, NoResultFound, PendingRollbackError, SQLAlchemyError
from starlette.exceptions import HTTPException

from polysaga.config import Settings
from polysaga.databases import AnyHandle, Database, Databases, Fault
from polysaga.databases.dialects import fault_of
from polysaga.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    KeyReused,
    NeedsAttention,
    OutcomePending,
    PayloadError,
    PolysagaError,
    Refused,
    TryAgain,
    UnknownSaga,
)
from polysaga.events import Emit, ignore
from polysaga.migrations import migrate as migrate_tables
from polysaga.sagas import Sagas

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


def reader(database: Database[Any, SessionT]) -> Any:
    """Return a dependency that lends a session which only reads; see `Database.reader`."""

    async def lend() -> AsyncIterator[SessionT]:
        async with database.reader() as session:
            yield session

    return Depends(lend, scope="function")


def writer(database: Database[Any, SessionT]) -> Any:
    """Return a dependency that lends a session on the primary and commits before the response starts."""

    async def lend() -> AsyncIterator[SessionT]:
        async with database.writer() as session:
            yield session

    return Depends(lend, scope="function")


def auto(database: Database[Any, SessionT]) -> Any:
    """Return a dependency that reads for GET, HEAD, OPTIONS and QUERY, and writes for every other method."""

    async def lend(request: Request) -> AsyncIterator[SessionT]:
        lent: AbstractAsyncContextManager[SessionT] = (
            database.reader() if request.method in _READS else database.writer()
        )
        async with lent as session:
            yield session

    return Depends(lend, scope="function")


def install(
    app: FastAPI,
    databases: Databases,
    *,
    settings: Settings | Callable[[], Settings],
    sagas: Sagas | None = None,
    emit: Emit = ignore,
    migrate: bool = True,
    ready: Callable[[], Awaitable[None]] | None = None,
    refusals: Mapping[str, int] | None = None,
) -> None:
    """Wire *app*: databases and sagas open with it, errors become problems, `/health/*` answers.

    *settings* may be a function, called when the application starts. *migrate* brings our tables up to date at
    the start. *ready* runs when the databases are open, before any saga is driven: a place for the program's
    own tables. *refusals* gives the HTTP status of a `Refused` by its code; others are 409.
    """
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(running: FastAPI) -> AsyncIterator[Any]:
        known = settings() if callable(settings) else settings
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(databases.open(known, emit=emit))
            if migrate and sagas is not None:
                await migrate_tables(sagas, emit=emit)
            if ready is not None:
                await ready()
            if sagas is not None:
                await stack.enter_async_context(sagas.open(known.sagas, emit=emit))
            yield await stack.enter_async_context(inner(running))

    app.router.lifespan_context = lifespan
    app.include_router(_health(databases))
    _install_handlers(app, dict(refusals or {}))


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what `responses=` of a route needs to show these problems in the OpenAPI document."""
    return {
        status: {"model": Problem, "description": HTTPStatus(status).phrase, "content": {_MEDIA: {}}}
        for status in statuses
    }


def problem(
    status: int, detail: str, *, kind: str = "about:blank", title: str | None = None, **members: Any
) -> JSONResponse:
    """Return a response with problem details; *kind* is the stable name, *members* are added to the body."""
    named = kind if kind == "about:blank" else _ABOUT + kind
    body = {"type": named, "title": title or HTTPStatus(status).phrase, "status": status, "detail": detail}
    headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse({**body, **members}, status, headers, media_type=_MEDIA)


_MEDIA = "application/problem+json"


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
    return "ok"


def _install_handlers(app: FastAPI, refusals: Mapping[str, int]) -> None:
    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, PolysagaError)
        return _of_ours(error, refusals)

    async def drivers(_: Request, error: Exception) -> Response:
        return _of_drivers(error)

    app.add_exception_handler(PolysagaError, ours)
    app.add_exception_handler(SQLAlchemyError, drivers)
    if importlib.util.find_spec("pymongo") is not None:
        app.add_exception_handler(importlib.import_module("pymongo.errors").PyMongoError, drivers)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_anything)


def _of_ours(error: PolysagaError, refusals: Mapping[str, int]) -> Response:
    named = getattr(error, "saga_id", None)
    members = {} if named is None else {"saga_id": str(named)}
    match error:
        case Refused():
            facts = {name: value for name, value in error.facts.items() if name not in Problem.model_fields}
            title = error.code.replace("-", " ").capitalize()
            status = refusals.get(error.code, HTTPStatus.CONFLICT)
            return problem(status, str(error), kind=error.code, title=title, **{**facts, **members})
        case OutcomePending():
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), kind="outcome-pending", **members)
        case TryAgain():
            detail = "A database is busy or out of reach; nothing was changed. Please try again."
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, kind="try-again", **members)
        case KeyReused():
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), kind="key-reused")
        case PayloadError():
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), kind="payload")
        case UnknownSaga():
            return problem(HTTPStatus.NOT_FOUND, str(error), kind="unknown-saga", **members)
        case NeedsAttention():
            detail = "This needs a person, who has been told; it can be asked for by its id."
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail, kind="needs-attention", **members)
        case _:
            return _internal(members)


def _of_drivers(error: Exception) -> Response:
    if isinstance(error, NoResultFound):
        return problem(HTTPStatus.NOT_FOUND, "There is no such row.", kind="no-result")
    if isinstance(error, MultipleResultsFound):
        detail = "Several rows were found where one was expected; a unique constraint is missing."
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail, kind="multiple-results")
    if isinstance(error, PendingRollbackError):
        detail = "A session was used on after an error in its transaction; end the block at the first error."
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail, kind="pending-rollback")
    fault = fault_of(error)
    if fault is Fault.DUPLICATE_KEY:
        return problem(HTTPStatus.CONFLICT, "This exists already.", kind=fault.value)
    if fault is not None and fault.transient:
        detail = "The database could not do it just now; nothing was changed. Please try again."
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, kind=fault.value)
    return _internal({})


def _internal(members: Mapping[str, Any]) -> Response:
    detail = "Something went wrong inside the service; nothing was left half-done."
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail, kind="internal", **members)


async def _of_validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        {"field": ".".join(str(part) for part in one["loc"]), "message": str(one["msg"])} for one in error.errors()
    ]
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in found)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind="validation", errors=found)


async def _of_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = problem(error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _of_anything(_: Request, error: Exception) -> Response:
    return _internal({})
