"""An application whose process is asked to end while it starts: nothing is open, and what arrives is refused."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from polysaga import Databases, SqlDatabase
from polysaga.config import parse_settings
from polysaga.fastapi import install
from tests.fixtures.waiting import forever, reached, within


@pytest.fixture(autouse=True)
def a_server_that_hears_the_signal() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


class _Service:
    """An application whose first start hangs."""

    def __init__(self, directory: Path, *, fails: bool = False) -> None:
        self.databases, self.app, self._fails = Databases(SqlDatabase("shop")), FastAPI(), fails
        self.hangs = asyncio.Event()
        settings = parse_settings({"databases": {"shop": {"url": f"sqlite+aiosqlite:///{directory / 'shop.db'}"}}})
        install(self.app, self.databases, settings=settings, ready=self._ready)

        @self.app.get("/")
        async def root() -> str:
            return "open"

    async def _ready(self) -> None:
        if not self.hangs.is_set():
            self.hangs.set()
            try:
                await forever()
            finally:
                if self._fails:
                    raise RuntimeError("closed while it connected")

    async def get(self) -> httpx2.Response:
        transport = httpx2.ASGITransport(self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as client:
            return await client.get("/")


class _Lifespan:
    """What a server and an application say to each other about its life."""

    def __init__(self, app: FastAPI) -> None:
        self._asked, self._told = asyncio.Queue[Any](), asyncio.Queue[Any]()
        self._asked.put_nowait({"type": "lifespan.startup"})
        scope = {"type": "lifespan", "app": app, "state": {}}
        self.task = asyncio.create_task(app(scope, self._asked.get, self._told.put))

    async def told(self) -> str:
        """Return the next message of the application."""
        return str((await within(self._told.get(), "the application answers"))["type"])

    async def end(self) -> None:
        """Let the application end, as it must after its start."""
        self._asked.put_nowait({"type": "lifespan.shutdown"})
        assert await self.told() == "lifespan.shutdown.complete"
        await within(self.task, "the application ends")


@pytest.mark.parametrize("fails", [False, True], ids=["cancelled", "failed"])
async def test_what_arrives_after_an_aborted_start_is_refused_until_the_next_start(
    tmp_path: Path, *, fails: bool
) -> None:
    """Also if the part of the start that is cancelled ends with another error."""
    service = _Service(tmp_path, fails=fails)
    life = _Lifespan(service.app)
    await reached(service.hangs, "the start hangs")
    os.kill(os.getpid(), signal.SIGTERM)
    assert await life.told() == "lifespan.startup.complete"
    assert service.databases.opened_with is None

    refused = await service.get()
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json()["detail"] == "This process is ending. Please try again."
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await service.app({"type": "websocket", "path": "/", "headers": []}, forever, send)
    assert sent == [{"type": "websocket.close", "code": 1013}]

    await life.end()
    life = _Lifespan(service.app)
    assert await life.told() == "lifespan.startup.complete"
    assert (await service.get()).json() == "open"
    await life.end()


async def test_an_application_that_enters_the_lifespan_of_an_aborted_one_does_not_go_on(tmp_path: Path) -> None:
    service = _Service(tmp_path)
    starting = asyncio.create_task(service.app.router.lifespan_context(service.app).__aenter__())
    await reached(service.hangs, "the start hangs")
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(asyncio.CancelledError):
        await within(starting, "the start is cancelled")
    assert service.databases.opened_with is None


@pytest.mark.parametrize("aborted", [True, False], ids=["after it was aborted", "at the same moment"])
async def test_a_loop_that_ends_during_an_aborted_start_ends(tmp_path: Path, *, aborted: bool) -> None:
    """It cancels all its tasks, for instance because `ready` has called `sys.exit`, and waits for them."""
    service = _Service(tmp_path)
    life = _Lifespan(service.app)
    await reached(service.hangs, "the start hangs")
    os.kill(os.getpid(), signal.SIGTERM)
    if aborted:
        assert await life.told() == "lifespan.startup.complete"
    life.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(life.task, "the application ends")


async def test_a_cancelled_start_stays_cancelled(tmp_path: Path) -> None:
    service = _Service(tmp_path)
    starting = asyncio.create_task(service.app.router.lifespan_context(service.app).__aenter__())
    await reached(service.hangs, "the start hangs")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(starting, "the start is cancelled")
    assert service.databases.opened_with is None
