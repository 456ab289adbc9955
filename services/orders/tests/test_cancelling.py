"""POST /orders/{id}/cancel."""

import asyncio
from uuid import UUID

import pytest
from sqlalchemy import update

from orders import order_book
from orders.cancel_order import cancel_order, mark_cancelled
from orders.databases import orders
from orders.sagas import sagas
from orders.tables import order_table
from polysaga import Retry
from tests.fixtures.waiting import until

from .conftest import Client


async def _cancelled(shop: Client, order_id: str) -> None:
    """Wait for everything that follows from the cancellation."""

    async def is_told() -> bool:
        events = (await shop.get("/users/7/events")).json()
        return any(event["event_type"] == "order_cancelled" and event["order_id"] == order_id for event in events)

    await until(is_told, "the cancellation is among the user's events")


async def test_cancelling_returns_stock_and_points_and_leaves_an_event(shop: Client) -> None:
    await shop.stock(stock=10)
    order = (await shop.order(quantity=4)).json()
    await shop.order(quantity=1)
    answer = await shop.post(f"/orders/{order['id']}/cancel")
    assert answer.status_code == 200
    assert answer.json() == {**order, "status": "cancelled"}
    await _cancelled(shop, order["id"])
    assert (await shop.get("/products/tea")).json()["stock"] == 9
    assert (await shop.get("/users/7/points")).json()["points"] == 255
    assert (await shop.get(f"/orders/{order['id']}")).json()["status"] == "cancelled"


async def test_cancelling_twice_is_cancelling_once(shop: Client) -> None:
    await shop.stock(stock=10)
    order_id = (await shop.order(quantity=4)).json()["id"]
    answers = await asyncio.gather(*(shop.post(f"/orders/{order_id}/cancel") for _ in range(3)))
    later = await shop.post(f"/orders/{order_id}/cancel")
    assert {answer.status_code for answer in [*answers, later]} == {200}
    assert {answer.text for answer in answers} == {later.text}
    await _cancelled(shop, order_id)
    assert (await shop.get("/products/tea")).json()["stock"] == 10


async def _lock(order_id: str, saga_id: UUID | None) -> None:
    """Let another saga be at work on the order, or have ended."""
    async with orders.writer() as db:
        await db.execute(update(order_table).where(order_table.c.id == order_id).values(locked_by=saga_id))


async def test_a_cancellation_waits_for_another_saga_that_is_at_work_on_the_order(shop: Client) -> None:
    await shop.stock(stock=10)
    order_id = (await shop.order(quantity=4)).json()["id"]
    await _lock(order_id, UUID(int=7))
    cancelling = asyncio.ensure_future(shop.post(f"/orders/{order_id}/cancel"))
    async with asyncio.timeout(20):
        while not sagas.in_flight:
            await shop.get("/health/live")
    assert (await shop.get(f"/orders/{order_id}")).json()["status"] == "confirmed"
    await _lock(order_id, None)
    assert (await cancelling).status_code == 200
    await _cancelled(shop, order_id)


async def test_a_cancellation_that_waits_in_vain_can_be_asked_for_again(
    shop: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mark_cancelled, "retry", Retry(within=0.2))
    await shop.stock(stock=10)
    order_id = (await shop.order(quantity=4)).json()["id"]
    await _lock(order_id, UUID(int=7))
    answer = await shop.post(f"/orders/{order_id}/cancel")
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:polysaga:problem:still-locked"
    await _lock(order_id, None)
    assert (await shop.post(f"/orders/{order_id}/cancel")).json()["status"] == "cancelled"
    await _cancelled(shop, order_id)


async def test_a_cancelled_order_is_free_in_the_end(shop: Client) -> None:
    await shop.stock(stock=10)
    order_id = (await shop.order(quantity=4)).json()["id"]
    await shop.post(f"/orders/{order_id}/cancel")

    async def is_free() -> bool:
        async with orders.reader() as db:
            return await order_book.at_work.holder(db, order_id) is None

    await until(is_free, "no saga holds the order")


async def test_a_rejected_order_cannot_be_cancelled(shop: Client) -> None:
    await shop.stock(stock=1)
    order_id = (await shop.order(quantity=2)).json()["saga_id"]
    answer = await shop.post(f"/orders/{order_id}/cancel")
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:polysaga:problem:order-not-cancellable"
    assert answer.json()["order_status"] == "rejected"
    assert "nothing to cancel" in answer.json()["detail"]


async def test_an_unknown_order_cannot_be_cancelled(shop: Client) -> None:
    answer = await shop.post(f"/orders/{UUID(int=7)}/cancel")
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:polysaga:problem:unknown-order"


async def test_the_saga_itself_refuses_what_the_call_lets_through_by_accident(shop: Client) -> None:
    await shop.stock(stock=1)
    rejected = (await shop.order(quantity=2)).json()["saga_id"]
    for order_id, code in ((rejected, "order-not-cancellable"), (str(UUID(int=7)), "unknown-order")):
        handle = await sagas.start(cancel_order, cancel_order.input.validate_python({"order_id": order_id}))
        assert (await shop.rest(str(handle.id)))["error"]["code"] == code
