"""The patient client: what it repeats, with which key, and when it gives up."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx2

from orders.client import OrderVerdict, Outcome, Shop
from orders.schemas import OrderCreate
from polysaga.clock import Clock

ORDER = OrderCreate(user_id=7, product_id="tea", quantity=1)
ID = UUID(int=7)
Answer = httpx2.Response | Exception


class Hurried(Clock):
    """A clock on which every pause is over at once."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self._now += seconds


def _problem(status: int, kind: str, **members: Any) -> httpx2.Response:
    body = {"type": f"urn:polysaga:problem:{kind}", "status": status, "detail": "", **members}
    return httpx2.Response(status, text=json.dumps(body), headers={"content-type": "application/problem+json"})


def _placed(status: int = 201) -> httpx2.Response:
    return httpx2.Response(status, json={"id": str(ID)})


async def _order(answers: Callable[[], Answer]) -> tuple[Outcome, list[str]]:
    """Place an order with a service that gives *answers*; return the outcome and the keys that it saw."""
    keys = []

    async def serve(request: httpx2.Request) -> httpx2.Response:
        keys.append(request.headers["idempotency-key"])
        answer = answers()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with Shop("http://shop", clock=Hurried(), transport=httpx2.MockTransport(serve)) as shop:
        return await shop.order(ORDER, "key"), keys


def _one_by_one(*answers: Answer) -> Callable[[], Answer]:
    left: Iterator[Answer] = iter(answers)
    return lambda: next(left)


async def test_whatever_may_pass_is_repeated_with_the_same_key() -> None:
    outcome, keys = await _order(
        _one_by_one(
            httpx2.ConnectError("refused"),
            httpx2.RemoteProtocolError("the reply was cut off"),
            httpx2.ReadTimeout("too slow"),
            _problem(503, "try-again"),
            _problem(503, "outcome-pending", saga_id=str(ID)),
            httpx2.Response(502, text="a proxy"),
            _placed(202),
            _placed(200),
        )
    )
    assert outcome == Outcome(OrderVerdict.CONFIRMED, order_id=ID)
    assert keys == ["key"] * 8


async def test_an_order_that_was_undone_is_asked_for_anew() -> None:
    outcome, keys = await _order(_one_by_one(_problem(409, "saga-undone", saga_id=str(ID)), _placed()))
    assert outcome.verdict is OrderVerdict.CONFIRMED
    assert keys == ["key", "key:2"]


async def test_an_order_that_is_undone_every_time_fails() -> None:
    outcome, keys = await _order(lambda: _problem(409, "deadline-exceeded", saga_id=str(ID)))
    assert outcome == Outcome(OrderVerdict.FAILED, "undone")
    assert keys == ["key", "key:2", "key:3"]


async def test_refusals_and_failures_are_not_repeated() -> None:
    for answer, expected in (
        (_problem(409, "out-of-stock"), Outcome(OrderVerdict.REFUSED, "out-of-stock")),
        (_problem(404, "unknown-product"), Outcome(OrderVerdict.REFUSED, "unknown-product")),
        (_problem(422, "key-reused"), Outcome(OrderVerdict.FAILED, "key-reused")),
        (_problem(500, "needs-attention", saga_id=str(ID)), Outcome(OrderVerdict.FAILED, "needs-attention")),
    ):
        assert await _order(_one_by_one(answer)) == (expected, ["key"])


async def test_patience_ends_after_a_minute() -> None:
    outcome, keys = await _order(lambda: httpx2.ConnectError("refused"))
    assert outcome == Outcome(OrderVerdict.FAILED, "no answer in 60 s (ConnectError: refused)")
    assert len(keys) > 20
