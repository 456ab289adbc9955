"""The document that clients are generated from."""

from typing import Any

from .conftest import Client


async def test_every_call_has_a_summary_a_tag_and_its_problems(shop: Client) -> None:
    document = (await shop.get("/openapi.json")).json()
    calls: dict[str, Any] = {
        f"{method} {path}": call
        for path, methods in document["paths"].items()
        for method, call in methods.items()
        if not path.startswith("/health")
    }
    assert sorted(calls) == [
        "get /orders",
        "get /orders/{order_id}",
        "get /products/{product_id}",
        "get /sagas",
        "get /sagas/{saga_id}",
        "get /users/{user_id}/events",
        "get /users/{user_id}/points",
        "post /orders",
        "post /orders/{order_id}/cancel",
        "post /sagas/repairs",
        "post /sagas/{saga_id}/compensate",
        "post /sagas/{saga_id}/resolve",
        "post /sagas/{saga_id}/retry",
        "post /sagas/{saga_id}/skip",
        "put /products/{product_id}",
    ]
    for call in calls.values():
        assert call["tags"]
        assert call["summary"]
        assert {"422", "503"} <= call["responses"].keys()
    assert {"200", "201", "202", "404", "409"} <= calls["post /orders"]["responses"].keys()


async def test_every_model_of_ours_has_an_example(shop: Client) -> None:
    models = (await shop.get("/openapi.json")).json()["components"]["schemas"]
    for name in (
        "Order",
        "OrderCreate",
        "OrderAccepted",
        "OrderPage",
        "Product",
        "ProductSet",
        "Points",
        "UserEvent",
    ):
        assert models[name]["examples"], name
