"""Customers' points: one entry for each confirmed order, and a balance that is their sum.

An order earns one point for each cent that it costs. Undoing or cancelling the order deletes its entry.
"""

from uuid import UUID

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from orders.schemas import PricedOrder
from orders.tables import point_table as table
from orders.tables import to_cents


def earned(order: PricedOrder) -> int:
    """Return the points that *order* is worth."""
    return order.quantity * to_cents(order.unit_price)


async def credit(db: AsyncSession, order_id: UUID, user_id: int, amount: int) -> None:
    """Add an entry of *amount* points for the order."""
    await db.execute(insert(table).values(order_id=order_id, user_id=user_id, amount=amount))


async def take_back(db: AsyncSession, order_id: UUID) -> None:
    """Delete the order's entry."""
    await db.execute(delete(table).where(table.c.order_id == order_id))


async def balance(db: AsyncSession, user_id: int) -> int:
    """Return the user's points; someone who never bought anything has none."""
    total = select(func.coalesce(func.sum(table.c.amount), 0)).where(table.c.user_id == user_id)
    # Not every driver returns a sum of integers as an integer.
    return int((await db.execute(total)).scalar_one())


async def entries(db: AsyncSession) -> dict[UUID, tuple[int, int]]:
    """Return user and amount by order, for the reconciliation."""
    rows = await db.execute(select(table.c.order_id, table.c.user_id, table.c.amount))
    return {order_id: (user_id, amount) for order_id, user_id, amount in rows}
