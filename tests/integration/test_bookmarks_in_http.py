"""Bookmarks on their way through HTTP and websockets, on a real primary with replicas that are paused."""

import asyncio
import time
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from polysaga.asgi import HEADER, ROUTE, BookmarkMiddleware
from polysaga.config import parse_settings
from polysaga.errors import ConfigurationError
from tests.fixtures.notes import Notes, settings_of, until_replicas_are_known
from tests.fixtures.servers import PostgresCluster

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "reading-from-replicas.md"


@pytest.fixture
async def notes(postgres_cluster: PostgresCluster) -> AsyncIterator[Notes]:
    name = f"notes_{time.monotonic_ns()}"
    postgres_cluster.primary.create_database(name)
    postgres_cluster.catch_up()
    async with Notes().open(settings_of(postgres_cluster.urls(name), wait=0.0)) as app:
        for replica in postgres_cluster.replicas:
            await asyncio.to_thread(replica.catch_up)
        await until_replicas_are_known(app.router)
        for replica in postgres_cluster.replicas:
            await asyncio.to_thread(replica.pause)
        yield app


def client(notes: Notes) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(notes.app), base_url="http://shop")


async def test_a_browser_keeps_its_bookmark_in_a_cookie_until_all_replicas_have_it(
    notes: Notes, postgres_cluster: PostgresCluster
) -> None:
    async with client(notes) as browser:
        answer = await browser.put("/notes/1/7")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("polysaga_bookmark=v1.notes=pg:")
        assert "HttpOnly; SameSite=Lax" in cookie
        assert (await browser.get("/notes/1")).json() == 7
        assert "set-cookie" not in (await browser.get("/notes/1")).headers  # nothing new: stays cacheable
        for replica in postgres_cluster.replicas:
            await asyncio.to_thread(replica.resume)
            await asyncio.to_thread(replica.catch_up)
        async with asyncio.timeout(30):
            while "set-cookie" not in (last := await browser.get("/notes/1")).headers:
                await notes.router.monitor.news(1.0)
        assert last.headers["set-cookie"].startswith("polysaga_bookmark=; Max-Age=0")
        assert not browser.cookies
        assert (await browser.get("/notes/1")).headers[ROUTE].startswith("notes=replica-")


async def test_a_header_does_for_clients_without_cookies_and_wins(notes: Notes) -> None:
    async with client(notes) as writing, client(notes) as reading:
        bookmark = (await writing.put("/notes/1/7")).headers[HEADER]
        assert (await reading.get("/notes/1")).json() is None
        assert (await reading.get("/notes/1", headers={HEADER: bookmark})).json() == 7
        stale = {HEADER: "", "cookie": f"polysaga_bookmark={bookmark}"}
        assert (await reading.get("/notes/1", headers=stale)).json() is None


@pytest.mark.parametrize("forged", ["v1.notes=pg:1.1:FF/FF.AAAAAAAAAAAAAAAAAAAAAA", "v1..", "x" * 9000, "\xff"])
async def test_a_forged_bookmark_counts_as_none(notes: Notes, forged: str) -> None:
    async with client(notes) as browser:
        answer = await browser.get("/notes/1", headers={HEADER: forged.encode("latin-1")})
        assert (answer.status_code, answer.headers[ROUTE].split("-")[0]) == (200, "notes=replica")


async def test_the_method_decides_only_where_nobody_says(notes: Notes) -> None:
    async with client(notes) as browser:
        answer = await browser.post("/searches/1")  # `auto`: a POST writes
        assert answer.json() is None
        assert ROUTE not in answer.headers  # it is readers who are routed


async def test_a_message_of_a_websocket_has_a_scope_with_the_bookmark_of_its_client(notes: Notes) -> None:
    async with client(notes) as browser:
        bookmark = (await browser.put("/notes/1/7")).headers[HEADER]
    seen: list[Any] = []

    async def app(asked: Any, receive: Any, send: Any) -> None:
        async with notes.handle.reader() as db:
            seen.append((await db.execute(text("SELECT value FROM notes WHERE id = 1"))).scalar())

    asked: dict[str, Any] = {"type": "websocket", "headers": [(b"polysaga-bookmark", bookmark.encode())]}
    for headers in (asked["headers"], []):
        await BookmarkMiddleware(app, notes.databases)({**asked, "headers": headers}, None, None)  # type: ignore[arg-type]
    assert seen == [7, None]


async def test_without_replicas_a_request_passes_untouched(tmp_path: Path) -> None:
    async with Notes().open(settings_of([f"sqlite+aiosqlite:///{tmp_path}/notes.db"])) as notes:
        async with client(notes) as browser:
            answers = [await browser.put("/notes/1/7"), await browser.get("/notes/1")]
        assert answers[1].json() == 7
        assert not any(name in answer.headers for answer in answers for name in (HEADER, ROUTE, "set-cookie"))
        assert not notes.databases.replicated
        assert await notes.databases.bookmark() == ""


async def test_replicas_without_a_secret_are_refused_with_the_remedy(postgres_cluster: PostgresCluster) -> None:
    settings = settings_of(postgres_cluster.urls("postgres"))
    bare = settings.model_copy(update={"bookmarks": type(settings.bookmarks)()})
    with pytest.raises(ConfigurationError, match=r"POLYSAGA_BOOKMARKS__SECRET"):
        async with Notes().open(bare):
            pass


def test_the_settings_of_the_guide_are_the_defaults() -> None:
    given = tomllib.loads(GUIDE.read_text().split("```toml\n")[1].split("```")[0])
    settings = parse_settings(given)
    reads = settings.databases["orders"].reads
    assert reads == type(reads)()
