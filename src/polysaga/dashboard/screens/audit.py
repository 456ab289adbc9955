"""What people did to sagas: a line for each act, one for a whole batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from polysaga.dashboard import filters, words
from polysaga.dashboard.filters import uuid_in
from polysaga.dashboard.screens.people import states
from polysaga.sagas import AuditFilter, AuditLine

ACTIONS = ("retry", "skip", "compensate", "resolve")
LENGTHS = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
SPANS = {"24h": "last 24 hours", "7d": "last 7 days", "30d": "last 30 days"}
_NAMES = {"by", "action", "saga", "batch", "since", "after"}
_OF_THE_PAGE = {"live", "done", "format"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSearch:
    """Which acts the page shows; the address is the search."""

    by: str | None = None
    action: str | None = None
    saga: str | None = None  # an id or a key, as it was typed
    batch: UUID | None = None
    since: str | None = None  # one of `SPANS`
    after: str | None = None
    problems: tuple[str, ...] = ()  # as those of `filters.Search`

    def query(self, **changed: Any) -> str:
        """Return the search as a query string."""
        one = replace(self, **changed)
        given = {
            "by": one.by, "action": one.action, "saga": one.saga, "since": one.since,
            "batch": one.batch and str(one.batch), "after": one.after,
        }  # fmt: skip
        return urlencode({name: value for name, value in given.items() if value})

    def selects(self, now: datetime) -> AuditFilter:
        """Return the filter for the acts."""
        saga_id = uuid_in(self.saga or "")
        return AuditFilter(
            by=self.by,
            action=self.action,
            saga_id=saga_id,
            key=self.saga if saga_id is None else None,
            batch=self.batch,
            since=None if self.since is None else now - LENGTHS[self.since],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActLine:
    """One line of the page."""

    at: str
    iso: str
    by: str
    action: str
    what: str
    saga_id: UUID | None  # None: many
    batch: UUID | None
    why: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditScreen:
    """The page."""

    rows: tuple[ActLine, ...]
    asked: str
    older: str | None


def read(query: str) -> AuditSearch:
    """Decode a query string."""
    given, problems = filters.parameters(query, _NAMES, _OF_THE_PAGE)
    action, since = filters.first(given, "action", problems), filters.first(given, "since", problems)
    batch = filters.first(given, "batch", problems)
    if action is not None and action not in ACTIONS:
        problems.append(f"'action' is {words.joined(ACTIONS, 'or')}; it was left out.")
    if since is not None and since not in SPANS:
        problems.append(f"'since' is {words.joined(list(SPANS), 'or')}; it was left out.")
    if batch is not None and uuid_in(batch) is None:
        problems.append("'batch' is the id of a repair of many; it was left out.")
    return AuditSearch(
        by=filters.first(given, "by", problems),
        action=action if action in ACTIONS else None,
        saga=filters.first(given, "saga", problems),
        batch=uuid_in(batch or ""),
        since=since if since in SPANS else None,
        after=filters.cursor(given, problems),
        problems=tuple(dict.fromkeys(problems)),
    )


def audit_screen(
    lines: Sequence[AuditLine], following: str | None, search: AuditSearch, now: datetime
) -> AuditScreen:
    """Return the page."""
    rows = tuple(_row(line, now) for line in lines)
    return AuditScreen(
        rows=rows,
        asked=_asked(lines, search, more=following is not None),
        older=None if following is None else search.query(after=following),
    )


def _row(line: AuditLine, now: datetime) -> ActLine:
    before, after = states(line.details)
    asked = line.details.get("asked")
    given = asked if isinstance(asked, Mapping) else {}
    name = line.saga or "a saga that was removed since"
    if line.count > 1:
        name = f"{words.number(line.count)} sagas" + (f" of {line.saga}" if line.saga else "")
    step, outcome = given.get("step"), given.get("outcome")
    what = f"{step} of {name}" if step else f"as {outcome}: {name}" if outcome else name
    return ActLine(
        at=f"{words.day(line.at, now)} {words.clock(line.at)}",
        iso=line.at.isoformat(),
        by=line.by,
        action=line.action,
        what=what,
        saga_id=line.saga_id if line.count == 1 else None,
        batch=line.batch,
        why=line.why,
        before=before,
        after=after,
    )


def _asked(lines: Sequence[AuditLine], search: AuditSearch, *, more: bool) -> str:
    entries = sum(line.count for line in lines)
    what = f"acts of {search.by}" if search.by else "everything that people did"
    if search.action:
        what = f"every {search.action}" + (f" by {search.by}" if search.by else "")
    when = f" in the {SPANS[search.since]}" if search.since else ""
    kind = "saga" if uuid_in(search.saga or "") else "sagas with the key"
    where = f" to the {kind} {search.saga}" if search.saga else ""
    where += " in one repair of many" if search.batch else ""
    asked = f"{what[:1].upper()}{what[1:]}{where}{when}"
    if not lines:
        return f"{asked}: nothing."
    number = f"{words.counted(entries, 'entry', 'entries')} in {words.counted(len(lines), 'line')}"
    older = ", and older ones" if more else ""
    return f"{asked}, the newest first: {number}{older}."
