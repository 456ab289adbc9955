"""Customers of the order service: POST /orders over HTTP/1.1 on kept connections, each with a key of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx2

from benchmarks.shop import POOL, some_order
from benchmarks.side import Places, Side, serve


@asynccontextmanager
async def customers(places: Places) -> AsyncIterator[Side]:
    connections = POOL["size"]
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx2.AsyncClient(base_url=places["service"], limits=limits, timeout=60.0) as client:

        async def once() -> None:
            order = some_order().model_dump(mode="json", include={"user_id", "product_id", "quantity"})
            answer = await client.post("/orders", json=order, headers={"Idempotency-Key": str(uuid4())})
            assert answer.status_code == httpx2.codes.CREATED, answer.text

        yield Side(once)


if __name__ == "__main__":
    serve({"customers": customers})
