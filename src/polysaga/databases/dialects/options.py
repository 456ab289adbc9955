"""The options in the query of a URL: each is passed to the driver, or refused by name with the remedy.

An option that is dropped silently is worse than an error: `options=-csearch_path=tenant` decides whose rows a
statement finds. So a dialect names every option that it passes on, and refuses the others.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

Read: TypeAlias = Callable[[str], Any]  # turns the text of an option into what the driver takes; raises ValueError

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_WITHOUT_VALUE = re.compile(r"[?&]([\w.-]+)=?(?=&|$)")


class UnusableOption(Exception):
    """An option of a URL that cannot be honoured; its texts never contain the option's value.

    `{database}` in *remedy* stands for the name of the database.
    """

    def __init__(self, name: str, why: str, remedy: str) -> None:
        super().__init__(f"option '{name}' {why}; {remedy}")
        self.name, self.why, self.remedy = name, why, remedy


def options(
    query: Mapping[str, str | Sequence[str]], known: Mapping[str, Read], refused: Mapping[str, str], unknown: str
) -> dict[str, Any]:
    """Return the options in *query* as the driver takes them; raise `UnusableOption` for the first refused one.

    *refused* holds the remedies for options that a user could expect to work; *unknown* is that for all others.
    """
    found = {}
    for name, given in query.items():
        if name in refused:
            raise UnusableOption(name, "cannot be given in the URL", refused[name])
        if name not in known:
            raise UnusableOption(name, "is not known here", _nearest(name, [*known, *refused]) or unknown)
        found[name] = _read(name, known[name], given)
    return found


def refuse_without_value(url: str) -> None:
    """Raise `UnusableOption` for an option in *url* without a value: URL parsers drop it."""
    empty = _WITHOUT_VALUE.search(url)
    if empty is not None:
        raise UnusableOption(empty[1], "has no value", "give it one, or leave it out")


def refuse_both(found: Mapping[str, Any], *names: str) -> None:
    """Raise `UnusableOption` if more than one of *names*, which mean the same, was *found*."""
    given = [name for name in names if name in found]
    if len(given) > 1:
        raise UnusableOption(given[1], f"says the same as '{given[0]}'", "give one of them")


def text(value: str) -> str:
    """Take *value* as it is."""
    return value


def whole(value: str) -> int:
    """Take a whole number."""
    return int(value) if re.fullmatch(r"-?[0-9]+", value) else _expected("a whole number")


def number(value: str) -> float:
    """Take a number."""
    return float(value) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) else _expected("a number")


def switch(value: str) -> bool:
    """Take `true` or `false`, in the usual spellings."""
    return value.lower() in _TRUE if value.lower() in _TRUE | _FALSE else _expected("true or false")


def file(value: str) -> str:
    """Take the path of a file that can be read."""
    try:
        with Path(value).open("rb"):
            return value
    except OSError as error:
        _expected(f"the path of a file that this process can read ({error.strerror})")


def choice(*words: str) -> Read:
    """Take one of *words*, in lower or upper case."""

    def read(value: str) -> str:
        return value.lower() if value.lower() in words else _expected(f"one of {', '.join(words)}")

    return read


def _expected(what: str) -> NoReturn:
    raise ValueError(what)


def _read(name: str, read: Read, given: str | Sequence[str]) -> Any:
    if not isinstance(given, str):
        raise UnusableOption(name, "is given more than once", "give it once")
    try:
        return read(given)
    except ValueError as error:
        raise UnusableOption(name, "has a value that does not fit", f"give {error}") from None


def _nearest(name: str, names: Sequence[str]) -> str | None:
    plain = {_plain(other): other for other in names}
    close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.8)
    return f"did you mean '{plain[close[0]]}'?" if close else None


def _plain(name: str) -> str:
    return re.sub(r"[_-]", "", name).lower()
