"""Input that is refused, always with what to do about it in `detail`."""

from typing import Any

import pytest

from .conftest import Client

ORDER = {"user_id": 7, "product_id": "tea", "quantity": 1}
JSON = {"Content-Type": "application/json"}
# 0001-01-01T00:00:00+12:00, which lies before the first moment in UTC
BEFORE_TIME = "MDAwMS0wMS0wMVQwMDowMDowMCsxMjowMCAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwNw"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantity": 0}, "body.quantity: Input should be greater than or equal to 1"),
        ({"quantity": -3}, "body.quantity: Input should be greater than or equal to 1"),
        ({"quantity": 1_000_001}, "body.quantity: Input should be less than or equal to 1000000"),
        ({"quantity": 1.5}, "body.quantity: Input should be a valid integer"),
        ({"quantity": "6"}, "body.quantity: Input should be a valid integer"),
        ({"quantity": True}, "body.quantity: Input should be a valid integer"),
        ({"quantity": None}, "body.quantity: Input should be a valid integer"),
        ({"product_id": "a/b"}, "body.product_id: use printable characters without '/'"),
        ({"product_id": "a\x00b"}, "body.product_id: use printable characters without '/'"),
        ({"product_id": "."}, "body.product_id: use another name than '.' and '..'"),
        ({"product_id": " .. "}, "body.product_id: use another name than '.' and '..'"),
        ({"coupon": "SPRING"}, "body.coupon: Extra inputs are not permitted"),
    ],
)
async def test_an_order_that_is_none(shop: Client, change: dict[str, Any], said: str) -> None:
    await shop.stock()
    answer = await shop.post("/orders", json=ORDER | change)
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:polysaga:problem:validation"
    assert said in answer.json()["detail"]
    assert (await shop.get("/orders")).json()["orders"] == []


@pytest.mark.parametrize("name", ORDER)
async def test_an_order_that_lacks_something(shop: Client, name: str) -> None:
    answer = await shop.post("/orders", json={key: value for key, value in ORDER.items() if key != name})
    assert answer.status_code == 422
    assert f"body.{name}: Field required" in answer.json()["detail"]


