"""FastAPI on SQLite: sessions that end before the response, errors as problems, one call for the rest."""

import asyncio
import json
import logging
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from importlib import util
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx2
import pymongo.errors
import pytest
from fastapi import APIRouter, BackgroundTasks, Body, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, PositiveInt
from pymongo.errors import PyMongoError
from sqlalchemy import ForeignKey, select, text
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import BaseRoute, Route, Router
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polysaga import Databases, Refused, Retry, Saga, Sagas, SqlDatabase, StepContext, load_settings
from polysaga import errors as tree
from polysaga.asgi import NEWS
from polysaga.config import Settings
from polysaga.errors import (
    Busy,
    ConfigurationError,
    DatabaseUnavailable,
    DeadlineExceeded,
    DefinitionError,
    FixTheProgram,
    KeyReused,
    NeedsAttention,
    NoPrimary,
    NoReplica,
    OutcomePending,
    PayloadError,
    PolysagaError,
    PoolExhausted,
    ReadOnlyNode,
    RowLocked,
    SagaCancelled,
    SagaFailed,
    SagaUndone,
    SchemaMissing,
    StepMisused,
    StillLocked,
    TooLate,
    UnknownSaga,
    UnknownVersion,
    WriteOnReader,
)
from polysaga.events import DatabaseOpened, Event
from polysaga.fastapi import auto, install, problem, problems, reader, writer
from polysaga.migrations import Migration
from tests.fixtures.left_behind import driver_threads_ended

SECRET = "hush-hush"  # stands in statements, values and messages, and in no response

orders, stock = SqlDatabase("orders"), SqlDatabase("stock")
databases = Databases(orders, stock)
Read = Annotated[AsyncSession, reader(orders)]
Write = Annotated[AsyncSession, writer(orders)]
Auto = Annotated[AsyncSession, auto(orders)]


class Rows(DeclarativeBase):
    """The tables of the application in these tests."""


class Shelf(Rows):
    __tablename__ = "shelves"
    id: Mapped[int] = mapped_column(primary_key=True)


class Lantern(Rows):
    __tablename__ = "lanterns"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    shelf: Mapped[int | None] = mapped_column(
        ForeignKey("shelves.id", deferrable=True, initially="DEFERRED"), default=None
    )


class Versioned(Rows):
    __tablename__ = "versioned"
    name: Mapped[str] = mapped_column(primary_key=True)
    shelf: Mapped[str | None] = mapped_column(default=None)
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}


class LanternAsked(BaseModel):
    name: str
    pieces: PositiveInt = 1
    shelf: int | None = None


class SoldOut(Refused):
    """There is none left."""


class Gone(Refused):
    """It is not made any more."""


buy = Saga("buy", input=LanternAsked, output=str, refusals=[SoldOut])


@buy.step(orders, retry=Retry(within=0.5))
async def add_lantern(db: AsyncSession, asked: LanternAsked, ctx: StepContext) -> None:
    db.add(Lantern(name=asked.name, shelf=asked.shelf))


@add_lantern.compensation
async def remove_lantern(db: AsyncSession, asked: LanternAsked, done: None, ctx: StepContext) -> None:
    await db.execute(text("DELETE FROM lanterns WHERE name = :name"), {"name": asked.name})


busy: list[str] = []  # while there is something in it, no saga can be decided


@buy.step(stock, kind="pivot", retry=Retry(within=0.1))
async def decide(db: AsyncSession, asked: LanternAsked, ctx: StepContext) -> str:
    if busy:
        raise Busy(1, 0.1)
    if asked.name == "sold":
        raise SoldOut("no lantern is left", item="lantern")
    if asked.name == "broken":
        raise ZeroDivisionError(SECRET)
    return asked.name


sagas = Sagas(databases, buy, journal=orders)


# ---- the application in a test


def settings_in(directory: Path, *, lock_timeout: float = 5.0, **pool: Any) -> Settings:
    """Return two SQLite files in *directory*; only a test that waits in vain needs other time limits."""
    named = {
        handle.name: {
            "url": f"sqlite+aiosqlite:///{directory}/{handle.name}.db",
            "lock_timeout": lock_timeout,
            "pool": pool,
        }
        for handle in databases
    }
    return load_settings(defaults={"databases": named, "sagas": {"drain": 0.5}}, environment={})


async def create_tables() -> None:
    async with orders.writer() as db:
        connection = await db.connection()
        await connection.run_sync(Rows.metadata.create_all)


class Client(httpx2.AsyncClient):
    """Calls the application as a server would: what it raises after its answer is the server's business."""

    def __init__(self, app: ASGIApp, *, raising: bool = False) -> None:
        super().__init__(
            transport=httpx2.ASGITransport(app=app, raise_app_exceptions=raising), base_url="http://shop"
        )


@asynccontextmanager
async def serving(
    app: FastAPI, directory: Path, *, pool: Mapping[str, Any] | None = None, **wiring: Any
) -> AsyncIterator[Client]:
    """Install Polysaga in *app*, start it, and yield a client of it."""
    defaults = {"settings": settings_in(directory, **(pool or {})), "ready": create_tables, "sagas": sagas}
    install(app, databases, **{**defaults, **wiring})
    async with app.router.lifespan_context(app), Client(app) as client:
        yield client


def rows_of(directory: Path) -> list[str]:
    """Return the names of all lanterns that are committed, seen by another connection."""
    connection = sqlite3.connect(directory / "orders.db")
    try:
        return [name for (name,) in connection.execute("SELECT name FROM lanterns ORDER BY id")]
    finally:
        connection.close()


def answering(handler: Callable[..., Any], *methods: str, **route: Any) -> FastAPI:
    """Return an application with one route, `/`."""
    app = FastAPI()
    app.add_api_route("/", handler, methods=list(methods) or ["GET"], **route)
    return app


def check_problem(answer: httpx2.Response, status: int, kind: str) -> dict[str, Any]:
    """Return the body, which must be a whole problem of this status and kind."""
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"], body["type"]) == (status, status, f"urn:polysaga:problem:{kind}")
    assert body["instance"] == "/"
    assert body["title"]
    assert body["detail"]
    assert ("retry-after" in answer.headers) == (status == 503)
    check_nothing_leaks(answer)
    return body


def check_nothing_leaks(answer: httpx2.Response) -> None:
    inside = (SECRET, "SELECT", "INSERT", "lanterns", "sqlite", "aiosqlite", ".db", "Traceback", "Error:", "File ")
    assert [word for word in inside if word in answer.text] == []


# ---- sessions


async def test_a_reader_refuses_writes_on_the_server_and_the_caller_learns_nothing_of_it(tmp_path: Path) -> None:
    async def write(db: Read) -> None:
        await db.execute(text("INSERT INTO lanterns (name) VALUES (:name)"), {"name": SECRET})

    async with serving(answering(write), tmp_path) as client:
        check_problem(await client.get("/"), 500, "internal")
        assert rows_of(tmp_path) == []


async def test_what_is_added_to_a_reader_is_not_dropped_in_silence(tmp_path: Path) -> None:
    async def add(db: Read) -> None:
        db.add(Lantern(name="storm"))

    async with serving(answering(add), tmp_path) as client:
        check_problem(await client.get("/"), 500, "internal")
        assert rows_of(tmp_path) == []


