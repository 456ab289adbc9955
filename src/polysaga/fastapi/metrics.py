"""The route that Prometheus scrapes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Request, Response

from polysaga.telemetry.prometheus import Metrics

__all__ = ["metrics_routes"]


def metrics_routes(metrics: Metrics, *, path: str = "/metrics") -> APIRouter:
    """Return a router with `GET /metrics`; while the application runs, *metrics* also counts in the journal.

    Include it in the application that `install` wires. It shows names of sagas, steps and servers, and no data.
    Keep it inside of your network all the same. It is no part of the OpenAPI document.
    """

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with metrics.reading():
            yield

    router = APIRouter(lifespan=lifespan)

    @router.head(path, include_in_schema=False)
    @router.get(path, include_in_schema=False)
    async def scrape(request: Request) -> Response:
        body, content_type = metrics.exposition(request.headers.get("accept", ""))
        # As it is: Starlette would add a second charset.
        return Response(body, headers={"Content-Type": content_type})

    return router
