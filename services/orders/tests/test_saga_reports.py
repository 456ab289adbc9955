"""GET /sagas/{id}: what customers learn of a saga, and what stays in the service."""

from typing import Any
from uuid import UUID

import pytest

from orders.place_order import confirm_order, credit_points
from orders.sagas import sagas
from polysaga import Retry

from .conftest import Client

_SECRET = "/srv/shop/secrets.toml: SELECT password FROM staff"


def _fail(*given: Any) -> Any:
    raise FileNotFoundError(_SECRET)


async def _report(shop: Client) -> tuple[dict[str, Any], str]:
    """Place an order that comes to grief; return its report, and the text that was sent."""
    await shop.stock()
    saga_id = (await shop.order()).json()["saga_id"]
    report = await shop.rest(saga_id)
    return report, (await shop.get(f"/sagas/{saga_id}")).text


async def test_a_bug_is_told_without_its_text_and_its_traceback(
    shop: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credit_points, "action", _fail)
    report, text = await _report(shop)
    assert report["status"] == "compensated"
    assert report["error"] == {"kind": "failed", "step": "credit_points", "message": ""}
    assert _SECRET not in text
    assert "Traceback" not in text
    known = (await sagas.get(UUID(report["id"]))).error
    assert known is not None
    assert _SECRET in known.message


async def test_a_parked_saga_is_told_without_what_operators_see(
    shop: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirm_order, "action", _fail)
    monkeypatch.setattr(credit_points, "undo", _fail)
    monkeypatch.setattr(credit_points, "undo_retry", Retry(within=0.0))
    report, text = await _report(shop)
    assert report["status"] == "needs_attention"
    parked = report["error"]["parked"]
    assert (parked["kind"], parked["step"], parked["from"]) == ("failed", "credit_points", "compensating")
    assert "said" not in report["history"][0]
    assert _SECRET not in text
    assert "Traceback" not in text
    resolved = await sagas.resolve(UUID(report["id"]), "compensated", by="ada", why="the shelf was counted")
    assert resolved[0].done
    assert "ada" not in (await shop.get(f"/sagas/{report['id']}")).text


async def test_a_refusal_is_told_in_the_words_of_the_shop(shop: Client) -> None:
    await shop.stock(stock=1)
    problem = (await shop.order()).json()
    error = (await shop.rest(problem["saga_id"]))["error"]
    assert (error["kind"], error["code"], error["message"]) == ("refused", "out-of-stock", problem["detail"])