async def test_a_reader_sees_what_is_committed(tmp_path: Path) -> None:
    async def names(db: Read) -> list[str]:
        return list(await db.scalars(select(Lantern.name)))

    async with serving(answering(names), tmp_path) as client:
        assert (await client.get("/")).json() == []
        async with orders.writer() as db:
            db.add(Lantern(name="storm"))
        assert (await client.get("/")).json() == ["storm"]


async def add_one(db: Write, name: str = "storm") -> str:
    db.add(Lantern(name=name))
    return name


async def test_a_writer_has_committed_when_the_response_starts(tmp_path: Path) -> None:
    app = answering(add_one, "POST")
    committed: list[list[str]] = []

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def look_then_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                committed.append(rows_of(tmp_path))
            await send(message)

        await app(scope, receive, look_then_send)

    async with serving(app, tmp_path), Client(watched) as client:
        assert (await client.post("/")).status_code == 200
        assert committed == [["storm"]]


async def test_a_background_task_sees_what_the_handler_wrote(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    async def add_and_look_later(db: Write, later: BackgroundTasks) -> None:
        db.add(Lantern(name="storm"))
        later.add_task(lambda: seen.append(rows_of(tmp_path)))

    async with serving(answering(add_and_look_later, "POST"), tmp_path) as client:
        assert (await client.post("/")).status_code == 200
        assert seen == [["storm"]]


async def test_a_duplicate_that_is_found_when_the_session_is_flushed_is_never_a_200(tmp_path: Path) -> None:
    async with serving(answering(add_one, "POST"), tmp_path) as client:
        assert (await client.post("/")).status_code == 200
        check_problem(await client.post("/"), 409, "duplicate-key")
        assert rows_of(tmp_path) == ["storm"]


async def test_a_constraint_that_fails_at_the_commit_is_never_a_200(tmp_path: Path) -> None:
    async def add_to_no_shelf(db: Write) -> str:
        db.add(Lantern(name="storm", shelf=7))
        await db.flush()  # deferred: the database says nothing yet
        return "stored"

    async with serving(answering(add_to_no_shelf, "POST"), tmp_path) as client:
        check_problem(await client.post("/"), 500, "internal")
        assert rows_of(tmp_path) == []


async def test_a_session_is_clean_again_after_its_commit_failed(tmp_path: Path) -> None:
    async def add(db: Write, shelf: int | None = None) -> None:
        db.add(Lantern(name="storm", shelf=shelf))

    async with serving(answering(add, "POST"), tmp_path) as client:
        assert (await client.post("/?shelf=7")).status_code == 500
        assert (await client.post("/")).status_code == 200
        assert rows_of(tmp_path) == ["storm"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(SoldOut("none left"), 409), (HTTPException(418), 418), (ValueError(SECRET), 500), (Busy(1, 1.0), 503)],
    ids=["refusal", "http", "bug", "try again"],
)
async def test_an_error_in_the_handler_rolls_back_what_it_wrote(
    tmp_path: Path, error: Exception, status: int
) -> None:
    async def add_then_fail(db: Write) -> None:
        db.add(Lantern(name="storm"))
        await db.flush()
        raise error

    async with serving(answering(add_then_fail, "POST"), tmp_path) as client:
        answer = await client.post("/")
        assert answer.status_code == status
        check_nothing_leaks(answer)
        assert rows_of(tmp_path) == []
        async with orders.writer() as db:  # the only connection that writes is free again
            assert list(await db.scalars(select(Lantern.name))) == []


@pytest.mark.parametrize(
    ("method", "reads"),
    [
        *[(method, True) for method in ("GET", "HEAD", "OPTIONS", "QUERY")],
        *[(method, False) for method in ("POST", "PUT", "PATCH", "DELETE")],
    ],
)
async def test_auto_reads_or_writes_by_the_method(tmp_path: Path, method: str, reads: bool) -> None:
    modes: list[bool] = []

    async def look(db: Auto) -> None:
        modes.append(bool(await db.scalar(text("PRAGMA query_only"))))

    async with serving(answering(look, method, include_in_schema=False), tmp_path) as client:
        assert (await client.request(method, "/")).status_code == 200
        assert modes == [reads]


def kinds_of_dependencies() -> list[Any]:
    """Return one of each, made anew with each call."""
    return [
        reader(orders),
        reader(stock),
        reader(orders, consistency="strong"),
        reader(orders, max_lag=1.0),
        reader(orders, allow_stale=True),
        reader(orders, snapshot=True),
        writer(orders),
        writer(stock),
        auto(orders),
        auto(orders, consistency="strong"),
    ]


def test_equal_calls_are_equal_dependencies_and_no_others() -> None:
    first, second = kinds_of_dependencies(), kinds_of_dependencies()
    assert [[one == other for other in second] for one in first] == [
        [here == there for there in range(len(second))] for here in range(len(first))
    ]
    assert len({*first, *second}) == len(first)
    assert reader(orders) == reader(orders, consistency=None, snapshot=False)
    assert "orders, consistency='strong'" in repr(reader(orders, consistency="strong"))


@pytest.mark.parametrize("lend", [reader, writer, auto])
async def test_a_test_puts_something_else_in_the_place_of_a_session(tmp_path: Path, lend: Any) -> None:
    async def answer(db: Annotated[Any, lend(orders)], other: Annotated[Any, lend(stock)]) -> str:
        return f"{db}, {isinstance(other, AsyncSession)}"

    app = answering(answer)
    app.dependency_overrides[lend(orders)] = lambda: "something else"
    async with serving(app, tmp_path) as client:
        assert (await client.get("/")).json() == "something else, True"


async def test_equal_dependencies_of_a_request_share_their_session(tmp_path: Path) -> None:
    async def compare(
        one: Annotated[AsyncSession, reader(orders)],
        same: Annotated[AsyncSession, reader(orders)],
        other: Annotated[AsyncSession, reader(orders, consistency="strong")],
    ) -> list[bool]:
        return [one is same, one is other]

    async with serving(answering(compare), tmp_path) as client:
        assert (await client.get("/")).json() == [True, False]


# ---- errors of ours

SAGA_ID = uuid4()
OURS: list[tuple[PolysagaError, int, str]] = [
    (Busy(10, 5.0), 503, "try-again"),
    (DatabaseUnavailable("orders", f"postgresql://{SECRET}", SECRET), 503, "try-again"),
    (NoPrimary("orders"), 503, "try-again"),
    (NoReplica("orders", SECRET), 503, "try-again"),
    (PoolExhausted("orders", 10, 5.0), 503, "try-again"),
    (OutcomePending(SAGA_ID, "buy"), 503, "outcome-pending"),
    (UnknownVersion(SAGA_ID, "buy"), 503, "outcome-pending"),
    (SagaUndone(SAGA_ID, "buy", "decide", SECRET), 409, "saga-undone"),
    (SagaCancelled(SAGA_ID, "buy", SECRET), 409, "cancelled"),
    (DeadlineExceeded(SAGA_ID, "buy", SECRET), 409, "deadline-exceeded"),
    (TooLate(SAGA_ID, "buy", "completing"), 409, "too-late"),
    (ConfigurationError(SECRET), 500, "internal"),
    (SchemaMissing("orders", "journal"), 500, "internal"),
    (DefinitionError(SECRET), 500, "internal"),
    (PayloadError("a key has 1 to 255 characters, not 0"), 422, "payload"),
    (KeyReused("buy", "my-key"), 422, "key-reused"),
    (ReadOnlyNode("orders", SECRET), 500, "internal"),
    (WriteOnReader("orders", SECRET, "INSERT"), 500, "internal"),
    (StepMisused(SECRET), 500, "internal"),
    (SagaFailed(SAGA_ID, "buy", "decide", SECRET), 500, "internal"),
    (UnknownSaga(SAGA_ID), 404, "unknown-saga"),
    (Refused("we do not do that"), 409, "refused"),
    (SoldOut("none left", left=0), 409, "sold-out"),
    (RowLocked("another request cancels this order"), 409, "row-locked"),
    (StillLocked("orders", "o-1", SAGA_ID), 503, "still-locked"),
    (NeedsAttention(SAGA_ID, "buy", SECRET), 500, "needs-attention"),
]


