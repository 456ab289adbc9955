"""Planted contradictions are found, and the books of an untouched shop are in order."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest
from sqlalchemy import delete, insert, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import UpdateBase

from orders.databases import inventory, orders, points
from orders.reconcile import reconcile
from orders.tables import event_table, order_table, point_table, product_table

from .conftest import Client

Placed = Callable[[], Awaitable[UUID]]
NOBODY = UUID(int=7)


@pytest.fixture
async def order_id(shop: Client) -> UUID:
    """A shop with a confirmed, a rejected and a cancelled order; the id of the confirmed one."""
    await shop.stock(stock=10)
    await shop.order(quantity=100)
    cancelled = (await shop.order(quantity=1)).json()["id"]
    await shop.post(f"/orders/{cancelled}/cancel")
    confirmed = (await shop.order(quantity=3)).json()["id"]
    assert (await reconcile()).contradictions == []
    return UUID(confirmed)


async def _plant(database: object, statement: UpdateBase) -> None:
    assert database in (orders, points, inventory)
    async with database.writer() as session:
        assert isinstance(session, AsyncSession)
        await session.execute(statement)


async def _found() -> list[str]:
    return (await reconcile(patience=0.3)).contradictions


async def test_an_untouched_shop_is_in_order(order_id: UUID) -> None:
    found = await reconcile(confirmed=[order_id])
    assert (found.orders, found.products, found.users, found.contradictions) == (3, 1, 1, [])


async def test_an_empty_shop_is_in_order(shop: Client) -> None:
    assert (await reconcile()).contradictions == []


async def test_points_that_were_edited(order_id: UUID) -> None:
    await _plant(points, update(point_table).values(amount=1))
    assert await _found() == ["user 7: 1 points, 765 cents of confirmed spend"]


async def test_points_that_were_deleted(order_id: UUID) -> None:
    await _plant(points, delete(point_table))
    assert await _found() == [
        f"order {order_id} is confirmed but has no points entry",
        "user 7: 0 points, 765 cents of confirmed spend",
    ]


async def test_points_without_an_order(order_id: UUID) -> None:
    await _plant(points, insert(point_table).values(order_id=NOBODY, user_id=8, amount=5))
    assert await _found() == [
        f"order {NOBODY} has a points entry but is not confirmed",
        "user 8: 5 points, 0 cents of confirmed spend",
    ]


async def test_stock_that_was_changed_behind_the_counter(order_id: UUID) -> None:
    await _plant(inventory, update(product_table).values(stock=product_table.c.stock - 2))
    assert await _found() == ["product tea: 5 taken from stock, 3 in confirmed orders"]


async def test_a_product_that_was_deleted(order_id: UUID) -> None:
    await _plant(inventory, delete(product_table))
    assert await _found() == ["product tea has confirmed orders but does not exist"]


async def test_an_event_that_was_deleted(order_id: UUID) -> None:
    await _plant(inventory, delete(event_table).where(event_table.c.order_id == order_id))
    assert await _found() == [f"order {order_id} has no event 'order_created'"]


async def test_an_event_that_does_not_fit(order_id: UUID) -> None:
    changing = update(event_table).where(event_table.c.order_id == order_id).values(event_type="order_cancelled")
    await _plant(inventory, changing)
    assert await _found() == [
        f"order {order_id} has an event 'order_cancelled' that does not fit its status",
        f"order {order_id} has no event 'order_created'",
    ]


async def test_an_order_without_an_outcome(order_id: UUID) -> None:
    await _plant(orders, update(order_table).where(order_table.c.id == order_id).values(status="pending"))
    assert f"order {order_id} has no outcome" in await _found()


async def test_an_order_that_the_customer_was_promised(order_id: UUID) -> None:
    found = await reconcile(confirmed=[order_id, NOBODY], patience=0.3)
    assert found.contradictions == [f"order {NOBODY} was reported as confirmed but is not"]
