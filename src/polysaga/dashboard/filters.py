"""The search in an address: query parameters, what they select, and the sentence that says so.

The address is the search. A parameter that cannot be used is left out of it, and `Search.problems` names it. A
list shows these problems. An act on all that match is refused then: it would change more than was asked for.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from markupsafe import Markup, escape

from polysaga.dashboard import words
from polysaga.dashboard.drawing.elements import tag
from polysaga.sagas import Cause, SagaFilter, Status

_SPANS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
SPANS = {"1h": "last hour", "24h": "last 24 hours", "7d": "last 7 days"}
_FLAGS = {
    "retrying": "with a step that is retried",
    "late": "late",
    "waiting": "put aside",
    "crashing": "whose processes end or hang",
}
LONGEST = Cause.LONGEST  # characters of one parameter: what the dashboard puts into an address fits
CURSOR = (
    r"^(20\d\d-((0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
    r"|20([02468][048]|[13579][26])-02-29)"
    r"T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?\+00:00~"
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
)  # the `next` of a page
MOVING = tuple(status for status in Status if status.moving)
_MOST = 200  # parameters of one address
_SHOWN = 40  # characters of what makes no sense, in a sentence
_TRUTHS = {"1": True, "true": True, "0": False, "false": False}
_NAMES = {"status", "name", "step", "database", "key", "error", "since", "until", "known", "after", *_FLAGS}
_OF_THE_PAGE = {"live", "done", "shown"}


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
    given, problems = parameters(query, _NAMES, _OF_THE_PAGE)
    return Search(
        status=_statuses(given.get("status", ()), problems),
        name=first(given, "name", problems),
        step=first(given, "step", problems),
        database=first(given, "database", problems),
        key=first(given, "key", problems),
        error=first(given, "error", problems),
        since=_since(first(given, "since", problems), problems),
        until=_moment(first(given, "until", problems), "until", problems),
        **{name: bool(_truth(given, name, problems)) for name in _FLAGS},
        known=_truth(given, "known", problems),
        after=cursor(given, problems),
        problems=tuple(dict.fromkeys(problems)),
    )


def parameters(
    query: str, names: Collection[str], ignored: Collection[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return what a query string gives for each of *names*, and a sentence for each parameter that is left out.

    Fields that a form sends empty count as absent. Those in *ignored* are about the page, not about what it lists.
    """
    try:
        pairs = parse_qsl(query, max_num_fields=_MOST)
    except ValueError:
        return {}, [f"The address has more than {_MOST} parameters; all were left out."]
    given: dict[str, list[str]] = {}
    problems: list[str] = []
    for name, value in pairs:
        text = value.strip()
        if name in ignored or not text:
            continue
        if name not in names:
            problems.append(f"There is no filter '{name[:_SHOWN]}'; it was left out.")
        elif len(text) > LONGEST:
            problems.append(f"'{name}' has more than {LONGEST} characters; it was left out.")
        elif "\0" in text:
            problems.append(f"'{name}' has the character NUL; it was left out.")
        else:
            given.setdefault(name, []).append(text)
    return given, problems


def first(given: Mapping[str, Sequence[str]], name: str, problems: list[str]) -> str | None:
    """Return the one value of a parameter; of several the first, and add to *problems*."""
    values = given.get(name, ())
    if len(set(values)) > 1:
        problems.append(f"'{name}' is given more than once; all but the first were left out.")
    return values[0] if values else None


def cursor(given: Mapping[str, Sequence[str]], problems: list[str]) -> str | None:
    """Return where the page goes on; None for the first page."""
    after = first(given, "after", problems)
    if after is None or re.fullmatch(CURSOR, after):
        return after
    problems.append("The page asked for is not one of this list; this is the first one.")
    return None


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
    # Not strftime: it writes the year 900 with three digits.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "seconds")


def _statuses(values: Sequence[str], problems: list[str]) -> tuple[Status, ...]:
    known = {status.value: status for status in Status}
    unknown = [value for value in values if value not in known]
    if unknown:
        problems.append(f"There is no status '{unknown[0][:_SHOWN]}'; it was left out.")
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


def _truth(given: Mapping[str, Sequence[str]], name: str, problems: list[str]) -> bool | None:
    value = first(given, name, problems)
    if value is not None and value not in _TRUTHS:
        problems.append(f"'{name}' is 1 or 0; it was left out.")
    return _TRUTHS.get(value or "")
