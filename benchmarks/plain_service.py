"""`POST /orders` of the order service with plain sessions: the same checks, the same SQL, no saga.

It looks up the price in a session of its own, as the service does, runs the plain coordinator, and answers in the
same form. The idempotency key is read and ignored: without a journal there is nothing to look it up in.
"""

import asyncio
import json
import os
import sys
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Response

from benchmarks.plain import PlainCoordinator
from benchmarks.shop import transactions
from orders.errors import OutOfStock, UnknownProduct
from orders.inventory import inventory_of
from orders.place_order import place_order
from orders.schemas import Order, OrderCreate, PricedOrder
from orders.serving import calm_garbage_collection


async def serve(places: dict[str, str], port: int) -> None:
    """Serve until SIGTERM."""
    async with transactions(places) as found:
        coordinator = PlainCoordinator(place_order, found)
        app = FastAPI(title="Plain orders")

        @app.get("/health/ready")
        async def ready() -> dict[str, str]:
            return {"status": "ok"}

        @app.post("/orders", status_code=201, response_model=Order)
        async def place(
            asked: OrderCreate, response: Response, idempotency_key: Annotated[str | None, Header()] = None
        ) -> Any:
            try:
                async with found["inventory"]() as session:
                    product = await inventory_of(session).product(asked.product_id)
                order = PricedOrder(unit_price=product.price, **asked.model_dump())
                placed = await coordinator.run(order)
            except UnknownProduct as error:
                raise HTTPException(404, str(error)) from None
            except OutOfStock as error:
                raise HTTPException(409, str(error)) from None
            response.headers["Location"] = f"/orders/{placed.id}"
            return placed

        calm_garbage_collection()
        await uvicorn.Server(uvicorn.Config(app, port=port, access_log=False, log_level="warning")).serve()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(os.environ["PLACES"]), int(sys.argv[1])))
