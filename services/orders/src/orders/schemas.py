"""The bodies of the HTTP calls, which are also the inputs and results of the sagas.

Money is a decimal with two places here and whole cents in the databases (`tables.Cents`). One point is one
cent of confirmed spend.
"""

import re
from dataclasses import replace
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from orders.cursors import check_cursor
from polysaga.sagas import Parking, Reason, Status

_LARGEST_ID = 2**63 - 1  # of a BIGINT
_EXACT = 2**53  # from here on a float no longer identifies one integer
_WHOLE = re.compile(r"([+-]?[0-9]{1,40})(?:\.0{1,40})?")
_ORDER_ID = "019ab3f2-6f5e-7c3a-9d54-1f0c2b7e8a10"
_AT = "2026-03-01T09:30:00.125000Z"
_STEPS = {".", ".."}  # clients resolve them before they send a path, even percent-encoded (RFC 3986, 5.2.4)
_CURSOR = "MjAyNi0wMy0wMVQwOTozMDowMC4xMjUwMDArMDA6MDAgMDE5YWIzZjI2ZjVlN2MzYTlkNTQxZjBjMmI3ZThhMTA"
_ORDER = {
    "id": _ORDER_ID,
    "user_id": 17850,
    "product_id": "85123A",
    "quantity": 6,
    "unit_price": "2.55",
    "status": "confirmed",
    "created_at": _AT,
}


def _plain(name: str) -> str:
    if "/" in name or not name.isprintable():
        message = "use printable characters without '/': this stands in URLs"
        raise PydanticCustomError("name", message)
    if name in _STEPS:
        message = "use another name than '.' and '..': in a URL they name a folder"
        raise PydanticCustomError("name", message)
    return name


def _whole(value: object) -> int:
    """Return *value* as an integer; it may be a number or digits in text, both also with zeros after a point."""
    number = None
    if isinstance(value, str):
        written = _WHOLE.fullmatch(value.strip())
        number = None if written is None else int(written[1])
    elif isinstance(value, float):
        number = int(value) if value.is_integer() and abs(value) < _EXACT else None
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if number is None or not 0 < number <= _LARGEST_ID:
        message = "a user id is an integer from 1 to {largest}, as a number or in digits"
        raise PydanticCustomError("user_id", message, {"largest": _LARGEST_ID})
    return number


# Exclusive, because numbers in OpenAPI are floats: 2**63 is exact as a float, the largest id is not.
_ID_IN_NUMBERS = {"type": "integer", "format": "int64", "minimum": 1, "exclusiveMaximum": _LARGEST_ID + 1}
_ID_IN_DIGITS = {"type": "string", "pattern": r"^[1-9][0-9]{0,17}(\.0{1,9})?$"}

# `7`, `"7"` and `"7.0"` are one customer: some clients send text, and spreadsheets write integers with a point.
UserId = Annotated[
    int,
    BeforeValidator(_whole),
    WithJsonSchema({"anyOf": [_ID_IN_NUMBERS, _ID_IN_DIGITS]}, mode="validation"),
    WithJsonSchema(_ID_IN_NUMBERS, mode="serialization"),
]
Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64), AfterValidator(_plain)
]
_AMOUNT = r"^(0\.(0[1-9]|[1-9]\d?)|[1-9]\d{0,6}(\.\d{1,2})?)$"


def _amount(told: object, check: ValidatorFunctionWrapHandler) -> Decimal:
    if isinstance(told, float) and abs(told - round(told, 2)) < 1e-9:
        told = str(round(told, 2))  # 0.57 may arrive as 0.5700000000000001
    amount: Decimal = check(told)
    if isinstance(told, str) and not re.fullmatch(_AMOUNT, told):
        raise PydanticCustomError("amount", "write it as digits with at most two decimal places, such as 2.55")
    return amount.quantize(Decimal("0.01"))


Money = Annotated[
    Decimal,
    Field(gt=0, max_digits=9, decimal_places=2),
    WrapValidator(_amount),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _AMOUNT},
                {"type": "number", "minimum": 0.01, "maximum": 9_999_999.99, "multipleOf": 0.01},
            ]
        },
        mode="validation",
    ),
]
Quantity = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
LARGEST_STOCK = 1_000_000_000  # pieces of one product
Stock = Annotated[int, Field(strict=True, ge=0, le=LARGEST_STOCK)]


def _shown(**example: Any) -> ConfigDict:
    """Return the configuration of a model that the service sends."""
    return ConfigDict(frozen=True, json_schema_extra={"examples": [example]})


def _asked(**example: Any) -> ConfigDict:
    """Return the configuration of a model that clients send: unknown fields are refused."""
    return ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [example]})


