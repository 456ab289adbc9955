"""The guide "From the article to Polysaga" is true: the article's shapes fail as it says, the others hold."""

import asyncio
import importlib.util
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, MultipleResultsFound, OperationalError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from orders.app import create_app
from orders.settings import load
from polysaga import load_settings
from polysaga.clock import Clock
from polysaga.config import PoolSettings, parse_settings
from polysaga.databases import SqlDatabase
from polysaga.databases.dialects.sql import ANSWERED_AT
from polysaga.errors import ConfigurationError, WriteOnReader
from polysaga.testing import simulated_lag
from tests.fixtures.servers import PostgresCluster
from tests.fixtures.waiting import reached

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "from-the-article.md").read_text()
# Each program by the name of its file, which is the last one that is named before it.
PROGRAMS = {
    re.findall(r"`(\w+)\.py`", GUIDE[: block.start()])[-1]: block[1]
    for block in re.finditer(r"^```python\n(.*?)^```$", GUIDE, re.M | re.S)
}
ORDERS = "CREATE TABLE orders (number INTEGER PRIMARY KEY, views INTEGER)"
Load = Callable[[str], ModuleType]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which the reader of the guide works; no settings come from elsewhere."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("POLYSAGA_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def program(here: Path) -> Load:
    """Return a program of the guide as a module, from the file that a reader would save."""

    def load_program(name: str) -> ModuleType:
        path = here / f"{name}.py"
        path.write_text(PROGRAMS[name])
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load_program


@asynccontextmanager
async def calling(app: Any, *, raises: bool = False) -> AsyncIterator[httpx2.AsyncClient]:
    """Open the application and yield a browser."""
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=raises)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        yield client


def execute(file: Path, *statements: str) -> list[Any]:
    """Run *statements* in an SQLite file and return the rows of the last one."""
    with closing(sqlite3.connect(file)) as database, database:
        return [database.execute(statement).fetchall() for statement in statements][-1]


def fail_commits(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "commit")
    def fail(_: Any) -> None:
        raise OperationalError("COMMIT", {}, Exception("the disk is full"))


def test_the_guide_has_each_shape_twice() -> None:
    assert list(PROGRAMS) == [
        "by_method",
        "by_intent",
        "two_steps",
        "two_steps_saga",
        "three_errors",
        "three_errors_less",
    ]
    assert len(PROGRAMS) == GUIDE.count("```python")


async def test_the_request_is_a_confirmed_order(here: Path) -> None:
    [shown] = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.M | re.S)
    _, url, _, header, _, body = shlex.split(shown.replace("\\\n", " "))
    async with calling(create_app(load(here))) as client:
        await client.put("/products/85123A", json={"stock": 5, "price": "2.55"})
        answer = await client.post(f"http://{url}", content=body, headers=dict([header.split(": ")]))
    assert (answer.status_code, answer.json()["status"], answer.json()["user_id"]) == (201, "confirmed", 7)


def test_the_settings_load_and_the_table_names_what_there_is(here: Path) -> None:
    [shown] = re.findall(r"^```toml\n(.*?)^```$", GUIDE, re.M | re.S)
    (here / "polysaga.toml").write_text(shown)
    settings = load_settings()
    assert settings.databases["orders"].pool == settings.databases["points"].pool == PoolSettings()
    rows = re.findall(r"^\| `(\w+)` \| (?:`(\w+)`|none) \| (\S+).*? \|", GUIDE, re.M)
    assert [theirs for theirs, *_ in rows] == [
        "pool_size",
        "max_overflow",
        "pool_timeout",
        "pool_recycle",
        "pool_pre_ping",
        "echo",
    ]
    named = {ours: float(default) for _, ours, default in rows if ours}
    assert named == {name: getattr(PoolSettings(), name) for name in named}
    assert named.keys() | {"connect_timeout"} <= PoolSettings.model_fields.keys()
    for theirs, ours in [(theirs, ours) for theirs, ours, _ in rows if theirs != ours]:
        with pytest.raises(ConfigurationError, match=f"'{ours}'" if ours else "'engine'|always asked"):
            parse_settings({"databases": {"orders": {"url": "sqlite:///x", "pool": {theirs: 5}}}})


# A `get_db` that picks by the method