def leaves(error: type[PolysagaError] = PolysagaError) -> set[type[PolysagaError]]:
    """Return every error of the tree that nothing in the library refines."""
    below = [kind for kind in error.__subclasses__() if kind.__module__ == tree.__name__]
    return {error} if not below else set().union(*map(leaves, below))


def raising(error: Exception) -> FastAPI:
    async def fail() -> None:
        raise error

    return answering(fail)


def test_every_error_that_is_no_mistake_of_the_program_is_tried_here() -> None:
    tried = {type(error) for error, *_ in OURS}
    assert leaves() - leaves(FixTheProgram) <= tried
    assert tried & leaves(FixTheProgram)


@pytest.mark.parametrize(("error", "status", "kind"), OURS, ids=[type(error).__name__ for error, *_ in OURS])
async def test_an_error_of_ours_is_a_problem_with_its_own_status_and_kind(
    tmp_path: Path, error: PolysagaError, status: int, kind: str
) -> None:
    async with serving(raising(error), tmp_path) as client:
        body = check_problem(await client.get("/"), status, kind)
        named = getattr(error, "saga_id", None)
        assert body.get("saga_id") == (None if named is None else str(named))


async def test_a_refusal_says_why_in_its_own_words_and_shows_its_facts(tmp_path: Path) -> None:
    async with serving(raising(SoldOut("2 are left", item="lantern", left=2)), tmp_path) as client:
        body = check_problem(await client.get("/"), 409, "sold-out")
        assert (body["title"], body["detail"]) == ("Sold out", "2 are left")
        assert (body["item"], body["left"]) == ("lantern", 2)
        assert list(body) == ["type", "title", "status", "detail", "instance", "item", "left"]


async def test_the_facts_of_a_refusal_cannot_change_what_the_problem_says(tmp_path: Path) -> None:
    facts = {"type": "x", "title": "x", "status": 200, "detail": "x", "instance": "x"}
    async with serving(raising(SoldOut("none left", **facts)), tmp_path) as client:
        assert check_problem(await client.get("/"), 409, "sold-out")["detail"] == "none left"


async def test_refusals_have_the_statuses_that_the_program_gives_them(tmp_path: Path) -> None:
    refusals = {Gone.code: 410}
    async with serving(raising(Gone("not made any more")), tmp_path, refusals=refusals) as client:
        check_problem(await client.get("/"), 410, "gone")


async def test_a_refusal_that_the_program_gives_no_status_is_a_conflict(tmp_path: Path) -> None:
    async with serving(raising(SoldOut("none left")), tmp_path, refusals={Gone.code: 410}) as client:
        check_problem(await client.get("/"), 409, "sold-out")


@pytest.mark.parametrize("fact", [Decimal("2.55"), uuid4()], ids=["decimal", "uuid"])
async def test_facts_of_a_refusal_that_are_no_json_are_shown_as_text(tmp_path: Path, fact: object) -> None:
    async with serving(raising(SoldOut("none left", fact=fact)), tmp_path) as client:
        assert check_problem(await client.get("/"), 409, "sold-out")["fact"] == str(fact)


@pytest.mark.parametrize("name", ["kind", "request"])
async def test_facts_of_a_refusal_may_have_any_name(tmp_path: Path, name: str) -> None:
    async with serving(raising(SoldOut("none left", **{name: "brass"})), tmp_path) as client:
        assert check_problem(await client.get("/"), 409, "sold-out")[name] == "brass"


async def test_the_client_is_told_how_long_to_wait(tmp_path: Path) -> None:
    error = Busy(10, 5.0)
    error.retry_after = 7.0
    async with serving(raising(error), tmp_path) as client:
        assert (await client.get("/")).headers["retry-after"] == "7"


# ---- sagas behind a route


async def run_saga(name: str, key: str | None = None, shelf: int | None = None) -> str:
    return await sagas.run(buy, LanternAsked(name=name, shelf=shelf), key=key)


async def test_a_saga_that_is_refused_names_itself_in_the_problem_and_leaves_nothing(tmp_path: Path) -> None:
    async with serving(answering(run_saga, "POST"), tmp_path) as client:
        body = check_problem(await client.post("/?name=sold"), 409, "sold-out")
        assert body["item"] == "lantern"
        assert (await sagas.get(UUID(body["saga_id"]))).name == "buy"
        assert rows_of(tmp_path) == []


async def test_an_answer_that_stands_for_ever_under_its_key_asks_nobody_to_repeat_it(tmp_path: Path) -> None:
    async with serving(answering(run_saga, "POST"), tmp_path) as client:
        busy.append("for a moment")
        try:
            undone = check_problem(await client.post("/?name=storm&key=first"), 409, "saga-undone")
        finally:
            busy.clear()
        again = await client.post("/?name=storm&key=first")
        assert check_problem(again, 409, "saga-undone") == undone
        assert "with a new key" in undone["detail"]
        assert (await client.post("/?name=storm&key=second")).json() == "storm"


@pytest.mark.parametrize("error", [SoldOut("none left"), HTTPException(503, "closed on Sundays")])
async def test_only_who_can_be_helped_by_asking_again_is_told_to(tmp_path: Path, error: Exception) -> None:
    async with serving(raising(error), tmp_path, refusals={SoldOut.code: 503}) as client:
        answer = await client.get("/")
        assert (answer.status_code, "retry-after" in answer.headers) == (503, False)


async def test_who_shall_come_back_soon_is_not_told_to_come_back_at_once(tmp_path: Path) -> None:
    error = Busy(10, 5.0)
    error.retry_after = 0.2
    async with serving(raising(error), tmp_path) as client:
        assert (await client.get("/")).headers["retry-after"] == "1"


async def test_a_saga_that_meets_a_bug_is_undone_and_tells_the_caller_no_more_than_its_id(tmp_path: Path) -> None:
    async with serving(answering(run_saga, "POST"), tmp_path) as client:
        body = check_problem(await client.post("/?name=broken"), 500, "internal")
        state = await sagas.get(UUID(body["saga_id"]))
        assert state.error is not None
        assert SECRET in state.error.traceback
        assert rows_of(tmp_path) == []


