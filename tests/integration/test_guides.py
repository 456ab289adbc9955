"""The guides' code is run as a reader would save it."""

import asyncio
import importlib.util
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import httpx2
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga.config import Settings, parse_settings
from polysaga.errors import KeyReused, RowLocked, UnknownVersion
from polysaga.fastapi import reader
from polysaga.migrations import migrate
from polysaga.sagas import Sagas
from polysaga.testing import settled, simulated_lag
from tests.fixtures.dashboards import files as files
from tests.fixtures.programs import PLACE_ORDER, MigratedUrls, Program
from tests.fixtures.waiting import until
from tests.integration.test_repairs import parked, stuck_going_back

ALL = ("orders", "inventory", "points")
OTHER = {"other": "01a203a2-56e0-78f1-b4e2-8e65590dde21"}
GUIDES = Path(__file__).parents[2] / "docs" / "guides"


@pytest.fixture
def guide(tmp_path: Path) -> Callable[[str], ModuleType]:
    """Return the one Python block of a guide as a module."""

    def load(name: str) -> ModuleType:
        (source,) = re.findall(r"^```python\n(.*?)^```$", (GUIDES / f"{name}.md").read_text(), re.M | re.S)
        path = tmp_path / f"{name.replace('-', '_')}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def on_sqlite(directory: Path, *names: str) -> Settings:
    """Return settings with a file for each database."""
    urls = {name: {"url": f"sqlite+aiosqlite:///{directory}/{name}.db"} for name in names}
    return parse_settings({"databases": urls})


async def test_start_in_a_transaction(guide: Callable[[str], ModuleType], tmp_path: Path) -> None:
    shop = guide("start-in-a-transaction")
    async with shop.databases.open(on_sqlite(tmp_path, "orders", "points")):
        await migrate(shop.sagas)
        async with shop.orders.writer() as db:
            await db.execute(text("CREATE TABLE invoices (number TEXT PRIMARY KEY, cents INT, booked INT)"))
        async with shop.points.writer() as db:
            await db.execute(text("CREATE TABLE entries (number TEXT PRIMARY KEY, points INT)"))
        async with shop.sagas.open():
            invoices = [shop.Invoice(number=f"i-{n}", cents=n) for n in range(3)]
            handles = await shop.take_in(invoices)
            assert [await handle.result(30) for handle in handles] == ["i-0", "i-1", "i-2"]
            with pytest.raises(Exception, match="UNIQUE"):  # i-2 is there: nothing of this is taken in
                await shop.take_in([shop.Invoice(number="i-3", cents=3), invoices[2]])
        async with shop.orders.reader() as db:
            assert await db.scalar(text("SELECT count(*) FROM invoices WHERE booked = 1")) == 3
            assert await db.scalar(text("SELECT count(*) FROM polysaga_journal")) == 3


async def test_changing_a_saga(guide: Callable[[str], ModuleType], tmp_path: Path) -> None:
    shop = guide("changing-a-saga")
    lantern, former = shop.Purchase(item="lantern"), Sagas(shop.databases, shop.buy_1, journal=shop.orders)
    async with shop.databases.open(on_sqlite(tmp_path, "orders", "stock")):
        await migrate(shop.sagas)
        async with shop.orders.writer() as db:
            await db.execute(text("CREATE TABLE orders (id TEXT PRIMARY KEY, item TEXT, receipt TEXT)"))
        async with shop.stock.writer() as db:
            await db.execute(text("CREATE TABLE shelf (item TEXT PRIMARY KEY, pieces INT)"))
            await db.execute(text("INSERT INTO shelf VALUES ('lantern', 2)"))
        async with former.open():
            sold = await former.run(shop.buy_1, lantern, key="before", timeout=30)
        async with shop.sagas.open():
            assert await shop.place(lantern, "before") == sold, "the answer of version 1"
            new = await shop.place(lantern, "after")
            assert (await settled(shop.sagas, UUID(new))).status == "completed"
            with pytest.raises(shop.SoldOut):
                await shop.place(lantern, "too late")
            with pytest.raises(KeyReused):
                await shop.place(shop.Purchase(item="lantern", gift=True), "before")
        async with former.open():
            with pytest.raises(UnknownVersion):
                await former.run(shop.buy_1, lantern, key="after", timeout=30)
        async with shop.orders.reader() as db:
            rows = (await db.execute(text("SELECT id, receipt FROM orders"))).all()
            assert {tuple(row) for row in rows} == {(sold, None), (new, "sent")}


