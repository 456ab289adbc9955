"""What a type checker knows about programs on Polysaga. Read by mypy (`test_typing.py`), never executed."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Literal, assert_type
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from polysaga import (
    AnyDatabase,
    Databases,
    MongoDatabase,
    MongoSession,
    Refused,
    Retry,
    Saga,
    SagaHandle,
    Sagas,
    SagaState,
    Settings,
    SqlDatabase,
    Status,
    StepContext,
    load_settings,
)
from polysaga.databases import MongoNode, SqlNode
from polysaga.sagas import Step


class Order(BaseModel):
    product: str


class Reservation(BaseModel):
    place: int


class Placed(BaseModel):
    number: int


orders = SqlDatabase("orders")
inventory = MongoDatabase("inventory")
points = AnyDatabase("points")
databases = Databases(orders, inventory, points)

place_order = Saga("place-order", input=Order, output=Placed, refusals=[Refused], key_fields=["product"])
assert_type(place_order, Saga[Order, Placed])


@place_order.step(inventory)
async def reserve(db: MongoSession, order: Order, ctx: StepContext) -> Reservation:
    return Reservation(place=1)


assert_type(reserve, Step[MongoSession, Order, Reservation])


@reserve.compensation
async def release(db: MongoSession, order: Order, done: Reservation, ctx: StepContext) -> None: ...


assert_type(release, Callable[[MongoSession, Order, Reservation, StepContext], Awaitable[None]])


@place_order.step(points, after=[reserve], retry=Retry(within=None), timeout=5.0)
async def credit(db: AsyncSession | MongoSession, order: Order, ctx: StepContext) -> None: ...


assert_type(credit, Step[AsyncSession | MongoSession, Order, None])


@place_order.step(None, after=[reserve])
async def charge(order: Order, ctx: StepContext) -> Reservation:
    return Reservation(place=2)


assert_type(charge, Step[None, Order, Reservation])


@charge.compensation
async def refund(order: Order, done: Reservation | None, ctx: StepContext) -> None: ...


assert_type(refund, Callable[[Order, Reservation | None, StepContext], Awaitable[None]])


@place_order.step(orders, after=[reserve, credit, charge], kind="pivot")
async def confirm(db: AsyncSession, order: Order, ctx: StepContext) -> Placed:
    assert_type(ctx.result(reserve), Reservation)
    assert_type(ctx.result(credit), None)
    assert_type(ctx.idempotency_key, str)
    assert_type(ctx.saga_id, UUID)
    return Placed(number=ctx.result(reserve).place)


@place_order.step(orders, kind="retriable")
async def tell(db: AsyncConnection, order: Order, ctx: StepContext) -> Reservation:
    return Reservation(place=3)


assert_type(tell, Step[AsyncConnection, Order, Reservation])


@tell.compensation
async def untell(db: AsyncConnection, order: Order, done: Reservation, ctx: StepContext) -> None: ...


assert_type(untell, Callable[[AsyncConnection, Order, Reservation, StepContext], Awaitable[None]])


sagas = Sagas(databases, place_order, journal=orders)
cancel_order = Saga("cancel-order", input=int)
assert_type(cancel_order, Saga[int, None])
assert_type(Saga("any-order", input=Order | None), Saga[Order | None, None])
assert_type(Saga("orders", input=list[Order], output=Placed | None), Saga[list[Order], Placed | None])
assert_type(Saga("rush", input=Literal["air", "sea"], output=Placed), Saga[Literal["air", "sea"], Placed])


async def use(settings: Settings) -> None:
    assert_type(load_settings(), Settings)
    async with databases.open(settings) as opened, sagas.open(settings.sagas) as running:
        assert_type(opened, Databases)
        assert_type(running, Sagas)
        assert_type(await sagas.run(place_order, Order(product="tea"), key="k", timeout=1.0), Placed)
        assert_type(await (await sagas.start(cancel_order, 7)).result(), None)
        str(await sagas.run(place_order, Order(product="tea")))  # any object is enough for it
        handle = await sagas.start(place_order, Order(product="tea"))
        assert_type(handle, SagaHandle[Placed])
        assert_type(await handle.result(timeout=1.0), Placed)
        assert_type(handle.id, UUID)
        assert_type(handle.joined, bool)
        state = await sagas.get(handle.id)
        assert_type(state, SagaState)
        assert_type(state.status, Status)


async def sessions() -> None:
    assert_type(orders.reader(), AbstractAsyncContextManager[AsyncSession])
    async with orders.reader() as reading, orders.writer() as writing:
        assert_type(reading, AsyncSession)
        assert_type(writing, AsyncSession)
    async with inventory.writer() as documents:
        assert_type(documents, MongoSession)
    async with points.writer() as either:
        assert_type(either, AsyncSession | MongoSession)
    assert_type(orders.primary, SqlNode)
    assert_type(inventory.replicas, tuple[MongoNode, ...])
    assert_type(points.primary, SqlNode | MongoNode)


# What must not pass: mypy reports every `type: ignore` below that is not needed.


@place_order.step(orders)  # type: ignore[arg-type]
async def with_the_wrong_session(db: MongoSession, order: Order, ctx: StepContext) -> None: ...


@place_order.step(orders)  # type: ignore[arg-type]
async def with_the_wrong_input(db: AsyncSession, order: Placed, ctx: StepContext) -> None: ...


@place_order.step(orders)  # type: ignore[arg-type]
async def without_a_context(db: AsyncSession, order: Order) -> None: ...


@place_order.step(orders)  # type: ignore[arg-type]
def not_async(db: AsyncSession, order: Order, ctx: StepContext) -> None: ...


@tell.compensation  # type: ignore[arg-type]
async def with_a_session_behind_a_connection(
    db: AsyncSession, order: Order, done: Reservation, ctx: StepContext
) -> None: ...


@place_order.step(inventory)  # type: ignore[arg-type]
async def with_a_connection_of_documents(db: AsyncConnection, order: Order, ctx: StepContext) -> None: ...


@place_order.step(orders, kind="retryable")  # type: ignore[call-overload, untyped-decorator]
async def misspelt(db: AsyncSession, order: Order, ctx: StepContext) -> None: ...


@reserve.compensation  # type: ignore[arg-type]
async def of_another_result(db: MongoSession, order: Order, done: Placed, ctx: StepContext) -> None: ...


@charge.compensation  # type: ignore[arg-type]
async def that_expects_a_result(order: Order, done: Reservation, ctx: StepContext) -> None: ...


@place_order.step(None)  # type: ignore[arg-type]
async def with_a_session(db: AsyncSession, order: Order, ctx: StepContext) -> None: ...


@place_order.step(None, kind="pivot")  # type: ignore[call-overload, untyped-decorator]
async def a_call_that_decides(order: Order, ctx: StepContext) -> Placed:
    return Placed(number=1)


Saga("number", input=7)  # type: ignore[call-overload]


async def misuse() -> None:
    await sagas.run(place_order, Placed(number=1))  # type: ignore[misc]
    await sagas.start(place_order, "tea")  # type: ignore[misc]
    async with inventory.reader() as documents:
        documents.execute("SELECT 1")  # type: ignore[attr-defined]
    Sagas(databases, place_order, journal=inventory)  # type: ignore[arg-type]