async def test_a_key_that_comes_back_with_another_input_is_a_problem_of_the_caller(tmp_path: Path) -> None:
    async with serving(answering(run_saga, "POST"), tmp_path) as client:
        assert (await client.post("/?name=storm&key=k")).json() == "storm"
        assert (await client.post("/?name=storm&key=k")).json() == "storm"
        check_problem(await client.post("/?name=other&key=k"), 422, "key-reused")


async def test_a_key_that_is_too_long_is_a_problem_of_the_caller(tmp_path: Path) -> None:
    async with serving(answering(run_saga, "POST"), tmp_path) as client:
        body = check_problem(await client.post("/", params={"name": "storm", "key": "k" * 256}), 422, "payload")
        assert "255" in body["detail"]


async def test_a_stored_output_that_fits_its_type_no_more_is_no_fault_of_the_caller(tmp_path: Path) -> None:
    async with serving(answering(run_saga, "POST"), tmp_path) as client:
        assert (await client.post("/?name=storm&key=k")).status_code == 200
    return_a_number_instead(tmp_path)
    async with serving(answering(run_saga, "POST"), tmp_path) as client:
        check_problem(await client.post("/?name=storm&key=k"), 500, "internal")


def return_a_number_instead(directory: Path) -> None:
    """Leave behind what an older program, whose output was a number, would have left."""
    connection = sqlite3.connect(directory / "orders.db")
    ((results,),) = connection.execute("SELECT results FROM polysaga_journal WHERE status = 'completed'")
    older = json.dumps({**json.loads(results), "decide": "7"})
    connection.execute("UPDATE polysaga_journal SET results = ?", (older,))
    connection.commit()
    connection.close()


async def test_a_saga_whose_step_fails_at_its_commit_harms_no_other_saga(tmp_path: Path) -> None:
    async with serving(answering(run_saga, "POST"), tmp_path) as client:
        check_problem(await client.post("/?name=storm&shelf=7"), 500, "internal")
        assert (await client.post("/?name=other")).json() == "other"
        assert rows_of(tmp_path) == ["other"]


# ---- classic errors


async def no_row(db: Read) -> int:
    return (await db.execute(select(Lantern.id).where(Lantern.name == SECRET))).scalar_one()


async def several_rows(db: Read) -> str | None:
    return (await db.execute(text(f"SELECT '{SECRET}' UNION ALL SELECT 'b'"))).scalar_one_or_none()


async def used_on_after_an_error(db: Write) -> None:
    db.add_all([Lantern(name=SECRET), Lantern(name=SECRET)])
    with pytest.raises(IntegrityError):
        await db.flush()
    await db.execute(select(Lantern))


async def two_writers_at_once(db: Write) -> None:
    await db.execute(text("SELECT 1"))
    async with orders.writer() as second:  # SQLite has one connection for all writers
        await second.execute(text("SELECT 1"))


async def no_such_table(db: Read) -> None:
    await db.execute(text(f"SELECT * FROM {SECRET.replace('-', '_')}"))


async def syntax_error(db: Read) -> None:
    await db.execute(text(f"SELEKT '{SECRET}'"))


async def duplicate(db: Write) -> None:
    db.add_all([Lantern(name=SECRET), Lantern(name=SECRET)])


async def a_row_that_another_has_changed(db: Write) -> None:
    lantern = Versioned(name=SECRET)
    db.add(lantern)
    await db.flush()
    await db.execute(text("UPDATE versioned SET version = version + 1"))
    lantern.shelf = "north"
    await db.flush()


CLASSICS = [
    (no_row, 404, "no-result"),
    (several_rows, 500, "multiple-results"),
    (used_on_after_an_error, 500, "pending-rollback"),
    (two_writers_at_once, 503, "try-again"),
    (no_such_table, 500, "internal"),
    (syntax_error, 500, "internal"),
    (duplicate, 409, "duplicate-key"),
    (a_row_that_another_has_changed, 409, "stale-data"),
]


@pytest.mark.parametrize(("handler", "status", "kind"), CLASSICS, ids=[case[0].__name__ for case in CLASSICS])
async def test_a_classic_error_is_a_problem_that_tells_no_sql(
    tmp_path: Path, handler: Callable[..., Any], status: int, kind: str
) -> None:
    waits_in_vain = {"acquire_timeout": 0.1} if handler is two_writers_at_once else {}
    async with serving(answering(handler), tmp_path, pool=waits_in_vain) as client:
        check_problem(await client.get("/"), status, kind)
        assert rows_of(tmp_path) == []


async def test_a_lock_that_another_program_holds_is_a_reason_to_try_again(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, lock_timeout=0.05)
    async with serving(answering(add_one, "POST"), tmp_path, settings=settings) as client:
        other = sqlite3.connect(tmp_path / "orders.db", isolation_level=None, check_same_thread=False)
        # In a thread: the worker of the program may be in a transaction, which this event loop must end.
        await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
        check_problem(await client.post("/"), 503, "lock-timeout")
        other.close()
        assert (await client.post("/")).status_code == 200


def lost_reply() -> Exception:
    error = pymongo.errors.ConnectionFailure(SECRET)
    error._add_error_label("UnknownTransactionCommitResult")
    return error


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (pymongo.errors.DuplicateKeyError(f"E11000 {SECRET}", 11000), 409, "duplicate-key"),
        (pymongo.errors.ServerSelectionTimeoutError(SECRET), 503, "unreachable"),
        (pymongo.errors.WaitQueueTimeoutError(SECRET), 503, "pool-exhausted"),
        (pymongo.errors.OperationFailure(SECRET, 112), 503, "serialization"),
        (pymongo.errors.OperationFailure(SECRET, 2), 500, "internal"),
        (lost_reply(), 503, "unknown-commit"),
    ],
    ids=["duplicate", "unreachable", "pool", "conflict", "bug", "lost reply"],
)
async def test_an_error_of_mongodb_is_a_problem_that_tells_no_internals(
    tmp_path: Path, error: Exception, status: int, kind: str
) -> None:
    async with serving(raising(error), tmp_path) as client:
        check_problem(await client.get("/"), status, kind)


async def test_nobody_is_told_that_nothing_was_changed_when_the_reply_to_the_commit_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = AsyncSession.commit

    async def commit_and_lose_the_reply(session: AsyncSession) -> None:
        await commit(session)
        raise OperationalError("COMMIT", {}, Exception("gone"), connection_invalidated=True)

    async with serving(answering(add_one, "POST"), tmp_path) as client:
        with monkeypatch.context() as network:
            network.setattr(AsyncSession, "commit", commit_and_lose_the_reply)
            answer = await client.post("/")
        assert rows_of(tmp_path) == ["storm"]
        assert answer.status_code == 503
        assert "nothing was changed" not in answer.json()["detail"]


async def test_an_unknown_commit_on_mongodb_is_not_called_a_change_that_never_was(tmp_path: Path) -> None:
    async with serving(raising(lost_reply()), tmp_path) as client:
        assert "nothing was changed" not in (await client.get("/")).json()["detail"]


async def test_a_bug_in_a_handler_is_an_internal_problem_and_reaches_the_servers_log(
    tmp_path: Path,
) -> None:
    app = raising(ValueError(SECRET))
    async with serving(app, tmp_path) as client:
        check_problem(await client.get("/"), 500, "internal")
        async with Client(app, raising=True) as server:
            with pytest.raises(ValueError, match=SECRET):
                await server.get("/")