async def test_semantic_locks(guide: Callable[[str], ModuleType], tmp_path: Path) -> None:
    hall = guide("semantic-locks")
    async with hall.databases.open(on_sqlite(tmp_path, "theatre", "till")):
        await migrate(hall.sagas)
        async with hall.theatre.writer() as db:
            await db.execute(text("CREATE TABLE seats (id TEXT PRIMARY KEY, guest TEXT, locked_by TEXT)"))
            await db.execute(
                text("INSERT INTO seats (id, locked_by) VALUES ('1A', NULL), ('1B', :other)"), [OTHER]
            )
        async with hall.till.writer() as db:
            await db.execute(text("CREATE TABLE payments (seat TEXT PRIMARY KEY, guest TEXT)"))
        async with hall.sagas.open():
            handle = await hall.sagas.start(hall.book, hall.Booking(seat="1A", guest="Ada"))
            await handle.result(30)
            with pytest.raises(RowLocked, match="locked by saga"):
                await hall.sagas.run(hall.book, hall.Booking(seat="1B", guest="Ada"), timeout=30)
            with pytest.raises(hall.NoSuchSeat):
                await hall.sagas.run(hall.book, hall.Booking(seat="9Z", guest="Ada"), timeout=30)
            with pytest.raises(Exception, match="undone"):  # 1A is paid for
                await hall.sagas.run(hall.book, hall.Booking(seat="1A", guest="Bob"), timeout=30)
        async with hall.theatre.reader() as db:
            rows = (await db.execute(text("SELECT id, guest, locked_by FROM seats ORDER BY id"))).all()
            assert [tuple(row) for row in rows] == [("1A", "Ada", None), ("1B", None, OTHER["other"])]


async def test_steps_without_a_database(guide: Callable[[str], ModuleType], tmp_path: Path) -> None:
    shop = guide("steps-without-a-database")
    async with shop.databases.open(on_sqlite(tmp_path, "orders")):
        await migrate(shop.sagas)
        async with shop.orders.writer() as db:
            await db.execute(text("CREATE TABLE orders (item TEXT PRIMARY KEY, charge TEXT)"))
        async with shop.sagas.open():
            shop.bank.busy = True
            charge = await shop.sagas.run(shop.buy, shop.Purchase(item="lantern", cents=500), timeout=30)
            assert list(shop.bank.charges.values()) == [500]
            assert charge.reference.endswith(":charge_card")
            with pytest.raises(shop.CardDeclined):
                await shop.sagas.run(shop.buy, shop.Purchase(item="boat", cents=200_000), timeout=30)
            with pytest.raises(Exception, match="undone"):  # a second lantern: the primary key says no
                await shop.sagas.run(shop.buy, shop.Purchase(item="lantern", cents=600), timeout=30)
            assert list(shop.bank.charges.values()) == [500]


