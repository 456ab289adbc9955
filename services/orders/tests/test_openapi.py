"""The document that clients are generated from."""

import re
from collections.abc import Iterator
from typing import Any

import httpx2

from tests.fixtures.contracts import keep_contract

from .conftest import Client, Served


def _calls(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            yield f"{method} {path}", call


async def _document(shop: Client) -> dict[str, Any]:
    document: dict[str, Any] = (await shop.get("/openapi.json")).json()
    return document


async def test_every_error_is_a_problem_with_its_schema_and_examples_of_its_kinds(shop: Client) -> None:
    document = await _document(shop)
    errors = [
        (call, status, response)
        for call, described in _calls(document)
        for status, response in described["responses"].items()
        if status[0] in "45"
    ]
    assert len(errors) > 50
    for call, status, response in errors:
        assert set(response["content"]) == {"application/problem+json"}, (call, status)
        content = response["content"]["application/problem+json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert content["examples"]
        for kind, example in content["examples"].items():
            assert set(document["components"]["schemas"]["Problem"]["required"]) <= example["value"].keys()
            assert example["value"]["status"] == int(status)
            assert example["value"]["type"] in {f"urn:polysaga:problem:{kind}", "about:blank"}
        assert ("Retry-After" in response.get("headers", {})) == (status == "503")
    examples = document["paths"]["/orders"]["post"]["responses"]["409"]["content"]["application/problem+json"]
    assert {"out-of-stock", "saga-undone"} <= examples["examples"].keys()


async def test_no_request_gets_an_answer_that_the_document_does_not_have(served: Served) -> None:
    for product in ("tea", "coffee"):
        stocked = httpx2.put(f"{served.url}/products/{product}", json={"stock": 1000, "price": "2.55"})
        assert stocked.is_success
    # The document cannot say which key was used before, or which text is a cursor: these are refused.
    left_out = "--exclude-checks=positive_data_acceptance,unsupported_method,allow_header_conformance"
    options = ("--phases=examples,fuzzing", "--max-examples=15", left_out)
    await keep_contract(f"{served.url}/openapi.json", *options)


async def test_what_can_happen_to_a_body_is_told(shop: Client) -> None:
    for call, described in _calls(await _document(shop)):
        if "requestBody" in described:
            assert {"413", "415", "422"} <= described["responses"].keys(), call


async def test_the_key_is_described_as_it_is_accepted(shop: Client) -> None:
    (key,) = [
        one
        for one in (await _document(shop))["paths"]["/orders"]["post"]["parameters"]
        if one["name"] == "Idempotency-Key"
    ]
    assert (key["schema"]["type"], key["schema"]["minLength"], key["schema"]["maxLength"]) == ("string", 8, 202)
    for length, fine in ((7, False), (8, True), (200, True), (201, False)):
        for told in ("k" * length, '"' + "k" * length + '"'):
            assert bool(re.fullmatch(key["schema"]["pattern"], told)) is fine
            assert ((await shop.order(product_id="none", Idempotency_Key=told)).status_code == 404) is fine


async def test_a_saga_that_needs_a_person_is_described_where_one_is_run(shop: Client) -> None:
    paths = (await _document(shop))["paths"]
    for path in ("/orders", "/orders/{order_id}/cancel"):
        examples = paths[path]["post"]["responses"]["500"]["content"]["application/problem+json"]["examples"]
        assert "needs-attention" in examples, path


async def test_examples_have_all_that_is_required(shop: Client) -> None:
    """FastAPI leaves nulls out of examples: an example of ours has none."""
    for name, schema in (await _document(shop))["components"]["schemas"].items():
        for example in schema.get("examples", ()):
            assert set(schema.get("required", ())) <= example.keys(), name


async def test_headers_that_are_sent_are_described(shop: Client) -> None:
    responses = (await _document(shop))["paths"]["/orders"]["post"]["responses"]
    assert all("Location" in responses[status]["headers"] for status in ("200", "201", "202"))


async def test_the_names_are_made_for_people(shop: Client) -> None:
    document = await _document(shop)
    names = [call["operationId"] for _, call in _calls(document)]
    assert len(set(names)) == len(names)
    assert {"place_order", "cancel_order", "find_sagas", "health_ready"} <= set(names)
    assert not [name for name in names if re.search(r"_(get|put|post)$|__", name)]
    schemas = document["components"]["schemas"]
    assert not [name for name in schemas if name.startswith("_") or name == "HTTPValidationError"]
    described = {tag["name"] for tag in document["tags"]}
    assert {tag for _, call in _calls(document) for tag in call["tags"]} == described


async def test_operators_show_a_token_and_customers_do_not(shop: Client) -> None:
    document = await _document(shop)
    assert document["components"]["securitySchemes"]["operator"]["scheme"] == "bearer"
    secured = {call for call, described in _calls(document) if "security" in described}
    # Without a token the service asks its own machine for nothing.
    assert document["paths"]["/sagas"]["get"]["security"] == [{"operator": []}, {}]
    assert secured == {call for call, described in _calls(document) if "operations" in described["tags"]} - {
        "get /health/live",
        "get /health/ready",
    }


async def test_readiness_has_a_schema_of_its_own(shop: Client) -> None:
    ready = (await _document(shop))["paths"]["/health/ready"]["get"]["responses"]
    assert ready["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Readiness"}
    assert "503" in ready


async def test_what_can_be_read_answers_head(shop: Client) -> None:
    await shop.stock()
    order_id = (await shop.order()).json()["id"]
    for path in ("/orders", f"/orders/{order_id}", "/products/tea", "/users/7/points", f"/sagas/{order_id}"):
        assert (await shop.head(path)).status_code == 200, path
    told = await shop.delete("/products/tea")
    assert (told.status_code, told.headers["allow"]) == (405, "GET, HEAD, PUT")


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
        "SagaReport",
        "UserEvent",
    ):
        assert models[name]["examples"], name
