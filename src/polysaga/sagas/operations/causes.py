"""Parked sagas grouped by what they have in common, as a pure function."""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from uuid import UUID

from polysaga.sagas.journal.figures import MOST_PARKED, Figures, ParkedRow
from polysaga.sagas.operations.findings import Cause
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.states import Status

# What differs from saga to saga: ids, numbers, and names in quotation marks that have a number in them.
_DIFFERS = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]*[0-9][0-9a-f]{7,}\b|[0-9]+(?:[.,:][0-9]+)*",
    re.IGNORECASE,
)
_SHARED = re.compile("[^…\0]*")  # what a search can find; no address can have the character NUL


@dataclass(frozen=True, slots=True, order=True)
class _Likeness:
    name: str
    step: str
    direction: Status
    message: str


class ParkedSagas:
    """The parked sagas; their reasons are long, and are read again only if the epoch has changed."""

    def __init__(self) -> None:
        self._known: dict[UUID, ParkedRow] = {}

    async def read(self, figures: Figures) -> list[ParkedRow]:
        """Return at most `MOST_PARKED` + 1 of them."""
        found = await figures.parked()
        new = [saga_id for saga_id, epoch in found if not self._knows(saga_id, epoch)]
        rows = {row.saga_id: row for row in (await figures.reasons(new) if new else ())}
        self._known = {
            saga_id: row
            for saga_id, _ in found
            if (row := rows.get(saga_id) or self._known.get(saga_id)) is not None
        }
        return list(self._known.values())

    def _knows(self, saga_id: UUID, epoch: int) -> bool:
        known = self._known.get(saga_id)
        return known is not None and known.epoch == epoch


@functools.lru_cache(maxsize=2 * MOST_PARKED)
def pattern_of(message: str) -> str:
    """Return the first line of *message*, with … for ids and numbers."""
    lines = message.strip().splitlines()
    return _DIFFERS.sub("…", lines[0][: Cause.LONGEST]) if lines else ""


def likeness(name: str, reason: Reason) -> _Likeness:
    """Return what sagas with the same cause have in common."""
    told = reason.parked or reason
    direction = Status.RUNNING if reason.parked is None else reason.parked.status
    return _Likeness(name, told.step or "", direction, pattern_of(told.message))


def causes(parked: Iterable[ParkedRow], database_of: Callable[[str, str], str | None]) -> tuple[Cause, ...]:
    """Return *parked* by cause, the largest first; *database_of* gets fingerprint and step."""

    def key(row: ParkedRow) -> _Likeness:
        return likeness(row.name, row.reason)

    groups = groupby(sorted(parked, key=key), key)
    found = [_cause(alike, tuple(rows), database_of) for alike, rows in groups]
    # Those with every step done go by themselves: what ended their processes is more likely another saga.
    return tuple(sorted(found, key=lambda cause: (cause.deserted and cause.step is None, -cause.count)))


def _cause(alike: _Likeness, rows: Sequence[ParkedRow], database_of: Callable[[str, str], str | None]) -> Cause:
    first = rows[0]
    moments = [at for row in rows if (at := _parked_at(row)) is not None]
    told = [row.reason.parked or row.reason for row in rows]
    return Cause(
        name=alike.name,
        step=alike.step or None,
        database=database_of(first.fingerprint, alike.step) if alike.step else None,
        direction=alike.direction,
        message=alike.message,
        example_message=told[0].message,
        count=len(rows),
        first_at=min(moments, default=None),
        last_at=max(moments, default=None),
        example=first.saga_id,
        deserted=all(one.is_deserted for one in told),
        uniform=len({one.message for one in told}) == 1,
        error=max(_SHARED.findall(alike.message), key=len).strip(),
    )


def _parked_at(row: ParkedRow) -> datetime | None:
    return None if row.reason.parked is None else row.reason.parked.at
