"""A user's id is an integer, however a client writes it."""

from typing import Any

import pytest

from .conftest import Client

LARGEST = 2**63 - 1
REFUSED = f"a user id is an integer from 1 to {LARGEST}, as a number or in digits"


async def test_the_smallest_order_there_is_is_confirmed(shop: Client) -> None:
    await shop.stock("85123A")
    answer = await shop.post("/orders", json={"user_id": 7, "product_id": "85123A", "quantity": 1})
    assert (answer.status_code, answer.json()["status"]) == (201, "confirmed")
    assert answer.json()["user_id"] == 7


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("7", 7),
        ("7", "7"),
        ("7", " 7 "),
        ("7", "007"),
        ("7", "+7"),
        ("7", 7.0),
        ("17850", "17850.0"),
        ("17850.0", 17850),
        ("17850.00", 17850.0),
        (str(LARGEST), LARGEST),
        (f"{LARGEST}.0", str(LARGEST)),
    ],
)
async def test_one_customer_is_written_in_several_ways(shop: Client, written: str, meant: Any) -> None:
    await shop.stock()
    order = (await shop.order(user_id=meant)).json()
    await shop.rest(order["id"])
    number = int(float(written)) if len(written) < 10 else LARGEST
    assert order["user_id"] == number
    assert (await shop.get(f"/users/{written}/points")).json() == {"user_id": number, "points": 510}
    [event] = (await shop.get(f"/users/{written}/events")).json()
    assert event["user_id"] == number
    page = (await shop.get("/orders", params={"user_id": written})).json()
    assert [found["id"] for found in page["orders"]] == [order["id"]]


async def test_a_key_does_not_mind_how_the_customer_is_written(shop: Client) -> None:
    await shop.stock()
    answers = [await shop.order(user_id=form, Idempotency_Key="key-of-7") for form in (7, "7", 7.0, "7.0", " 07 ")]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 200]
    assert {answer.text for answer in answers} == {answers[0].text}
    other = await shop.order(user_id=8, Idempotency_Key="key-of-7")
    assert other.json()["type"] == "urn:polysaga:problem:key-reused"


@pytest.mark.parametrize(
    "value",
    [
        "ada",
        "",
        "   ",
        "7.5",
        7.5,
        "1e3",
        1e30,
        float(2**53),
        True,
        False,
        None,
        0,
        "0",
        -7,
        "-7",
        LARGEST + 1,
        str(LARGEST + 1),
        "9" * 5000,
        "1_000",
        "1,000",
        "0x7",
        "\uff17",
        [7],
        {"id": 7},
    ],
)
async def test_what_is_no_user_id_is_refused_and_says_what_is(shop: Client, value: Any) -> None:
    await shop.stock()
    answer = await shop.post("/orders", json={"user_id": value, "product_id": "tea", "quantity": 1})
    assert (answer.status_code, answer.json()["detail"]) == (422, f"body.user_id: {REFUSED}")
    assert (await shop.get("/orders")).json()["orders"] == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
async def test_numbers_that_only_some_parsers_know_are_no_user_ids(shop: Client, value: str) -> None:
    body = f'{{"user_id": {value}, "product_id": "tea", "quantity": 1}}'
    answer = await shop.post("/orders", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["detail"]) == (422, f"body.user_id: {REFUSED}")


@pytest.mark.parametrize("value", ["ada", "7.5", "0", "-7", str(LARGEST + 1), "true"])
async def test_urls_and_filters_refuse_the_same(shop: Client, value: str) -> None:
    for path in (f"/users/{value}/points", f"/users/{value}/events"):
        answer = await shop.get(path)
        assert (answer.status_code, answer.json()["detail"]) == (422, f"path.user_id: {REFUSED}")
    answer = await shop.get("/orders", params={"user_id": value})
    assert (answer.status_code, answer.json()["detail"]) == (422, f"query.user_id: {REFUSED}")


async def test_openapi_takes_integers_and_digits_and_promises_integers(shop: Client) -> None:
    document = (await shop.get("/openapi.json")).json()
    models = document["components"]["schemas"]
    number = {"type": "integer", "format": "int64", "minimum": 1, "exclusiveMaximum": LARGEST + 1}
    asked = models["OrderCreate"]["properties"]["user_id"]["anyOf"]
    assert asked[0] == number
    assert asked[1]["type"] == "string"
    for name in ("Order", "Points", "UserEvent"):
        told = models[name]["properties"]["user_id"]
        assert {key: told[key] for key in number} == number, name
    [in_path] = document["paths"]["/users/{user_id}/points"]["get"]["parameters"]
    assert in_path["schema"]["anyOf"] == asked
    [in_query] = [one for one in document["paths"]["/orders"]["get"]["parameters"] if one["name"] == "user_id"]
    assert in_query["schema"]["anyOf"] == [*asked, {"type": "null"}]
