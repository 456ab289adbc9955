"""A process that starts a saga, writes its spans to a file as they end, and stays inside a step.

python -m tests.integration.traced_process URLS FILE

Prints the id of the saga once the step is reached.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from polysaga import StepContext
from polysaga.telemetry.tracing import SagaTracing
from tests.fixtures.programs import PLACE_ORDER, Order, Program
from tests.fixtures.setups import MigratedUrls
from tests.fixtures.waiting import forever, until


class ToFile(SpanExporter):
    """Writes one line of JSON for each span, at once."""

    def __init__(self, path: Path) -> None:
        self._file, self.names = path.open("a"), list[str]()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self._file.write(span.to_json(indent=None) + "\n")
            self.names.append(span.name)
        self._file.flush()
        return SpanExportResult.SUCCESS


_BEFORE = 4  # the saga's and those of three steps


async def serve(urls: dict[str, str], path: Path) -> None:
    """Start a saga and stay inside its third step; say so when the spans before it are exported."""
    program, provider = Program(MigratedUrls(urls), PLACE_ORDER), TracerProvider()
    exporter = ToFile(path)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    program.tracing = SagaTracing(program.databases, provider=provider)

    async def stay(db: Any, ctx: StepContext) -> None:
        await until(lambda: len(exporter.names) == _BEFORE, "all spans but this step's are exported")
        sys.stdout.write(f"{ctx.saga_id}\n")
        sys.stdout.flush()
        await forever()

    program.on("confirm_order", stay)
    async with program.open(lease=1.0):
        await (await program.sagas.start(program.saga, Order())).result()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1]), Path(sys.argv[2])))
