"""A trace of real orders: the columns of the UCI "Online Retail" data set, unusable rows included.

A row is one line of the file. Every row is either an order or counted under the reason why it is not one; no row
is fatal. A quote without an end makes one row dirty. In CSV in general a quoted field may have line breaks, and a
stray quote would swallow all rows up to the next one.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from io import BytesIO, TextIOWrapper
from itertools import islice
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orders.schemas import LARGEST_STOCK, Money, OrderCreate

COLUMNS = ("InvoiceNo", "StockCode", "Quantity", "UnitPrice", "CustomerID")

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_PRICE = TypeAdapter[Decimal](Money)
_SHARE = Decimal("0.9")  # share of the demand that is in stock; so some orders are refused


class NotATrace(ValueError):
    """The file as a whole cannot be read as a trace."""


class Dirty(ValueError):
    """One row is not an order; the message is the reason under which it is counted."""


@dataclass(frozen=True, slots=True)
class Line:
    """One order of the trace; *number* is its line in the file."""

    number: int
    order: OrderCreate
    price: Decimal


@dataclass(frozen=True, slots=True)
class Trace:
    """The content of a file: its orders, and how many rows are not orders, by reason.

    *digest* identifies the whole content, however few rows were read: a copied or renamed file is the same trace,
    and a file in which a byte was changed is another.
    """

    digest: str
    lines: list[Line] = field(default_factory=list)
    dirty: Counter[str] = field(default_factory=Counter)

    def prices(self) -> dict[str, Decimal]:
        """Return the first price of every product."""
        return {line.order.product_id: line.price for line in reversed(self.lines)}

    def stock(self) -> dict[str, int]:
        """Return the stock of each product: most of its demand, and at least enough for its first line.

        A product of which more is wanted than the shop takes gets the largest stock; its later orders are refused.
        """
        first = {line.order.product_id: line.order.quantity for line in reversed(self.lines)}
        demand: Counter[str] = Counter()
        for line in self.lines:
            demand[line.order.product_id] += line.order.quantity
        return {
            product_id: min(max(first[product_id], int(total * _SHARE)), LARGEST_STOCK)
            for product_id, total in demand.items()
        }


def read(path: Path, limit: int | None = None) -> Trace:
    """Read the first *limit* rows of the file, or all; raise `NotATrace` if the file is no trace."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotATrace(f"cannot read {path}: {error.strerror}") from error
    trace = Trace(hashlib.sha256(content).hexdigest())
    text = TextIOWrapper(BytesIO(content), encoding="utf-8-sig", errors="replace", newline="")
    for number, row in islice(_rows(text), limit):
        try:
            trace.lines.append(_line(number, row))
        except Dirty as reason:
            trace.dirty[str(reason)] += 1
    return trace


def _rows(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Yield the number of each line behind the header, and its row; None if it does not fit the columns."""
    numbered = enumerate(lines, start=1)
    _, first = next(numbered, (0, ""))
    header = [name.strip() for name in _fields(first)]
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise NotATrace(
            f"this is not an order trace: no column {', '.join(missing)}; needed are {', '.join(COLUMNS)}"
        )
    for number, line in numbered:
        row = _fields(line)
        fits = len(row) == len(header)
        yield number, dict(zip(header, row, strict=True)) if fits else None


def _fields(line: str) -> list[str]:
    """Return the fields of *line*; none if it cannot be read by itself."""
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return []


def _line(number: int, row: dict[str, str] | None) -> Line:
    if row is None:
        raise Dirty("wrong number of columns")
    quantity = _quantity(row["Quantity"].strip())
    if not row["StockCode"].strip():
        raise Dirty("no stock code")
    if not row["CustomerID"].strip():
        raise Dirty("no customer")
    price = _price(row["UnitPrice"].strip())
    try:
        order = OrderCreate(user_id=row["CustomerID"], product_id=row["StockCode"], quantity=quantity)
    except ValidationError as error:
        raise Dirty(f"unusable {error.errors()[0]['loc'][0]}") from error
    return Line(number, order, price)


def _quantity(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise Dirty("unreadable quantity")
    quantity = int(text)
    if quantity <= 0:
        raise Dirty("returned goods" if quantity else "zero quantity")
    return quantity


def _price(text: str) -> Decimal:
    try:
        price = Decimal(text)
    except InvalidOperation:
        raise Dirty("unreadable price") from None
    if not price.is_finite():
        raise Dirty("unreadable price")
    if price < Decimal("0.005"):
        raise Dirty("no price")
    try:
        return _PRICE.validate_python(round(price, 2))
    except (ValidationError, InvalidOperation):
        raise Dirty("unusable price") from None
