"""Encode inputs and results as JSON, decode them, and compare them."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, RootModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from polysaga.errors import PayloadError, PayloadUnreadable
from polysaga.texts import said

T = TypeVar("T")
_IMMUTABLE = {NoneType, bool, int, float, str, bytes, Decimal, UUID, datetime, date, time, timedelta}


def encode(adapter: TypeAdapter[Any], value: Any, *, what: str, limit: int) -> str:
    """Return *value* as JSON text that `decode` reads back.

    Raises `PayloadError` if it is not of its type, cannot be decoded again, or is larger than *limit* bytes.
    """
    text, _ = encoded(adapter, value, what=what, limit=limit)
    return text


def encoded(adapter: TypeAdapter[Any], value: Any, *, what: str, limit: int) -> tuple[str, Any]:
    """Return what `encode` does, and what `decode` would read in it.

    Raises `PayloadError` if it is not of its type, cannot be decoded again, or is larger than *limit* bytes.
    """
    if value is None and adapter.core_schema["type"] == "none":
        return "null", None
    try:
        text = adapter.dump_json(value, by_alias=True, round_trip=True, warnings="error")
        decoded = adapter.validate_json(text)  # now, because a takeover would find out too late
        if value is not None and b"null" in text:
            _check_numbers(adapter.dump_python(value, by_alias=True, round_trip=True), json.loads(text), what)
    except (PydanticSerializationError, ValidationError) as error:
        raise PayloadError(f"{what} does not survive JSON as its declared type: {said(error)}") from error
    if len(text) > limit:
        raise PayloadError(
            f"{what} is {len(text):,} bytes as JSON, more than the {limit:,} of sagas.payload_limit; "
            "store the large part in a database and pass its key"
        )
    return text.decode(), decoded


def decode(adapter: TypeAdapter[T], text: str, *, what: str) -> T:
    """Return the value that `encode` wrote; raise `PayloadUnreadable` if it no longer matches its type."""
    try:
        return adapter.validate_json(text)
    except Exception as error:  # border: a validator is the user's code and may raise anything
        raise PayloadUnreadable(f"{what} in the journal does not fit its type any more: {said(error)}") from error


def is_immutable(value: Any) -> bool:
    """Return whether no code can change *value*, as far as its types can prevent that, nor what it holds."""
    kind = type(value)
    if kind in _IMMUTABLE or isinstance(value, Enum):
        return True
    if kind in {tuple, frozenset}:
        return all(map(is_immutable, value))
    if isinstance(value, BaseModel):
        held = value.__pydantic_extra__ is None and value.__pydantic_private__ is None
        return held and value.model_config.get("frozen", False) and all(map(is_immutable, vars(value).values()))
    return False


def _check_numbers(value: Any, plain: Any, what: str) -> None:
    """Raise `PayloadError` for a NaN or an infinity in *value* that JSON, decoded as *plain*, has as null."""
    if plain is None and isinstance(value, float) and not math.isfinite(value):
        raise PayloadError(
            f"{what} does not survive JSON: it holds {value}, which JSON writes as null; leave such a number out, "
            'or set ser_json_inf_nan="strings" in the model\'s config'
        )
    if isinstance(plain, dict) and isinstance(value, Mapping):
        for one, written in zip(value.values(), plain.values(), strict=False):
            _check_numbers(one, written, what)
    elif isinstance(plain, list) and isinstance(value, Collection):
        for one, written in zip(value, plain, strict=False):
            _check_numbers(one, written, what)


def as_json(value: Any) -> str:
    """Encode an internal *value*, made of plain types, as JSON; faster than `json.dumps`."""
    return to_json(value).decode()


def digest(adapter: TypeAdapter[Any], value: Any, fields: Collection[str] | None) -> str:
    """Return a SHA-256 over what the caller set in *value*, or in its named *fields* only.

    Defaults are left out; without *fields*, so are aliases. The program may change both while a client retries.
    """
    if fields is None:
        return _hash(json.loads(adapter.dump_json(value, by_alias=False, round_trip=True, exclude_unset=True)))
    said = json.loads(adapter.dump_json(value, by_alias=True, round_trip=True, exclude_unset=True))
    return _hash({name: said[name] for name in fields if name in said})


def is_same(adapter: TypeAdapter[Any], given: str, stored: str, fields: Collection[str] | None) -> bool:
    """Return whether two texts encode the same input, as decoded by *adapter*; compare only *fields*.

    Raises `PayloadUnreadable` if the type cannot read one of them.
    """
    if fingerprint(given, fields) == fingerprint(stored, fields):
        return True
    values = [decode(adapter, text, what="the input") for text in (given, stored)]
    try:
        again = [_in_order(adapter, value) for value in values]
    except PydanticSerializationError:
        return False
    return _hash_of(again[0], fields) == _hash_of(again[1], fields)


def fingerprint(text: str, fields: Collection[str] | None) -> str:
    """Return a SHA-256 over the JSON *text*, or over its named *fields* only, independent of their order."""
    return _hash_of(json.loads(text), fields)


def _in_order(adapter: TypeAdapter[Any], value: Any) -> Any:
    """Return *value* as JSON's plain types, with the elements of each set in an order of their own."""
    return _sorted_sets(json.loads(adapter.dump_json(value, by_alias=True)), value)


def _sorted_sets(plain: Any, value: Any) -> Any:
    """Return *plain*, which *value* was dumped as, with its sets sorted: equal ones may be dumped differently."""
    value = value.root if isinstance(value, RootModel) else value
    if isinstance(plain, list) and isinstance(value, Collection) and len(plain) == len(value):
        items = list(map(_sorted_sets, plain, value))
        return sorted(items, key=_canonical) if isinstance(value, set | frozenset) else items
    if isinstance(plain, dict):
        held = _held(value)
        return {name: _sorted_sets(one, held.get(name)) for name, one in plain.items()}
    return plain


def _held(value: Any) -> Mapping[str, Any]:
    """Return what *value* holds, by the names that JSON has for it."""
    if isinstance(value, BaseModel):
        known = {
            one.serialization_alias or name: getattr(value, name) for name, one in type(value).model_fields.items()
        }
        return {**(value.__pydantic_extra__ or {}), **known}
    if isinstance(value, Mapping):
        return {str(name): one for name, one in value.items()}
    return vars(value) if is_dataclass(value) and hasattr(value, "__dict__") else {}


def _hash_of(value: Any, fields: Collection[str] | None) -> str:
    return _hash(value if fields is None else {name: value.get(name) for name in fields})


def _hash(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
