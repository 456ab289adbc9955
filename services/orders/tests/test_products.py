"""PUT and GET /products, and the two other databases."""

import asyncio

from orders.databases import databases, inventory
from orders.inventory import Shelf, inventory_of

from .conftest import Client


async def _shelf() -> Shelf:
    assert inventory in databases
    async with inventory.reader() as session:
        return (await inventory_of(session).shelves())["tea"]


async def test_a_product_is_created_and_then_set(shop: Client) -> None:
    new = await shop.put("/products/tea", json={"stock": 5, "price": 2.5})
    set_again = await shop.put("/products/tea", json={"stock": 8, "price": "3.00"})
    assert (new.status_code, set_again.status_code) == (201, 200)
    assert new.json() == {"id": "tea", "stock": 5, "price": "2.50"}
    assert (await shop.get("/products/tea")).json() == {"id": "tea", "stock": 8, "price": "3.00"}


async def test_names_that_differ_in_case_are_different_products(shop: Client) -> None:
    await shop.stock("85123A", stock=1)
    await shop.stock("85123a", stock=2)
    assert (await shop.get("/products/85123A")).json()["stock"] == 1
    assert (await shop.get("/products/85123a")).json()["stock"] == 2


async def test_setting_the_stock_while_orders_run_loses_no_piece(shop: Client) -> None:
    await shop.stock(stock=50)

    async def set_stock() -> None:
        for stock in (30, 80, 10, 60):
            await shop.stock(stock=stock)

    answers = await asyncio.gather(set_stock(), *(shop.order(quantity=1, user_id=n) for n in range(1, 21)))
    confirmed = [answer for answer in answers if answer is not None and answer.status_code == 201]
    shelf = await _shelf()
    assert shelf.stocked - shelf.stock == len(confirmed)


async def test_someone_who_never_bought_anything_has_no_points_and_no_events(shop: Client) -> None:
    assert (await shop.get("/users/404/points")).json() == {"user_id": 404, "points": 0}
    assert (await shop.get("/users/404/events")).json() == []


async def test_events_come_newest_first_and_not_more_than_asked_for(shop: Client) -> None:
    await shop.stock()
    orders = [(await shop.order(quantity=1)).json()["id"] for _ in range(3)]
    for order_id in orders:
        await shop.rest(order_id)
    events = (await shop.get("/users/7/events", params={"limit": 2})).json()
    assert [event["order_id"] for event in events] == orders[:0:-1]


async def test_health(shop: Client) -> None:
    assert (await shop.get("/health/live")).status_code == 200
    ready = (await shop.get("/health/ready")).json()
    assert ready["databases"] == {"orders": "ok", "points": "ok", "inventory": "ok"}
