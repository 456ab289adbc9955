"""The shop of `services/orders` on real servers: its saga run by Polysaga and by the plain coordinator.

All send the same SQL to the same databases. Orders are on PostgreSQL, points on MariaDB; the inventory is on
PostgreSQL too, or on MongoDB. The plain sides have engines of their own, with SQLAlchemy's defaults and pools of
the same size.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

from pymongo import AsyncMongoClient, WriteConcern
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from benchmarks.plain import PlainCoordinator, Transaction
from benchmarks.process import Recipe
from benchmarks.side import Opening, Places, Side, at_once, serve
from devservers import MARIADB, MONGO, POSTGRES
from orders.databases import databases
from orders.errors import OutOfStock
from orders.place_order import place_order
from orders.sagas import sagas
from orders.schemas import PricedOrder
from orders.tables import create_tables, product_table, to_cents
from polysaga.config import Settings, parse_settings
from polysaga.databases import MongoNode, MongoSession, SqlNode
from polysaga.events import Event, SagaFinished, WorkerTicked
from polysaga.migrations import migrate

ON_SQL = {"orders": POSTGRES, "inventory": POSTGRES, "points": MARIADB}
WITH_MONGO = ON_SQL | {"inventory": MONGO}
# More than the 64 callers of the widest burst, and none of them closed after use: nothing connects anew.
POOL = {"size": 80, "max_overflow": 0}
_CONNECT_TIMEOUT = 30.0  # seconds: all sides come up at the same time
_PRODUCTS, _USERS = 1_000, 10_000  # enough that no two orders wait for each other's row
_STOCK = 1_000_000_000
_PRICE = Decimal("2.55")
_SOLD_OUT = "sold-out"

Order: TypeAlias = Callable[[PricedOrder], Awaitable[Any]]
Waiting: TypeAlias = Callable[[], Awaitable[None]]


def recipe(kind: str, places: Places) -> Recipe:
    """Return how to start a side of `_KINDS`; `plain` runs one step after the other."""
    return Recipe("benchmarks.shop", kind, places)


def some_order(*, refused: bool = False) -> PricedOrder:
    """Return an order that a customer might place; a *refused* one is for a product that is sold out."""
    product = _SOLD_OUT if refused else f"p{random.randrange(_PRODUCTS)}"
    return PricedOrder(user_id=random.randrange(_USERS) + 1, product_id=product, quantity=1, unit_price=_PRICE)


async def fill(urls: Places) -> None:
    """Create all tables in empty databases, and the products."""
    async with databases.open(settings(urls)):
        await create_tables()
        await migrate(sagas)
        node = next(handle.primary for handle in databases if handle.name == "inventory")
        stocks = {f"p{number}": _STOCK for number in range(_PRODUCTS)} | {_SOLD_OUT: 0}
        if isinstance(node, MongoNode):
            rows = [
                {"_id": name, "stock": stock, "stocked": stock, "price": to_cents(_PRICE)}
                for name, stock in stocks.items()
            ]
            await node.documents[product_table.name].insert_many(rows)
            return
        assert isinstance(node, SqlNode)
        rows = [{"id": name, "stock": stock, "stocked": stock, "price": _PRICE} for name, stock in stocks.items()]
        async with node.writer.begin() as connection:
            await connection.execute(insert(product_table), rows)


@asynccontextmanager
async def ours(urls: Places, *, on_connections: bool = False) -> AsyncIterator[Side]:
    """Place orders by sagas that survive any crash; *on_connections* as if each step were annotated so."""
    for step in place_order.steps:
        step.bare = on_connections
    under_way = UnderWay()

    async def order(value: PricedOrder) -> None:
        handle = await sagas.start(place_order, value)
        under_way.started.add(handle.id)
        await handle.result()

    async with databases.open(settings(urls)), sagas.open(emit=under_way):
        await under_way.tick()  # from now on the worker leaves the measurements alone for a while
        yield _side(order, rest=under_way.rest, quiet=under_way.tick)


@asynccontextmanager
async def plain(urls: Places, *, side_by_side: bool = False, on_connections: bool = False) -> AsyncIterator[Side]:
    """Place orders as one would by hand, in sessions or *on_connections*."""
    async with transactions(urls, on_connections=on_connections) as found:
        coordinator = PlainCoordinator(place_order, found, side_by_side=side_by_side)
        yield _side(coordinator.run)


@asynccontextmanager
async def transactions(urls: Places, *, on_connections: bool = False) -> AsyncIterator[dict[str, Transaction]]:
    """Lend plain sessions, or connections, for every database, with pools of the size that our side has."""
    async with AsyncExitStack() as stack:
        found: dict[str, Transaction] = {}
        for name, url in urls.items():
            if url.startswith("mongodb"):
                client = await stack.enter_async_context(AsyncMongoClient[dict[str, Any]](url))
                found[name] = _on_mongo(client)
            else:
                engine = create_async_engine(url, pool_size=POOL["size"], max_overflow=POOL["max_overflow"])
                stack.push_async_callback(engine.dispose)
                sessions = async_sessionmaker(engine, expire_on_commit=False)
                found[name] = engine.begin if on_connections else sessions.begin
        yield found


def settings(urls: Places) -> Settings:
    """Return the settings of our side."""
    places = {
        name: {"url": url, "pool": {"connect_timeout": _CONNECT_TIMEOUT} | ({} if "mongodb" in url[:7] else POOL)}
        for name, url in urls.items()
    }
    return parse_settings({"databases": places})


class UnderWay:
    """An `emit` that knows which of the sagas started here are not finished, and when the worker has ticked."""

    def __init__(self) -> None:
        self.started: set[UUID] = set()
        self._finished: set[UUID] = set()
        self._more, self._ticked = asyncio.Event(), asyncio.Event()

    def __call__(self, event: Event) -> None:
        if isinstance(event, SagaFinished):
            self._finished.add(event.saga_id)
            self._more.set()
        elif isinstance(event, WorkerTicked):
            self._ticked.set()

    async def rest(self) -> None:
        """Return when all sagas that were started are finished."""
        while not self.started <= self._finished:
            self._more.clear()
            await self._more.wait()
        self.started.clear()
        self._finished.clear()

    async def tick(self) -> None:
        """Return when the worker has just done a round."""
        self._ticked.clear()
        await self._ticked.wait()


def _side(order: Order, rest: Waiting = at_once, quiet: Waiting = at_once) -> Side:
    async def once() -> None:
        await order(some_order())

    async def refused() -> None:
        try:
            await order(some_order(refused=True))
        except OutOfStock:
            return
        raise AssertionError("an order for a product that is sold out was confirmed")

    return Side(once, refused, rest, quiet)


def _on_mongo(client: AsyncMongoClient[dict[str, Any]]) -> Transaction:
    database = client.get_default_database()

    @asynccontextmanager
    async def begin() -> AsyncIterator[MongoSession]:
        async with (
            client.start_session() as session,
            await session.start_transaction(write_concern=WriteConcern("majority")),
            session.bind(end_session=False),
        ):
            yield MongoSession(database, session)

    return begin


_KINDS: Mapping[str, Opening] = {
    "ours": ours,
    "plain": plain,
    "side-by-side": lambda urls: plain(urls, side_by_side=True),
    "ours-on-connections": lambda urls: ours(urls, on_connections=True),
    "plain-on-connections": lambda urls: plain(urls, on_connections=True),
}

if __name__ == "__main__":
    serve(_KINDS)
