"""The texts of errors, for the journal, the log and people: never empty, and without users' data.

Drivers and validators put values into their texts: `Key (email)=(a@b.c) already exists`, `input_value='a@b.c'`.
Of such an error, only the class, the code and the names of constraints, tables, columns and fields are kept. Its
text is kept only if it is known to contain no values. The text of a program's own error is kept as it is, but for
half of a surrogate pair, as in the name of a file that is not UTF-8: journals, logs and pages cannot have it.
"""

import re
import traceback
from collections.abc import Callable

from pydantic_core import PydanticSerializationError, ValidationError

from polysaga.errors import PolysagaError

LONGEST = 4000  # characters kept of a text or a traceback; the end of a traceback matters most
_OURS = "polysaga."
_RECOGNISED: list[Callable[[BaseException], str | None]] = []  # filled by packages above this one
# Values that JSON cannot hold although their type is right: pydantic's words, and ours for people.
_UNFIT = {
    "invalid utf-8 sequence": "bytes that are no UTF-8; give the model ser_json_bytes='base64' and val_json_bytes",
    "surrogates not allowed": "a text has half of a surrogate pair, which UTF-8 does not have",
    "Maximum serialization depth exceeded": "a value is nested too deeply",
    "Circular reference detected": "a value contains itself",
}
_EXPECTED = re.compile(r"Expected `([^`]+)`(?: - [^\[]*\[field_name='(\w+)')?")


def said(error: BaseException) -> str:
    """Return the text of *error* for people; never empty, even if its own `__str__` raises."""
    told = (_said(error) or _own_text(error)).strip()
    # Of an error without a text, drivers' and ours, `Name: ` would be left.
    return well_formed(told.removesuffix(":")[:LONGEST] or type(error).__name__)


def traced(error: BaseException) -> str:
    """Return the end of the traceback of *error* and its causes, each with its text from `said`."""
    return well_formed(_lines(lambda one: traceback.format_exception(without_values(one)), error)[-LONGEST:])


def well_formed(text: str) -> str:
    """Return *text*, with an escape for each half of a surrogate pair, which UTF-8 does not have."""
    return text.encode(errors="backslashreplace").decode()


def without_values(error: BaseException) -> BaseException:
    """Return *error*, or a copy with the same name, traceback and causes whose texts contain no values."""
    chain = _chain(error)
    if all(_said(one) is None for one in chain):
        return error
    made = dict[int, BaseException]()
    copies = [_copied(one, made) for one in chain]
    for one, copy in zip(chain, copies, strict=True):
        copy.__traceback__ = one.__traceback__
        copy.__cause__, copy.__context__ = made.get(id(one.__cause__)), made.get(id(one.__context__))
        copy.__suppress_context__ = one.__suppress_context__  # which a new cause sets
    return made[id(error)]


def _chain(error: BaseException) -> list[BaseException]:
    """Return *error* and all that it came of; a chain may be longer than Python's limit of recursion."""
    found, left = dict[int, BaseException](), [error]
    while left:
        one = left.pop()
        if id(one) not in found:
            found[id(one)] = one
            inner = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
            left += [each for each in (one.__cause__, one.__context__, *inner) if each is not None]
    return list(found.values())


def _copied(error: BaseException, made: dict[int, BaseException]) -> BaseException:
    """Return the copy of *error*, without what it came of."""
    if id(error) not in made:
        kind = type(error)
        if isinstance(error, BaseExceptionGroup):
            parts = [_copied(one, made) for one in error.exceptions]
            made[id(error)] = BaseExceptionGroup(error.message, parts)
        else:
            known = _said(error)
            copy = type(kind.__name__, (Exception,), {"__module__": kind.__module__})
            # Not `_own_text`: it looks at all that an error came of, for each error of a long chain.
            made[id(error)] = copy(_lines(lambda one: [str(one)], error) if known is None else _after_name(known))
            for note in getattr(error, "__notes__", ()):
                made[id(error)].add_note(note)
    return made[id(error)]


def _said(error: BaseException) -> str | None:
    """Return a text without values for an error whose own may contain some; None for a program's own error."""
    name = type(error).__name__
    if isinstance(error, ValidationError):
        return f"{name}: {told_of_validation(error)}"
    if isinstance(error, PydanticSerializationError):
        return f"{name}: {told_of_serialization(error)}"
    return next((text for known in _RECOGNISED if (text := known(error)) is not None), None)


def recognise(errors: Callable[[BaseException], str | None]) -> None:
    """Register *errors*: it returns a text without values, or None for an error that it does not know."""
    _RECOGNISED.append(errors)


def told_of_validation(error: ValidationError) -> str:
    """Return pydantic's complaints, without the input and without keys of dictionaries."""
    told = []
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        # Only for a missing field is the location certain to be one of the model's names.
        if one["type"] == "missing":
            told.append(f"field '{one['loc'][-1]}' is missing")
        else:
            told.append(one["type"] if one["type"].startswith("union_tag") else one["msg"])
    return f"{error.title}: {'; '.join(dict.fromkeys(told))}"


def told_of_serialization(error: PydanticSerializationError) -> str:
    """Return pydantic's complaint, without the value."""
    text = str(error)
    if text.startswith("Unable to serialize unknown type"):
        return text
    found = [
        f"{f'field {field}' if field else 'a value'} is not of its type, {kind}"
        for kind, field in _EXPECTED.findall(text)
    ]
    unfit = (words for said_of_it, words in _UNFIT.items() if said_of_it in text)
    return "; ".join(dict.fromkeys(found)) or next(unfit, "a value is not of its declared type")


def _own_text(error: BaseException) -> str:
    # Not str(error): an exception whose `__str__` raises must not keep a saga from being undone.
    told = _lines(traceback.format_exception_only, error).strip()
    if isinstance(error, PolysagaError) or type(error).__module__.startswith(_OURS):
        told = told.partition(": ")[2] or type(error).__name__
    return told


def _lines(lines: Callable[[BaseException], list[str]], error: BaseException) -> str:
    try:
        return "".join(lines(error))
    except Exception:  # noqa: BLE001 - border: a program's own error, or a thousand groups in each other
        return type(error).__name__


def _after_name(text: str) -> str:
    return text.partition(": ")[2] or text
