"""What is left when everything has come to rest: counted by `verify` and by the shop's own reconciliation."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from orders.databases import databases
from orders.reconcile import Books, contradictions, read_books
from orders.sagas import sagas
from orders.schemas import EventType, OrderStatus
from polysaga import Status
from polysaga.clock import Clock
from polysaga.config import Settings, parse_settings
from polysaga.sagas import Verification
from tests.fixtures.programs import Urls

_PAUSE = 0.5  # seconds between two looks at sagas under way


@dataclass(frozen=True, slots=True)
class Findings:
    """All counts are 0 when every promise was kept."""

    lost: int  # effects of confirmed orders that are not there, and confirmed orders that are not
    doubled: int  # effects that no confirmed order explains
    stranded: int  # sagas and orders without an outcome
    contradictions: int  # between journal and ledgers, and between the books of the shop
    details: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Tell whether every promise was kept."""
        return not (self.lost or self.doubled or self.stranded or self.contradictions)

    def as_data(self) -> dict[str, Any]:
        """Return the counts."""
        return {name: value for name, value in asdict(self).items() if name != "details"}


def audit(urls: Urls, confirmed: Collection[UUID], *, patience: float) -> Findings:
    """Wait until no saga is under way, at most *patience* seconds, then count."""
    return asyncio.run(_audit(urls, confirmed, patience))


def unfinished(urls: Urls) -> int:
    """Return how many sagas are under way now, or parked."""

    async def ask() -> int:
        settings = _settings(urls)
        async with databases.open(settings):
            return _unfinished((await sagas.verify(settings.sagas)).sagas)

    return asyncio.run(ask())


async def _audit(urls: Urls, confirmed: Collection[UUID], patience: float) -> Findings:
    settings = _settings(urls)
    clock = Clock()
    async with databases.open(settings):
        deadline = clock.monotonic() + patience
        while True:
            verified = await sagas.verify(settings.sagas)
            if not _unfinished(verified.sagas) or clock.monotonic() >= deadline:
                break
            await clock.sleep(_PAUSE)
        return findings(verified, await read_books(), confirmed)


def _settings(urls: Urls) -> Settings:
    return parse_settings({"databases": {name: {"url": url} for name, url in urls.items()}})


def _unfinished(counts: Mapping[Status, int]) -> int:
    return sum(count for status, count in counts.items() if not status.final)


def findings(verified: Verification, books: Books, confirmed: Collection[UUID]) -> Findings:
    against = [f"{one.kind}: {one.saga_id} {one.detail}" for one in verified.contradictions]
    against += [one.text for one in contradictions(books, confirmed)]
    pending = sum(order.status is OrderStatus.PENDING for order in books.orders)
    lost, doubled = _lost(books, confirmed), _doubled(books)
    return Findings(
        len(lost),
        len(doubled),
        _unfinished(verified.sagas) + pending,
        len(against),
        (*lost, *doubled, *against),
    )


def _lost(books: Books, confirmed: Collection[UUID]) -> list[str]:
    kept = {order.id for order in books.orders if order.status in {OrderStatus.CONFIRMED, OrderStatus.CANCELLED}}
    earning = {order.id for order in books.orders if order.status is OrderStatus.CONFIRMED}
    placed = {order_id for order_id, event in books.events if event is EventType.ORDER_CREATED}
    taken = _taken(books)
    return [
        *[f"order {order_id} was told to be confirmed and is not" for order_id in set(confirmed) - kept],
        *[f"order {order_id} is confirmed and has no points" for order_id in earning - books.points.keys()],
        *[f"order {order_id} is confirmed and has no event" for order_id in kept - placed],
        *[f"product {product}: {-more} pieces too few are taken" for product, more in taken.items() if more < 0],
    ]


def _doubled(books: Books) -> list[str]:
    earning = {order.id for order in books.orders if order.status is OrderStatus.CONFIRMED}
    taken = _taken(books)
    return [
        *[f"order {order_id} is not confirmed and has points" for order_id in books.points.keys() - earning],
        *[f"product {product}: {more} pieces too many are taken" for product, more in taken.items() if more > 0],
    ]


def _taken(books: Books) -> Counter[str]:
    """Return by product how many pieces more are taken from the shelf than confirmed orders have."""
    more: Counter[str] = Counter({name: shelf.stocked - shelf.stock for name, shelf in books.shelves.items()})
    for order in books.orders:
        if order.status is OrderStatus.CONFIRMED:
            more[order.product_id] -= order.quantity
    return more
