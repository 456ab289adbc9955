"""The HTTP calls. Each reads what it needs, hands the work to a saga or a store, and shapes the answer."""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import WithJsonSchema
from sqlalchemy.ext.asyncio import AsyncSession

from orders import order_book, point_book
from orders.cancel_order import cancel_order
from orders.databases import inventory, orders, points
from orders.errors import OrderNotCancellable, OutOfStock, UnknownOrder, UnknownProduct
from orders.inventory import Inventory, Session, inventory_of
from orders.place_order import place_order
from orders.sagas import sagas
from orders.schemas import (
    EventFilter,
    Name,
    Order,
    OrderAccepted,
    OrderCancel,
    OrderCreate,
    OrderFilter,
    OrderPage,
    OrderStatus,
    Points,
    PricedOrder,
    Product,
    ProductSet,
    SagaReport,
    UserEvent,
    UserId,
)
from polysaga import SagaFilter, SagaHandle
from polysaga.errors import OutcomePending, TryAgain
from polysaga.fastapi import idempotency_key, problems, reader, writer


def _readable(session: Annotated[Session, reader(inventory)]) -> Inventory:
    return inventory_of(session)


def _writable(session: Annotated[Session, writer(inventory)]) -> Inventory:
    return inventory_of(session)


def _refuse_repeated(request: Request) -> None:
    """Refuse a parameter that came twice: all its values but the last would be ignored."""
    counted = Counter(name for name, _ in request.query_params.multi_items())
    twice = [name for name, times in counted.items() if times > 1]
    if twice:
        said = "it came twice, and takes one value; send it once"
        raise RequestValidationError(
            [{"type": "repeated", "loc": ("query", name), "msg": said, "input": None} for name in twice]
        )


EachOnce = Depends(_refuse_repeated)
OrdersRead = Annotated[AsyncSession, reader(orders)]
PointsRead = Annotated[AsyncSession, reader(points)]
InventoryRead = Annotated[Inventory, Depends(_readable, scope="function")]
InventoryWrite = Annotated[Inventory, Depends(_writable, scope="function")]
Key = Annotated[str | None, idempotency_key(min_length=8, max_length=200)]
Prefer = Annotated[
    list[str] | None,
    WithJsonSchema({"type": "string"}),  # of one header; several are one list (RFC 9110, 5.3)
    Header(description="`respond-async`: do not wait for the outcome (RFC 7240)"),
]
OrderId = Annotated[UUID, Path(description="the order's id, which is also its saga's")]
OfUser = Annotated[UserId, Path(description="the user's id", examples=[17850])]
ProductId = Annotated[Name, Path(examples=["85123A"])]

placing = APIRouter(prefix="/orders", tags=["orders"])
products = APIRouter(prefix="/products", tags=["inventory"])
users = APIRouter(prefix="/users", tags=["users"])
following = APIRouter(prefix="/sagas", tags=["sagas"])


_LOCATION = {"Location": {"description": "where to ask for it", "schema": {"type": "string"}}}
_NO_PRODUCT = UnknownProduct("85123A")
_ORDER_ID = UUID("019ab3f2-6f5e-7c3a-9d54-1f0c2b7e8a10")
_NO_ORDER = UnknownOrder(_ORDER_ID)


@placing.post(
    "",
    name="place_order",
    summary="Place an order",
    status_code=status.HTTP_201_CREATED,
    response_model=Order,
    responses={
        200: {
            "model": Order,
            "description": "This key had placed the order before; here it is again",
            "headers": _LOCATION,
        },
        201: {"headers": _LOCATION},
        202: {
            "model": OrderAccepted,
            "description": "The outcome is not known yet; see `Location`",
            "headers": _LOCATION,
        },
        **problems(422, 500, 503, refusals={404: [_NO_PRODUCT], 409: [OutOfStock("85123A", wanted=6, left=2)]}),
    },
)
async def place(asked: OrderCreate, request: Request, response: Response, key: Key, prefer: Prefer = None) -> Any:
    """Take the stock, credit the points and confirm the order: all of it happens, or none."""
    order = PricedOrder(unit_price=await _price(asked.product_id, key), **asked.model_dump())
    handle = await sagas.start(place_order, order, key=key)
    if "respond-async" in _preferences(prefer):
        return _accepted(handle, **{"Preference-Applied": "respond-async"})
    try:
        placed = await handle.result(request.app.state.patience)
    except OutcomePending:
        return _accepted(handle)
    response.headers["Location"] = f"/orders/{placed.id}"
    response.status_code = status.HTTP_200_OK if handle.joined else status.HTTP_201_CREATED
    return placed


@placing.get("", summary="List orders, newest first", dependencies=[EachOnce], responses=problems(422, 503))
async def find_orders(db: OrdersRead, wanted: Annotated[OrderFilter, Query()]) -> OrderPage:
    """Return one page; pass `next_cursor` as `cursor` for the next one."""
    return await order_book.page(db, wanted)


