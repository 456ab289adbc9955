"""The orders in their database: one row each; its status only moves forward."""

from uuid import UUID

from sqlalchemy import RowMapping, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from orders.cursors import Place, from_cursor, to_cursor
from orders.schemas import Order, OrderFilter, OrderPage, OrderStatus
from orders.tables import changed_one
from orders.tables import order_table as table
from polysaga import SemanticLock

# Names the saga that is changing an existing order; all other sagas see it, and it is freed when that saga ends.
at_work = SemanticLock(table)


async def add(db: AsyncSession, order: Order) -> None:
    """Store a new order."""
    await db.execute(insert(table).values(order.model_dump()))


async def find(db: AsyncSession, order_id: UUID) -> Order | None:
    """Return the order, or None if there is none."""
    row = (await db.execute(select(table).where(table.c.id == order_id))).mappings().first()
    return None if row is None else _order(row)


async def move(db: AsyncSession, order_id: UUID, before: OrderStatus, after: OrderStatus) -> bool:
    """Change the status from *before* to *after*; return False if it is not *before*."""
    statement = update(table).where(table.c.id == order_id, table.c.status == before).values(status=after)
    return await changed_one(db, statement)


async def page(db: AsyncSession, wanted: OrderFilter) -> OrderPage:
    """Return the orders that match *wanted*, newest first, at most `limit` of them."""
    newest_first = select(table).order_by(table.c.created_at.desc(), table.c.id.desc())
    if wanted.user_id is not None:
        newest_first = newest_first.where(table.c.user_id == wanted.user_id)
    if wanted.status is not None:
        newest_first = newest_first.where(table.c.status == wanted.status)
    if wanted.cursor is not None:
        newest_first = newest_first.where(tuple_(table.c.created_at, table.c.id) < from_cursor(wanted.cursor))
    # One row more than requested shows whether another page follows.
    rows = (await db.execute(newest_first.limit(wanted.limit + 1))).mappings().all()
    orders = [_order(row) for row in rows[: wanted.limit]]
    more = len(rows) > wanted.limit
    return OrderPage(
        orders=orders,
        next_cursor=to_cursor(Place(orders[-1].created_at, orders[-1].id)) if more else None,
    )


async def everything(db: AsyncSession) -> list[Order]:
    """Return all orders, for the reconciliation."""
    return [_order(row) for row in (await db.execute(select(table))).mappings()]


def _order(row: RowMapping) -> Order:
    return Order.model_validate(dict(row))
