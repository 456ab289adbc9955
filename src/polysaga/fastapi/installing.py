"""One call that wires an application: databases, sagas, bookmarks, problems, health."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from sqlalchemy.exc import SQLAlchemyError

from polysaga.asgi import BookmarkMiddleware
from polysaga.config import Settings
from polysaga.databases import AnyHandle
from polysaga.errors import (
    ConfigurationError,
    DatabaseUnavailable,
)
from polysaga.events import Emit
from polysaga.fastapi.problems import install_handlers
from polysaga.fastapi.signals import heard
from polysaga.migrations import migrate as migrate_tables
from polysaga.routing import Databases
from polysaga.sagas import Sagas
from polysaga.telemetry.logs import LogSubscriber


def install(
    app: FastAPI,
    databases: Databases,
    *,
    settings: Settings | Callable[[], Settings] | None = None,
    sagas: Sagas | None = None,
    emit: Emit | None = None,
    migrate: bool = True,
    ready: Callable[[], Awaitable[None]] | None = None,
    refusals: Mapping[str, int] | None = None,
) -> None:
    """Wire *app*: databases and sagas open with it, errors become problems, `/health/*` answers,
    and what a client wrote it reads (`polysaga.asgi`).

    When the process is asked to end (SIGTERM), `sagas.drain` begins at once: callers that wait for a saga have
    an answer before it is over, so the server need not wait for them any longer.

    *settings* may be a function, called when the application starts; without them those of *databases* hold. The
    command line uses the same ones: `polysaga check MODULE:app`. *migrate* brings our tables up to date at the
    start. *ready* runs when the databases are open, before any saga is driven: a place for the program's own
    tables. *emit* gets every event; without it they are logged (`telemetry.logs`). *refusals* gives the HTTP
    status of a `Refused` by its code; others are 409.
    """
    if settings is not None:
        databases.configure(settings)
    app.state.polysaga = sagas  # where the command line finds them
    inner = app.router.lifespan_context
    told = emit or LogSubscriber()

    @asynccontextmanager
    async def lifespan(running: FastAPI) -> AsyncIterator[Any]:
        known = settings() if callable(settings) else settings or databases.settings()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(databases.open(known, emit=told))
            databases.check_secret()
            if migrate and sagas is not None:
                await migrate_tables(sagas, emit=told)
            if ready is not None:
                await ready()
            if sagas is not None:
                await stack.enter_async_context(sagas.open(known.sagas, emit=told))
                stack.enter_context(heard(sagas.wind_down))
            yield await stack.enter_async_context(inner(running))

    app.router.lifespan_context = lifespan
    app.add_middleware(BookmarkMiddleware, databases=databases)
    app.include_router(_health(databases))
    install_handlers(app, dict(refusals or {}))


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