@pytest.mark.parametrize(
    "error",
    [ReadOnlyNode("orders", "node"), ConfigurationError("wrong"), syntax_error],
    ids=["read only", "configuration", "sql"],
)
async def test_whoever_runs_the_service_finds_the_cause_of_an_internal_problem_in_the_log(
    tmp_path: Path, error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = raising(error) if isinstance(error, Exception) else answering(error)
    async with serving(app, tmp_path) as client:
        caplog.clear()
        check_problem(await client.get("/"), 500, "internal")
        assert [record for record in caplog.records if record.levelno >= logging.ERROR and record.exc_info] != []


async def test_a_write_through_a_reader_is_told_with_its_endpoint_and_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def rename(name: str, db: Read) -> None:
        db.add(Lantern(name=name))
        await db.flush()

    app = FastAPI()
    app.get("/lanterns/{name}")(rename)
    async with serving(app, tmp_path) as client:
        answer = await client.get("/lanterns/storm")
        assert (answer.status_code, answer.json()["type"]) == (500, "urn:polysaga:problem:internal")

    (told,) = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert "GET /lanterns/{name} asked for INSERT" in str(told)
    assert "use orders.writer()" in str(told)


# ---- requests that are no good


async def ask(asked: LanternAsked) -> str:
    return asked.name


async def test_a_body_that_is_no_good_is_told_field_by_field(tmp_path: Path) -> None:
    async with serving(answering(ask, "POST"), tmp_path) as client:
        body = check_problem(await client.post("/", json={"pieces": 0}), 422, "validation")
        assert [one["field"] for one in body["errors"]] == ["body.name", "body.pieces"]
        assert all(one["message"] for one in body["errors"])
        assert "body.pieces: Input should be greater than 0" in body["detail"]


async def test_a_body_that_is_no_good_is_not_sent_back(tmp_path: Path) -> None:
    async with serving(answering(ask, "POST"), tmp_path) as client:
        check_problem(await client.post("/", json={"name": {"password": SECRET}}), 422, "validation")


@pytest.mark.parametrize("content", ['{"name": ', "", "[]", "null", "\x00"])
async def test_a_body_that_is_no_json_object_is_a_problem_too(tmp_path: Path, content: str) -> None:
    async with serving(answering(ask, "POST"), tmp_path) as client:
        answer = await client.post("/", content=content, headers={"content-type": "application/json"})
        assert check_problem(answer, 422, "validation")["errors"]


async def test_bytes_that_are_no_text_are_a_problem_too(tmp_path: Path) -> None:
    async with serving(answering(ask, "POST"), tmp_path) as client:
        answer = await client.post("/", content=b'"\xff"', headers={"content-type": "application/json"})
        assert "body: not JSON: no UTF-8 text" in check_problem(answer, 422, "validation")["detail"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nonsense", "body: not JSON: expecting value at character 1"),
        ('{"name": "storm', "body: not JSON: unterminated string starting at character 10"),
        ('{"name": "storm"} {}', "body: not JSON: extra data at character 19"),
        ('{"name": ' + "9" * 5000 + "}", "body: not JSON: a number is too long"),
        ("[" * 100_000, "body: not JSON: too deeply nested"),
    ],
    ids=["words", "cut off", "two", "number", "nested"],
)
async def test_a_body_that_is_no_json_is_told_where(tmp_path: Path, content: str, said: str) -> None:
    async with serving(answering(ask, "POST"), tmp_path) as client:
        answer = await client.post("/", content=content, headers={"content-type": "application/json"})
        body = check_problem(answer, 422, "validation")
        assert (body["detail"], body["errors"][0]["field"]) == (said, "body")


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}, {"content-type": "application/xml"}])
@pytest.mark.parametrize("embedded", [True, False])
async def test_a_body_that_does_not_say_it_is_json_is_refused_with_the_remedy(
    tmp_path: Path, headers: dict[str, str], embedded: bool
) -> None:
    async def ask_twice(asked: LanternAsked, other: LanternAsked) -> None: ...

    async with serving(answering(ask_twice if embedded else ask, "POST"), tmp_path) as client:
        answer = await client.post("/", content='{"name": "storm"}', headers=headers)
        body = check_problem(answer, 415, "unsupported-media-type")
        assert "send content-type: application/json" in body["detail"]


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "application/vnd.shop+json"]
)
async def test_a_body_may_be_called_json_in_many_ways(tmp_path: Path, kind: str) -> None:
    async with serving(answering(ask, "POST"), tmp_path) as client:
        answer = await client.post("/", content='{"name": "storm"}', headers={"content-type": kind})
        assert answer.json() == "storm"


async def test_a_body_of_another_kind_that_is_no_good_is_not_asked_for_as_json(tmp_path: Path) -> None:
    async def note(text: Annotated[bytes, Body(media_type="text/plain", max_length=3)]) -> None: ...

    async with serving(answering(note, "POST"), tmp_path) as client:
        answer = await client.post("/", content="too long", headers={"content-type": "text/plain"})
        check_problem(answer, 422, "validation")


async def test_a_bad_request_of_the_handler_stays_one(tmp_path: Path) -> None:
    async def parse() -> None:
        try:
            int("x")
        except ValueError as error:
            raise HTTPException(400, "no number") from error

    async with serving(answering(parse), tmp_path) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.json()["detail"]) == (400, "no number")


async def test_the_instance_is_the_path_without_what_was_asked_of_it(tmp_path: Path) -> None:
    async with serving(answering(ask, "POST"), tmp_path) as client:
        answer = await client.get(f"/no/such/place?token={SECRET}")
        body = answer.json()
        assert (answer.status_code, body["instance"]) == (404, "/no/such/place")
        assert (body["type"], body["title"]) == ("about:blank", "Not Found")
        check_nothing_leaks(answer)


async def test_a_method_that_is_not_allowed_is_a_problem_that_names_those_that_are(tmp_path: Path) -> None:
    async with serving(answering(ask, "POST"), tmp_path) as client:
        answer = await client.delete("/")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert answer.headers["content-type"] == "application/problem+json"


def many_routes() -> FastAPI:
    """Return an application whose paths have several routes each."""

    async def answer() -> None: ...

    async def refuse() -> None:
        raise HTTPException(405, headers={"Allow": "only on Sundays"})

    included, nested = APIRouter(), APIRouter()
    for router in (included, nested):
        for method in ("GET", "PUT", "DELETE"):
            router.add_api_route("/things", answer, methods=[method])
    included.include_router(nested, prefix="/nested")
    app = answering(ask, "POST")
    for method in ("GET", "PATCH"):
        app.add_api_route("/", answer, methods=[method])
    app.add_api_route("/{name}", answer, methods=["PUT"])
    app.add_api_route("/refusing", refuse, methods=["GET"])
    app.include_router(included, prefix="/included")
    inside: list[BaseRoute] = [Route("/things", plain, methods=["POST"]), Route("/things", plain)]
    app.mount("/router", Router(routes=inside))
    return app


