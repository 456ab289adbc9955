"""Write values into statements, so that one packet carries several; only values that are certainly safe."""

import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from polysaga.databases.dialects.sending import Rendered, Write

_PLAIN = re.compile(r"[ -&(-\[\]-~]*").fullmatch  # printable ASCII, without quote and backslash
_SURE = re.compile(r"INSERT INTO \w+ \([^)]*\) VALUES ").match  # inserts one row or fails


def checked(write: Write) -> str:
    """Return the SQL of *write* with its values; the server stops with an error if it changes no row."""
    template, names = _template(write.statement)
    values = write.values
    return template % tuple([_LITERALS.get(type(values[name]), _literal)(values[name]) for name in names])


@lru_cache
def _template(statement: Rendered) -> tuple[str, list[str]]:
    """Return *statement* with `%s` for every parameter, and their names in that order."""
    text, *rest = re.split(r"\$(\d+)", statement.sql.replace("%", "%%"))
    names = [statement.order[int(number) - 1] for number in rest[::2]]
    sql = "%s".join([text, *rest[1::2]])
    if not _SURE(sql):
        sql = f"WITH written AS ({sql} RETURNING 1) SELECT 1 / count(*) FROM written"
    return sql, names


def _literal(value: Any) -> str:
    if isinstance(value, str):  # such as a member of an enumeration, given as a key
        return _text(str.__str__(value))
    raise TypeError(f"{type(value).__name__} cannot be written into a statement")


def _text(value: str) -> str:
    """Return *value* as SQL: quoted if all its characters are harmless, else as hexadecimal digits."""
    return f"'{value}'" if _PLAIN(value) else f"convert_from(decode('{value.encode().hex()}', 'hex'), 'UTF8')"


_LITERALS: dict[type, Callable[[Any], str]] = {
    str: _text,
    int: repr,
    float: repr,
    type(None): lambda _: "NULL",
    UUID: lambda value: f"'{value.int:032x}'",
    datetime: lambda value: f"'{value.isoformat()}'",
}
