"""The shop's saga while it is looked at: plainly, scraped for metrics each second, traced, both, or by viewers.

The exporter of the traces takes batches of spans and drops them: what a program's own exporter costs is its own.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import uvicorn
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from benchmarks import shop
from benchmarks.side import Places, Side, serve
from orders.databases import databases
from orders.place_order import place_order
from orders.sagas import sagas
from orders.schemas import PricedOrder
from polysaga.dashboard import dashboard
from polysaga.events import Events
from polysaga.telemetry.prometheus import Metrics
from polysaga.telemetry.tracing import SagaTracing

_VIEWERS = 10
_SCRAPES = 1.0  # seconds between two


class Dropping(SpanExporter):
    """Drops all spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def tracing(share: float) -> SagaTracing:
    """Return the traces of *share* of all sagas."""
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)))
    provider.add_span_processor(BatchSpanProcessor(Dropping()))
    return SagaTracing(databases, provider=provider)


@asynccontextmanager
async def viewed(urls: Places) -> AsyncIterator[Side]:
    """Place orders by sagas while ten viewers, in a process of their own, have the dashboard's overview open."""
    async with observed(urls) as side:
        config = uvicorn.Config(shown(), host="127.0.0.1", port=0, log_level="error", lifespan="off")
        server = _Announced(config)
        serving = asyncio.create_task(server.serve())
        await server.up.wait()
        port = server.servers[0].sockets[0].getsockname()[1]
        viewers = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.viewers", str(port), str(_VIEWERS), stdout=asyncio.subprocess.PIPE
        )
        assert viewers.stdout is not None
        await viewers.stdout.readline()  # all have their page
        try:
            yield side
        finally:
            viewers.terminate()
            await viewers.wait()
            server.should_exit = server.force_exit = True
            await serving


class _Announced(uvicorn.Server):
    """Sets an event when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


def shown() -> Starlette:
    """Return an application with the dashboard."""
    app = Starlette()
    app.mount("/dashboard", dashboard(sagas, databases))
    return app


@asynccontextmanager
async def observed(urls: Places, *, measured: bool = False, traced: float | None = None) -> AsyncIterator[Side]:
    """Place orders by sagas; *measured*: with metrics, *traced*: this share of them."""
    under_way = shop.UnderWay()
    metrics = Metrics(databases, sagas, registry=CollectorRegistry()) if measured else None
    emit = under_way if metrics is None else Events(under_way, metrics)

    async def order(value: PricedOrder) -> None:
        handle = await sagas.start(place_order, value)
        under_way.started.add(handle.id)
        await handle.result()

    async def scrape() -> None:
        assert metrics is not None
        async with metrics.reading():
            while True:
                metrics.exposition()
                await asyncio.sleep(_SCRAPES)

    opened = sagas.open(emit=emit, tracing=None if traced is None else tracing(traced))
    async with databases.open(shop.settings(urls)), opened:
        scraping = None if metrics is None else asyncio.create_task(scrape())
        await under_way.tick()
        yield shop._side(order, rest=under_way.rest, quiet=under_way.tick)
        if scraping is not None:
            scraping.cancel()
            await asyncio.wait([scraping])


if __name__ == "__main__":
    serve(
        {
            "alone": observed,
            "viewed": viewed,
            "measured": partial(observed, measured=True),
            "traced": partial(observed, traced=1.0),
            "sampled": partial(observed, traced=0.01),
            "both": partial(observed, measured=True, traced=1.0),
        }
    )
