"""The demo's sagas in trouble: what they show, and that the shop's own steps are left alone without them."""

import pytest

from orders import trouble
from orders.place_order import confirm_order, record_event, reserve_stock
from orders.sagas import sagas
from polysaga import Retry, SagaFilter, Status

from .conftest import Client


@pytest.fixture
def troubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the demo cause its trouble, and take it back at the end."""
    for step in (confirm_order, record_event, reserve_stock):
        for name in ("action", "undo", "retry", "undo_retry"):
            monkeypatch.setattr(step, name, getattr(step, name))
    monkeypatch.setattr(trouble, "_QUICK", Retry(within=0.1, first=0.02))
    trouble.cause()


async def test_the_demo_has_a_parked_a_slow_and_a_refused_saga(shop: Client, troubled: None) -> None:
    for product in trouble.PRODUCTS:
        await shop.stock(product.id)
    await shop.stock(trouble.TEAPOT)
    await trouble.start()
    await trouble.start()  # as at the next start of the demo: nothing begins anew
    found = {saga.key: saga for saga in (await sagas.find()).sagas}
    assert len(found) == 3
    lamp, clock, teapot = (
        found[f"demo:trouble:{name}"].id for name in ("glass-lamp", "marble-clock", "gold-teapot")
    )
    assert (await shop.rest(str(lamp)))["status"] == "needs_attention"
    assert (await shop.rest(str(teapot)))["status"] == "compensated"
    assert (await sagas.get(clock)).status is Status.COMPLETING
    await sagas.retry(lamp, by="ada", why="the shelf was counted")
    assert (await sagas.find(SagaFilter(status=Status.NEEDS_ATTENTION))).sagas == ()


async def test_the_dashboard_is_in_the_shop(shop: Client) -> None:
    here = {"host": "localhost"}
    assert "Polysaga" in (await shop.get("/dashboard/", headers=here)).text
    assert (await shop.get("/dashboard/")).status_code == 403  # asked for by another name than this machine's