@pytest.fixture
async def by_method(program: Load, here: Path) -> AsyncIterator[ModuleType]:
    for name in ("primary", "replica"):
        execute(here / f"{name}.db", ORDERS)
    module = program("by_method")
    yield module
    await module.primary.dispose()
    await module.replica.dispose()


async def test_by_method_an_order_is_not_there_after_it_was_placed(by_method: ModuleType) -> None:
    async with calling(by_method.app) as client:
        assert (await client.put("/orders/1")).status_code == 201
        assert (await client.get("/orders/1")).status_code == 404


async def test_by_method_a_get_writes_to_the_replica(by_method: ModuleType, here: Path) -> None:
    async with calling(by_method.app) as client:
        await client.put("/orders/1")
        execute(here / "replica.db", "INSERT INTO orders VALUES (1, 0)")  # the replica catches up
        assert (await client.get("/orders/1")).json() == {"number": 1, "views": 1}
    assert execute(here / "primary.db", "SELECT views FROM orders") == [(0,)]
    assert execute(here / "replica.db", "SELECT views FROM orders") == [(1,)]


async def test_by_method_a_failed_commit_is_a_201(by_method: ModuleType, here: Path) -> None:
    fail_commits(by_method.primary)
    async with calling(by_method.app) as client:
        assert (await client.put("/orders/1")).status_code == 201
    assert execute(here / "primary.db", "SELECT * FROM orders") == []