@placing.get("/{order_id}", summary="One order", responses=problems(422, 503, refusals={404: [_NO_ORDER]}))
async def show_order(db: OrdersRead, order_id: OrderId) -> Order:
    """Return the order in whatever state it is."""
    order = await order_book.find(db, order_id)
    if order is None:
        raise UnknownOrder(order_id)
    return order


@placing.post(
    "/{order_id}/cancel",
    name="cancel_order",
    summary="Cancel an order",
    responses=problems(
        422,
        500,
        503,
        refusals={
            404: [_NO_ORDER],
            409: [OrderNotCancellable(_ORDER_ID, status=OrderStatus.PENDING)],
        },
    ),
)
async def cancel(order_id: OrderId) -> Order:
    """Cancel a confirmed order; stock and points follow. Cancelling twice is cancelling once."""
    order = await _order_now(order_id)
    if order.status is not OrderStatus.CANCELLED:
        # No key: a key would keep a "not yet" for ever. The order itself remembers that it was cancelled.
        try:
            return await sagas.run(cancel_order, OrderCancel(order_id=order_id))
        except OrderNotCancellable:
            order = await _order_now(order_id)
            if order.status is not OrderStatus.CANCELLED:  # not cancelled by a concurrent request either
                raise
    return order


@products.put(
    "/{product_id}",
    summary="Create a product, or set its stock and price",
    responses={201: {"model": Product, "description": "The product is new"}, **problems(422, 503)},
)
async def put_product(
    store: InventoryWrite, response: Response, product_id: ProductId, wanted: ProductSet
) -> Product:
    """Set what lies on the shelf now and what a piece costs from now on."""
    product = Product(id=product_id, **wanted.model_dump())
    if await store.put(product):
        response.status_code = status.HTTP_201_CREATED
    return product


@products.get("/{product_id}", summary="One product", responses=problems(422, 503, refusals={404: [_NO_PRODUCT]}))
async def show_product(store: InventoryRead, product_id: ProductId) -> Product:
    """Return stock and price."""
    return await store.product(product_id)


@users.get("/{user_id}/points", summary="A user's points", responses=problems(422, 503))
async def show_points(db: PointsRead, user_id: OfUser) -> Points:
    """Return one point for each cent of confirmed spend; 0 for someone who never bought anything."""
    return Points(user_id=user_id, points=await point_book.balance(db, user_id))


@users.get(
    "/{user_id}/events",
    summary="What a user did, newest first",
    dependencies=[EachOnce],
    responses=problems(422, 503),
)
async def show_events(
    store: InventoryRead, user_id: OfUser, wanted: Annotated[EventFilter, Query()]
) -> list[UserEvent]:
    """Return the latest events."""
    return await store.events_of(user_id, wanted.limit)


@following.get("/{saga_id}", summary="State and history of a saga", responses=problems(404, 422, 503))
async def show_saga(saga_id: UUID) -> SagaReport:
    """Return where the saga stands; `history` tells every attempt of every step."""
    return SagaReport.model_validate(await sagas.get(saga_id), from_attributes=True)


routers = (placing, products, users, following)


async def _price(product_id: str, key: str | None) -> Decimal:
    """Return the price of the product; raise `UnknownProduct`.

    A repeated request gets its answer, and a key with another body its 422, although the product is gone or the
    inventory is down: then it is the price of the order that *key* has placed.
    """
    try:
        # Read in a short block: a session held while the saga runs would take a connection from it.
        async with inventory.reader() as session:
            return (await inventory_of(session).product(product_id)).price
    except (UnknownProduct, TryAgain):
        if key is None:
            raise
        page = await sagas.find(SagaFilter(name=place_order.name, key=key), limit=1)
        if not page.sagas:
            raise
        return PricedOrder.model_validate_json((await sagas.get(page.sagas[0].id)).input).unit_price


async def _order_now(order_id: UUID) -> Order:
    """Return the order from the primary: the client that cancels may lack the bookmark of the one that ordered."""
    async with orders.reader(consistency="strong") as db:
        return await show_order(db, order_id)


def _preferences(headers: Sequence[str] | None) -> set[str]:
    """Return the names in all `Prefer` headers, without their values (RFC 7240, 2)."""
    given = ",".join(headers or ())
    return {part.partition(";")[0].partition("=")[0].strip().lower() for part in given.split(",")}


def _accepted(handle: SagaHandle[Any], **headers: str) -> JSONResponse:
    """Answer that the order is under way."""
    headers["Location"] = f"/sagas/{handle.id}"
    body = OrderAccepted(id=handle.id).model_dump(mode="json")
    return JSONResponse(body, status.HTTP_202_ACCEPTED, headers)
