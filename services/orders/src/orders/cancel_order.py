"""The saga `cancel-order`: decided first, then carried out; nothing in it is ever undone.

    mark_cancelled (pivot) -> return_stock     ┐
                              take_back_points ┴> record_cancellation -> let_go

If the event is recorded, stock and points are back. The order is locked from the first step to the last: another
saga that wants to change it waits or is refused.
"""

from sqlalchemy.ext.asyncio import AsyncSession

from orders import order_book, point_book
from orders.databases import inventory, orders, points
from orders.errors import OrderNotCancellable, UnknownOrder
from orders.inventory import Session, inventory_of
from orders.schemas import EventType, Order, OrderCancel, OrderStatus, UserEvent
from polysaga import Retry, Saga, StepContext
from polysaga.clock import Clock
from polysaga.errors import StillLocked

cancel_order = Saga("cancel-order", input=OrderCancel, output=Order, refusals=[OrderNotCancellable, UnknownOrder])


@cancel_order.step(orders, kind="pivot", retry=Retry(within=5.0))
async def mark_cancelled(db: AsyncSession, cancel: OrderCancel, ctx: StepContext) -> Order:
    """Cancel a confirmed order, or refuse; wait a moment for another saga that is changing it."""
    order = await order_book.find(db, cancel.order_id)
    if order is None:
        raise UnknownOrder(cancel.order_id)
    if order.status is not OrderStatus.CONFIRMED:
        raise OrderNotCancellable(order.id, status=order.status)
    await order_book.at_work.acquire(db, order.id, ctx, wait=True)
    moved = await order_book.move(db, order.id, OrderStatus.CONFIRMED, OrderStatus.CANCELLED)
    if not moved:  # since we looked
        raise StillLocked(order_book.at_work.name, str(order.id), None)
    return order.model_copy(update={"status": OrderStatus.CANCELLED})


@cancel_order.step(inventory, after=[mark_cancelled], kind="retriable")
async def return_stock(db: Session, cancel: OrderCancel, ctx: StepContext) -> None:
    """Put the pieces back on the shelf."""
    order = ctx.result(mark_cancelled)
    await inventory_of(db).give_back(order.product_id, order.quantity)


@cancel_order.step(points, after=[mark_cancelled], kind="retriable")
async def take_back_points(db: AsyncSession, cancel: OrderCancel, ctx: StepContext) -> None:
    """Delete the points that the order had earned."""
    await point_book.take_back(db, cancel.order_id)


@cancel_order.step(inventory, after=[return_stock, take_back_points], kind="retriable")
async def record_cancellation(db: Session, cancel: OrderCancel, ctx: StepContext) -> None:
    """Record the cancellation in the customer's events."""
    order = ctx.result(mark_cancelled)
    event = UserEvent(
        event_type=EventType.ORDER_CANCELLED,
        order_id=order.id,
        user_id=order.user_id,
        product_id=order.product_id,
        quantity=order.quantity,
        timestamp=Clock().now(),
    )
    await inventory_of(db).record(event)


@cancel_order.step(orders, after=[record_cancellation], kind="retriable")
async def let_go(db: AsyncSession, cancel: OrderCancel, ctx: StepContext) -> None:
    """Free the order for other sagas."""
    await order_book.at_work.release(db, cancel.order_id, ctx)