@pytest.fixture
async def by_intent(program: Load, here: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    execute(here / "orders.db", ORDERS)
    monkeypatch.setenv("POLYSAGA_DATABASES__ORDERS__URL", "sqlite+aiosqlite:///orders.db")
    return program("by_intent")


async def test_by_intent_a_get_may_write_and_a_reader_may_not(by_intent: ModuleType) -> None:
    async with calling(by_intent.app) as client, simulated_lag(by_intent.orders):
        assert (await client.put("/orders/1")).status_code == 201
        assert [(await client.get("/orders/1")).json()["views"] for _ in range(2)] == [1, 2]
    async with by_intent.databases.open(load_settings()), by_intent.orders.reader() as db:
        with pytest.raises(WriteOnReader):
            await db.execute(text("UPDATE orders SET views = 0"))


async def test_by_intent_a_failed_commit_is_no_201(by_intent: ModuleType, here: Path) -> None:
    async with calling(by_intent.app) as client:
        fail_commits(by_intent.orders.primary.writer)
        answer = await client.put("/orders/1")
    assert answer.status_code >= 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert execute(here / "orders.db", "SELECT * FROM orders") == []


async def test_by_intent_a_client_sees_its_order_while_the_replica_is_behind(
    program: Load, here: Path, monkeypatch: pytest.MonkeyPatch, postgres_cluster: PostgresCluster
) -> None:
    name = f"by_intent_{Clock().now():%H%M%S%f}"
    postgres_cluster.primary.create_database(name)
    await on_the_server(postgres_cluster.urls(name)[0], ORDERS)
    postgres_cluster.catch_up()
    primary, *replicas = postgres_cluster.urls(name)
    monkeypatch.setenv("POLYSAGA_DATABASES__ORDERS__URL", primary)
    monkeypatch.setenv("POLYSAGA_DATABASES__ORDERS__REPLICAS", ",".join(replicas))
    monkeypatch.setenv("POLYSAGA_BOOKMARKS__SECRET", "the secret of this test")
    monkeypatch.setenv("POLYSAGA_BOOKMARKS__SECURE", "false")
    for replica in postgres_cluster.replicas:
        await asyncio.to_thread(replica.pause)
    async with calling(program("by_intent").app) as client:
        assert (await client.put("/orders/1")).status_code == 201
        assert (await client.get("/orders")).json() == [1]


async def on_the_server(url: str, statement: str) -> list[Any]:
    """Execute *statement* on a connection of its own; return its rows, if it has any."""
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        result = await connection.execute(text(statement))
        return list(result.scalars()) if result.returns_rows else []


# A coordinator with two steps


@pytest.fixture
def shelves(here: Path) -> Path:
    """Return a folder with two databases: no order, three lanterns."""
    execute(here / "orders.db", "CREATE TABLE orders (id TEXT PRIMARY KEY, item TEXT)")
    execute(
        here / "stock.db",
        "CREATE TABLE shelf (item TEXT PRIMARY KEY, pieces INTEGER)",
        "INSERT INTO shelf VALUES ('lantern', 3)",
    )
    return here


def run(name: str, directory: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    (directory / f"{name}.py").write_text(PROGRAMS[name])
    return subprocess.run(
        [sys.executable, f"{name}.py"],
        cwd=directory,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def orders_and_pieces(directory: Path) -> tuple[int, int]:
    [(orders,)] = execute(directory / "orders.db", "SELECT count(*) FROM orders")
    [(pieces,)] = execute(directory / "stock.db", "SELECT pieces FROM shelf")
    return orders, pieces


def test_two_steps_that_die_between_leave_half_an_order_for_ever(shelves: Path) -> None:
    assert run("two_steps", shelves, STRIKE="1").returncode == -signal.SIGKILL
    assert orders_and_pieces(shelves) == (1, 3)
    again = run("two_steps", shelves)
    assert "UNIQUE constraint failed" in again.stderr
    assert orders_and_pieces(shelves) == (1, 3)


async def test_two_steps_that_are_cancelled_are_not_undone(program: Load) -> None:
    undone: list[str] = []
    coordinator = coordinating(program("two_steps"), undone, asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await coordinator.execute()
    assert undone == []


async def test_an_error_in_one_compensation_skips_the_others(program: Load) -> None:
    undone: list[str] = []
    coordinator = coordinating(program("two_steps"), undone, ValueError("sold out"))
    coordinator.steps.insert(1, (nothing, failing(OSError("no network"))))
    with pytest.raises(OSError, match="no network"):
        await coordinator.execute()
    assert undone == []


def coordinating(module: ModuleType, undone: list[str], error: BaseException) -> Any:
    """Return a coordinator whose first step succeeds and whose second one ends with *error*."""

    async def undo() -> None:
        undone.append("first")

    coordinator = module.Coordinator()
    coordinator.add_step(nothing, undo)
    coordinator.add_step(failing(error), nothing)
    return coordinator


async def nothing() -> None:
    """Succeed."""


def failing(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise error

    return fail


def test_a_saga_that_dies_between_its_steps_is_finished_by_the_next_process(shelves: Path) -> None:
    assert run("two_steps_saga", shelves, STRIKE="1").returncode == -signal.SIGKILL
    assert orders_and_pieces(shelves) == (1, 3)
    again = run("two_steps_saga", shelves)
    [promised] = re.findall(r"^    (order order-1 .*)$", GUIDE, re.M)
    assert (again.stdout.strip(), again.returncode) == (promised, 0), again.stderr
    assert orders_and_pieces(shelves) == (1, 2)


def test_a_saga_that_cannot_go_forward_leaves_nothing(shelves: Path) -> None:
    execute(shelves / "stock.db", "UPDATE shelf SET pieces = 0")
    assert "SoldOut: no lantern is left" in run("two_steps_saga", shelves).stderr
    assert orders_and_pieces(shelves) == (0, 0)


# Three errors


@pytest.fixture
async def three_errors(
    program: Load, here: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[str], Any]]:
    """Open a program of the third part on a database with its tables."""
    engines: list[AsyncEngine] = []

    @asynccontextmanager
    async def open_program(name: str, url: str = "sqlite+aiosqlite:///shop.db") -> AsyncIterator[Any]:
        monkeypatch.setenv("SHOP_URL", url)
        monkeypatch.setenv("POLYSAGA_DATABASES__SHOP__URL", url)
        module = program(name)
        engine = create_async_engine(url, poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.run_sync(module.Base.metadata.create_all)
        if hasattr(module, "engine"):
            engines.append(module.engine)
        async with calling(module.app, raises=hasattr(module, "engine")) as client:
            yield module, client

    yield open_program
    for engine in engines:
        await engine.dispose()


async def at_once(module: ModuleType, client: httpx2.AsyncClient) -> list[httpx2.Response]:
    """Send two requests for one email, both of which look before either inserts."""
    looked, both = [], asyncio.Event()

    async def is_real(email: str) -> bool:
        looked.append(email)
        if len(looked) == 2:
            both.set()
        await reached(both, "the other request has looked, too")
        return True

    module.is_real = is_real
    return await asyncio.gather(*(client.put("/customers/ada@example.org") for _ in range(2)))


async def test_check_and_insert_ends_in_multiple_results(three_errors: Any) -> None:
    async with three_errors("three_errors") as (module, client):
        answers = await at_once(module, client)
        assert len({answer.json() for answer in answers}) == 2
        for _ in range(2):
            with pytest.raises(MultipleResultsFound):
                await client.put("/customers/ada@example.org")


async def test_a_constraint_and_a_savepoint_make_one_customer(
    three_errors: Any, postgres_database: Callable[[], str]
) -> None:
    async with three_errors("three_errors_less", postgres_database()) as (module, client):
        answers = await at_once(module, client)
        again = await client.put("/customers/ada@example.org")
        assert {answer.status_code for answer in [*answers, again]} == {200}
        assert len({answer.json() for answer in [*answers, again]}) == 1


async def cut(url: str) -> None:
    """Let the server end every other connection to the database."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    await on_the_server(url, f"SELECT pg_terminate_backend(pid, 10000) {others}")
    assert await on_the_server(url, f"SELECT pid {others} AND backend_type = 'client backend'") == []


async def test_a_connection_that_the_server_closed_is_an_error(
    three_errors: Any, postgres_database: Callable[[], str]
) -> None:
    url = postgres_database()
    async with three_errors("three_errors", url) as (_, client):
        assert (await client.get("/time")).status_code == 200
        await cut(url)
        with pytest.raises(DBAPIError, match="connection is closed"):
            await client.get("/time")


async def test_a_connection_that_the_server_closed_is_replaced(
    three_errors: Any, postgres_database: Callable[[], str]
) -> None:
    url = postgres_database()
    async with three_errors("three_errors_less", url) as (module, client):
        idle_for_a_minute(module.shop)
        assert (await client.get("/time")).status_code == 200
        await cut(url)
        assert (await client.get("/time")).status_code == 200


def idle_for_a_minute(database: SqlDatabase) -> None:
    """Make every connection look as if it had been given back a minute ago."""
    for engine in (database.primary.writer, database.primary.reader):

        @event.listens_for(engine.sync_engine, "checkin")
        def rewind(_: Any, record: Any) -> None:
            record.info[ANSWERED_AT] = Clock().monotonic() - 60


CODES = ["spring", "summer", "spring", "autumn"]


async def test_an_error_that_is_caught_in_a_transaction_spoils_it(three_errors: Any, here: Path) -> None:
    async with three_errors("three_errors") as (_, client):
        with pytest.raises(PendingRollbackError):
            await client.post("/coupons", json=CODES)
    assert execute(here / "shop.db", "SELECT code FROM coupons") == []


async def test_a_savepoint_keeps_the_rest_of_the_transaction(three_errors: Any, here: Path) -> None:
    async with three_errors("three_errors_less") as (_, client):
        assert (await client.post("/coupons", json=CODES)).json() == 3
        assert (await client.post("/coupons", json=["winter", *CODES])).json() == 1
    assert len(execute(here / "shop.db", "SELECT code FROM coupons")) == 4


async def test_without_the_savepoint_the_error_ends_with_its_request(three_errors: Any, here: Path) -> None:
    spoiled = PROGRAMS["three_errors_less"].replace(
        "            async with db.begin_nested():\n                db.add(Coupon(code=code))\n",
        "            db.add(Coupon(code=code))\n            await db.flush()\n",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROGRAMS, "three_errors_less", spoiled)
        async with three_errors("three_errors_less") as (_, client):
            answer = await client.post("/coupons", json=CODES)
            assert (answer.status_code, answer.json()["type"]) == (500, "urn:polysaga:problem:pending-rollback")
            assert (await client.post("/coupons", json=["winter"])).json() == 1
    assert execute(here / "shop.db", "SELECT code FROM coupons") == [("winter",)]


async def test_echo_is_an_argument_of_the_engine(
    three_errors: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "`engine = {echo = true}`" in GUIDE
    monkeypatch.setenv("POLYSAGA_DATABASES__SHOP__ENGINE__ECHO", "true")
    async with three_errors("three_errors_less") as (_, client):
        await client.get("/time")
    assert "SELECT CURRENT_TIMESTAMP" in capsys.readouterr().out