async def plain(request: Request) -> PlainTextResponse:
    return PlainTextResponse("")


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/", "GET, PATCH, POST"),
        ("/name", "PUT"),
        ("/included/things", "DELETE, GET, PUT"),
        ("/included/nested/things", "DELETE, GET, PUT"),
        ("/router/things", "GET, HEAD, POST"),
        ("/refusing", "only on Sundays"),
    ],
)
async def test_what_is_allowed_are_the_methods_of_all_routes_of_the_path(
    tmp_path: Path, path: str, allow: str
) -> None:
    async with serving(many_routes(), tmp_path) as client:
        answer = await client.request("GET" if path == "/refusing" else "OPTIONS", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allow)
        assert answer.headers["content-type"] == "application/problem+json"


async def test_what_is_allowed_is_told_below_the_path_of_a_proxy_too(tmp_path: Path) -> None:
    app = many_routes()
    async with serving(app, tmp_path):
        transport = httpx2.ASGITransport(app, root_path="/behind")
        async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as client:
            answer = await client.delete("/behind/router/things")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"code": "LOW", "need": [1, 2]}, {"code": "LOW", "need": [1, 2], "detail": "Payment Required"}),
        ({"type": "urn:shop:low", "title": "Low", "detail": "pay more"}, {"type": "urn:shop:low", "title": "Low"}),
        ({"detail": "pay more", "code": 7}, {"detail": "pay more", "code": 7, "title": "Payment Required"}),
        ({"type": 7, "title": None, "detail": ["x"], "status": 200, "instance": "/x"}, {"type": "about:blank"}),
        ({"id": UUID(int=1), "price": Decimal("1.5")}, {"id": str(UUID(int=1)), "price": "1.5"}),
        ({"far": float("inf"), "cut": "\ud800"}, {"far": None, "cut": "\ud800"}),
        (["a", {"b": 1}], {"detail": ["a", {"b": 1}]}),
        (7, {"detail": 7}),
        ("in words", {"detail": "in words"}),
        (None, {"detail": "Payment Required"}),
    ],
)
async def test_what_an_http_error_tells_is_shown_as_what_it_is(
    tmp_path: Path, told: Any, shown: dict[str, Any]
) -> None:
    async with serving(raising(HTTPException(402, told, {"X-Till": "3"})), tmp_path) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.headers["x-till"]) == (402, "3")
        body = answer.json()
        assert (body["status"], body["instance"]) == (402, "/")
        assert all(isinstance(body[name], str) for name in ("type", "title"))
        assert {name: body[name] for name in shown} == shown


class Mine(Exception):
    """An error of the application."""


async def mine(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"mine": type(error).__name__}, 418)


def mine_in_a_thread(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"mine": type(error).__name__}, 418)


OWN: list[tuple[Any, str]] = [
    (HTTPException, "/http"),
    (StarletteHTTPException, "/http"),
    (StarletteHTTPException, "/nowhere"),
    (HTTPException, "/nowhere"),
    (404, "/nowhere"),
    (RequestValidationError, "/invalid"),
    (SQLAlchemyError, "/sql"),
    (OperationalError, "/sql"),
    (PyMongoError, "/mongo"),
    (PolysagaError, "/busy"),
    (Busy, "/busy"),
    (Refused, "/refused"),
    (Exception, "/bug"),
    (500, "/bug"),
]


def with_errors() -> FastAPI:
    """Return an application in which everything goes wrong."""
    app = FastAPI()
    going_wrong: dict[str, Exception] = {
        "/http": HTTPException(404, "no"),
        "/sql": OperationalError("SELECT", {}, Exception()),
        "/mongo": PyMongoError(),
        "/busy": Busy(1, 1.0),
        "/refused": SoldOut("none left"),
        "/bug": Mine(),
    }
    for path, error in going_wrong.items():

        async def fail(error: Annotated[Exception, Depends(partial(lambda it: it, error))]) -> None:
            raise error

        app.add_api_route(path, fail)

    @app.get("/invalid")
    async def invalid(number: int) -> None: ...

    return app


@pytest.mark.parametrize("handler", [mine, mine_in_a_thread])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    ("kind", "path"), OWN, ids=[f"{getattr(kind, '__name__', kind)} {path}" for kind, path in OWN]
)
async def test_handlers_of_the_application_stay(
    tmp_path: Path, kind: Any, path: str, before: bool, handler: Any
) -> None:
    app = with_errors()
    if before:
        app.add_exception_handler(kind, handler)
    install(app, databases, settings=settings_in(tmp_path))
    if not before:
        app.add_exception_handler(kind, handler)
    async with Client(app) as client:
        answer = await client.get(path)
        assert (answer.status_code, "mine" in answer.json()) == (418, True)


@pytest.mark.parametrize("kind", [Exception, 500, None])
@pytest.mark.parametrize("handler", [mine, mine_in_a_thread])
async def test_the_answer_to_a_bug_tells_what_was_committed_before_it_whoever_gives_it(
    tmp_path: Path, kind: Any, handler: Any
) -> None:
    app = raising(Mine())
    if kind is not None:
        app.add_exception_handler(kind, handler)
    install(app, databases, settings=settings_in(tmp_path))

    async def news() -> list[tuple[bytes, bytes]]:
        return [(b"polysaga-bookmark", b"here")]

    async def with_news(scope: Scope, receive: Receive, send: Send) -> None:
        scope[NEWS] = news
        await app(scope, receive, send)

    async with Client(with_news) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.headers["polysaga-bookmark"]) == (418 if kind else 500, "here")


async def test_an_http_error_of_the_handler_keeps_its_words_and_its_headers(tmp_path: Path) -> None:
    error = HTTPException(503, "closed on Sundays", {"Retry-After": "3600"})
    async with serving(raising(error), tmp_path) as client:
        answer = await client.get("/")
        assert answer.json()["detail"] == "closed on Sundays"
        assert answer.headers["retry-after"] == "3600"


async def test_an_http_error_may_have_a_status_that_has_no_name(tmp_path: Path) -> None:
    async with serving(raising(HTTPException(499, "the client went away")), tmp_path) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.json()["status"]) == (499, 499)


async def test_an_http_error_without_a_body_has_none(tmp_path: Path) -> None:
    async with serving(raising(HTTPException(304)), tmp_path) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.content) == (304, b"")


async def test_a_handler_can_answer_with_a_problem_of_its_own(tmp_path: Path) -> None:
    async def teapot(request: Request) -> Any:
        return problem(request, 418, "this is a teapot", kind="teapot", members={"spout": "short"})

    async with serving(answering(teapot), tmp_path) as client:
        assert check_problem(await client.get("/"), 418, "teapot")["spout"] == "short"


