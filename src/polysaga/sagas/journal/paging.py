"""Pages of the journal's tables by key: cursors as people pass them on, and conditions as SQL."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from polysaga.errors import PayloadError


def cursor(at: datetime, row: UUID) -> str:
    """Return the cursor that goes on behind a row, by its moment and its id."""
    return f"{at.isoformat()}~{row}"


def place(cursor: str, page: str) -> tuple[datetime, UUID]:
    """Return the moment and the id of the row in *cursor*; *page* names the pages that hand it out."""
    at, _, row = cursor.partition("~")
    try:
        return datetime.fromisoformat(at), UUID(row)
    except ValueError:
        raise PayloadError(f"{cursor!r} is no cursor: pass on `{page}.next` as it is") from None


def where(conditions: Collection[str]) -> str:
    """Return the WHERE clause with all *conditions*; empty without any."""
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""
