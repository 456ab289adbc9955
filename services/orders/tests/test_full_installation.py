"""The shop on the servers it is meant for: PostgreSQL, MongoDB, and MariaDB or MySQL."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime

import pytest

from orders.databases import inventory
from orders.reconcile import reconcile
from polysaga import MongoSession
from polysaga.config import parse_settings

from .conftest import Client, calling

Fresh = Callable[[], str]


@pytest.fixture(params=["mariadb_database", "mysql_database"])
def points_database(request: pytest.FixtureRequest) -> Fresh:
    fresh: Fresh = request.getfixturevalue(request.param)
    return fresh


@pytest.fixture
async def full_shop(
    postgres_database: Fresh, mongo_database: Fresh, points_database: Fresh
) -> AsyncIterator[Client]:
    urls = {"orders": postgres_database(), "inventory": mongo_database(), "points": points_database()}
    async with calling(
        parse_settings({"databases": {name: {"url": url} for name, url in urls.items()}})
    ) as client:
        yield client


async def test_orders_are_placed_refused_and_cancelled_and_the_books_agree(full_shop: Client) -> None:
    shop = full_shop
    await shop.stock("85123A", stock=10)
    await shop.stock("85123a", stock=50, price="1.25")
    answers = await asyncio.gather(
        *(shop.order(product_id="85123A", quantity=3, user_id=7) for _ in range(6)),
        *(shop.order(product_id="85123a", quantity=2, user_id=8) for _ in range(6)),
    )
    assert sorted(answer.status_code for answer in answers) == [201] * 9 + [409] * 3
    first, again = [
        (await shop.order(product_id="85123a", user_id="8", Idempotency_Key="key-of-ada")).json() for _ in range(2)
    ]
    assert again == first
    assert (await shop.post(f"/orders/{again['id']}/cancel")).json()["status"] == "cancelled"

    assert (await reconcile()).contradictions == []
    assert (await shop.get("/products/85123A")).json()["stock"] == 1
    assert (await shop.get("/products/85123a")).json()["stock"] == 38
    assert (await shop.get("/users/7/points")).json()["points"] == 3 * 3 * 255
    assert (await shop.get("/users/8/points")).json()["points"] == 6 * 2 * 125
    events = (await shop.get("/users/8/events", params={"limit": 1})).json()
    assert [event["event_type"] for event in events] == ["order_cancelled"]


async def test_the_behaviour_event_in_mongodb_says_who_did_what_and_when(full_shop: Client) -> None:
    await full_shop.stock()
    order = (await full_shop.order(user_id="7.0", quantity=3)).json()
    await full_shop.rest(order["id"])
    async with inventory.reader() as session:
        assert isinstance(session, MongoSession)
        event = await session["user_events"].find_one({"user_id": 7})
    assert event is not None
    assert isinstance(event["timestamp"], datetime)
    expected = {"user_id": 7, "event_type": "order_created", "product_id": "tea", "order_id": order["id"]}
    assert {name: event[name] for name in expected} == expected


async def test_setting_the_stock_while_orders_run_loses_no_piece(full_shop: Client) -> None:
    shop = full_shop
    await shop.stock(stock=50)

    async def set_stock() -> None:
        for stock in (30, 80, 10, 60):
            await shop.stock(stock=stock)

    await asyncio.gather(set_stock(), *(shop.order(quantity=1, user_id=n) for n in range(1, 21)))
    assert (await reconcile()).contradictions == []


async def test_pages_and_filters(full_shop: Client) -> None:
    shop = full_shop
    await shop.stock(stock=100)
    placed = [(await shop.order(quantity=1)).json()["id"] for _ in range(5)]
    first = (await shop.get("/orders", params={"limit": 3, "user_id": 7, "status": "confirmed"})).json()
    rest = (await shop.get("/orders", params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert [order["id"] for order in first["orders"] + rest["orders"]] == placed[::-1]
    assert rest["next_cursor"] is None
