"""Ids of sagas: ordered by time, or derived from a key so that a client's retry finds the same saga."""

import contextlib
import os
from datetime import datetime
from uuid import UUID, uuid5

from polysaga.errors import PayloadError

_NAMESPACE = UUID("6f1d3a0e-52c3-5f0b-9d3e-7f4f0b6f5a11")
_KEY_LENGTH = 255


def id_from_key(saga: str, key: str) -> UUID:
    """Return the id derived from *key*: the same in every process, even after the start was lost."""
    if not isinstance(key, str):
        raise PayloadError(f"a key is text, not {type(key).__name__}: pass str(key)")
    if not 0 < len(key) <= _KEY_LENGTH:
        raise PayloadError(f"a key has 1 to {_KEY_LENGTH} characters, not {len(key)}")
    if "\0" in key:
        # PostgreSQL cannot store such text; the same key must work on every database.
        raise PayloadError("a key must not contain the character NUL")
    if any("\ud800" <= character <= "\udfff" for character in key):
        raise PayloadError("a key must be text that can be written as UTF-8")
    return uuid5(_NAMESPACE, f"{saga}:{key}")


def id_from_time(now: datetime) -> UUID:
    """Return a UUID of version 7 (RFC 9562, 5.7): milliseconds first, then 74 random bits."""
    milliseconds = int(now.timestamp() * 1000)
    random = int.from_bytes(os.urandom(10), "big")
    value = milliseconds << 80 | 0x7 << 76 | (random >> 68) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return UUID(int=value)


def as_id(given: object) -> UUID:
    """Return the id of a saga that is *given* as a UUID or as its text; raise `PayloadError` for anything else."""
    if isinstance(given, UUID):
        return given
    if isinstance(given, str):
        with contextlib.suppress(ValueError):
            return UUID(given)
    raise PayloadError(f"{given!r} is no id of a saga: give a UUID, such as the `id` of its handle")
