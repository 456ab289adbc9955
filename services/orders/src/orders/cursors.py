"""Cursors: the place where a page of orders ends, as opaque text that clients send back."""

import base64
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from pydantic_core import PydanticCustomError


class Place(NamedTuple):
    """A place in the list of orders, newest first."""

    created_at: datetime
    order_id: UUID


def to_cursor(place: Place) -> str:
    """Encode *place* as an opaque cursor."""
    text = f"{place.created_at.astimezone(UTC).isoformat()} {place.order_id.hex}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> Place:
    """Decode a cursor from `to_cursor`; raise `ValueError` or `OverflowError` for anything else."""
    text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    moment, _, order_id = text.partition(" ")
    return Place(datetime.fromisoformat(moment).astimezone(UTC), UUID(order_id))


def check_cursor(cursor: str | None) -> str | None:
    """Return *cursor* if it is valid; else raise an error that pydantic reports."""
    if cursor is not None:
        try:
            from_cursor(cursor)
        except (ValueError, OverflowError):
            message = "not a cursor of this list: pass next_cursor as it was given, or leave it out"
            raise PydanticCustomError("cursor", message) from None
    return cursor
