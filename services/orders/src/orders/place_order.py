"""The saga `place-order`: the order, the stock and the points, everywhere or nowhere.

open_order -> reserve_stock ┐
              credit_points ┴> confirm_order (pivot) -> record_event
"""

from pydantic import AwareDatetime, BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from orders import order_book, point_book
from orders.databases import inventory, orders, points
from orders.errors import OutOfStock, UnknownProduct
from orders.inventory import Session, inventory_of
from orders.schemas import EventType, Order, OrderCreate, OrderStatus, PricedOrder, UserEvent
from polysaga import Saga, StepContext
from polysaga.clock import Clock

place_order = Saga(
    "place-order",
    input=PricedOrder,
    output=Order,
    # The price is not the client's: a request repeated after a change of price is still the same order.
    key_fields=OrderCreate.model_fields,
    refusals=[OutOfStock, UnknownProduct],
)


class OpenedOrder(BaseModel):
    """What later steps need to know of the new row."""

    created_at: AwareDatetime


@place_order.step(orders)
async def open_order(db: AsyncSession, order: PricedOrder, ctx: StepContext) -> OpenedOrder:
    """Store the order as pending."""
    opened = OpenedOrder(created_at=Clock().now())
    await order_book.add(db, _order(order, opened, ctx, OrderStatus.PENDING))
    return opened


@open_order.compensation
async def reject_order(db: AsyncSession, order: PricedOrder, done: OpenedOrder, ctx: StepContext) -> None:
    """Keep the order as rejected, for people to see."""
    await order_book.move(db, ctx.saga_id, OrderStatus.PENDING, OrderStatus.REJECTED)


@place_order.step(inventory, after=[open_order])
async def reserve_stock(db: Session, order: PricedOrder, ctx: StepContext) -> None:
    """Take the pieces off the shelf, or refuse."""
    await inventory_of(db).take(order.product_id, order.quantity)


@reserve_stock.compensation
async def release_stock(db: Session, order: PricedOrder, done: None, ctx: StepContext) -> None:
    """Put the pieces back."""
    await inventory_of(db).give_back(order.product_id, order.quantity)


@place_order.step(points, after=[open_order])
async def credit_points(db: AsyncSession, order: PricedOrder, ctx: StepContext) -> None:
    """Enter the points that the order earns."""
    await point_book.credit(db, ctx.saga_id, order.user_id, point_book.earned(order))


@credit_points.compensation
async def uncredit_points(db: AsyncSession, order: PricedOrder, done: None, ctx: StepContext) -> None:
    """Delete the entry."""
    await point_book.take_back(db, ctx.saga_id)


@place_order.step(orders, after=[reserve_stock, credit_points], kind="pivot")
async def confirm_order(db: AsyncSession, order: PricedOrder, ctx: StepContext) -> Order:
    """Confirm the order: from here on nothing is undone."""
    await order_book.move(db, ctx.saga_id, OrderStatus.PENDING, OrderStatus.CONFIRMED)
    return _order(order, ctx.result(open_order), ctx, OrderStatus.CONFIRMED)


@place_order.step(inventory, after=[confirm_order], kind="retriable")
async def record_event(db: Session, order: PricedOrder, ctx: StepContext) -> None:
    """Record the purchase in the customer's events."""
    event = UserEvent(
        event_type=EventType.ORDER_CREATED,
        order_id=ctx.saga_id,
        user_id=order.user_id,
        product_id=order.product_id,
        quantity=order.quantity,
        timestamp=ctx.result(open_order).created_at,
    )
    await inventory_of(db).record(event)


def _order(order: PricedOrder, opened: OpenedOrder, ctx: StepContext, status: OrderStatus) -> Order:
    return Order(id=ctx.saga_id, created_at=opened.created_at, status=status, **order.model_dump())
