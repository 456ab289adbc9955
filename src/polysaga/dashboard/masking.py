"""Values that never leave the server: fields of the type `SecretStr`, and the names that the program masks.

A name is masked wherever it occurs in a payload, with everything below it. There is no way to show it. Where the
payload is at hand, its masked values are also taken out of texts: reasons, outcomes of attempts, tracebacks, keys.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from markupsafe import Markup
from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from polysaga.dashboard.drawing.elements import tag, together

MASKED = "masked"
_SHORTEST = 3  # characters of a value that is taken out of texts; shorter ones are everywhere
_LINES = 20  # of a payload, before the rest is folded


class Mask:
    """The names whose values stay on the server."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = frozenset(names)

    def data(self, value: Any) -> Any:
        """Return *value*, plain types, with the text `masked` below every masked name."""
        if isinstance(value, Mapping):
            return {key: MASKED if key in self.names else self.data(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(one) for one in value]
        return value

    def values(self, *payloads: str | None) -> frozenset[str]:
        """Return the texts of the masked values in *payloads*, JSON."""
        found: set[str] = set()
        for payload in payloads:
            if payload is not None and self.names:
                found.update(self._below(decoded(payload), masked=False))
        return frozenset(found)

    def values_of(self, data: Any) -> frozenset[str]:
        """Return the texts of the masked values in *data*, plain types."""
        return frozenset(self._below(data, masked=False))

    def _below(self, value: Any, *, masked: bool) -> Iterator[str]:
        if isinstance(value, Mapping):
            for key, one in value.items():
                yield from self._below(one, masked=masked or key in self.names)
        elif isinstance(value, list | tuple):
            for one in value:
                yield from self._below(one, masked=masked)
        elif masked and value is not None and not isinstance(value, bool) and len(str(value)) >= _SHORTEST:
            yield str(value)


def without(text: str, values: Collection[str]) -> str:
    """Return *text* with each of the masked *values* replaced."""
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, MASKED)
    return text


def decoded(text: str) -> Any:
    """Decode JSON of the journal; text that is none is shown as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def shown(data: Any, mask: Mask, *, whole: bool = False) -> tuple[Markup, int]:
    """Return *data* as indented JSON with its masked values hidden, and how many lines are folded away."""
    lines = [together(line) for line in _lines(data, mask, "", "")]
    if whole or len(lines) <= _LINES:
        return Markup("\n").join(lines), 0
    return Markup("\n").join(lines[:_LINES]), len(lines) - _LINES


def _lines(value: Any, mask: Mask, before: str, after: str, depth: int = 0) -> Iterator[list[str]]:
    """Yield the lines of *value*; *before* and *after* surround it."""
    indent = "  " * depth
    if isinstance(value, Mapping) and value:
        yield [indent, before, "{"]
        for place, (key, one) in enumerate(value.items()):
            comma, name = "," if place < len(value) - 1 else "", f"{_plain(key)}: "
            if key in mask.names:
                yield [f"{indent}  {name}", tag("span", MASKED, class_="mask"), comma]
            else:
                yield from _lines(one, mask, name, comma, depth + 1)
        yield [indent, "}", after]
    elif isinstance(value, list) and value:
        yield [indent, before, "["]
        for place, one in enumerate(value):
            yield from _lines(one, mask, "", "," if place < len(value) - 1 else "", depth + 1)
        yield [indent, "]", after]
    else:
        yield [indent, before, _plain(value), after]


def _plain(value: Any) -> str:
    # Escape what cannot be seen, such as marks of direction, and half a surrogate pair, which UTF-8 cannot encode.
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(sign: str) -> str:
    return sign if sign.isprintable() else json.dumps(sign)[1:-1]


def secret_names(adapters: Collection[TypeAdapter[Any]]) -> frozenset[str]:
    """Return the names of the fields that the types of *adapters* declare as secret."""
    found: set[str] = set()
    for adapter in adapters:
        try:
            schema = adapter.json_schema(mode="serialization")
        except PydanticInvalidForJsonSchema:  # a type without a JSON schema has no fields that we could name
            continue
        found.update(_passwords(schema))
    return frozenset(found)


def _passwords(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for name, one in schema.get("properties", {}).items():
            if isinstance(one, Mapping) and _is_secret(one):
                yield name
        for one in schema.values():
            yield from _passwords(one)
    elif isinstance(schema, list):
        for one in schema:
            yield from _passwords(one)


def _is_secret(schema: Mapping[str, Any]) -> bool:
    options = [schema, *schema.get("anyOf", ()), schema.get("items", {})]
    return any(isinstance(one, Mapping) and one.get("format") == "password" for one in options)
