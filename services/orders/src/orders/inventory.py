"""Stock and customers' events, on SQL or on MongoDB: the same methods for both stores.

`stocked` counts all pieces ever put on the shelf, so `stocked - stock` is what customers hold. Every change of a
product is one conditional update: no two orders can take the same piece, and no reader sees half a change.
"""

from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from pymongo.errors import DuplicateKeyError
from sqlalchemy import ColumnElement, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from orders.errors import OutOfStock, UnknownProduct
from orders.schemas import EventType, Product, UserEvent
from orders.tables import changed_one, from_cents, to_cents
from orders.tables import event_table as events
from orders.tables import product_table as products
from polysaga import MongoSession

Session: TypeAlias = AsyncSession | MongoSession


@dataclass(frozen=True, slots=True)
class Shelf:
    """A product in the reconciliation: its current stock, and all pieces ever put on the shelf."""

    stock: int
    stocked: int


class SqlInventory:
    """The inventory in an SQL database."""

    def __init__(self, session: AsyncSession) -> None:
        self._db = session

    async def product(self, product_id: str) -> Product:
        """Return the product; raise `UnknownProduct`."""
        found = select(products.c.stock, products.c.price).where(products.c.id == product_id)
        row = (await self._db.execute(found)).first()
        if row is None:
            raise UnknownProduct(product_id)
        return Product(id=product_id, stock=row.stock, price=row.price)

    async def put(self, product: Product) -> bool:
        """Set stock and price; return whether the product is new."""
        # MySQL evaluates assignments from left to right: `stocked` must come first, to use the old stock.
        setting = (
            update(products)
            .where(products.c.id == product.id)
            .ordered_values(
                (products.c.stocked, products.c.stocked + product.stock - products.c.stock),
                (products.c.stock, product.stock),
                (products.c.price, product.price),
            )
        )
        if await changed_one(self._db, setting):
            return False
        try:
            async with self._db.begin_nested():
                values = {"id": product.id, "stock": product.stock, "stocked": product.stock}
                await self._db.execute(insert(products).values(**values, price=product.price))
        except IntegrityError:
            await changed_one(self._db, setting)  # another request created it just now
            return False
        return True

    async def take(self, product_id: str, quantity: int) -> None:
        """Take *quantity* pieces; raise `OutOfStock` or `UnknownProduct` and take nothing."""
        if not await self._add(product_id, -quantity, products.c.stock >= quantity):
            raise OutOfStock(product_id, wanted=quantity, left=(await self.product(product_id)).stock)

    async def give_back(self, product_id: str, quantity: int) -> None:
        """Put *quantity* pieces back that were taken before."""
        await self._add(product_id, quantity)

    async def record(self, event: UserEvent) -> None:
        """Store *event*."""
        await self._db.execute(insert(events).values(event.model_dump()))

    async def events_of(self, user_id: int, limit: int) -> list[UserEvent]:
        """Return the user's latest events, newest first."""
        latest = select(events).where(events.c.user_id == user_id).order_by(events.c.timestamp.desc()).limit(limit)
        return [UserEvent.model_validate(dict(row)) for row in (await self._db.execute(latest)).mappings()]

    async def shelves(self) -> dict[str, Shelf]:
        """Return all products, for the reconciliation."""
        rows = await self._db.execute(select(products.c.id, products.c.stock, products.c.stocked))
        return {product_id: Shelf(stock, stocked) for product_id, stock, stocked in rows}

    async def recorded(self) -> set[tuple[UUID, EventType]]:
        """Return which events there are, for the reconciliation."""
        rows = await self._db.execute(select(events.c.order_id, events.c.event_type))
        return {(order_id, EventType(event_type)) for order_id, event_type in rows}

    async def _add(self, product_id: str, quantity: int, *conditions: ColumnElement[bool]) -> bool:
        adding = update(products).where(products.c.id == product_id, *conditions)
        return await changed_one(self._db, adding.values(stock=products.c.stock + quantity))


class MongoInventory:
    """The inventory in MongoDB; inside a step every call belongs to the step's transaction."""

    def __init__(self, session: MongoSession) -> None:
        self._products = session[products.name]
        self._events = session[events.name]

    async def product(self, product_id: str) -> Product:
        """Return the product; raise `UnknownProduct`."""
        found = await self._products.find_one({"_id": product_id})
        if found is None:
            raise UnknownProduct(product_id)
        return Product(id=product_id, stock=found["stock"], price=from_cents(found["price"]))

    async def put(self, product: Product) -> bool:
        """Set stock and price; return whether the product is new."""
        setting = {"stock": product.stock, "price": to_cents(product.price)}
        while True:
            found = await self._products.find_one({"_id": product.id})
            if found is None:
                try:
                    await self._products.insert_one({"_id": product.id, **setting, "stocked": product.stock})
                except DuplicateKeyError:
                    continue
                return True
            # If an order changes the stock between the two calls, the loop reads it again.
            changed = await self._products.update_one(
                {"_id": product.id, "stock": found["stock"]},
                {"$set": setting, "$inc": {"stocked": product.stock - found["stock"]}},
            )
            if changed.matched_count:
                return False

    async def take(self, product_id: str, quantity: int) -> None:
        """Take *quantity* pieces; raise `OutOfStock` or `UnknownProduct` and take nothing."""
        taken = await self._products.update_one(
            {"_id": product_id, "stock": {"$gte": quantity}}, {"$inc": {"stock": -quantity}}
        )
        if not taken.matched_count:
            raise OutOfStock(product_id, wanted=quantity, left=(await self.product(product_id)).stock)

    async def give_back(self, product_id: str, quantity: int) -> None:
        """Put *quantity* pieces back that were taken before."""
        await self._products.update_one({"_id": product_id}, {"$inc": {"stock": quantity}})

    async def record(self, event: UserEvent) -> None:
        """Store *event*."""
        document = event.model_dump() | {
            "_id": f"{event.order_id}:{event.event_type}",
            "order_id": str(event.order_id),
            "event_type": event.event_type.value,
        }
        await self._events.insert_one(document)

    async def events_of(self, user_id: int, limit: int) -> list[UserEvent]:
        """Return the user's latest events, newest first."""
        latest = self._events.find({"user_id": user_id}, {"_id": False}).sort("timestamp", -1).limit(limit)
        return [UserEvent.model_validate(found) async for found in latest]

    async def shelves(self) -> dict[str, Shelf]:
        """Return all products, for the reconciliation."""
        return {found["_id"]: Shelf(found["stock"], found["stocked"]) async for found in self._products.find()}

    async def recorded(self) -> set[tuple[UUID, EventType]]:
        """Return which events there are, for the reconciliation."""
        found = self._events.find({}, {"_id": False, "order_id": True, "event_type": True})
        return {(UUID(event["order_id"]), EventType(event["event_type"])) async for event in found}


Inventory: TypeAlias = SqlInventory | MongoInventory


def inventory_of(session: Session) -> Inventory:
    """Return the inventory behind *session*, for either kind of database."""
    return MongoInventory(session) if isinstance(session, MongoSession) else SqlInventory(session)
