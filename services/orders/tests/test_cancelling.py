"""POST /orders/{id}/cancel."""

import asyncio
from uuid import UUID

from orders.cancel_order import cancel_order
from orders.sagas import sagas

from .conftest import Client


async def _cancelled(shop: Client, order_id: str) -> None:
    """Wait for everything that follows from the cancellation."""
    async with asyncio.timeout(20):
        while True:
            events = (await shop.get("/users/ada/events")).json()
            if any(event["kind"] == "order_cancelled" and event["order_id"] == order_id for event in events):
                return


async def test_cancelling_returns_stock_and_points_and_leaves_an_event(shop: Client) -> None:
    await shop.stock(stock=10)
    order = (await shop.order(quantity=4)).json()
    await shop.order(quantity=1)
    answer = await shop.post(f"/orders/{order['id']}/cancel")
    assert answer.status_code == 200
    assert answer.json() == {**order, "status": "cancelled"}
    await _cancelled(shop, order["id"])
    assert (await shop.get("/products/tea")).json()["stock"] == 9
    assert (await shop.get("/users/ada/points")).json()["points"] == 255
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
