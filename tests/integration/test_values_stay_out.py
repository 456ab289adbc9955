"""No value of a user's reaches the journal, the log, events or texts of errors, whatever fails in a step."""

import contextlib
import inspect
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import asyncmy.errors
import asyncpg.exceptions
import bson.errors
import psycopg.errors
import pymongo.errors
import pytest
from pydantic import BaseModel, Field, TypeAdapter
from sqlalchemy import DateTime, bindparam, text

from polysaga import MongoSession, StepContext
from polysaga.databases.texts import said, traced, without_values
from polysaga.errors import PayloadError, PayloadUnreadable, PolysagaError
from polysaga.events import StepFailed
from polysaga.sagas.payloads import decode, encode
from polysaga.telemetry.logs import LogSubscriber
from tests.fixtures.programs import QUICK, Order, Program, Urls

MARK = "MARKED-VALUE-4711"
SHAPE = [
    ("open_order", "orders", "compensatable", []),
    ("reserve_stock", "inventory", "compensatable", ["open_order"]),
    ("credit_points", "points", "compensatable", ["reserve_stock"]),
    ("confirm_order", "orders", "pivot", ["credit_points"]),
]
Failing = Callable[[Any], Awaitable[object]]


class Named(BaseModel):
    kind: Literal["one"]
    number: int = Field(gt=7)


class Either(BaseModel):
    one: Named | None = None
    by_key: dict[str, int] = {}


async def duplicate(db: Any) -> object:
    if isinstance(db, MongoSession):
        await db["kept"].insert_one({"_id": MARK})
        return await db["kept"].insert_one({"_id": MARK})
    return [await db.execute(text("INSERT INTO kept (name) VALUES (:name)"), {"name": MARK}) for _ in range(2)]


async def duplicates(db: Any) -> object:
    if isinstance(db, MongoSession):
        return await db["kept"].insert_many([{"_id": MARK}, {"_id": MARK}])
    return await db.execute(text("INSERT INTO kept (name) VALUES (:name)"), [{"name": MARK}, {"name": MARK}])


async def too_long(db: Any) -> object:
    if isinstance(db, MongoSession):
        return await db["kept"].insert_one({"value": object, MARK: object()})
    wide = f"{MARK}{'x' * 100}"
    return await db.execute(
        text("INSERT INTO kept (name, number) VALUES (:name, :wrong)"), {"name": wide, "wrong": wide}
    )


async def cast(db: Any) -> object:
    if isinstance(db, MongoSession):
        return await db["kept"].update_one({"_id": 1}, {"$set": {"$" + MARK: MARK}})
    return await db.execute(
        text("INSERT INTO kept (name, number) VALUES ('a', CAST(:wrong AS date))"), {"wrong": MARK}
    )


async def literal(db: Any) -> object:
    if isinstance(db, MongoSession):
        return await db["kept"].aggregate([{"$match": {"$expr": {f"${MARK}": 1}}}])
    return await db.execute(text(f"SELECT '{MARK}' FROM kept WHERE ')' ("))


async def bound(db: Any) -> object:
    if isinstance(db, MongoSession):
        return await db["kept"].find_one({"$where": {MARK: 1}, f"${MARK}": MARK})
    statement = text("INSERT INTO kept (name) VALUES (:at)").bindparams(bindparam("at", type_=DateTime()))
    return await db.execute(statement, {"at": MARK})


async def validation(db: Any) -> object:
    return Named.model_validate({"kind": MARK, "number": MARK, MARK: MARK})


async def chained(db: Any) -> object:
    try:
        return await validation(db)
    except ValueError as error:
        raise RuntimeError("the row is odd") from error


async def grouped(db: Any) -> object:
    try:
        return await validation(db)
    except ValueError as error:
        raise ExceptionGroup("several", [error]) from None


async def swallowed(db: Any) -> object:
    try:
        return await duplicate(db)
    except Exception:  # noqa: BLE001 - as steps do
        return None


FAILURES: list[Failing] = [
    duplicate,
    duplicates,
    too_long,
    cast,
    literal,
    bound,
    validation,
    chained,
    grouped,
    swallowed,
]


