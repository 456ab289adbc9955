"""A shop with traffic: a small catalogue, and about one order per second over HTTP."""

import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from uuid import UUID, uuid4

from orders.client import GaveUp, OrderVerdict, Outcome, Shop
from orders.schemas import OrderCreate, Product
from polysaga.clock import Clock

_PAUSE = 1.0  # seconds between two orders, about
_CUSTOMERS = (17850, 13047, 12583, 13748, 15100, 15291, 14688, 17809)
_CHANGED_MIND = 0.08  # share of the confirmed orders that are cancelled
_DELIVERY = 0.25  # share of the refusals after which the shelf is filled again
_FIRST_ATTEMPTS = 20

CATALOGUE = (
    Product(id="85123A", stock=400, price=Decimal("2.55")),
    Product(id="71053", stock=250, price=Decimal("3.39")),
    Product(id="22423", stock=60, price=Decimal("12.75")),
    Product(id="84879", stock=500, price=Decimal("1.69")),
    Product(id="gold-teapot", stock=5, price=Decimal("249.00")),  # sold out soon, so orders are refused
)


class Traffic:
    """Customers who order, are refused now and then, and sometimes change their minds."""

    def __init__(self, shop: Shop, *more: Product, clock: Clock | None = None) -> None:
        self._shop, self._clock = shop, clock or Clock()
        self._more = more  # products that are on the shelf and that no customer orders
        self.seen: Counter[str] = Counter()

    async def open_shop(self) -> None:
        """Create the products that the shop lacks."""
        for product in (*CATALOGUE, *self._more):
            await self._shop.put_if_absent(product)

    async def first(self) -> UUID | None:
        """Place orders until one is confirmed, and return its id; None if the shop has nothing left to sell."""
        for _ in range(_FIRST_ATTEMPTS):
            outcome = await self.order()
            if outcome.order_id is not None:
                return outcome.order_id
        return None

    async def order(self) -> Outcome:
        """Place one order; then, at times, refill the shelf or cancel the order."""
        product = random.choice(CATALOGUE)
        quantity = random.choice((1, 1, 2, 3, 6))
        order = OrderCreate(user_id=random.choice(_CUSTOMERS), product_id=product.id, quantity=quantity)
        outcome = await self._shop.order(order, f"demo:{uuid4()}")
        self.seen[outcome.reason or outcome.verdict] += 1
        if outcome.verdict is OrderVerdict.REFUSED and random.random() < _DELIVERY:
            await self._shop.put(product)
        elif outcome.order_id is not None and random.random() < _CHANGED_MIND:
            await self._cancel(outcome.order_id)
        return outcome

    async def go_on(self, watch: Callable[[Counter[str]], None]) -> None:
        """Order for ever; call *watch* with the outcomes so far."""
        while True:
            await self._clock.sleep(random.uniform(0.5, 1.5) * _PAUSE)
            try:
                await self.order()
            except GaveUp:
                self.seen["no answer"] += 1
            watch(self.seen)

    async def _cancel(self, order_id: UUID) -> None:
        if await self._shop.cancel(order_id):
            self.seen["cancelled"] += 1
