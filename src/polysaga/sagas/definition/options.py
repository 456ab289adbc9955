"""Check what a program gives a saga, its steps and their retries; each mistake is one clear `DefinitionError`.

A wrong option would otherwise show itself late: as an error of the owner when a step first fails, or never.
"""

import re
from collections.abc import Collection
from typing import Any

from polysaga.errors import DefinitionError

_LONGEST = 10 * 365 * 24 * 3600.0  # seconds
_HIGHEST_VERSION = 2**31 - 1  # that the journal's column holds
_MODULES_OF_TYPES = {"types", "typing", "typing_extensions"}


def check_name(given: object, pattern: re.Pattern[str], what: str, remedy: str) -> None:
    """Raise unless *given* is a text that *pattern* allows; *what* is e.g. `a saga's name`."""
    if not isinstance(given, str) or not pattern.fullmatch(given):
        shown = f"'{given}'" if isinstance(given, str) else repr(given)
        raise DefinitionError(f"{shown} is not {what}: {remedy}")


def check_seconds(given: object, what: str, *, zero: bool = False, none: str = "") -> None:
    """Raise unless *given* is a number of seconds, more than 0 and at most ten years; *zero* allows 0.

    *none* says what None means, for the options that may be None.
    """
    if none and given is None:
        return
    if not _is_within(given, 0, _LONGEST) or (given == 0 and not zero):
        least, also = "0 or more" if zero else "more than 0", f", or None {none}" if none else ""
        raise DefinitionError(f"{what} is {given!r}: give seconds as a number, {least}, at most ten years{also}")


def check_factor(given: object, what: str, most: float) -> None:
    """Raise unless *given* is a number from 1 to *most*."""
    if not _is_within(given, 1, most):
        raise DefinitionError(f"{what} is {given!r}: give a number from 1 to {most:g}")


def check_version(given: object, what: str) -> None:
    """Raise unless *given* is a whole number that the journal's column holds."""
    if not isinstance(given, int) or not _is_within(given, 0, _HIGHEST_VERSION):
        raise DefinitionError(f"{what} is {given!r}: give a whole number from 0 to {_HIGHEST_VERSION}")


def check_type(given: object, what: str) -> None:
    """Raise unless *given* is a type, and not a value or the name of a type."""
    if given is not None and not isinstance(given, type) and type(given).__module__ not in _MODULES_OF_TYPES:
        raise DefinitionError(f"{what} is {given!r}: give a type, e.g. the class of a pydantic model")


def check_kind_of(given: object, kind: type, what: str, remedy: str) -> None:
    """Raise unless *given* is a *kind*."""
    if not isinstance(given, kind):
        raise DefinitionError(f"{what} is {given!r}: {remedy}")


def listed(given: object, what: str, example: str) -> tuple[Any, ...]:
    """Return the members of the list *given*; raise if it is one member, or can be read only once."""
    if isinstance(given, str | bytes) or not isinstance(given, Collection):
        raise DefinitionError(f"{what} is {given!r}: give a list, e.g. {example}")
    return tuple(given)


def _is_within(given: object, least: float, most: float) -> bool:
    """Return whether *given* is a number from *least* to *most*; NaN is not, and bool is no number."""
    return isinstance(given, int | float) and not isinstance(given, bool) and least <= given <= most
