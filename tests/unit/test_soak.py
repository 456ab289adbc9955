"""The soak run itself: its faults are those of its seed, and it counts what is wrong."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest

from orders.inventory import Shelf
from orders.reconcile import Books
from orders.schemas import EventType, Order, OrderStatus
from polysaga import Status
from polysaga.sagas import Contradiction, ContradictionKind, Verification
from tests.soak.audit import Findings, findings
from tests.soak.plan import EVERY, Fault, Kind, plan

PLACES = {"services": ["one", "two"], "databases": ["orders", "points"], "servers": ["points"]}
ORDER = UUID(int=1)


def faults(seed: int, seconds: float = 600.0) -> list[Fault]:
    return list(plan(seed, seconds, **PLACES))


def test_the_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    assert faults(7) == faults(7)
    assert faults(7) != faults(8)
    assert faults(7, 60.0) == [fault for fault in faults(7) if fault.at < 60.0]


def test_there_is_a_fault_every_three_seconds_and_every_kind_of_them() -> None:
    found = faults(1)
    assert [fault.at for fault in found] == [EVERY * number for number in range(1, 200)]
    assert {fault.kind for fault in found} == set(Kind)
    lasting = {fault.kind for fault in found if fault.seconds}
    assert lasting == {Kind.FREEZE, Kind.HANG}


def test_servers_that_are_not_ours_are_left_alone() -> None:
    found = plan(1, 600.0, **{**PLACES, "servers": []})
    assert {Kind.RESTART, Kind.CRASH}.isdisjoint({fault.kind for fault in found})


def books(status: OrderStatus = OrderStatus.CONFIRMED, *, points: bool = True, taken: int = 2) -> Books:
    order = Order(
        id=ORDER,
        user_id=7,
        product_id="tea",
        quantity=2,
        unit_price=Decimal("2.50"),
        status=status,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    events = {(ORDER, EventType.ORDER_CREATED)} if status is OrderStatus.CONFIRMED else set()
    credited = {ORDER: (7, 500)} if points else {}
    return Books([order], credited, {"tea": Shelf(10 - taken, 10)}, events)


def verified(*found: Contradiction, unfinished: int = 0) -> Verification:
    return Verification({Status.COMPLETED: 1, Status.RUNNING: unfinished}, {}, 0, found, complete=True)


def counts(found: Findings) -> tuple[int, int, int, int]:
    return found.lost, found.doubled, found.stranded, found.contradictions


def test_books_that_agree_count_nothing() -> None:
    found = findings(verified(), books(), {ORDER})
    assert counts(found) == (0, 0, 0, 0)
    assert found.clean


@pytest.mark.parametrize(
    ("wrong", "counted"),
    [
        (books(points=False), (1, 0, 0, 2)),
        (books(taken=1), (1, 0, 0, 1)),
        (books(taken=4), (0, 1, 0, 1)),
        (books(OrderStatus.REJECTED, taken=0), (1, 1, 0, 3)),
        (books(OrderStatus.PENDING, points=False, taken=0), (1, 0, 1, 2)),
    ],
    ids=["points lost", "stock not taken", "stock taken twice", "promise broken", "no outcome"],
)
def test_what_is_wrong_is_counted(wrong: Books, counted: tuple[int, int, int, int]) -> None:
    found = findings(verified(), wrong, {ORDER})
    assert counts(found) == counted
    assert not found.clean


def test_unfinished_sagas_and_contradictions_are_counted() -> None:
    one = Contradiction(ContradictionKind.STRANDED, ORDER, "place-order", Status.RUNNING, None, None, "nobody")
    assert counts(findings(verified(one, unfinished=1), books(), {ORDER})) == (0, 0, 1, 1)