async def test_problems_are_in_the_openapi_document_under_their_media_type(tmp_path: Path) -> None:
    async with serving(answering(ask, "POST", responses=problems(409, 503)), tmp_path) as client:
        described = (await client.get("/openapi.json")).json()
        responses = described["paths"]["/"]["post"]["responses"]
        assert responses["409"]["description"] == "Conflict"
        for status in ("409", "413", "415", "422", "503"):
            (media,) = responses[status]["content"]
            assert media == "application/problem+json"
            assert responses[status]["content"][media]["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert "HTTPValidationError" not in described["components"]["schemas"]


async def test_examples_of_refusals_are_in_the_openapi_document_with_their_facts(tmp_path: Path) -> None:
    shown = problems(503, refusals={410: [Gone("not made any more", since=Decimal(1999))]})
    async with serving(answering(ask, "POST", responses=shown), tmp_path) as client:
        described = (await client.get("/openapi.json")).json()
        content = described["paths"]["/"]["post"]["responses"]["410"]["content"]["application/problem+json"]
        value = content["examples"]["gone"]["value"]
        assert (value["type"], value["detail"]) == ("urn:polysaga:problem:gone", "not made any more")
        assert (value["status"], value["since"]) == (410, "1999")


class OwnProblem(BaseModel):
    """A model of the application."""

    model_config = {"title": "Problem"}


async def test_what_the_application_says_of_its_own_errors_stays(tmp_path: Path) -> None:
    app = answering(ask, "POST", responses={409: {"model": OwnProblem}, **problems(404)})
    app.add_exception_handler(RequestValidationError, mine)
    async with serving(app, tmp_path, max_body=None) as client:
        responses = (await client.get("/openapi.json")).json()["paths"]["/"]["post"]["responses"]
        assert set(responses["409"]["content"]) == {"application/json"}
        assert set(responses["404"]["content"]) == {"application/problem+json"}
        assert responses["422"]["content"]["application/json"]["schema"]["$ref"].endswith("HTTPValidationError")
        assert not {"413", "415"} & responses.keys()


async def test_the_examples_say_what_is_sent(tmp_path: Path) -> None:
    told = problems(409, 422, 500, 503)
    for error, status, kind in OURS:
        content = told.get(status, {"content": {}})["content"].get("application/problem+json", {"examples": {}})
        example = content["examples"].get(kind)
        if example is not None:
            app = raising(error)
            install(app, databases, settings=settings_in(tmp_path))
            async with Client(app) as client:
                body = (await client.get("/")).json()
            assert {**body, "instance": "/the/path"} == {**body, **example["value"]}


# ---- bodies that are too large


async def measure(request: Request) -> int:
    return len(await request.body())


@pytest.mark.parametrize("handler", [ask, measure], ids=["json", "bytes"])
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "in chunks"])
async def test_a_body_that_is_too_large_is_refused_while_it_arrives(
    tmp_path: Path, handler: Any, declared: bool
) -> None:
    taken = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b" " * 1024

    headers = {"content-type": "application/json", **({"content-length": str(1024 * 1000)} if declared else {})}
    async with serving(answering(handler, "POST"), tmp_path, max_body=4096) as client:
        answer = await client.post("/", content=StreamOnly(chunks()), headers=headers)
        assert "larger than 4096 bytes" in check_problem(answer, 413, "body-too-large")["detail"]
        assert taken == (0 if declared else 5)


