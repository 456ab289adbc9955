"""The search in an address: query parameters, what they select, and the sentence that says so.

The address is the search. Parameters that make no sense are left out of it, and `Search.problems` says so.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from markupsafe import Markup, escape

from polysaga.dashboard import words
from polysaga.dashboard.drawing.elements import tag
from polysaga.sagas import SagaFilter, Status

_SPANS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
SPANS = {"1h": "last hour", "24h": "last 24 hours", "7d": "last 7 days"}
_FLAGS = {
    "retrying": "with a step that is retried",
    "late": "late",
    "waiting": "put aside",
    "crashing": "whose processes end or hang",
}
_LONGEST = 255  # characters of one parameter
MOVING = tuple(status for status in Status if status.moving)
_CURSOR = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)~[0-9a-fA-F-]{36}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Which sagas a list shows."""

    status: tuple[Status, ...] = ()
    name: str | None = None
    step: str | None = None
    database: str | None = None
    key: str | None = None
    error: str | None = None
    since: datetime | str | None = None  # a moment, or one of `SPANS`
    until: datetime | None = None
    retrying: bool = False
    late: bool = False
    waiting: bool = False
    crashing: bool = False
    known: bool | None = None
    after: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def narrow(self) -> bool:
        """Whether anything is filtered, so that acting on all that match makes sense."""
        return any(
            (
                self.status, self.name, self.step, self.database, self.key, self.error, self.since, self.until,
                self.retrying, self.late, self.waiting, self.crashing, self.known is not None,
            )
        )  # fmt: skip

    @property
    def unfinished(self) -> bool:
        """Whether only sagas that are not at rest can match."""
        if self.retrying or self.late or self.waiting or self.crashing:
            return True
        return bool(self.status) and not any(status.final for status in self.status)

    def query(self, **changed: Any) -> str:
        """Return the search as a query string, with other values for some parameters."""
        one = replace(self, **changed)
        pairs: list[tuple[str, str]] = [("status", status.value) for status in one.status]
        texts = ("name", "step", "database", "key", "error", "after")
        pairs += [(name, getattr(one, name)) for name in texts if getattr(one, name)]
        for name in ("since", "until"):
            moment = getattr(one, name)
            if moment is not None:
                pairs.append((name, moment if isinstance(moment, str) else moment.isoformat()))
        pairs += [(name, "1") for name in _FLAGS if getattr(one, name)]
        if one.known is not None:
            pairs.append(("known", "1" if one.known else "0"))
        return urlencode(pairs)

    def selects(self, now: datetime) -> SagaFilter:
        """Return the filter for the sagas."""
        since = now - _SPANS[self.since] if isinstance(self.since, str) else self.since
        given: dict[str, Any] = {
            "step": self.step,
            "database": self.database,
            "since": since,
            "until": self.until,
            **{name: getattr(self, name) for name in _FLAGS},
        }
        # Only what is asked for, so the filter stays as plain as the search.
        more = {name: value for name, value in given.items() if value}
        return SagaFilter(
            status=self.status, name=self.name, key=self.key, error=self.error, known=self.known, **more
        )

    def saga_id(self) -> UUID | None:
        """Return the id that was typed where a key is expected."""
        return uuid_in(self.key or "")


def read(query: str) -> Search:
    """Decode a query string."""
    given: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, max_num_fields=200):
        value = value.strip().replace("\0", "")
        if value and len(value) <= _LONGEST:
            given.setdefault(name, []).append(value)
    problems: list[str] = []
    known = {"1": True, "0": False}.get(_first(given, "known") or "")
    after = _first(given, "after")
    if after is not None and not _is_cursor(after):
        problems.append("The page asked for is not one of this list; this is the first one.")
        after = None
    return Search(
        status=_statuses(given.get("status", ()), problems),
        name=_first(given, "name"),
        step=_first(given, "step"),
        database=_first(given, "database"),
        key=_first(given, "key"),
        error=_first(given, "error"),
        since=_since(_first(given, "since"), problems),
        until=_moment(_first(given, "until"), "until", problems),
        **{name: name in given for name in _FLAGS},
        known=known,
        after=after,
        problems=tuple(problems),
    )


def uuid_in(text: str) -> UUID | None:
    """Return the UUID that *text* is, if it is one."""
    try:
        return UUID(text)
    except ValueError:
        return None


def sentence(search: Search, number: str | None) -> Markup:
    """Return the search in words: `1,204 sagas of place-order need attention, failed at reserve_stock, ...`."""
    if search.key is not None and not search.status:
        return Markup("Sagas with the key or id {}.").format(tag("b", search.key))
    if number is None:
        head = escape("Sagas" if search.narrow else "All sagas")
    else:
        head = tag("b", f"{number} saga{'' if number == '1' else 's'}")
    parts = [Markup("{} of {}").format(head, search.name) if search.name else head]
    parts += _conditions(search)
    return Markup(", ").join(parts) + Markup(", the newest first.")


def _conditions(search: Search) -> list[Markup]:
    found: list[Markup] = []
    if search.status:
        states = [words.STATUS[status.value] for status in search.status]
        found.append(Markup("with the status {}").format(tag("b", words.joined(states, "or"))))
    if search.step:
        found.append(Markup("with trouble at {}").format(tag("b", search.step)))
    if search.database:
        found.append(Markup("with trouble in {}").format(tag("b", search.database)))
    if search.error:
        found.append(Markup("with a reason that contains &ldquo;{}&rdquo;").format(search.error))
    if search.key:
        found.append(Markup("with the key or id {}").format(tag("b", search.key)))
    found += [tag("b", word) for name, word in _FLAGS.items() if getattr(search, name)]
    if search.known is not None:
        found.append(Markup("whose version this process {}").format("knows" if search.known else "does not know"))
    if isinstance(search.since, str):
        found.append(Markup("started in the {}").format(SPANS[search.since]))
    elif search.since is not None:
        found.append(Markup("started since {} UTC").format(_told(search.since)))
    if search.until is not None:
        found.append(Markup("started before {} UTC").format(_told(search.until)))
    return found


def _told(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _first(given: Mapping[str, Sequence[str]], name: str) -> str | None:
    return given[name][0] if name in given else None


def _statuses(values: Sequence[str], problems: list[str]) -> tuple[Status, ...]:
    known = {status.value: status for status in Status}
    unknown = [value for value in values if value not in known]
    if unknown:
        problems.append(f"There is no status '{unknown[0]}'; it was left out.")
    return tuple(dict.fromkeys(known[value] for value in values if value in known))


def _since(value: str | None, problems: list[str]) -> datetime | str | None:
    return value if value in _SPANS else _moment(value, "since", problems)


def _moment(value: str | None, name: str, problems: list[str]) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        # A form has no time zone: the page says UTC.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        problems.append(f"'{name}' is no time like 2026-11-23T14:32; it was left out.")
        return None


def _is_cursor(text: str) -> bool:
    if not _CURSOR.fullmatch(text):
        return False
    moment, _, saga_id = text.partition("~")
    try:
        return datetime.fromisoformat(moment).tzinfo is not None and uuid_in(saga_id) is not None
    except ValueError:
        return False
