"""The shop of `services/orders` on real servers, its saga run by Polysaga and by the plain coordinator.

Both send the same SQL to the same databases: orders and inventory on PostgreSQL, points on MariaDB. The plain
side has engines of its own, with SQLAlchemy's defaults and pools of the same size.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.plain import PlainCoordinator
from orders.databases import databases
from orders.place_order import place_order
from orders.sagas import sagas
from orders.schemas import PricedOrder
from orders.tables import create_tables, product_table
from polysaga.config import parse_settings
from polysaga.databases import SqlNode
from polysaga.events import Event, SagaFinished, WorkerTicked
from polysaga.migrations import migrate

POOL = {"size": 16, "max_overflow": 16}  # as many as there are customers, so that nobody connects anew
_PRODUCTS, _USERS = 1_000, 10_000  # enough that no two orders wait for each other's row
_STOCK = 1_000_000_000
_PRICE = Decimal("2.55")


@dataclass(frozen=True, slots=True)
class Shop:
    """One place to order at, and how many orders it takes until everything behind them is written."""

    order: Any  # an async function of a PricedOrder
    rest: Any  # an async function: return when nothing is under way behind a reply


def some_order() -> PricedOrder:
    """Return an order that somebody might place."""
    product, user = random.randrange(_PRODUCTS), random.randrange(_USERS)
    return PricedOrder(user_id=user + 1, product_id=f"p{product}", quantity=1, unit_price=_PRICE)


async def fill(urls: dict[str, str]) -> None:
    """Create all tables in empty databases, and the products."""
    async with databases.open(_settings(urls)):
        await create_tables()
        await migrate(sagas)
        node = next(handle.primary for handle in databases if handle.name == "inventory")
        assert isinstance(node, SqlNode)
        rows = [
            {"id": f"p{number}", "stock": _STOCK, "stocked": _STOCK, "price": _PRICE}
            for number in range(_PRODUCTS)
        ]
        async with node.writer.begin() as connection:
            await connection.execute(insert(product_table), rows)


@asynccontextmanager
async def ours(urls: dict[str, str]) -> AsyncIterator[Shop]:
    """Place orders by sagas that survive any crash."""
    under_way = _UnderWay()

    async def order(value: PricedOrder) -> None:
        handle = await sagas.start(place_order, value)
        under_way.started.add(handle.id)
        await handle.result()

    async with databases.open(_settings(urls)), sagas.open(emit=under_way):
        await under_way.ticked.wait()  # from now on the worker leaves the measurements alone for a while
        yield Shop(order, under_way.rest)


@asynccontextmanager
async def plain(urls: dict[str, str]) -> AsyncIterator[Shop]:
    """Place orders as one would by hand."""
    async with AsyncExitStack() as stack:
        engines = {}
        for name, url in urls.items():
            engines[name] = create_async_engine(url, pool_size=POOL["size"], max_overflow=POOL["max_overflow"])
            stack.push_async_callback(engines[name].dispose)
        yield Shop(PlainCoordinator(place_order, engines).run, _at_once)


class _UnderWay:
    """Sagas that were started here and are not finished yet."""

    def __init__(self) -> None:
        self.started: set[UUID] = set()
        self.ticked = asyncio.Event()
        self._finished: set[UUID] = set()
        self._more = asyncio.Event()

    def __call__(self, event: Event) -> None:
        if isinstance(event, SagaFinished):
            self._finished.add(event.saga_id)
            self._more.set()
        elif isinstance(event, WorkerTicked):
            self.ticked.set()

    async def rest(self) -> None:
        while not self.started <= self._finished:
            self._more.clear()
            await self._more.wait()
        self.started.clear()
        self._finished.clear()


async def _at_once() -> None:
    """Return: nothing is written behind a plain reply."""


def _settings(urls: dict[str, str]) -> Any:
    return parse_settings({"databases": {name: {"url": url, "pool": POOL} for name, url in urls.items()}})