class OrderStatus(StrEnum):
    """pending -> confirmed -> cancelled, or pending -> rejected."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


class OrderCreate(BaseModel):
    """What a customer asks for."""

    model_config = _asked(user_id=17850, product_id="85123A", quantity=6)

    user_id: UserId
    product_id: Name
    quantity: Quantity


class PricedOrder(OrderCreate):
    """The input of `place-order`: what was asked for, at the price of that moment."""

    unit_price: Money


class Order(BaseModel):
    """One order; its id is also the id of the saga that placed it."""

    model_config = _shown(**_ORDER)

    id: UUID
    user_id: UserId
    product_id: str
    quantity: int
    unit_price: Money
    status: OrderStatus
    created_at: AwareDatetime


class OrderAccepted(BaseModel):
    """An order whose outcome is not known yet: ask for it at `Location`, or for the order by its id."""

    model_config = _shown(id=_ORDER_ID, status="pending")

    id: UUID
    status: OrderStatus = OrderStatus.PENDING


class OrderFilter(BaseModel):
    """Which orders to list, newest first."""

    model_config = ConfigDict(extra="forbid")

    user_id: UserId | None = None
    status: OrderStatus | None = None
    cursor: Annotated[str | None, AfterValidator(check_cursor)] = Field(
        default=None,
        description="`next_cursor` of the page before",
        json_schema_extra={"pattern": r"^[A-Za-z0-9_-]{78,87}$"},
    )
    limit: int = Field(default=50, ge=1, le=200)


class OrderPage(BaseModel):
    """One page of orders, newest first; `next_cursor` is null on the last one."""

    # Not null, though it is on the last page: FastAPI leaves nulls out of examples.
    model_config = _shown(orders=[_ORDER], next_cursor=_CURSOR)

    orders: list[Order]
    next_cursor: str | None


class OrderCancel(BaseModel):
    """The input of `cancel-order`."""

    order_id: UUID


class ProductSet(BaseModel):
    """The stock on the shelf and the price from now on."""

    model_config = _asked(stock=120, price="2.55")

    stock: Stock
    price: Money


class Product(BaseModel):
    """One product as it is now."""

    model_config = _shown(id="85123A", stock=114, price="2.55")

    id: str
    stock: int
    price: Money


class Points(BaseModel):
    """A customer's points: one for each cent of confirmed spend."""

    model_config = _shown(user_id=17850, points=1530)

    user_id: UserId
    points: int


class EventType(StrEnum):
    """What customers do."""

    ORDER_CREATED = "order_created"
    ORDER_CANCELLED = "order_cancelled"


class EventFilter(BaseModel):
    """Which events of a user to list, newest first."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=200)


class UserEvent(BaseModel):
    """Something that a customer did."""

    model_config = _shown(
        event_type="order_created",
        order_id=_ORDER_ID,
        user_id=17850,
        product_id="85123A",
        quantity=6,
        timestamp=_AT,
    )

    event_type: EventType
    order_id: UUID
    user_id: UserId
    product_id: str
    quantity: int
    timestamp: AwareDatetime


class SagaAttempt(BaseModel):
    """One attempt of one step, or of its compensation."""

    step: str
    phase: str = Field(description="`do` or `undo`")
    attempt: int
    at_ms: float = Field(description="milliseconds since the saga was started")
    ms: float = Field(description="milliseconds that it took")
    outcome: str = Field(description="`done`, `found` (it was done before), `null` (nothing to undo), or a cause")


def _for_customers(reason: object) -> object:
    """Return *reason* as JSON data without what is internal: the texts of errors, and what operators noted."""
    if not isinstance(reason, Reason):
        return reason
    shown = reason.without_tracebacks()
    parked = None if shown.parked is None else replace(shown.parked, message=_message(shown.parked))
    return replace(shown, message=_message(shown), parked=parked, resolved=None, undone_by_hand=()).to_json()


def _message(why: Reason | Parking) -> str:
    """Return the text of a refusal, which is for customers; the text of any other error may be internal."""
    return why.message if why.code is not None else ""


class SagaReport(BaseModel):
    """Where a saga stands, what happened so far, and why it was undone, if it was."""

    model_config = _shown(
        id=_ORDER_ID,
        name="place-order",
        status="compensated",
        error={
            "kind": "refused",
            "step": "reserve_stock",
            "message": "product '85123A' has 2 left, not 6; order at most 2 or come back later",
            "code": "out-of-stock",
            "facts": {"product_id": "85123A", "wanted": 6, "left": 2},
        },
        history=[
            {"step": "open_order", "phase": "do", "attempt": 1, "at_ms": 0.1, "ms": 1.9, "outcome": "done"},
            {
                "step": "reserve_stock",
                "phase": "do",
                "attempt": 1,
                "at_ms": 2.1,
                "ms": 2.2,
                "outcome": "OutOfStock",
            },
            {"step": "open_order", "phase": "undo", "attempt": 1, "at_ms": 4.6, "ms": 1.7, "outcome": "done"},
        ],
    )

    id: UUID
    name: str
    status: Status
    error: Annotated[
        dict[str, Any] | None,
        BeforeValidator(_for_customers),
        Field(description="why it is undone or parked; `message` is the reason of a refusal, else empty"),
    ]
    history: Annotated[list[SagaAttempt], Field(description="every attempt of every step")]