async def test_writing_a_saga(guide: Callable[[str], ModuleType], tmp_path: Path, mongo_database: Any) -> None:
    ferry = guide("writing-a-saga")
    urls = {name: {"url": f"sqlite+aiosqlite:///{tmp_path}/{name}.db"} for name in ("bookings", "loyalty")}
    settings = parse_settings({"databases": {**urls, "seats": {"url": mongo_database()}}})
    async with ferry.databases.open(settings):
        await migrate(ferry.sagas)
        async with ferry.bookings.writer() as db:
            await db.execute(text("CREATE TABLE bookings (id TEXT, sailing TEXT, seats INT, status TEXT)"))
        async with ferry.loyalty.writer() as db:
            await db.execute(text("CREATE TABLE accounts (customer TEXT PRIMARY KEY, points INT)"))
            await db.execute(text("INSERT INTO accounts VALUES ('ada', 30)"))
        async with ferry.seats.writer() as db:
            await db["sailings"].insert_one({"_id": "noon", "free": 3})
        async with ferry.sagas.open():
            wish = ferry.Wish(sailing="noon", customer="ada", seats=2, points=20)
            handle = await ferry.sagas.start(ferry.book, wish)
            assert (await handle.result(30)).left == 1
            assert (await settled(ferry.sagas, handle.id)).status == "completed"
            for wish, refusal in (
                (ferry.Wish(sailing="noon", customer="ada", seats=2), ferry.NoSeatLeft),
                (ferry.Wish(sailing="noon", customer="ada", seats=1, points=99), ferry.TooFewPoints),
            ):
                with pytest.raises(refusal):
                    await ferry.sagas.run(ferry.book, wish, timeout=30)
            transport = httpx2.ASGITransport(ferry.app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://ferry") as client:
                wanted = {"sailing": "noon", "customer": "ada", "seats": 1}
                answer = await client.post("/bookings", json=wanted)
            assert (answer.status_code, answer.json()["left"]) == (201, 0)
            booked = answer.headers["location"].rpartition("/")[2]
            assert (await settled(ferry.sagas, UUID(booked))).status == "completed"
        async with ferry.bookings.reader() as db:
            assert sorted(await db.scalars(text("SELECT seats FROM bookings WHERE status = 'sold'"))) == [1, 2]
        async with ferry.loyalty.reader() as db:
            assert await db.scalar(text("SELECT points FROM accounts")) == 30 - 20 + 10 + 10
        async with ferry.seats.reader() as db:
            assert await db["holds"].count_documents({}) == 2


async def test_http(guide: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYSAGA_DATABASES__BOOK__URL", f"sqlite+aiosqlite:///{tmp_path}/book.db")
    shop = guide("http")
    origin = {"Origin": "https://guests.example"}
    async with shop.app.router.lifespan_context(shop.app):
        async with shop.book.writer() as db:
            await db.execute(text("CREATE TABLE entries (guest TEXT)"))
        transport = httpx2.ASGITransport(shop.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://shop", headers=origin) as client:
            asked = {
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "polysaga-bookmark",
            }
            preflight = await client.options("/entries", headers=asked)
            assert preflight.status_code == 200
            assert "Polysaga-Bookmark" in preflight.headers["access-control-allow-headers"]
            added = await client.post("/entries", json={"guest": "ada"})
            assert added.status_code == 201
            assert "Polysaga-Bookmark" in added.headers["access-control-expose-headers"]
            assert (await client.post("/entries", json={"guest": "owl"})).json()["title"] == "Book closed"
            poor = await client.post("/entries", json={"guest": "nobody"})
            assert (poor.status_code, poor.json()["code"], poor.json()["need"]) == (402, "LOW", [1, 2])
            assert poor.headers["access-control-allow-origin"] == "https://guests.example"
            assert (await client.post("/photos", content=b" " * 2**21)).json() == 2**21
            large = await client.post(
                "/entries", content=b" " * 2**21, headers={"content-type": "application/json"}
            )
            assert large.status_code == 413
            assert (await client.get("/export")).text == "ada\n"
            shop.app.dependency_overrides[reader(shop.book)] = lambda: FakeSession(["bob"])
            assert (await client.get("/entries")).json() == ["bob"]


class FakeSession:
    """Answers every question with the same rows."""

    def __init__(self, rows: list[str]) -> None:
        self._rows = rows

    async def scalars(self, statement: object) -> list[str]:
        return self._rows


async def test_moving_a_service(
    guide: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SHOP_URL", f"sqlite+aiosqlite:///{tmp_path}/shop.db")
    service = guide("moving-a-service")
    async with service.databases.open(), service.shop.writer() as db:
        await db.execute(text("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)"))
        await db.execute(text("CREATE TABLE outbox (word TEXT, sent INT)"))
    async with service.app.router.lifespan_context(service.app):
        transport, tenant = httpx2.ASGITransport(service.app), {"x-tenant": "main"}  # SQLite's name of its schema
        async with httpx2.AsyncClient(transport=transport, base_url="http://shop", headers=tenant) as client:
            assert (await client.post("/orders?item=lantern")).status_code == 201
            async with service.unit_of_work("main") as work:
                work.orders.add("not committed")
            assert (await client.get("/orders")).json() == ["lantern"]
            assert (await client.post("/outbox?word=hello")).status_code == 201

            async def sent() -> bool:
                return (await client.get("/unsent")).json() == 0  # type: ignore[no-any-return]

            await until(sent, "the loop sends")
        async with simulated_lag(service.shop):
            with service.databases.scope():
                async with AsyncSession(service.former) as session, session.begin():
                    await session.execute(text("INSERT INTO orders (item) VALUES ('lamp')"))
                async with service.shop.reader() as session:
                    assert await session.scalar(text("SELECT count(*) FROM orders")) == 2
    await service.script()
    assert capsys.readouterr().out == "0 are not sent\n"


def test_jobs(guide: Callable[[str], ModuleType], tmp_path: Path) -> None:
    jobs = guide("jobs")
    jobs.databases.configure(on_sqlite(tmp_path, "points", "orders"))

    async def begin() -> None:
        async with jobs.databases.open():
            await migrate(jobs.sagas)
            async with jobs.points.writer() as db:
                await db.execute(text("CREATE TABLE grants (of_order INT, cents INT)"))
            async with jobs.orders.writer() as db:
                await db.execute(text("CREATE TABLE orders (id INT, cents INT, granted INT)"))
                await db.execute(text("INSERT INTO orders VALUES (1, 10, 0), (2, 20, 0), (3, 30, 0)"))

    async def granted() -> list[int]:
        async with jobs.databases.open(), jobs.points.reader() as db:
            return list(await db.scalars(text("SELECT cents FROM grants ORDER BY of_order")))

    asyncio.run(begin())
    asyncio.run(jobs.grant_alone(1))
    jobs.worker.begin()
    try:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(jobs.grant_task, (1, 2, 2, 3)))
    finally:
        jobs.worker.end()
    assert asyncio.run(granted()) == [10, 20, 30]


async def test_tracing(guide: Callable[[str], ModuleType], tmp_path: Path) -> None:
    shop, exporter = guide("tracing"), InMemorySpanExporter()
    shop.provider.add_span_processor(SimpleSpanProcessor(exporter))
    shop.databases.configure(on_sqlite(tmp_path, "orders", "points"))
    async with shop.app.router.lifespan_context(shop.app):
        async with shop.orders.writer() as db:
            await db.execute(text("CREATE TABLE purchases (customer INT, cents INT)"))
        async with shop.points.writer() as db:
            await db.execute(text("CREATE TABLE points (customer INT, cents INT)"))
        handle = await shop.sagas.start(shop.buy, shop.Purchase(customer=1, cents=100))
        await handle.result(30)
        await settled(shop.sagas, handle.id)
        page = (GUIDES / "tracing.md").read_text()
        spans = exporter.get_finished_spans()
        assert {span.name for span in spans} >= {"saga buy", "step note", "step credit"}
        assert (await shop.sagas.get(handle.id)).trace_id == f"{spans[0].context.trace_id:032x}"
        told = [name for span in spans for name in span.attributes or {}]
        assert [
            name for name in told if f"`{name}`" not in page and f"`.{name.rpartition('.')[2]}`" not in page
        ] == []


async def test_metrics(guide: Callable[[str], ModuleType], tmp_path: Path) -> None:
    shop = guide("metrics")
    shop.databases.configure(on_sqlite(tmp_path, "orders"))
    try:
        async with shop.app.router.lifespan_context(shop.app):
            await shop.sagas.run(shop.buy, shop.Purchase(customer=1))
            async with httpx2.AsyncClient(
                transport=httpx2.ASGITransport(shop.app), base_url="http://shop"
            ) as client:
                told = (await client.get("/metrics")).text
        assert 'polysaga_sagas_started_total{saga="buy"} 1.0' in told
        assert "python_info" in told  # of the registry that the process has
    finally:
        for collector, names in list(REGISTRY._collector_to_names.items()):
            if collector is shop.metrics or any(name.startswith("polysaga_") for name in names):
                REGISTRY.unregister(collector)


async def test_operating(guide: Callable[[str], ModuleType], files: MigratedUrls) -> None:
    module = guide("operating")
    async with stuck_going_back(files).open() as program:
        for _ in range(2):
            await parked(program)
        (told,) = await module.what_needs_me(program.sagas)
        assert told.startswith("2 place-order: ZeroDivisionError: cannot do it")
        program.hooks.clear()

        batch = await module.retry_all(program.sagas, "cannot do it", by="ada", why="it can now")

        (line,) = (await program.sagas.inspector().audit()).lines
        assert (line.batch, line.count, line.why) == (batch, 2, "it can now")


async def test_the_dashboard_guide_lets_in_whom_it_says(
    guide: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    program = Program({name: f"sqlite+aiosqlite:///{tmp_path}/{name}.db" for name in ALL}, PLACE_ORDER)
    app = FastAPI()
    guide("dashboard").add_dashboard(app, program.sagas, program.databases)
    async with program.open():
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as client:
            assert (await client.get("/dashboard/")).status_code == 401
            page = await client.get("/dashboard/", headers={"x-forwarded-user": "ada"})
            assert (page.status_code, "operator" in page.text) == (200, True)
            other = await client.get("/dashboard/", headers={"x-forwarded-user": "lena"})
            assert "viewer" in other.text


async def test_the_dashboard_guide_serves_it_from_a_process_that_drives_no_saga(
    guide: Callable[[str], ModuleType], files: MigratedUrls
) -> None:
    async with stuck_going_back(files).open() as program:
        saga_id = await parked(program)
    apart = Program(files, PLACE_ORDER)
    settings = parse_settings({"databases": {name: {"url": url} for name, url in files.items()}})
    alone = guide("dashboard").dashboard_alone(apart.sagas, apart.databases, settings)
    async with alone.router.lifespan_context(alone):
        transport = httpx2.ASGITransport(alone)
        async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as client:
            page = await client.get(f"/dashboard/sagas/{saga_id}", headers={"x-forwarded-user": "ada"})
            assert (page.status_code, "reserve_stock" in page.text) == (200, True)
            assert (await apart.sagas.retry(saga_id, by="ada", why="gone"))[0].done
            assert (await apart.sagas.get(saga_id)).owner is None
