"""Pages of the journal's tables by key: cursors and times as people pass them on, and conditions as SQL."""

from collections.abc import Collection
from datetime import UTC, datetime
from uuid import UUID

from polysaga.errors import PayloadError


def cursor(at: datetime, row: UUID) -> str:
    """Return the cursor that goes on behind a row, by its moment and its id."""
    return f"{at.isoformat()}~{row}"


def place(cursor: str, page: str) -> tuple[datetime, UUID]:
    """Return the moment and the id of the row in *cursor*; *page* names the pages that hand it out."""
    at, _, row = cursor.partition("~")
    try:
        return instant(datetime.fromisoformat(at), "the cursor"), UUID(row)
    except (ValueError, PayloadError):
        raise PayloadError(f"{cursor!r} is no cursor: pass on `{page}.next` as it is") from None


def instant(moment: datetime, what: str) -> datetime:
    """Return *moment* in UTC; raise `PayloadError` if it has no time zone, or if UTC has no such year."""
    if moment.utcoffset() is None:
        raise PayloadError(f"{what} is {moment}, without a time zone; give an aware time")
    try:
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"{what} is {moment}, which is not in the years 1 to 9999 of UTC; give a time that is"
        raise PayloadError(message) from None


def quoted(texts: Collection[str]) -> str:
    """Return *texts*, which need no escapes, as the list behind IN; without any, as one that no name equals."""
    return ", ".join(f"'{text}'" for text in sorted(texts)) or "''"


def where(conditions: Collection[str]) -> str:
    """Return the WHERE clause with all *conditions*; empty without any."""
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""
