"""No value of a user's reaches the journal, the log, events or texts of errors, whatever fails in a step."""

import contextlib
import functools
import inspect
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

import asyncmy.errors
import asyncpg.exceptions
import bson
import bson.errors
import psycopg.errors
import pymongo.errors
import pytest
from pydantic import BaseModel, Field, TypeAdapter
from sqlalchemy import DateTime, bindparam, text

from devservers import Server
from polysaga import AnyDatabase, Databases, MongoSession, StepContext
from polysaga.config import parse_settings
from polysaga.errors import PayloadError, PayloadUnreadable, PolysagaError
from polysaga.events import StepFailed
from polysaga.sagas.definition.payloads import decode, encode
from polysaga.telemetry import LogSubscriber
from polysaga.texts import said, traced, without_values
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


def itself() -> list[Any]:
    """Return a list that is in itself."""
    made: list[Any] = [MARK]
    made.append(made)
    return made


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
        (
            bytes,
            MARK.encode() + b"\xff",
            "bytes that are no UTF-8; give the model ser_json_bytes='base64' and val_json_bytes",
        ),
        (str, f"{MARK}\ud800", "half of a surrogate pair"),
        (list, functools.reduce(lambda inner, _: [inner], range(400), [MARK]), "nested too deeply"),
        (list, itself(), "contains itself"),
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


class Mood(Enum):
    GOOD = MARK


def misfits() -> dict[str, Failing]:
    """Return mistakes with types of values, by what is to be told of them."""

    def sent(sql: str, value: object) -> Failing:
        return lambda db: db.execute(text(sql), {"value": value})

    number, name = "INSERT INTO kept (number) VALUES (:value)", "INSERT INTO kept (name) VALUES (:value)"
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return {
        "invalid input for query argument $1 (expected str, got Mood)": sent(name, Mood.GOOD),
        "invalid input for query argument $1 ('str' object cannot be interpreted as an integer)": sent(
            number, MARK
        ),
        "invalid input for query argument $1 (can't subtract offset-naive and offset-aware datetimes)": sent(
            "SELECT CAST(:value AS timestamp)", moment
        ),
        "A value is required for bind parameter 'missing'": sent(number.replace(":value", ":missing"), 1),
    }


def created(server: Server) -> str:
    server.create_database("misfits")
    return server.url("misfits")


async def told_of(fails: Failing, url: str) -> str:
    """Return our words for the error that *fails* raises in a session on the database at *url*."""
    shop = AnyDatabase("shop")
    async with Databases(shop).open(parse_settings({"databases": {"shop": {"url": url}}})):
        async with shop.writer() as db:
            if not isinstance(db, MongoSession):
                await db.execute(text("CREATE TABLE IF NOT EXISTS kept (name varchar(40), number integer)"))
        try:
            async with shop.writer() as db:
                await fails(db)
        except Exception as error:  # noqa: BLE001 - whatever the driver makes of it
            return said(error)
    return "nothing"


@pytest.mark.parametrize("wanted", list(misfits()))
async def test_a_value_of_the_wrong_type_is_told_by_its_place_and_type(
    wanted: str, postgres_server: Server
) -> None:
    told = await told_of(misfits()[wanted], created(postgres_server))
    assert wanted in told
    assert MARK not in told


async def test_psycopg_tells_what_a_value_should_have_been(postgres_server: Server) -> None:
    fails = misfits()["invalid input for query argument $1 ('str' object cannot be interpreted as an integer)"]
    url = created(postgres_server).replace("asyncpg", "psycopg")
    assert await told_of(fails, url) == (
        "DataError: InvalidTextRepresentation (22P02), invalid input syntax for type integer"
    )


async def test_mariadb_tells_the_column_of_a_value_of_the_wrong_type(mariadb_server: Server) -> None:
    fails = misfits()["invalid input for query argument $1 ('str' object cannot be interpreted as an integer)"]
    assert await told_of(fails, created(mariadb_server)) == "DataError: DataError (1366), column number"


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        ({"price": {"amount": Decimal("4711")}}, "InvalidDocument: cannot encode a decimal.Decimal"),
        ({"mood": Mood.GOOD}, "InvalidDocument: cannot encode a Mood"),
        ({"day": date(2026, 1, 1)}, "InvalidDocument: cannot encode a datetime.date"),
        ({4711: 1}, "InvalidDocument: documents must have only string keys"),
    ],
)
def test_a_document_that_mongodb_cannot_hold_is_told_by_the_type(document: Any, wanted: str) -> None:
    with pytest.raises(bson.errors.InvalidDocument) as failure:
        bson.encode(document)
    assert said(failure.value) == wanted
