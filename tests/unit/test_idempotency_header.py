"""The header `Idempotency-Key`: bare or in quotes it is one key, and what is neither is refused."""

import re
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import FastAPI

from polysaga.fastapi import idempotency_key

app = FastAPI()


@app.post("/")
async def show(key: Annotated[str | None, idempotency_key(min_length=3, max_length=9)]) -> str | None:
    return key


async def asked(*headers: str) -> httpx2.Response:
    """Ask with these headers of the one name."""
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://app") as client:
        return await client.post("/", headers=[(b"idempotency-key", text.encode()) for text in headers])


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        ('  "abc"\t', "abc"),
        ("a b c", "a b c"),
        ('"a b c"', "a b c"),
        ('"say \\"hi\\""', 'say "hi"'),
        ('"a\\\\b"', "a\\b"),
        ("a\\b", "a\\b"),
        ("'abc'", "'abc'"),
        ('"123456789"', "123456789"),
    ],
)
async def test_one_key_is_written_in_two_ways(header: str, key: str) -> None:
    answer = await asked(header)
    assert (answer.status_code, answer.json()) == (200, key)


async def test_a_request_need_not_have_a_key() -> None:
    assert (await asked()).json() is None


@pytest.mark.parametrize(
    "header",
    [
        '"abc',
        'abc"',
        '"',
        'a"b"c',
        '"a"b"',
        '""abc""',
        '"abc";p=1',
        '"abc", "def"',
        '"a\\bc"',
        '"abc\\"',
        "schlüssel",
        '"é a"',
        "a\tbc",
    ],
)
async def test_what_is_neither_bare_nor_quoted_is_refused(header: str) -> None:
    answer = await asked(header)
    [error] = answer.json()["detail"]
    assert answer.status_code == 422
    assert error["loc"] == ["header", "Idempotency-Key"]
    assert "without any double quote, or all of it between two" in error["msg"]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("ab", "at least 3"),
        ('"ab"', "at least 3"),
        ('""', "at least 3"),
        ("", "at least 3"),
        ("0123456789", "at most 9"),
    ],
)
async def test_the_length_is_that_of_the_key_without_its_quotes(header: str, said: str) -> None:
    answer = await asked(header)
    assert answer.status_code == 422
    assert said in answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize("headers", [("abc", "def"), ("abc", '"abc"')])
async def test_a_header_that_comes_twice_is_refused(headers: tuple[str, str]) -> None:
    answer = await asked(*headers)
    assert answer.status_code == 422
    assert "send it once" in answer.json()["detail"][0]["msg"]


async def test_openapi_shows_the_header_with_its_limits() -> None:
    [header] = app.openapi()["paths"]["/"]["post"]["parameters"]
    assert (header["name"], header["in"], header["required"]) == ("Idempotency-Key", "header", False)
    assert header["schema"]["type"] == "string"
    assert re.fullmatch(header["schema"]["pattern"], "abc")
    assert re.fullmatch(header["schema"]["pattern"], '"a b c d e"')
    assert not re.fullmatch(header["schema"]["pattern"], '"abc')
    assert "double quotes" in header["description"]


@pytest.mark.parametrize("limits", [{}, {"max_length": 5}])
async def test_the_longest_key_is_that_of_a_saga(limits: dict[str, Any]) -> None:
    other = FastAPI()

    @other.post("/")
    async def show(key: Annotated[str | None, idempotency_key(**limits)]) -> str | None:
        return key

    [header] = other.openapi()["paths"]["/"]["post"]["parameters"]
    assert header["schema"]["maxLength"] == limits.get("max_length", 255) + 2  # quotes
