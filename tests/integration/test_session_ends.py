"""A session is over with its block: what begins on it later is an error at once, and nothing is lost or leaked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga import AnyDatabase, Databases, MongoSession, SqlDatabase
from polysaga.config import Settings, parse_settings
from polysaga.errors import SessionOver
from polysaga.fastapi import auto, install, reader, writer
from tests.fixtures.programs import Urls
from tests.fixtures.servers import DatabaseFactory, PostgresCluster

ONE = text("SELECT 1")


@pytest.fixture
async def handles(urls: Urls) -> AsyncIterator[dict[str, AnyDatabase]]:
    handles = {name: AnyDatabase(name) for name in urls}
    settings = parse_settings({"databases": {name: {"url": url} for name, url in urls.items()}})
    async with Databases(*handles.values()).open(settings):
        yield handles


async def use(session: AsyncSession | MongoSession) -> None:
    if isinstance(session, MongoSession):
        await session["effects"].find_one({})
    else:
        await session.execute(ONE)


@pytest.mark.parametrize("kind", ["reader", "writer"])
@pytest.mark.parametrize("database", ["orders", "inventory", "points"])
async def test_a_session_that_was_kept_is_refused_with_the_remedy(
    handles: dict[str, AnyDatabase], database: str, kind: str
) -> None:
    async with getattr(handles[database], kind)() as session:
        await use(session)
    with pytest.raises(SessionOver, match=r"ended with the block .* open another one"):
        await use(session)


@pytest.mark.parametrize("kind", ["reader", "writer"])
async def test_a_collection_asked_for_as_pymongo_allows_it_too_is_refused_with_the_remedy(
    mongo_database: DatabaseFactory, kind: str
) -> None:
    inventory = AnyDatabase("inventory")
    settings = parse_settings({"databases": {"inventory": {"url": mongo_database()}}})
    async with Databases(inventory).open(settings), getattr(inventory, kind)() as session:
        with pytest.raises(AttributeError, match=r"'effects'.*session\['effects'\].*session\.database"):
            session.effects.find_one({})
        assert "effects" in session.database.effects.full_name
        assert not hasattr(session, "commit")


@pytest.mark.parametrize("kind", ["reader", "writer"])
async def test_it_is_over_also_if_the_block_failed(handles: dict[str, AnyDatabase], kind: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with getattr(handles["orders"], kind)() as session:
            raise ZeroDivisionError
    with pytest.raises(SessionOver):
        await use(session)


async def test_within_the_block_a_session_may_be_closed_and_begin_anew(handles: dict[str, AnyDatabase]) -> None:
    async with handles["orders"].writer() as session:
        assert isinstance(session, AsyncSession)
        await session.execute(ONE)
        await session.close()
        assert (await session.execute(ONE)).scalar() == 1


async def test_a_reader_of_a_database_with_replicas_is_over_too(postgres_cluster: PostgresCluster) -> None:
    handle = SqlDatabase("shop")
    primary, *replicas = postgres_cluster.urls("postgres")
    given = {
        "databases": {"shop": {"url": primary, "replicas": replicas}},
        "bookmarks": {"secret": "a secret of the tests"},
    }
    databases = Databases(handle)
    async with databases.open(parse_settings(given)):
        for lend in (handle.reader, handle.writer):
            async with lend() as session:
                await session.execute(ONE)
            for _ in range(2):
                with pytest.raises(SessionOver, match="'shop'"):
                    await session.execute(ONE)
        assert [load.sessions for load in databases.routers["shop"].loads] == [0] * (1 + len(replicas))


class Clicks:
    """An application whose handlers hand their sessions on to what outlives them."""

    def __init__(self) -> None:
        self.shop = SqlDatabase("shop")
        self.databases = Databases(self.shop)
        self.app, self.late = FastAPI(), list[Exception]()
        writing, reading = Annotated[AsyncSession, writer(self.shop)], Annotated[AsyncSession, reader(self.shop)]
        either = Annotated[AsyncSession, auto(self.shop)]

        async def click_again(db: AsyncSession) -> None:
            try:
                await db.execute(text("INSERT INTO clicks VALUES ('in the background')"))
            except SessionOver as error:
                self.late.append(error)

        @self.app.post("/clicks")
        async def click(db: writing, tasks: BackgroundTasks) -> None:
            await db.execute(text("INSERT INTO clicks VALUES ('in the request')"))
            tasks.add_task(click_again, db)

        @self.app.post("/either")
        async def click_either(db: either, tasks: BackgroundTasks) -> None:
            await db.execute(text("INSERT INTO clicks VALUES ('in the request')"))
            tasks.add_task(click_again, db)

        @self.app.get("/export")
        async def export(db: reading) -> StreamingResponse:
            async def rows() -> AsyncIterator[str]:
                yield str((await db.execute(text("SELECT count(*) FROM clicks"))).scalar())

            return StreamingResponse(rows())

    @asynccontextmanager
    async def opened(self, settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
        async def ready() -> None:
            async with self.shop.writer() as db:
                await db.execute(text("CREATE TABLE clicks (what varchar(32))"))

        install(self.app, self.databases, settings=settings, ready=ready)
        transport = httpx2.ASGITransport(self.app)
        client = httpx2.AsyncClient(transport=transport, base_url="http://shop")
        async with self.app.router.lifespan_context(self.app), client:
            yield client


async def test_background_tasks_and_streams_hear_of_it_and_no_connection_is_leaked(tmp_path: Path) -> None:
    pool: dict[str, Any] = {"size": 2, "max_overflow": 0, "acquire_timeout": 1.0}
    settings = parse_settings(
        {"databases": {"shop": {"url": f"sqlite+aiosqlite:///{tmp_path}/shop.db", "pool": pool}}}
    )
    clicks = Clicks()
    async with clicks.opened(settings) as client:
        for _ in range(3):
            assert (await client.post("/clicks")).status_code == 200
            assert (await client.post("/either")).status_code == 200
            with pytest.raises(RuntimeError, match="response already started") as broken:
                await client.get("/export")
            assert isinstance(broken.value.__cause__, SessionOver)
        assert len(clicks.late) == 6
        async with clicks.shop.reader() as db:
            assert (await db.execute(text("SELECT DISTINCT what FROM clicks"))).scalars().all() == [
                "in the request"
            ]
        node = clicks.shop.primary
        assert [engine.pool.checkedout() for engine in (node.writer, node.reader)] == [0, 0]  # type: ignore[attr-defined]
