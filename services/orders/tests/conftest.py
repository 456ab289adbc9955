"""A shop on three SQLite files, called in this process or served by another one."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from devservers.ports import free_port
from orders.app import create_app
from orders.settings import load
from polysaga.config import Settings
from tests.fixtures import own_loop
from tests.fixtures.processes import begin, next_line

_AT_REST = {"completed", "compensated", "needs_attention"}
_PATIENCE = 20.0  # seconds


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _forget_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)


def _forget_settings(patch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("POLYSAGA_")]:
        patch.delenv(name)


class Client(httpx2.AsyncClient):
    """Calls the application in this process, and knows the usual requests."""

    async def stock(self, product_id: str = "tea", *, stock: int = 10, price: str = "2.55") -> None:
        answer = await self.put(f"/products/{product_id}", json={"stock": stock, "price": price})
        assert answer.is_success

    async def order(
        self, *, quantity: int = 2, product_id: str = "tea", user_id: int | str = 7, **headers: str
    ) -> Any:
        """Place an order; underscores in the names of *headers* stand for hyphens."""
        body = {"user_id": user_id, "product_id": product_id, "quantity": quantity}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.post("/orders", json=body, headers=named)

    async def rest(self, saga_id: str) -> dict[str, Any]:
        """Return the saga once it is at rest."""
        async with asyncio.timeout(_PATIENCE):
            while True:
                saga: dict[str, Any] = (await self.get(f"/sagas/{saga_id}")).json()
                if saga["status"] in _AT_REST:
                    return saga


@pytest.fixture(scope="session")
def empty_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the three databases of a shop that has its tables and nothing in them."""
    directory = tmp_path_factory.mktemp("empty-shop")

    async def open_once() -> None:
        async with calling(load(directory)):
            pass

    with pytest.MonkeyPatch.context() as patch:
        _forget_settings(patch)
        own_loop.run(open_once())
    return directory


@pytest.fixture
async def shop(tmp_path: Path, empty_shop: Path) -> AsyncIterator[Client]:
    shutil.copytree(empty_shop, tmp_path, dirs_exist_ok=True)
    async with calling(load(tmp_path)) as client:
        yield client


@pytest.fixture
async def impatient_shop(tmp_path: Path, empty_shop: Path) -> AsyncIterator[Client]:
    """A shop that never waits for an outcome."""
    shutil.copytree(empty_shop, tmp_path, dirs_exist_ok=True)
    async with calling(load(tmp_path), patience=0.0) as client:
        yield client


@asynccontextmanager
async def calling(settings: Settings, *, patience: float = 10.0) -> AsyncIterator[Client]:
    """Open the application and yield a client of it."""
    app = create_app(settings, patience=patience)
    transport = httpx2.ASGITransport(app=app)
    async with app.router.lifespan_context(app), Client(transport=transport, base_url="http://shop") as client:
        yield client


class Served:
    """A shop in a process of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.url = self._start(port=free_port())

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `orders` with *arguments* on the same data."""
        command = [sys.executable, "-m", "orders", *arguments, "--data", str(self.data)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def stop(self, number: signal.Signals) -> int:
        """Send the signal and return the exit code."""
        self._process.send_signal(number)
        code = self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def restart(self, number: signal.Signals) -> None:
        """End the process with the signal, and start another one on the same port and data."""
        self.stop(number)
        self._start(port=int(self.url.rpartition(":")[2]))

    def _start(self, *, port: int) -> str:
        command = [sys.executable, "-m", "orders", "serve", "--port", str(port), "--data", str(self.data)]
        self._process = begin(command)
        said = next_line(self._process, "the URL of the service")
        assert said.startswith("orders is up at "), said
        return said.split()[4]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    shop = Served(tmp_path / "data")
    try:
        yield shop
    finally:
        code = shop.stop(signal.SIGTERM)
    assert code == 0
