"""The shop's saga while it is looked at: plainly, scraped for metrics each second, traced, or both.

The exporter of the traces takes batches of spans and drops them: what a program's own exporter costs is its own.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from prometheus_client import CollectorRegistry

from benchmarks import shop
from benchmarks.side import Places, Side, serve
from orders.databases import databases
from orders.place_order import place_order
from orders.sagas import sagas
from orders.schemas import PricedOrder
from polysaga.events import Events
from polysaga.telemetry.prometheus import Metrics
from polysaga.telemetry.tracing import SagaTracing

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
            "measured": partial(observed, measured=True),
            "traced": partial(observed, traced=1.0),
            "sampled": partial(observed, traced=0.01),
            "both": partial(observed, measured=True, traced=1.0),
        }
    )
