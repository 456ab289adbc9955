"""The service's metrics, as Prometheus scrapes them."""

from prometheus_client.parser import text_string_to_metric_families

from .conftest import Client


async def samples(shop: Client) -> dict[str, float]:
    """Return the values of one scrape, summed over their labels."""
    answer = await shop.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


async def test_an_order_and_a_refusal_show_in_the_metrics(shop: Client) -> None:
    assert (await shop.put("/products/tea", json={"stock": 1, "price": "2.55"})).status_code == 201
    order = {"user_id": 7, "product_id": "tea", "quantity": 1}
    assert (await shop.post("/orders", json=order)).status_code == 201
    assert (await shop.post("/orders", json=order)).status_code == 409
    found = await samples(shop)
    assert found["polysaga_sagas_started_total"] == 2
    assert found["polysaga_steps_seconds_count"] >= 4 + 2
    assert found["polysaga_pool_size"] > 0
    assert found["process_cpu_seconds_total"] > 0  # of the process, from prometheus-client
