"""The shop on databases with replicas: customers see what their own orders did, wherever they read."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest

from polysaga.config import parse_settings

from .conftest import Client, calling

Fresh = Callable[[], str]
CUSTOMERS, ORDERS = 4, 8


@pytest.fixture
async def replicated_shop(
    postgres_cluster: Any, mongo_database: Fresh, mariadb_cluster: Any
) -> AsyncIterator[Client]:
    name = f"shop_{uuid4().hex[:12]}"
    settings: dict[str, Any] = {"inventory": {"url": mongo_database()}}
    for database, cluster in (("orders", postgres_cluster), ("points", mariadb_cluster)):
        cluster.primary.create_database(name)
        cluster.catch_up()
        primary, *replicas = cluster.urls(name)
        settings[database] = {"url": primary, "replicas": replicas, "pool": {"acquire_timeout": 15}}
    bookmarks = {"secret": "the secret of these tests", "secure": False, "explain": True}
    async with calling(parse_settings({"databases": settings, "bookmarks": bookmarks})) as client:
        yield client


async def follow(shop: Client, location: str) -> Any:
    """Ask *location* until the saga is at rest, as a client does that got a 202."""
    async with asyncio.timeout(60):
        while (saga := (await shop.get(location)).json())["status"] not in {"completed", "compensated"}:
            pass
    return saga


@pytest.mark.parametrize("paused", [False, True], ids=["natural", "paused"])
@pytest.mark.parametrize("prefer", ["", "respond-async"])
async def test_customers_see_their_order_their_points_and_the_stock(
    replicated_shop: Client, postgres_cluster: Any, mariadb_cluster: Any, *, paused: bool, prefer: str
) -> None:
    await replicated_shop.stock(stock=CUSTOMERS * ORDERS)
    for cluster in (postgres_cluster, mariadb_cluster):
        await asyncio.to_thread(cluster.catch_up)
        for replica in cluster.replicas if paused else ():
            await asyncio.to_thread(replica.pause)
    went = Counter[str]()

    async def customer(user_id: int) -> None:
        async with Client(transport=replicated_shop._transport, base_url="http://shop") as shop:
            for count in range(1, ORDERS + 1):
                placed = await shop.order(quantity=1, user_id=user_id, **({"Prefer": prefer} if prefer else {}))
                if prefer:
                    saga = await follow(shop, placed.headers["Location"])
                    location = f"/orders/{saga['id']}"
                else:
                    location = placed.headers["Location"]
                order = await shop.get(location)
                assert (order.status_code, order.json()["status"]) == (200, "confirmed")
                points = await shop.get(f"/users/{user_id}/points")
                assert points.json()["points"] == count * 255
                went.update(answer.headers["X-Polysaga-Route"].split(";")[0] for answer in (order, points))

    await asyncio.gather(*(customer(user_id) for user_id in range(1, CUSTOMERS + 1)))
    assert (await replicated_shop.get("/products/tea")).json()["stock"] == 0
    if not paused:
        assert any("=replica" in node for node in went), went


async def test_an_order_is_cancelled_by_somebody_who_has_no_bookmark(
    replicated_shop: Client, postgres_cluster: Any
) -> None:
    await replicated_shop.stock()
    for replica in postgres_cluster.replicas:
        await asyncio.to_thread(replica.pause)
    placed = await replicated_shop.order()
    async with Client(transport=replicated_shop._transport, base_url="http://shop") as office:
        answer = await office.post(f"/orders/{placed.json()['id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
