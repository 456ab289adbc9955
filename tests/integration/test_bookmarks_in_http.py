"""Bookmarks on their way through HTTP and websockets, on a real primary with replicas that are paused."""

import asyncio
import time
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga.asgi import HEADER, ROUTE, BookmarkMiddleware
from polysaga.config import parse_settings
from polysaga.errors import ConfigurationError
from polysaga.fastapi import reader
from tests.fixtures.notes import Notes, settings_of, until_replicas_are_known
from tests.fixtures.servers import PostgresCluster
from tests.fixtures.waiting import reached

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


async def test_a_browser_keeps_its_bookmark_in_a_cookie(notes: Notes, postgres_cluster: PostgresCluster) -> None:
    async with client(notes) as browser:
        answer = await browser.put("/notes/1/7")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("polysaga_bookmark_notes=v1.notes=pg:")
        assert "HttpOnly; SameSite=Lax" in cookie
        assert (await browser.get("/notes/1")).json() == 7
        assert "set-cookie" not in (await browser.get("/notes/1")).headers  # nothing new: stays cacheable
        for replica in postgres_cluster.replicas:
            await asyncio.to_thread(replica.resume)
            await asyncio.to_thread(replica.catch_up)
        async with asyncio.timeout(30):
            while not (last := await browser.get("/notes/1")).headers[ROUTE].startswith("notes=replica-"):
                await notes.router.monitor.news(1.0)
        assert last.json() == 7
        assert "set-cookie" not in last.headers  # a parallel request may have been told more meanwhile


async def test_a_request_that_is_answered_late_does_not_take_back_what_another_was_told(
    notes: Notes, postgres_cluster: PostgresCluster
) -> None:
    wrote, answered = asyncio.Event(), asyncio.Event()

    @notes.app.put("/slow")
    async def slow() -> int | None:
        async with notes.handle.writer() as db:
            await db.execute(text("INSERT INTO notes VALUES (2, 1)"))
        async with notes.handle.reader() as db:
            await db.execute(text("SELECT 1"))  # it is known now where this commit is
        wrote.set()
        await reached(answered, "the test lets it answer")
        return None

    async with client(notes) as browser:
        late = asyncio.create_task(browser.put("/slow"))
        await reached(wrote, "the request has written")
        for replica in postgres_cluster.replicas:  # they get what the late request wrote, and nothing more
            await asyncio.to_thread(replica.resume)
            await asyncio.to_thread(replica.catch_up)
            await asyncio.to_thread(replica.pause)
        await browser.put("/notes/1/7")
        answered.set()
        assert (await late).status_code == 200
        assert (await browser.get("/notes/1")).json() == 7


async def test_who_sends_several_bookmarks_sees_all_that_they_name(notes: Notes) -> None:
    async with client(notes) as one, client(notes) as other, client(notes) as reading:
        first = (await one.put("/notes/1/7")).headers[HEADER]
        second = (await other.put("/notes/2/8")).headers[HEADER]
        for both in (f"{first}, {second}", f"{second},{first}", f"{second},forged"):
            assert (await reading.get("/notes/2", headers={HEADER: both})).json() == 8


async def test_what_was_committed_just_before_nobody_could_tell_where_is_read_back(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(self: object) -> None:
        raise ConnectionError("gone")

    async with client(notes) as browser:
        with monkeypatch.context() as patched:
            patched.setattr(type(notes.router.capture._line), "capture", nobody)
            answer = await browser.put("/notes/1/7")
        assert answer.status_code == 204
        for _ in range(2):
            again = await browser.get("/notes/1")
            assert again.json() == 7
        await browser.put("/notes/1/8")
        assert (await browser.get("/notes/1")).json() == 8


async def test_what_was_committed_before_an_error_that_nobody_caught_is_read_back(notes: Notes) -> None:
    @notes.app.put("/half/{value}")
    async def half(value: int) -> None:
        async with notes.handle.writer() as db:
            await db.execute(text("INSERT INTO notes VALUES (1, :value)"), {"value": value})
        raise LookupError("after the commit")

    transport = httpx2.ASGITransport(notes.app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as browser:
        assert (await browser.put("/half/7")).status_code == 500
        assert (await browser.get("/notes/1")).json() == 7


async def test_a_reader_that_was_lent_before_a_write_of_its_request_sees_it(notes: Notes) -> None:
    seen: list[Any] = []

    async def look(db: AsyncSession) -> None:
        seen.append((await db.execute(text("SELECT value FROM notes WHERE id = 1"))).scalar())

    reading = Annotated[AsyncSession, reader(notes.handle)]

    @notes.app.put("/write-and-read/{value}")
    async def write_and_read(db: reading, value: int) -> None:
        await look(db)
        async with notes.handle.writer() as writing:
            await writing.execute(text("DELETE FROM notes WHERE id = 1"))
            await writing.execute(text("INSERT INTO notes VALUES (1, :value)"), {"value": value})
        await look(db)
        await look(db)

    async with client(notes) as browser:
        assert (await browser.put("/write-and-read/7")).status_code == 200
        assert seen == [None, 7, 7]
    with notes.databases.scope():
        async with notes.handle.reader(snapshot=True) as db:
            await look(db)
            async with notes.handle.writer() as writing:
                await writing.execute(text("UPDATE notes SET value = 9"))
            await look(db)
    assert seen[3:] == [None, None]  # a snapshot is one moment


async def test_a_header_does_for_clients_without_cookies_and_wins(notes: Notes) -> None:
    async with client(notes) as writing, client(notes) as reading:
        bookmark = (await writing.put("/notes/1/7")).headers[HEADER]
        assert (await reading.get("/notes/1")).json() is None
        assert (await reading.get("/notes/1", headers={HEADER: bookmark})).json() == 7
        stale = {HEADER: "", "cookie": f"polysaga_bookmark_notes={bookmark}"}
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
