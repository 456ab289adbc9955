"""Check that the three databases agree. They are read directly, not through the service.

    for every product   stock taken = quantity in confirmed orders
    for every user      points = confirmed spend
    for every order     an outcome; points and events that fit it, neither more nor less

The databases have no common snapshot, so one look may catch an order half-way. The reconciliation waits for orders
that may still be under way. A contradiction counts only if two looks in a row find it.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from orders import order_book, point_book
from orders.databases import inventory, orders, points
from orders.inventory import Shelf, inventory_of
from orders.schemas import EventType, Order, OrderStatus
from orders.tables import to_cents
from polysaga.clock import Clock

PATIENCE = 30.0  # seconds; another process takes over a killed owner's saga after 10
_PAUSE = (0.1, 1.0)  # seconds between two looks: first, at most

_EVENTS = {
    OrderStatus.CONFIRMED: {EventType.ORDER_CREATED},
    OrderStatus.CANCELLED: {EventType.ORDER_CREATED, EventType.ORDER_CANCELLED},
}


@dataclass(frozen=True, slots=True)
class Books:
    """The content of the databases at about the same time."""

    orders: list[Order]
    points: dict[UUID, tuple[int, int]]
    shelves: dict[str, Shelf]
    events: set[tuple[UUID, EventType]]

    @property
    def users(self) -> set[int]:
        """Return all users who have an order or points."""
        return {order.user_id for order in self.orders} | {user_id for user_id, _ in self.points.values()}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Two databases disagree, or an order has no outcome. *passing*: a saga under way may be the cause."""

    text: str
    passing: bool = False


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What was compared, and the contradictions found."""

    orders: int
    products: int
    users: int
    contradictions: list[str]

    def as_data(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return asdict(self)


async def reconcile(
    *, confirmed: Collection[UUID] = (), patience: float = PATIENCE, clock: Clock | None = None
) -> Reconciliation:
    """Compare the open databases; *confirmed* are the orders that were reported to customers as confirmed."""
    clock = clock or Clock()
    deadline = clock.monotonic() + patience
    pause, longest = _PAUSE
    before: set[Mismatch] | None = None
    while True:
        books = await read_books()
        found = set(contradictions(books, confirmed))
        certain = not any(one.passing for one in found) and found == before
        if not found or certain or clock.monotonic() >= deadline:
            break
        before = found
        await clock.sleep(pause)
        pause = min(pause * 2, longest)
    lasting = found if before is None else found & before
    return Reconciliation(
        len(books.orders), len(books.shelves), len(books.users), sorted(one.text for one in lasting)
    )


def contradictions(books: Books, confirmed: Collection[UUID] = ()) -> Iterator[Mismatch]:
    """Yield all contradictions in *books*."""
    yield from _broken_promises(books, confirmed)
    yield from _unfinished(books)
    yield from _wrong_stock(books)
    yield from _wrong_points(books)
    yield from _wrong_events(books)


def _broken_promises(books: Books, confirmed: Collection[UUID]) -> Iterator[Mismatch]:
    kept = {order.id for order in books.orders if order.status in _EVENTS}
    for order_id in set(confirmed) - kept:
        yield Mismatch(f"order {order_id} was reported as confirmed but is not")


def _unfinished(books: Books) -> Iterator[Mismatch]:
    for order in books.orders:
        if order.status is OrderStatus.PENDING:
            yield Mismatch(f"order {order.id} has no outcome", passing=True)


def _wrong_stock(books: Books) -> Iterator[Mismatch]:
    sold: Counter[str] = Counter()
    for order in _confirmed(books):
        sold[order.product_id] += order.quantity
    for product_id in sorted(sold.keys() - books.shelves.keys()):
        yield Mismatch(f"product {product_id} has confirmed orders but does not exist")
    for product_id, shelf in books.shelves.items():
        taken = shelf.stocked - shelf.stock
        if taken != sold[product_id]:
            yield Mismatch(
                f"product {product_id}: {taken} taken from stock, {sold[product_id]} in confirmed orders"
            )


def _wrong_points(books: Books) -> Iterator[Mismatch]:
    spend: Counter[int] = Counter()
    credited: Counter[int] = Counter()
    for order in _confirmed(books):
        spend[order.user_id] += order.quantity * to_cents(order.unit_price)
    for user_id, amount in books.points.values():
        credited[user_id] += amount
    for user_id in books.users:
        if credited[user_id] != spend[user_id]:
            yield Mismatch(
                f"user {user_id}: {credited[user_id]} points, {spend[user_id]} cents of confirmed spend"
            )
    earning = {order.id for order in _confirmed(books)}
    for order_id in earning - books.points.keys():
        yield Mismatch(f"order {order_id} is confirmed but has no points entry")
    for order_id in books.points.keys() - earning:
        yield Mismatch(f"order {order_id} has a points entry but is not confirmed")


def _wrong_events(books: Books) -> Iterator[Mismatch]:
    due = {(order.id, event) for order in books.orders for event in _EVENTS.get(order.status, ())}
    for order_id, event in due - books.events:
        yield Mismatch(f"order {order_id} has no event '{event}'", passing=True)
    for order_id, event in books.events - due:
        yield Mismatch(f"order {order_id} has an event '{event}' that does not fit its status")


def _confirmed(books: Books) -> Iterator[Order]:
    return (order for order in books.orders if order.status is OrderStatus.CONFIRMED)


async def read_books() -> Books:
    """Return the content of the open databases, each read at its own moment."""
    async with orders.reader() as db, points.reader() as point_db, inventory.reader() as session:
        store = inventory_of(session)
        return Books(
            await order_book.everything(db),
            await point_book.entries(point_db),
            await store.shelves(),
            await store.recorded(),
        )
