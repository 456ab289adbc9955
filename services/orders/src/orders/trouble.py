"""Sagas in trouble, for the demo: something to look at, and to repair, on the dashboard.

    a lamp    its order fails and cannot be undone, because its shelf is being counted: parked for a person
    a clock   its order is confirmed, but its event cannot be recorded for three minutes: tried again
    a teapot  more are ordered than there are: refused and undone, as it should be

The shop's own steps know nothing of it: `cause` wraps them in this process. The count of the shelf ends when an
operator retries the lamp's saga, so a retry succeeds.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from orders.place_order import confirm_order, place_order, record_event, reserve_stock
from orders.sagas import sagas
from orders.schemas import PricedOrder, Product
from polysaga import Retry
from polysaga.clock import Clock
from polysaga.errors import TryAgain

LAMP = Product(id="glass-lamp", stock=20, price=Decimal("39.00"))
CLOCK = Product(id="marble-clock", stock=20, price=Decimal("89.50"))
TEAPOT = "gold-teapot"
PRODUCTS = (LAMP, CLOCK)
# Few attempts, because each is a line in the demo's terminal; else the lamp would be parked after five minutes.
_QUICK, _RARE = Retry(within=4.0, first=1.5, cap=1.5), Retry(within=60.0, first=6.0, cap=10.0)
_SLOW = timedelta(minutes=3)


class StockTaking(Exception):
    """A shelf is being counted: nothing may be put there."""


class TillClosed(Exception):
    """An order cannot be confirmed."""


class EventsFull(TryAgain):
    """The customer's events take no entry at the moment."""


def cause(clock: Clock | None = None) -> None:
    """Let orders for the lamp and the clock come to trouble in this process."""
    clock = clock or Clock()
    begun = clock.now()
    confirm, undo, record = confirm_order.action, reserve_stock.undo, record_event.action
    assert undo is not None

    async def confirm_but_no_lamp(db: Any, order: PricedOrder, ctx: Any) -> Any:
        if order.product_id == LAMP.id:
            raise TillClosed("the till is closed for lamps")
        return await confirm(db, order, ctx)

    async def release_but_no_lamp(db: Any, order: PricedOrder, done: None, ctx: Any) -> None:
        if order.product_id == LAMP.id and not await _was_retried(ctx):
            raise StockTaking("the shelf of lamps is being counted, so nothing can be put back")
        await undo(db, order, done, ctx)

    async def record_but_no_clock(db: Any, order: PricedOrder, ctx: Any) -> None:
        if order.product_id == CLOCK.id and _is_slow(begun, clock):
            raise EventsFull("the customer's events take no entry at the moment")
        await record(db, order, ctx)

    confirm_order.action, record_event.action = (
        _like(confirm, confirm_but_no_lamp),
        _like(record, record_but_no_clock),
    )
    reserve_stock.undo, reserve_stock.undo_retry = _like(undo, release_but_no_lamp), _QUICK


async def start() -> None:
    """Start the three sagas; of a shop that had them before, none begins anew."""
    for product, quantity in ((LAMP, 1), (CLOCK, 1)):
        order = PricedOrder(user_id=17850, product_id=product.id, quantity=quantity, unit_price=product.price)
        await sagas.start(place_order, order, key=f"demo:trouble:{product.id}")
    teapots = PricedOrder(user_id=13047, product_id=TEAPOT, quantity=999, unit_price=Decimal("249.00"))
    await sagas.start(place_order, teapots, key=f"demo:trouble:{TEAPOT}")


async def _was_retried(ctx: Any) -> bool:
    return any(line.action == "retry" for line in (await sagas.get(ctx.saga_id)).audit)


def _is_slow(begun: datetime, clock: Clock) -> bool:
    return clock.now() - begun < _SLOW


def _like(known: Callable[..., Awaitable[Any]], other: Callable[..., Awaitable[Any]]) -> Any:
    other.__name__, other.__doc__ = known.__name__, known.__doc__
    return other
