"""People who order all the time, from a thread of their own, and remember what they were told."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from uuid import UUID, uuid4

from orders.client import GaveUp, OrderVerdict, Outcome, Shop
from orders.schemas import OrderCreate, Product

_PATIENCE = 240.0  # seconds until a customer who always asks with the same key gives up
_LOYALTY = 3.0  # seconds that a customer asks the same service in vain before trying another one
_SHELVES = [Product(id=f"P{number}", stock=10**6, price=Decimal("1.25")) for number in range(20)]
_SOLD_OUT = Product(id="rare", stock=3, price=Decimal("99.00"))
_CHANGED_MIND = 0.05  # share of the confirmed orders that are cancelled


class Customers:
    """*number* of them, who go to any of the services at *urls* until told to go home."""

    def __init__(self, urls: Sequence[str], number: int) -> None:
        self.confirmed: set[UUID] = set()
        self.answers: Counter[str] = Counter()  # how orders ended
        self.cancelled = 0
        self._urls, self._number = urls, number
        self._crowd_name = uuid4().hex[:8]  # so that no two crowds use the same keys
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="customers", daemon=True)

    @property
    def orders(self) -> int:
        """How many orders have an answer."""
        return self.answers.total()

    def __enter__(self) -> "Customers":
        asyncio.run(self._stock())
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.go_home()

    def go_home(self) -> None:
        """Return when everybody has the answer to the last order."""
        self._stop.set()
        self._thread.join(_PATIENCE + 60)
        assert not self._thread.is_alive(), "the customers wait for ever"
        if self._failure is not None:
            raise self._failure

    async def _stock(self) -> None:
        async with Shop(self._urls[0], patience=_PATIENCE) as shop:
            for product in [*_SHELVES, _SOLD_OUT]:
                await shop.put_if_absent(product)

    def _run(self) -> None:
        try:
            asyncio.run(self._crowd())
        except BaseException as failure:  # noqa: BLE001 - told to who waits for the thread
            self._failure = failure

    async def _crowd(self) -> None:
        shops = [Shop(url, connections=self._number, patience=_LOYALTY) for url in self._urls]
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._number):
                    group.create_task(self._customer(number, shops))
        finally:
            for shop in shops:
                await shop.__aexit__(None, None, None)

    async def _customer(self, number: int, shops: Sequence[Shop]) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            product = random.choice(_SHELVES) if random.random() < 0.95 else _SOLD_OUT
            order = OrderCreate(user_id=number + 1, product_id=product.id, quantity=random.randint(1, 3))
            outcome = await self._order(shops, order, f"{self._crowd_name}-{number}-{turn}")
            self.answers[outcome.reason or outcome.verdict.value] += 1
            if outcome.verdict is OrderVerdict.CONFIRMED:
                assert outcome.order_id is not None
                self.confirmed.add(outcome.order_id)
                if random.random() < _CHANGED_MIND:
                    await self._cancel(random.choice(shops), outcome.order_id)

    async def _order(self, shops: Sequence[Shop], order: OrderCreate, key: str) -> Outcome:
        """Ask one service after the other, which all must give the same answer to one key."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            outcome = await random.choice(shops).order(order, key)
            if outcome.verdict is not OrderVerdict.FAILED or time.monotonic() >= deadline:
                return outcome

    async def _cancel(self, shop: Shop, order_id: UUID) -> None:
        try:
            self.cancelled += await shop.cancel(order_id)
        except GaveUp:
            return