async def prepare(program: Program) -> None:
    for handle in program.handles.values():
        async with handle.writer() as db:
            if isinstance(db, MongoSession):
                await db.database.create_collection("kept")
            else:
                await db.execute(
                    text("CREATE TABLE kept (name varchar(40) PRIMARY KEY, number integer CHECK (number > 7))")
                )


async def test_no_value_leaves_a_failing_step(urls: Urls, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "polysaga")
    program = Program(urls, SHAPE)
    for step in program.steps.values():
        step.retry = step.undo_retry = QUICK
    async with program.open():
        await prepare(program)
        log = LogSubscriber()
        told: list[str] = []
        for place in ("open_order", "reserve_stock", "credit_points", "confirm_order"):
            for failing in FAILURES:

                async def fail(db: Any, ctx: StepContext, failing: Failing = failing) -> None:
                    await failing(db)

                program.hooks = {place: fail}
                try:
                    await program.sagas.run(program.saga, Order(), key=f"{place} {failing.__name__}", timeout=20)
                except PolysagaError as error:
                    told += [str(error), traced(error)]
        for event in program.recorder.events:
            log(event)
        rows = []
        async with program.handles["orders"].reader() as db:
            assert not isinstance(db, MongoSession)
            for table in ("polysaga_journal", "polysaga_ledger"):
                rows += [str(tuple(row)) for row in await db.execute(text(f"SELECT * FROM {table}"))]
    events = [str(event) for event in program.recorder.events]
    assert len(program.recorder.of(StepFailed)) >= 2 * len(FAILURES)
    for found in (told, rows, events, [caplog.text]):
        assert [one for one in found if MARK in one] == []


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        (Named, Named.model_construct(kind="one", number=MARK), "field number is not of its type, int"),
        (Either, Either.model_construct(one=MARK, by_key={MARK: 1}), "field one is not of its type"),
        (int, MARK, "a value is not of its type, int"),
        (object, type(MARK, (), {})(), "Unable to serialize unknown type"),
    ],
)
def test_what_does_not_survive_json_is_told_without_its_value(kind: Any, value: Any, wanted: str) -> None:
    with pytest.raises(PayloadError, match=wanted) as told:
        encode(TypeAdapter(kind), value, what="it", limit=1000)
    assert kind is object or MARK not in str(told.value)


@pytest.mark.parametrize(
    ("kind", "stored", "wanted"),
    [
        (Named, {"kind": "one"}, "field 'number' is missing"),
        (Named, {"kind": MARK, "number": MARK}, "Input should be 'one'; Input should be a valid integer"),
        (Either, {"by_key": {MARK: MARK}}, "Input should be a valid integer"),
    ],
)
def test_what_cannot_be_read_any_more_is_told_without_its_value(kind: Any, stored: Any, wanted: str) -> None:
    with pytest.raises(PayloadUnreadable, match=wanted) as told:
        decode(TypeAdapter(kind), TypeAdapter(Any).dump_json(stored).decode(), what="it")
    assert MARK not in str(told.value)


def test_what_a_program_says_itself_is_told_as_it_is() -> None:
    error = KeyError("price")
    assert without_values(error) is error
    assert said(error) == "KeyError: 'price'"


def errors_of_drivers() -> list[BaseException]:
    """Return errors of every class of the drivers, made with what drivers make them with, and with less."""
    made: list[BaseException] = []
    for module in (pymongo.errors, bson.errors, asyncpg.exceptions, psycopg.errors, asyncmy.errors, sqlite3):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if not issubclass(kind, Exception):
                continue
            for given in ((), (MARK,), (MARK, [MARK]), (MARK, 7, {"code": 7}), (1205, MARK), ({},)):
                with contextlib.suppress(TypeError, AttributeError, KeyError):  # it is not made like that
                    made.append(kind(*given))
    return made


def test_every_error_of_a_driver_has_a_text() -> None:
    """A lost connection of PyMongo has a list of details where others have a mapping."""
    found = errors_of_drivers()
    assert len({type(error) for error in found}) > 300
    assert all(said(error) for error in found)
    assert all(traced(error) for error in found)