@pytest.mark.parametrize("handler", [ask, measure], ids=["json", "bytes"])
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "in chunks"])
async def test_a_body_that_is_too_large_is_refused_behind_middleware_that_passes_it_on(
    tmp_path: Path, handler: Any, declared: bool
) -> None:
    """Starlette's base class for middleware raises what `receive` raises in a group."""
    app = answering(handler, "POST")

    @app.middleware("http")
    @app.middleware("http")
    async def look(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    async def chunks() -> AsyncIterator[bytes]:
        yield b" " * 8192

    headers = {"content-type": "application/json", **({"content-length": "8192"} if declared else {})}
    async with serving(app, tmp_path, max_body=4096) as client:
        answer = await client.post("/", content=StreamOnly(chunks()), headers=headers)
        check_problem(answer, 413, "body-too-large")


async def test_a_length_that_python_does_not_read_is_too_large(tmp_path: Path) -> None:
    """Python refuses to turn more than 4,300 digits into a number."""
    async with serving(answering(measure, "POST"), tmp_path) as client:
        answer = await client.post("/", content=b"", headers={"content-length": "9" * 5000})
        check_problem(answer, 413, "body-too-large")
        assert (await client.post("/", content=b"12", headers={"content-length": "0" * 4999 + "2"})).json() == 2


class StreamOnly(httpx2.AsyncByteStream):
    """Sends what it is given piece by piece; the application decides how much of it is taken."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


async def test_a_body_as_large_as_the_limit_is_taken(tmp_path: Path) -> None:
    async with serving(answering(measure, "POST"), tmp_path) as client:
        assert (await client.post("/", content=b" " * 2**20)).json() == 2**20
        check_problem(await client.post("/", content=b" " * (2**20 + 1)), 413, "body-too-large")


async def test_a_body_that_a_middleware_reads_is_limited_too(tmp_path: Path) -> None:
    app = answering(measure, "POST")

    @app.middleware("http")
    async def look(request: Request, call_next: Any) -> Any:
        await request.body()
        return await call_next(request)

    async with serving(app, tmp_path, max_body=3) as client:
        check_problem(await client.post("/", content=b"long"), 413, "body-too-large")
        assert (await client.post("/", content=b"ok.")).json() == 3


@pytest.mark.parametrize(
    ("app", "route", "wiring"),
    [({}, {"max_body_size": 2**21}, {}), ({"max_body_size": 2**21}, {}, {}), ({}, {}, {"max_body": None})],
    ids=["of the route", "of the application", "none"],
)
async def test_the_limits_that_the_application_sets_itself_stay(
    tmp_path: Path, app: dict[str, Any], route: dict[str, Any], wiring: dict[str, Any]
) -> None:
    service = FastAPI(**app)
    service.add_api_route("/", measure, methods=["POST"], **route)
    async with serving(service, tmp_path, **wiring) as client:
        assert (await client.post("/", content=b" " * 2**21)).json() == 2**21


# ---- starting and ending


async def start(directory: Path, **wiring: Any) -> None:
    app = FastAPI()
    install(app, databases, **{"settings": settings_in(directory), "sagas": sagas, **wiring})
    async with app.router.lifespan_context(app):
        pass


async def test_a_database_that_cannot_be_reached_at_the_start_is_one_clear_error(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "not" / "there")
    async with driver_threads_ended():
        with pytest.raises(DatabaseUnavailable, match="database 'orders' is not reachable at sqlite") as failed:
            await start(tmp_path, settings=settings)
    assert failed.value.database == "orders"
    assert "\n" not in str(failed.value)


async def test_after_a_start_that_failed_the_next_one_succeeds(tmp_path: Path) -> None:
    async with driver_threads_ended():
        with pytest.raises(DatabaseUnavailable):
            await start(tmp_path, settings=settings_in(tmp_path / "not" / "there"))
        await start(tmp_path)


async def test_a_driver_that_is_not_installed_is_an_error_that_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = util.find_spec
    monkeypatch.setattr(
        util, "find_spec", lambda name, package=None: None if name == "aiosqlite" else find_spec(name, package)
    )
    with pytest.raises(ConfigurationError, match=r"pip install 'polysaga\[sqlite\]'"):
        await start(tmp_path)


async def test_an_unknown_setting_is_found_at_the_start_with_the_nearest_known_one(tmp_path: Path) -> None:
    environment = {
        "POLYSAGA_DATABASES__ORDERS__URL": "sqlite+aiosqlite://",
        "POLYSAGA_DATABASES__ORDERS__POOL__SIZ": "3",
    }
    with pytest.raises(ConfigurationError, match=r"unknown setting 'databases\.orders\.pool\.siz'.*'size'"):
        await start(tmp_path, settings=partial(load_settings, environment=environment))


async def test_a_database_without_an_address_is_found_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"set databases\.orders\.url"):
        await start(tmp_path, settings=Settings())


async def test_missing_tables_are_found_at_the_start_if_nobody_shall_make_them(tmp_path: Path) -> None:
    with pytest.raises(SchemaMissing, match="run `polysaga migrate`") as missing:
        await start(tmp_path, migrate=False)
    assert missing.value.database == "orders"


async def test_tables_that_are_there_are_enough_if_nobody_shall_make_them(tmp_path: Path) -> None:
    await start(tmp_path)
    await start(tmp_path, migrate=False)


async def test_an_application_without_sagas_starts_and_has_no_tables_of_ours(tmp_path: Path) -> None:
    await start(tmp_path, sagas=None)
    connection = sqlite3.connect(tmp_path / "orders.db")
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()


class Diary:
    """Keeps in order what happens while an application starts and stops."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def hear(self, event: Event) -> None:
        if isinstance(event, DatabaseOpened | Migration):
            self.write(type(event).__name__)

    def write(self, line: str) -> None:
        if line not in self.lines[-1:]:
            self.lines.append(line)


async def sagas_are_open() -> bool:
    try:
        await sagas.start(Saga("never-given", input=int), 1)
    except DefinitionError:
        return True
    except ConfigurationError:
        return False
    raise AssertionError("these sagas do not include this one")


async def databases_are_open() -> bool:
    try:
        async with orders.writer() as db:
            return bool(await db.scalar(text("SELECT 1")))
    except ConfigurationError:
        return False


def with_a_life_of_its_own(diary: Diary) -> FastAPI:
    """Return an application that writes down what is open when it begins and when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        diary.write(f"application begins: {await databases_are_open()}, {await sagas_are_open()}")
        yield {"greeting": "good evening"}
        diary.write(f"application ends: {await databases_are_open()}, {await sagas_are_open()}")

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def greet(request: Request) -> str:
        return str(request.state.greeting)

    return app


async def test_databases_tables_readiness_sagas_and_the_application_begin_in_this_order(tmp_path: Path) -> None:
    diary = Diary()

    async def ready() -> None:
        diary.write(f"ready: {await databases_are_open()}, {await sagas_are_open()}")

    async with serving(with_a_life_of_its_own(diary), tmp_path, emit=diary.hear, ready=ready):
        diary.write("serving")
    diary.write(f"after: {await databases_are_open()}, {await sagas_are_open()}")
    assert diary.lines == [
        "DatabaseOpened",
        "Migration",
        "ready: True, False",
        "application begins: True, True",
        "serving",
        "application ends: True, True",
        "after: False, False",
    ]


async def test_what_the_applications_own_lifespan_yields_survives(tmp_path: Path) -> None:
    app = with_a_life_of_its_own(Diary())
    install(app, databases, settings=settings_in(tmp_path), sagas=sagas)
    with TestClient(app) as client:
        assert client.get("/").json() == "good evening"


def test_an_application_that_is_mounted_says_that_its_lifespan_must_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    install(app, databases, settings=settings_in(tmp_path), sagas=sagas)

    @app.get("/one")
    async def one(db: Annotated[AsyncSession, reader(orders)]) -> int:
        return int((await db.execute(text("SELECT 1"))).scalar_one())

    @app.get("/sagas")
    async def all_sagas() -> int:
        return len((await sagas.find()).sagas)

    forgetful = FastAPI()
    forgetful.mount("/api", app)
    with TestClient(forgetful) as client:
        for path in ("/api/one", "/api/sagas"):
            caplog.clear()
            assert client.get(path).status_code == 500
            assert re.search(r"not open.*with TestClient\(app\).*router\.lifespan_context", caplog.text)

    @asynccontextmanager
    async def lifespan(parent: FastAPI) -> AsyncIterator[None]:
        async with app.router.lifespan_context(app):
            yield

    parent = FastAPI(lifespan=lifespan)
    parent.mount("/api", app)
    with TestClient(parent) as client:
        assert (client.get("/api/one").json(), client.get("/api/sagas").json()) == (1, 0)


async def test_an_application_whose_own_start_fails_leaves_nothing_open(tmp_path: Path) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise RuntimeError("no oil in the lamp")
        yield

    app = FastAPI(lifespan=lifespan)
    with pytest.raises(RuntimeError, match="no oil"):
        async with serving(app, tmp_path):
            raise AssertionError("it must not start")
    assert (await databases_are_open(), await sagas_are_open()) == (False, False)
    await start(tmp_path)


async def test_settings_may_be_read_when_the_application_starts_and_not_before(tmp_path: Path) -> None:
    read: list[str] = []

    def settings() -> Settings:
        read.append("now")
        return settings_in(tmp_path)

    app = FastAPI()
    install(app, databases, settings=settings)
    assert read == []
    async with app.router.lifespan_context(app):
        assert read == ["now"]


# ---- health


async def test_a_live_process_says_so_whatever_its_databases_do(tmp_path: Path) -> None:
    app = FastAPI()
    install(app, databases, settings=settings_in(tmp_path))
    async with Client(app) as client:  # not even started
        answer = await client.get("/health/live")
        assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_monitors_may_ask_with_head(tmp_path: Path, path: str) -> None:
    async with serving(FastAPI(), tmp_path) as client:
        assert (await client.head(path)).status_code == 200
        told = await client.post(path)
        assert (told.status_code, told.headers["allow"]) == (405, "GET, HEAD")


async def test_a_process_is_ready_when_all_its_databases_answer(tmp_path: Path) -> None:
    async with serving(FastAPI(), tmp_path) as client:
        answer = await client.get("/health/ready")
        assert answer.status_code == 200
        assert answer.json() == {"status": "ready", "databases": {"orders": "ok", "stock": "ok"}}


async def test_a_process_that_has_not_started_is_not_ready(tmp_path: Path) -> None:
    app = FastAPI()
    install(app, databases, settings=settings_in(tmp_path))
    async with Client(app) as client:
        answer = await client.get("/health/ready")
        assert (answer.status_code, answer.json()["title"]) == (503, "Not ready")


async def test_a_process_is_not_ready_while_a_database_is_away_and_says_which(tmp_path: Path) -> None:
    here, away = tmp_path / "here", tmp_path / "away"
    here.mkdir()
    # Connections are made anew each time, as after a restart of a server.
    async with serving(FastAPI(), here, pool={"recycle": 1e-6}) as client:
        (here / "stock.db").rename(away)
        (here / "stock.db").mkdir()
        answer = await client.get("/health/ready")
        assert answer.headers["content-type"] == "application/problem+json"
        told = answer.json()
        assert (told["status"], told["databases"]) == (503, {"orders": "ok", "stock": "unreachable"})
        assert told["detail"] == "database 'stock' is unreachable"
        check_nothing_leaks(answer)
        (here / "stock.db").rmdir()
        away.rename(here / "stock.db")
        assert (await client.get("/health/ready")).status_code == 200


async def test_a_process_whose_connections_are_all_in_use_says_which_database_it_is_about(tmp_path: Path) -> None:
    only_one = {"size": 1, "max_overflow": 0, "acquire_timeout": 0.1}
    async with serving(FastAPI(), tmp_path, pool=only_one) as client:
        async with orders.reader() as db:
            await db.execute(text("SELECT 1"))
            answer = await client.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json()["databases"]["stock"] == "ok"
