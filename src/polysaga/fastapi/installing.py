"""One call that wires an application: databases, sagas, bookmarks, problems, health."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import BaseModel
from starlette.middleware import Middleware

from polysaga.asgi import BookmarkMiddleware
from polysaga.config import Settings
from polysaga.events import Emit
from polysaga.fastapi.aborted_starts import RefuseAfterAbort, StartAborted
from polysaga.fastapi.body_limit import BodyLimit, Ungrouped
from polysaga.fastapi.handlers import install_handlers
from polysaga.fastapi.openapi import describe, problems
from polysaga.fastapi.problems import problem
from polysaga.limits import ASKED_TO_END, unless
from polysaga.migrations import migrate as migrate_tables
from polysaga.routing import Databases
from polysaga.routing.health import State, states_of
from polysaga.sagas import Sagas
from polysaga.sagas.driving.tracing import Tracing
from polysaga.signals import heard
from polysaga.telemetry import LogSubscriber


def install(
    app: FastAPI,
    databases: Databases,
    *,
    settings: Settings | Callable[[], Settings] | None = None,
    sagas: Sagas | None = None,
    emit: Emit | None = None,
    tracing: Tracing | None = None,
    migrate: bool = True,
    ready: Callable[[], Awaitable[None]] | None = None,
    refusals: Mapping[str, int] | None = None,
    max_body: int | None = 1024 * 1024,  # bytes
) -> None:
    """Wire *app*: databases and sagas open with it, errors become problems, clients read what they wrote.

    It adds the routes `/health/*`. `polysaga.asgi` carries bookmarks from one request of a client to the next.

    When the process receives SIGTERM or SIGINT, `sagas.drain` begins at once. Callers that wait for a saga get an
    answer before the drain ends, so the server need not wait longer for them. A start in progress is cancelled:
    then the application has nothing open, and answers 503 until the server ends.

    *settings* may be a function, which is called when the application starts. Without *settings*, those of
    *databases* apply. The command line uses the same settings: `polysaga check MODULE:app`. *migrate* brings our
    tables up to date at the start. *ready* runs when the databases are open, before any saga is driven; create the
    program's own tables there. *emit* receives every event; without it, events are logged (`telemetry.logs`).
    *tracing* follows sagas as traces: `polysaga.telemetry.tracing.SagaTracing(databases)`.
    *refusals* gives the HTTP status of a `Refused` by its code; the default is 409.

    A request with more than *max_body* bytes is refused while it arrives (413); the default is four times the
    default `sagas.payload_limit`. `FastAPI(max_body_size=...)` and a route's `max_body_size` win. None: no limit.

    The application's own error handlers stay, whether registered before this call or after it.
    """
    if settings is not None:
        databases.configure(settings)
    app.state.polysaga = sagas  # the command line looks here
    inner = app.router.lifespan_context
    told = emit or LogSubscriber()

    async def begin(known: Settings, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(databases.open(known, emit=told))
        databases.check_secret()
        if migrate and sagas is not None:
            await migrate_tables(sagas, emit=told, may_be_ahead=True)
        if ready is not None:
            await ready()
        if sagas is not None:
            await stack.enter_async_context(sagas.open(known.sagas, emit=told, tracing=tracing))

    async def start(running: FastAPI, stack: AsyncExitStack, asked: asyncio.Event) -> Any:
        known = settings() if callable(settings) else settings or databases.settings()
        await unless(asked, begin(known, stack))
        if asked.is_set():  # just when our start had ended
            raise asyncio.CancelledError(ASKED_TO_END)
        if sagas is not None:
            stack.enter_context(heard(sagas.wind_down))
        starting = asyncio.current_task()
        assert starting is not None
        with heard(partial(aborted.cancel, starting)):
            return await stack.enter_async_context(inner(running))

    aborted = StartAborted()

    @asynccontextmanager
    async def lifespan(running: FastAPI) -> AsyncIterator[Any]:
        aborted.begin()
        asked = asyncio.Event()
        async with AsyncExitStack() as stack:
            stack.enter_context(heard(asked.set))
            try:
                theirs = await start(running, stack, asked)
            except BaseException:
                if asked.is_set():
                    aborted.note()
                raise
            yield theirs

    app.router.lifespan_context = lifespan
    app.add_middleware(BookmarkMiddleware, databases=databases)
    if max_body is not None:
        app.add_middleware(BodyLimit, limit=max_body)
        app.user_middleware.append(Middleware(Ungrouped))  # innermost
    app.add_middleware(RefuseAfterAbort, aborted=aborted)
    app.include_router(_health(databases))
    validation = install_handlers(app, dict(refusals or {}))
    describe(app, validation=validation, limited=max_body is not None)


def _health(databases: Databases) -> APIRouter:
    router = APIRouter(prefix="/health", tags=["operations"])

    # Monitors send HEAD, which FastAPI does not answer for a GET route.
    @router.head("/live", include_in_schema=False)
    @router.get("/live", summary="Is the process alive?", operation_id="health_live")
    async def live() -> Liveness:
        return Liveness()

    @router.head("/ready", response_model=None, include_in_schema=False)
    @router.get(
        "/ready",
        summary="Do all primaries answer?",
        operation_id="health_ready",
        response_model=Readiness,
        responses=problems(503),
    )
    async def ready(request: Request) -> Readiness | Response:
        found = await states_of(databases)
        if all(answer == "ok" for answer in found.values()):
            return Readiness(databases=found)
        detail = ", ".join(f"database '{name}' is {answer}" for name, answer in found.items() if answer != "ok")
        status, members = HTTPStatus.SERVICE_UNAVAILABLE, {"databases": found}
        return problem(request, status, detail, kind="not-ready", members=members, retry_after=1.0)

    return router


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """All databases answer; if one does not, there is a problem with the same `databases`."""

    status: Literal["ready"] = "ready"
    databases: dict[str, State]
