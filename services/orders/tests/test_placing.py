"""POST /orders and what can be asked about an order afterwards."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import NoReturn
from uuid import UUID

import pytest

from orders import routes
from polysaga.errors import DatabaseUnavailable

from .conftest import Client

PROBLEM = "urn:polysaga:problem:"


async def test_a_placed_order_is_confirmed_and_found_again(shop: Client) -> None:
    await shop.stock(price="2.5")
    answer = await shop.order(quantity=3, user_id=" 7 ")
    order = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/orders/{order['id']}"
    assert {name: order[name] for name in ("user_id", "product_id", "quantity", "unit_price", "status")} == {
        "user_id": 7,
        "product_id": "tea",
        "quantity": 3,
        "unit_price": "2.50",
        "status": "confirmed",
    }
    assert datetime.now(UTC) - datetime.fromisoformat(order["created_at"]) < timedelta(minutes=1)
    assert (await shop.get(answer.headers["location"])).json() == order


async def test_an_order_takes_stock_earns_points_and_leaves_an_event(shop: Client) -> None:
    await shop.stock()
    order = (await shop.order(quantity=3)).json()
    saga = await shop.rest(order["id"])
    assert (await shop.get("/products/tea")).json() == {"id": "tea", "stock": 7, "price": "2.55"}
    assert (await shop.get("/users/7/points")).json() == {"user_id": 7, "points": 765}
    [event] = (await shop.get("/users/7/events")).json()
    assert (event["event_type"], event["order_id"], event["quantity"]) == ("order_created", order["id"], 3)
    assert (saga["name"], saga["status"], saga["error"]) == ("place-order", "completed", None)
    assert {entry["step"] for entry in saga["history"]} == {
        "open_order",
        "reserve_stock",
        "credit_points",
        "confirm_order",
        "record_event",
    }


async def test_an_order_for_more_than_there_is_changes_nothing_and_says_how_much_is_left(shop: Client) -> None:
    await shop.stock(stock=2)
    answer = await shop.order(quantity=3)
    problem = answer.json()
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] == PROBLEM + "out-of-stock"
    assert "order at most 2" in problem["detail"]
    rejected = (await shop.get(f"/orders/{problem['saga_id']}")).json()
    assert rejected["status"] == "rejected"
    assert (await shop.get("/products/tea")).json()["stock"] == 2
    assert (await shop.get("/users/7/points")).json()["points"] == 0
    assert (await shop.get("/users/7/events")).json() == []
    assert (await shop.get(f"/sagas/{problem['saga_id']}")).json()["status"] == "compensated"


async def test_the_last_pieces_are_sold_once(shop: Client) -> None:
    await shop.stock(stock=10)
    answers = await asyncio.gather(*(shop.order(quantity=3, user_id=n) for n in range(1, 7)))
    assert sorted(answer.status_code for answer in answers) == [201, 201, 201, 409, 409, 409]
    assert (await shop.get("/products/tea")).json()["stock"] == 1


async def test_an_unknown_product_is_404_and_starts_nothing(shop: Client) -> None:
    answer = await shop.order(product_id="nothing")
    assert answer.status_code == 404
    assert answer.json()["type"] == PROBLEM + "unknown-product"
    assert "PUT /products/nothing" in answer.json()["detail"]
    assert (await shop.get("/orders")).json()["orders"] == []


async def test_the_same_key_and_body_are_the_same_order(shop: Client) -> None:
    await shop.stock()
    first = await shop.order(Idempotency_Key="key-of-ada")
    again = await shop.order(Idempotency_Key="key-of-ada")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert (await shop.get("/products/tea")).json()["stock"] == 8


async def test_a_key_in_quotes_is_the_same_key(shop: Client) -> None:
    await shop.stock()
    first = await shop.order(Idempotency_Key="key-of-ada")
    again = await shop.order(Idempotency_Key='"key-of-ada"')
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()


async def test_a_key_means_the_same_order_after_a_change_of_price(shop: Client) -> None:
    await shop.stock(price="2.55")
    first = await shop.order(Idempotency_Key="key-of-ada")
    await shop.stock(price="9.99")
    assert (await shop.order(Idempotency_Key="key-of-ada")).json() == first.json()


async def test_requests_with_one_key_at_the_same_time_are_one_order(shop: Client) -> None:
    await shop.stock()
    answers = await asyncio.gather(*(shop.order(Idempotency_Key="key-of-ada") for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]
    assert len({answer.text for answer in answers}) == 1
    assert (await shop.get("/products/tea")).json()["stock"] == 8


async def test_a_key_with_another_body_is_refused(shop: Client) -> None:
    await shop.stock()
    await shop.order(Idempotency_Key="key-of-ada")
    answer = await shop.order(quantity=3, Idempotency_Key="key-of-ada")
    assert answer.status_code == 422
    assert answer.json()["type"] == PROBLEM + "key-reused"
    assert "use a new key" in answer.json()["detail"]


async def test_a_key_is_looked_at_before_the_product(shop: Client) -> None:
    await shop.stock()
    await shop.order(Idempotency_Key="key-of-ada")
    answer = await shop.order(product_id="nothing", Idempotency_Key="key-of-ada")
    assert (answer.status_code, answer.json()["type"]) == (422, PROBLEM + "key-reused")


async def test_a_repeated_key_gets_its_answer_without_the_inventory(
    shop: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.stock(stock=2)
    placed = await shop.order(Idempotency_Key="key-of-ada")
    refused = await shop.order(Idempotency_Key="key-of-bob")
    await shop.rest(placed.json()["id"])
    monkeypatch.setattr(routes, "inventory_of", away)
    again = await shop.order(Idempotency_Key="key-of-ada")
    assert (again.status_code, again.json()) == (200, placed.json())
    assert (await shop.order(Idempotency_Key="key-of-bob")).json() == refused.json()


def away(session: object) -> NoReturn:
    raise DatabaseUnavailable("inventory", "primary", "it is away")


async def test_a_refusal_is_repeated_for_its_key(shop: Client) -> None:
    await shop.stock(stock=1)
    first = await shop.order(Idempotency_Key="key-of-ada")
    await shop.stock(stock=100)
    again = await shop.order(Idempotency_Key="key-of-ada")
    assert (first.status_code, again.status_code) == (409, 409)
    assert again.json() == first.json()


async def test_a_client_that_prefers_not_to_wait_is_told_where_to_look(shop: Client) -> None:
    await shop.stock()
    answer = await shop.order(Prefer="handling=strict, Respond-Async; foo=bar")
    order_id = answer.json()["id"]
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/sagas/{order_id}"
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.json() == {"id": order_id, "status": "pending"}
    assert (await shop.rest(order_id))["status"] == "completed"
    assert (await shop.get(f"/orders/{order_id}")).json()["status"] == "confirmed"


async def test_preferences_may_come_in_several_headers(shop: Client) -> None:
    await shop.stock()
    body = {"user_id": 7, "product_id": "tea", "quantity": 1}
    answer = await shop.post("/orders", json=body, headers=[("Prefer", "wait=5"), ("Prefer", "respond-async")])
    assert answer.status_code == 202


async def test_an_outcome_that_takes_too_long_is_202(impatient_shop: Client) -> None:
    await impatient_shop.stock()
    answer = await impatient_shop.order()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/sagas/{answer.json()['id']}"
    assert "preference-applied" not in answer.headers
    assert (await impatient_shop.rest(answer.json()["id"]))["status"] == "completed"


async def test_what_does_not_exist_is_404_and_says_what_to_do(shop: Client) -> None:
    nobody = UUID(int=7)
    for path, said in (
        (f"/orders/{nobody}", "GET /orders lists them"),
        (f"/sagas/{nobody}", str(nobody)),
        ("/products/nothing", "PUT /products/nothing"),
    ):
        answer = await shop.get(path)
        assert answer.status_code == 404
        assert said in answer.json()["detail"]


async def test_orders_are_paged_newest_first_without_gaps_or_repetitions(shop: Client) -> None:
    await shop.stock(stock=100)
    placed = [(await shop.order(quantity=1)).json()["id"] for _ in range(7)]
    seen, cursor = [], None
    while True:
        page = (await shop.get("/orders", params={"limit": 3} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [order["id"] for order in page["orders"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        await shop.order(quantity=1)  # a new order does not shift the pages
    assert seen == placed[::-1]


@pytest.mark.parametrize(
    ("wanted", "count"),
    [({"user_id": "7"}, 2), ({"user_id": "8.0"}, 1), ({"status": "rejected"}, 1), ({"user_id": "9"}, 0)],
)
async def test_orders_are_filtered(shop: Client, wanted: dict[str, str], count: int) -> None:
    await shop.stock(stock=10)
    for user_id, quantity in ((7, 1), (7, 100), (8, 1)):
        await shop.order(user_id=user_id, quantity=quantity)
    page = (await shop.get("/orders", params=wanted)).json()
    assert len(page["orders"]) == count
    assert page["next_cursor"] is None
