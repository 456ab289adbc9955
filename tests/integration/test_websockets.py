"""Websockets on SQLite: sessions that end with the handler, errors as reasons, bookmarks by message."""

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, HTTPException
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.websockets import WebSocket, WebSocketDisconnect

from polysaga import Databases, Refused, SqlDatabase
from polysaga.config import parse_settings
from polysaga.errors import Busy, ReadOnlyNode, WriteOnReader
from polysaga.fastapi import auto, install, reader, writer

shop = SqlDatabase("shop")
databases = Databases(shop)
Read = Annotated[AsyncSession, reader(shop)]
Write = Annotated[AsyncSession, writer(shop)]
Auto = Annotated[AsyncSession, auto(shop)]


class SoldOut(Refused):
    """There is none left."""


class Served:
    """An application with one websocket, and what a server would say to it."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def talk(self, *texts: str, query: str = "") -> list[dict[str, Any]]:
        """Connect, send *texts*, go away; return what was sent back when the application is done with it."""
        told: list[Any] = [{"type": "websocket.connect"}]
        told += [{"type": "websocket.receive", "text": one} for one in texts]
        told += [{"type": "websocket.disconnect", "code": 1001}]
        scope = {
            "type": "websocket",
            "path": "/",
            "query_string": query.encode(),
            "headers": [(b"host", b"shop")],
            "extensions": {"websocket.http.response": {}},
        }
        sent: list[Any] = []

        async def receive() -> Any:
            return told.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        return sent


@asynccontextmanager
async def serving(handler: Callable[..., Any], directory: Path) -> AsyncIterator[Served]:
    """Serve *handler* at `/`."""

    async def ready() -> None:
        async with shop.writer() as db:
            await db.execute(text("CREATE TABLE clicks (what TEXT)"))

    app = FastAPI()
    app.websocket("/")(handler)
    settings = parse_settings({"databases": {"shop": {"url": f"sqlite+aiosqlite:///{directory}/shop.db"}}})
    install(app, databases, settings=settings, ready=ready)
    async with app.router.lifespan_context(app):
        yield Served(app)


def clicks(directory: Path) -> int:
    connection = sqlite3.connect(directory / "shop.db")
    try:
        return int(connection.execute("SELECT count(*) FROM clicks").fetchone()[0])
    finally:
        connection.close()


async def click(db: AsyncSession) -> None:
    await db.execute(text("INSERT INTO clicks VALUES ('here')"))


async def click_once(websocket: WebSocket, db: Write) -> None:
    await websocket.accept()
    await websocket.receive_text()
    await click(db)


async def click_either_way(websocket: WebSocket, db: Auto) -> None:
    await websocket.accept()
    await websocket.receive_text()
    await click(db)


@pytest.mark.parametrize("handler", [click_once, click_either_way])
async def test_a_session_of_a_websocket_commits_when_the_handler_has_ended(tmp_path: Path, handler: Any) -> None:
    async with serving(handler, tmp_path) as served:
        await served.talk("click")
        assert clicks(tmp_path) == 1


async def test_a_session_of_a_websocket_rolls_back_when_the_client_goes_away(tmp_path: Path) -> None:
    async def click_for_ever(websocket: WebSocket, db: Write) -> None:
        await websocket.accept()
        while await websocket.receive_text():
            await click(db)
            await websocket.send_text("clicked")

    async with serving(click_for_ever, tmp_path) as served:
        with pytest.raises(WebSocketDisconnect):
            await served.talk("click", "click")
        assert clicks(tmp_path) == 0


async def test_each_message_may_have_a_scope_and_a_session_of_its_own(tmp_path: Path) -> None:
    async def click_for_ever(websocket: WebSocket) -> None:
        await websocket.accept()
        async for bookmark in websocket.iter_text():
            with databases.scope(bookmark):
                async with shop.writer() as db:
                    await click(db)
                await websocket.send_text(await databases.bookmark())
            assert clicks(tmp_path) > 0

    async with serving(click_for_ever, tmp_path) as served:
        sent = await served.talk("", "")
        assert [message["text"] for message in sent[1:]] == ["", ""]  # without replicas
        assert clicks(tmp_path) == 2


ERRORS: list[tuple[Exception, int, int, str]] = [
    (Busy(1, 1.0), 503, 1013, "a database is busy"),
    (SoldOut("none left"), 409, 1008, "none left"),
    (ReadOnlyNode("shop", "hush-hush"), 500, 1011, "Something went wrong"),
    (WriteOnReader("shop", "hush-hush", "INSERT"), 500, 1011, "Something went wrong"),
    (HTTPException(403, "not for you"), 403, 1008, "not for you"),
    (SoldOut("\u017c" * 200), 409, 1008, "\u017c" * 61),
]


@pytest.mark.parametrize(("error", "status", "code", "said"), ERRORS)
async def test_an_error_is_a_problem_before_the_websocket_is_accepted_and_its_reason_afterwards(
    tmp_path: Path, error: Exception, status: int, code: int, said: str
) -> None:
    async def fail(websocket: WebSocket, accept: int) -> None:
        if accept:
            await websocket.accept()
        raise error

    async with serving(fail, tmp_path) as served:
        denied = await served.talk(query="accept=0")
        assert denied[0]["status"] == status
        assert (b"content-type", b"application/problem+json") in denied[0]["headers"]
        assert said in json.loads(denied[1]["body"])["detail"]
        ended = (await served.talk(query="accept=1"))[-1]
        assert (ended["type"], ended["code"]) == ("websocket.close", code)
        assert said in ended["reason"]
        assert "hush" not in ended["reason"]
        assert len(ended["reason"].encode()) <= 123


async def test_a_websocket_that_was_closed_already_is_not_closed_again(tmp_path: Path) -> None:
    async def close_and_fail(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(4000, "enough")
        raise SoldOut("none left")

    async with serving(close_and_fail, tmp_path) as served:
        sent = await served.talk()
        assert [message.get("code") for message in sent] == [None, 4000]


async def test_a_reader_in_a_websocket_refuses_writes_as_elsewhere(tmp_path: Path) -> None:
    async def write(websocket: WebSocket, db: Read) -> None:
        await websocket.accept()
        await click(db)

    async with serving(write, tmp_path) as served:
        assert (await served.talk())[-1]["code"] == 1011
        assert clicks(tmp_path) == 0
