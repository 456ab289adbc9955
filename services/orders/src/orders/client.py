"""A patient client of the service: it repeats a request with the same key until it gets an answer.

A key makes repeating harmless. So a refused connection, a lost reply and a 5xx have one remedy: retry. If the
service answers that the saga of a key was undone, the key is used up. The client then retries with a new key.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx2
from httpx2 import codes

from orders.schemas import OrderCreate, Product
from polysaga.clock import Clock

_PAUSE = (0.1, 2.0)  # seconds before the second attempt, and at most
_KEYS = 3  # keys used for one order: a saga that was undone stays so for its key
_UNDONE = {"saga-undone", "deadline-exceeded"}
_TIMEOUT = httpx2.Timeout(30.0, connect=5.0)


class GaveUp(Exception):
    """No answer that settles the request within the client's patience."""


class OrderVerdict(StrEnum):
    """How an order ended for the customer."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one order: its id if it is confirmed, else the reason."""

    verdict: OrderVerdict
    reason: str = ""
    order_id: UUID | None = None


class Shop:
    """A client of the service at *url*; it gives up on a request *patience* seconds after its first failure."""

    def __init__(
        self,
        url: str,
        *,
        connections: int = 10,
        patience: float = 60.0,
        clock: Clock | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = httpx2.AsyncClient(base_url=url, timeout=_TIMEOUT, limits=limits, transport=transport)
        self.repeated = 0
        self._patience, self._clock = patience, clock or Clock()

    async def __aenter__(self) -> "Shop":
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self._http.__aexit__(*failure)

    async def put_if_absent(self, product: Product) -> None:
        """Create *product* unless the shop already sells it."""
        if (await self._settle("GET", _product(product.id))).status_code == codes.NOT_FOUND:
            await self.put(product)

    async def put(self, product: Product) -> None:
        """Set stock and price of *product*; raise `GaveUp` if the shop does not take it."""
        body = product.model_dump(mode="json", exclude={"id"})
        answer = await self._settle("PUT", _product(product.id), json=body)
        if not answer.is_success:
            raise GaveUp(f"PUT {answer.request.url.path}: {_problem(answer).get('detail', answer.status_code)}")

    async def cancel(self, order_id: UUID) -> bool:
        """Cancel the order; return whether it is cancelled now."""
        return (await self._settle("POST", f"/orders/{order_id}/cancel")).is_success

    async def order(self, order: OrderCreate, key: str) -> Outcome:
        """Place *order* once, however many requests that takes."""
        outcome = await self._order(order, key)
        for again in range(2, _KEYS + 1):
            if outcome is not None:
                return outcome
            outcome = await self._order(order, f"{key}:{again}")
        return outcome or Outcome(OrderVerdict.FAILED, "undone")

    async def _order(self, order: OrderCreate, key: str) -> Outcome | None:
        """Return the outcome of the order of *key*; None if it was undone because a database kept failing."""
        body = order.model_dump(mode="json")
        try:
            answer = await self._settle("POST", "/orders", json=body, headers={"Idempotency-Key": key})
        except GaveUp as error:
            return Outcome(OrderVerdict.FAILED, str(error))
        if answer.is_success:
            return Outcome(OrderVerdict.CONFIRMED, order_id=UUID(answer.json()["id"]))
        reason = str(_problem(answer).get("type", answer.status_code)).rpartition(":")[2]
        if reason in _UNDONE:
            return None
        refused = answer.status_code in {codes.CONFLICT, codes.NOT_FOUND}
        return Outcome(OrderVerdict.REFUSED if refused else OrderVerdict.FAILED, reason)

    async def _settle(self, method: str, path: str, **request: Any) -> httpx2.Response:
        """Send the request until the answer is one that a retry would not change."""
        pause, longest = _PAUSE
        deadline: float | None = None
        while True:
            try:
                answer = await self._http.request(method, path, **request)
            except httpx2.TransportError as error:
                said = f"{type(error).__name__}: {error}"
            else:
                if _settles(answer):
                    return answer
                said = f"{answer.status_code} {answer.reason_phrase}"
            now = self._clock.monotonic()
            deadline = deadline or now + self._patience
            if now >= deadline:
                raise GaveUp(f"no answer in {self._patience:g} s ({said})")
            self.repeated += 1
            await self._clock.sleep(pause * (0.5 + random.random() / 2))
            pause = min(pause * 2, longest)


def _settles(answer: httpx2.Response) -> bool:
    if answer.status_code == codes.ACCEPTED or answer.status_code == codes.TOO_MANY_REQUESTS:
        return False
    # A 5xx that names a saga at rest is the outcome of that saga; any other 5xx is temporary.
    return not answer.is_server_error or (
        "saga_id" in _problem(answer) and _problem(answer)["type"] != "urn:polysaga:problem:outcome-pending"
    )


def _problem(answer: httpx2.Response) -> dict[str, Any]:
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        return {}
    found: dict[str, Any] = answer.json()
    return found


def _product(product_id: str) -> str:
    return f"/products/{quote(product_id, safe='')}"
