"""Statements as messages of PostgreSQL's protocol, so that one packet carries several with their values.

The values travel beside the statement, in the forms that literals have. So the statement is always the same, and
the server parses and plans it once for each connection (PostgreSQL documentation, "Message Formats").
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from polysaga.databases.dialects.sending import Rendered, Write

# How often a write is used before it is prepared again. A plan that the server made when the journal was nearly
# empty reads the whole table, and stays until the table is analysed: minutes and many thousand rows later.
_USES = 200

_SURE = re.compile(r"INSERT INTO \w+ \([^)]*\) VALUES ").match  # inserts one row or fails
_EXECUTE = b"E\0\0\0\x09\0\0\0\0\0"


class PreparedWrites:
    """The writes, and COMMIT, that the server has prepared on one connection.

    The server keeps them until the connection ends, or until a program sends DEALLOCATE ALL. It then refuses the
    next packet, before COMMIT. A packet that is not confirmed makes the next one prepare its writes again.
    """

    def __init__(self, *, lasting: bool) -> None:
        self._lasting = lasting  # else the server parses each write anew
        self._uses: dict[bytes, int] = {}
        self._sent = self._uses  # the same, once the server has executed what was sent

    def messages(self, writes: Sequence[Write]) -> bytes:
        """Return messages for *writes* and COMMIT; the server fails at a write that does not change one row."""
        self._sent, self._uses = self._uses, {}
        sealed = [self._message(_sure(one.statement), one.statement.bind(one.values)) for one in writes]
        return b"".join(sealed) + self._message(_COMMIT, ())

    def confirm(self) -> None:
        """Take note that the server has executed the last messages."""
        self._uses = self._sent

    def _message(self, statement: "_Prepared", values: Sequence[Any]) -> bytes:
        name, prepare, once = statement
        if not self._lasting:
            return once + _bind(b"", values) + _EXECUTE
        used = self._sent.get(name, 0)
        self._sent[name] = (used + 1) % _USES
        return (b"" if used else prepare) + _bind(name, values) + _EXECUTE


def unnamed(statement: str) -> bytes:
    """Return messages that make the server execute *statement*, which has no values."""
    return _parse(b"", statement) + _bind(b"", ()) + _EXECUTE


class _Prepared(NamedTuple):
    name: bytes
    prepare: bytes  # under this name, whether it is taken or not
    once: bytes  # for one use, without a name


@lru_cache
def _sure(statement: Rendered) -> _Prepared:
    """Return *statement* as one that fails if it does not change one row."""
    if _SURE(statement.sql):
        return _prepared(statement.sql)
    return _prepared(f"WITH written AS ({statement.sql} RETURNING 1) SELECT 1 / count(*) FROM written")


def _prepared(sql: str) -> _Prepared:
    name = b"polysaga_" + hashlib.blake2b(sql.encode(), digest_size=8).hexdigest().encode()
    close = _message(b"C", b"S" + name + b"\0")  # no error if there is none
    return _Prepared(name, close + _parse(name, sql), _parse(b"", sql))


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def _parse(name: bytes, sql: str) -> bytes:
    return _message(b"P", name + b"\0" + sql.encode() + bytes(1 + 2))


def _bind(name: bytes, values: Sequence[Any]) -> bytes:
    """Return Bind for the statement *name*: no portal name, all values as text, all results as text."""
    parts = [b"\0", name, bytes(1 + 2), len(values).to_bytes(2, "big")]
    for value in values:
        if value is None:
            parts.append(b"\xff\xff\xff\xff")
        else:
            text = _FORMS.get(type(value), _text)(value)
            parts += (len(text).to_bytes(4, "big"), text)
    parts.append(bytes(2))
    return _message(b"B", b"".join(parts))


def _text(value: Any) -> bytes:
    if isinstance(value, str):  # such as a member of an enumeration, given as a key
        return str.encode(value)
    raise TypeError(f"{type(value).__name__} cannot be sent as text")


_FORMS: dict[type, Callable[[Any], bytes]] = {
    str: str.encode,
    int: lambda value: b"%d" % value,
    float: lambda value: repr(value).encode(),
    UUID: lambda value: b"%032x" % value.int,
    datetime: lambda value: value.isoformat().encode(),
}

_COMMIT = _prepared("COMMIT")