@pytest.mark.parametrize("text", ['{"user_id": 7,', "", "[]", "null", '"tea"', '{"user_id": "\\ud800"}'])
async def test_a_body_that_is_not_an_object_of_json(shop: Client, text: str) -> None:
    answer = await shop.post("/orders", content=text, headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("body")


@pytest.mark.parametrize("key", ["tab\tinside", "é" * 8])
async def test_a_key_that_no_header_should_carry(shop: Client, key: str) -> None:
    await shop.stock()
    order = {"user_id": 7, "product_id": "tea", "quantity": 1}
    answer = await shop.post("/orders", json=order, headers={"Idempotency-Key": key.encode("latin-1")})
    assert answer.status_code == 422
    assert "Idempotency-Key: a key has printable ASCII characters" in answer.json()["detail"]


@pytest.mark.parametrize("price", ["2.55", 2.55, 2, "2", "0.1", "0.05", 0.01, 57 * 0.01, "9999999.99"])
async def test_prices_that_are_taken(shop: Client, price: Any) -> None:
    answer = await shop.put("/products/tea", json={"stock": 1, "price": price})
    assert answer.json()["price"] == f"{float(price):.2f}"


@pytest.mark.parametrize(
    "price", [5e-324, 0.001, 1.999, 10**7, "2e0", "+2", " 2", "2.55\n", "2_5", ".5", "007", True]
)
async def test_prices_that_are_none(shop: Client, price: Any) -> None:
    answer = await shop.put("/products/tea", json={"stock": 1, "price": price})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("body.price: ")


@pytest.mark.parametrize("key", ["short", "k" * 201, '"1234567"'])
async def test_a_key_that_is_too_short_or_too_long(shop: Client, key: str) -> None:
    await shop.stock()
    answer = await shop.order(Idempotency_Key=key)
    assert answer.status_code == 422
    assert "Idempotency-Key: String should have at" in answer.json()["detail"]


@pytest.mark.parametrize("key", ['"key-of-ada', 'key-of"ada', '"key-of-ada";version=1'])
async def test_a_key_with_half_a_pair_of_quotes_is_a_problem_and_no_order(shop: Client, key: str) -> None:
    await shop.stock()
    answer = await shop.order(Idempotency_Key=key)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:polysaga:problem:validation")
    assert answer.json()["detail"].startswith("header.Idempotency-Key: a key has printable ASCII characters")
    assert (await shop.get("/orders")).json()["orders"] == []


@pytest.mark.parametrize(
    ("product", "said"),
    [
        ({"stock": -1, "price": "1"}, "body.stock: Input should be greater than or equal to 0"),
        ({"stock": 2_000_000_000, "price": "1"}, "body.stock: Input should be less than or equal to 1000000000"),
        ({"stock": 1, "price": "0"}, "body.price: Input should be greater than 0"),
        ({"stock": 1, "price": "1.999"}, "body.price: Decimal input should have no more than 2 decimal places"),
        ({"stock": 1, "price": "99999999.00"}, "body.price: Decimal input should have no more than"),
        ({"stock": 1, "price": "NaN"}, "body.price: Input should be a finite number"),
        ({"stock": 1, "price": "cheap"}, "body.price: Input should be a valid decimal"),
        ({"price": "1"}, "body.stock: Field required"),
        ({"stock": 1, "price": "1", "colour": "red"}, "body.colour: Extra inputs are not permitted"),
    ],
)
async def test_a_product_that_is_none(shop: Client, product: dict[str, Any], said: str) -> None:
    answer = await shop.put("/products/tea", json=product)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert (await shop.get("/products/tea")).status_code == 404


async def test_a_product_whose_name_is_a_step_in_paths(shop: Client) -> None:
    answer = await shop.put("/products/%20.%20", json={"stock": 1, "price": "1"})
    assert answer.status_code == 422
    assert "path.product_id: use another name than '.' and '..'" in answer.json()["detail"]


@pytest.mark.parametrize("cursor", ["", "x", "not a cursor", "bm9uZQ", "é", BEFORE_TIME])
async def test_a_cursor_of_somebody_else(shop: Client, cursor: str) -> None:
    answer = await shop.get("/orders", params={"cursor": cursor})
    assert answer.status_code == 422
    assert "query.cursor: not a cursor of this list: pass next_cursor as it was given" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"limit": 0}, "query.limit: Input should be greater than or equal to 1"),
        ({"limit": 1000}, "query.limit: Input should be less than or equal to 200"),
        ({"status": "lost"}, "query.status: Input should be 'pending', 'confirmed', 'rejected' or 'cancelled'"),
        ({"user": 7}, "query.user: Extra inputs are not permitted"),
        ({"status": ["confirmed", "pending"]}, "query.status: it came twice"),
    ],
)
async def test_a_list_that_cannot_be_made(shop: Client, wanted: dict[str, Any], said: str) -> None:
    answer = await shop.get("/orders", params=wanted)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"limit": 0}, "query.limit: Input should be greater than or equal to 1"),
        ({"limits": 7}, "query.limits: Extra inputs are not permitted"),
        ({"limit": [1, 2]}, "query.limit: it came twice"),
    ],
)
async def test_events_that_cannot_be_listed(shop: Client, wanted: dict[str, Any], said: str) -> None:
    answer = await shop.get("/users/7/events", params=wanted)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/orders/7", "/sagas/7"])
async def test_an_id_that_is_none(shop: Client, path: str) -> None:
    answer = await shop.get(path)
    assert answer.status_code == 422
    assert "Input should be a valid UUID" in answer.json()["detail"]


async def test_a_path_and_a_method_that_are_not_there_are_problems_too(shop: Client) -> None:
    for answer, status in ((await shop.get("/nothing"), 404), (await shop.delete("/orders"), 405)):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
