"""An error always has a text for people: an empty one has hidden faults before."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import asyncmy.errors
import asyncpg
import psycopg
import pymongo.errors
import pytest
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from polysaga.config import DatabaseSettings
from polysaga.databases import MongoNode
from polysaga.databases.dialects import SQL_DIALECTS
from polysaga.errors import DatabaseUnavailable, Refused
from polysaga.texts import said, traced


class Mute(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise ValueError


EMPTY = [
    TimeoutError(),
    asyncio.CancelledError(),
    OSError(),
    ConnectionResetError(),
    KeyError(),
    AssertionError(),
    RuntimeError("  "),
    Mute(),
    Refused(""),
    DatabaseUnavailable("orders", "a:1", ""),
    asyncpg.InterfaceError(""),
    asyncpg.ConnectionDoesNotExistError(""),
    psycopg.OperationalError(),
    psycopg.InterfaceError(""),
    asyncmy.errors.OperationalError(),
    asyncmy.errors.OperationalError(2013, ""),
    asyncmy.errors.InternalError(""),
    sqlite3.OperationalError(),
    pymongo.errors.AutoReconnect(),
    pymongo.errors.ConnectionFailure(""),
    pymongo.errors.PyMongoError(),
    PoolTimeout(),
]


def wrapped() -> Iterator[Any]:
    for error in EMPTY:
        yield DBAPIError("SELECT 1", None, error)


@pytest.mark.parametrize("error", [*EMPTY, *wrapped()], ids=lambda error: type(error).__name__)
def test_the_text_of_an_error_is_never_empty_and_never_breaks_off(error: BaseException) -> None:
    assert SQL_DIALECTS, "the dialects recognise the drivers' errors"
    told = said(error)
    assert told.strip() == told
    assert told
    assert not told.endswith(":")


def test_the_view_that_the_driver_of_mongodb_has_of_all_servers_is_left_out() -> None:
    view = "<TopologyDescription id: 6b0db6cde66f9172621a90db, topology_type: Single, servers: [...]>"
    refused = "a:1: [Errno 111] Connect call failed"
    error = pymongo.errors.ServerSelectionTimeoutError(f"{refused}, Timeout: 5.0s, Topology Description: {view}")
    assert said(error) == f"ServerSelectionTimeoutError: {refused}"


def of_many(kind: Callable[[BaseException], BaseException], length: int = 3_000) -> BaseException:
    """Return the last error of a chain that is longer than Python's limit of recursion."""
    error: BaseException = ValueError("the first")
    for _ in range(length):
        error = kind(error)
    return error


def with_cause(cause: BaseException) -> BaseException:
    error = ValueError("the next")
    error.__cause__ = cause
    return error


def with_values() -> BaseException:
    try:
        TypeAdapter(int).validate_python("secret")
    except ValidationError as error:
        return error
    raise AssertionError


def test_an_error_of_ours_without_a_text_is_told_by_its_name_alone() -> None:
    assert said(Refused("")) == "Refused"


class Nonsense(SyntaxError):
    """Has what Python's printer does not expect, as errors of template languages may."""

    lineno, text = 1, b"{{"  # type: ignore[assignment]


ODD = {
    "half of a pair": ValueError("no file \udcff.csv"),
    "a long chain": of_many(with_cause),
    "groups in groups": of_many(lambda part: BaseExceptionGroup("more", [part])),
    "a syntax error of a template": Nonsense("wrong"),
}


@pytest.mark.parametrize("error", ODD.values(), ids=ODD)
def test_every_error_of_a_program_can_be_told_and_written(error: BaseException) -> None:
    for text in (said(error), traced(error)):
        assert text.strip()
        text.encode()


def test_a_long_chain_is_told_without_the_values_at_its_end() -> None:
    error = with_values()
    for _ in range(3_000):
        error = with_cause(error)
    assert "secret" not in traced(error)
    assert "the next" in traced(error)


async def test_a_mongodb_that_does_not_answer_in_time_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    node = MongoNode("stock", "primary", "mongodb://localhost/stock", DatabaseSettings(url="mongodb://localhost"))

    async def late(*given: object, **named: object) -> None:
        raise TimeoutError

    monkeypatch.setattr("polysaga.databases.mongo_node.limited", _closing(late))
    with pytest.raises(DatabaseUnavailable, match=r"TimeoutError$"):
        await node.ping()
    monkeypatch.undo()
    await node.close()


def _closing(instead: Any) -> Any:
    """Return *instead*, which closes the coroutine that it is given."""

    async def call(work: Any, *given: object, **named: object) -> Any:
        work.close()
        return await instead()

    return call
