"""How the pages write numbers, times and lists: pure functions, used by all view models.

Times are UTC and carry seconds; how long ago something was stands beside them.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

STATUS = {
    "needs_attention": "needs attention",
    "running": "running",
    "completing": "completing",
    "compensating": "compensating",
    "completed": "completed",
    "compensated": "compensated",
}
_LONGEST = 200  # characters of an error in a sentence or a list
_MODULE = re.compile(r"^(?:\w+\.)+(?=\w+(?:: |$))")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def duration(seconds: float) -> str:
    """Return a length of time: 2.3 ms, 804 ms, 5.0 s, 4 min 58 s, 2 h 5 min, 3 days."""
    if seconds < 0.1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} days"


def brief(seconds: float) -> str:
    """Return a length of time in one unit, for narrow columns: 0.4 s, 31 s, 9 min, 4 h, 12 days."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min"
    return f"{seconds // 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds // 86400:.0f} days"


def patience(seconds: float | None) -> str:
    """Return how long something is tried: `up to 5 min`, `as long as it takes`."""
    if seconds is None:
        return "as long as it takes"
    minutes, rest = divmod(round(seconds), 60)
    return f"up to {minutes} min" if minutes and not rest else f"up to {seconds:g} s"


def number(value: float) -> str:
    """Return a whole number with separators: 1,204."""
    return f"{value:,.0f}"


def counted(value: int, one: str, many: str | None = None) -> str:
    """Return a number and its noun: `1 saga`, `1,204 sagas`."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def verb(value: int, one: str, many: str) -> str:
    """Return the form of a verb for *value* things."""
    return one if value == 1 else many


def since(then: datetime, now: datetime) -> float:
    """Return the seconds from *then* to *now*, never less than 0."""
    return max(0.0, (now - then).total_seconds())


def clock(moment: datetime) -> str:
    """Return the time of day with seconds: 14:32:07."""
    return moment.astimezone(UTC).strftime("%H:%M:%S")


def hour(moment: datetime) -> str:
    """Return the time of day without seconds: 14:32."""
    return moment.astimezone(UTC).strftime("%H:%M")


def exact(moment: datetime) -> str:
    """Return the time of day with milliseconds: 14:32:07.123."""
    return moment.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]


def day(moment: datetime, now: datetime) -> str:
    """Return the day for people: Today, Yesterday, 20 Nov, 20 Nov 2025."""
    moment, now = moment.astimezone(UTC), now.astimezone(UTC)
    if moment.date() == now.date():
        return "Today"
    if moment.date() == (now - timedelta(days=1)).date():
        return "Yesterday"
    year = "" if moment.year == now.year else f" {moment.year}"
    return f"{moment.day} {_MONTHS[moment.month - 1]}{year}"


def at(moment: datetime, now: datetime) -> str:
    """Return a moment as precisely as its distance needs: `14:32:07`, `Yesterday 14:32:07`."""
    found = day(moment, now)
    return clock(moment) if found == "Today" else f"{found} {clock(moment)}"


def ago(then: datetime, now: datetime) -> str:
    """Return how long before *now* it was: `5.3 s ago`."""
    return f"{duration(since(then, now))} ago"


def ahead(moment: datetime, now: datetime) -> str:
    """Return when something is due: `at 14:32:25, in 18 s`, or `now` if the time has come."""
    left = (moment - now).total_seconds()
    return "now" if left <= 0 else f"at {at(moment, now)}, in {brief(left)}"


def joined(words: Sequence[str], word: str = "and") -> str:
    """Return a list in a sentence: `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {word} {words[-1]}"


def tail(saga_id: UUID | str) -> str:
    """Return the last 8 digits of an id: the first ones of a UUIDv7 are the hour."""
    return str(saga_id)[-8:]


def first_line(text: str) -> str:
    """Return the first line of *text* that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def short(text: str) -> str:
    """Return the first line of *text*, with an ellipsis if it has more than 200 characters."""
    line = first_line(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def plainly(text: str) -> str:
    """Return *text* with the class of an error at its beginning without its module."""
    return _MODULE.sub("", text, count=1)


def place(database: str | None) -> str:
    """Return where a step works, for a sentence: `in orders`, or nothing for a call to the outside world."""
    return f" in {database}" if database else ""
