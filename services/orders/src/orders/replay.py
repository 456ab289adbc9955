"""Replay of a trace over HTTP, with a key per line: it can be interrupted and repeated.

A key is made of the content of the whole file and the number of the line. The same file repeats no order, whatever
its name. A file in which anything was changed is another trace, and all its rows are new orders.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from orders.client import OrderVerdict, Shop
from orders.schemas import Product
from orders.trace import Line, Trace
from polysaga.clock import Clock


@dataclass(slots=True)
class Tally:
    """The outcomes of the orders so far."""

    total: int
    confirmed: set[UUID] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    repeated: int = 0  # requests sent again after a lost or unfinished answer
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """Return how many orders have an outcome."""
        return len(self.confirmed) + self.refused.total() + self.failed.total()

    @property
    def rate(self) -> float:
        """Return orders per second."""
        return self.done / self.seconds if self.seconds else 0.0

    def as_data(self) -> dict[str, Any]:
        """Return the tally as JSON data."""
        return {
            "total": self.total,
            "confirmed": len(self.confirmed),
            "refused": self.refused.total(),
            "failed": self.failed.total(),
            "retried": self.repeated,
            "refusals": dict(self.refused),
            "failures": dict(self.failed),
            "seconds": round(self.seconds, 3),
            "per_second": round(self.rate, 1),
        }


class Replay:
    """One run of *trace* against *shop*, *concurrency* orders at a time and at most *rate* per second."""

    def __init__(
        self,
        shop: Shop,
        trace: Trace,
        *,
        concurrency: int = 8,
        rate: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._shop, self._trace, self._concurrency, self._rate = shop, trace, concurrency, rate
        self._clock = clock or Clock()

    async def stock(self) -> int:
        """Create the products of the trace that the shop lacks; return how many products the trace has."""
        prices = self._trace.prices()
        products = (
            Product(id=product_id, stock=stock, price=prices[product_id])
            for product_id, stock in self._trace.stock().items()
        )

        async def work() -> None:
            for product in products:
                await self._shop.put_if_absent(product)

        await self._side_by_side(work)
        return len(prices)

    async def run(self, watch: Callable[[Tally], None]) -> Tally:
        """Post every order, and call *watch* after each outcome."""
        tally = Tally(len(self._trace.lines))
        began, before = self._clock.monotonic(), self._shop.repeated
        numbered = enumerate(self._trace.lines)

        async def work() -> None:
            for position, line in numbered:
                if self._rate is not None:
                    await self._clock.sleep(began + position / self._rate - self._clock.monotonic())
                await self._post(line, tally)
                tally.repeated = self._shop.repeated - before
                tally.seconds = self._clock.monotonic() - began
                watch(tally)

        await self._side_by_side(work)
        return tally

    async def _post(self, line: Line, tally: Tally) -> None:
        outcome = await self._shop.order(line.order, f"trace:{self._trace.digest}:{line.number}")
        match outcome.verdict:
            case OrderVerdict.CONFIRMED:
                assert outcome.order_id is not None
                tally.confirmed.add(outcome.order_id)
            case OrderVerdict.REFUSED:
                tally.refused[outcome.reason] += 1
            case OrderVerdict.FAILED:
                tally.failed[outcome.reason] += 1

    async def _side_by_side(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
