"""`polysaga worker` finishes what a killed process left behind, serves its health, and ends when asked to."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from devservers.ports import free_port
from tests.fixtures.processes import Process, begin, next_line
from tests.fixtures.services import poll_until

POLYSAGA = str(Path(sys.executable).with_name("polysaga"))
SHOP = """
import asyncio, os, signal
from sqlalchemy import text
from polysaga import Databases, Saga, Sagas, SqlDatabase, StepContext

orders, points = SqlDatabase("orders"), SqlDatabase("points")
buy = Saga("buy", input=int)

@buy.step(orders)
async def reserve(db, value: int, ctx: StepContext) -> int:
    return value

@reserve.compensation
async def release(db, value: int, done: int, ctx: StepContext) -> None: ...

@buy.step(points, kind="pivot")
async def credit(db, value: int, ctx: StepContext) -> int:
    if "DIES" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    if "GATE" in os.environ:
        print("stands in a step", flush=True)
        while not os.path.exists(os.environ["GATE"]):
            await asyncio.sleep(0.01)
    return value

everything = Sagas(Databases(orders, points), buy, journal=orders)
"""
DIES = """
import asyncio
from polysaga.migrations import migrate
from shop import buy, everything

async def main():
    settings = everything.databases.settings()
    async with everything.databases.open(settings):
        await migrate(everything)
        async with everything.open(settings.sagas):
            await everything.run(buy, 7)

asyncio.run(main())
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    for name in ("orders", "points"):
        url = f"sqlite+aiosqlite:///{tmp_path}/{name}.sqlite"
        monkeypatch.setenv(f"POLYSAGA_DATABASES__{name.upper()}__URL", url)
    monkeypatch.setenv("POLYSAGA_SAGAS__LEASE", "1")
    return tmp_path


def worker(directory: Path, *options: str, **more: str) -> Process:
    return begin(
        [POLYSAGA, "worker", "shop:everything", *options],
        cwd=directory,
        env={**os.environ, **more},
        stderr=None,
    )


def statuses(directory: Path) -> list[str]:
    connection = sqlite3.connect(directory / "orders.sqlite", timeout=30)
    try:
        return [status for (status,) in connection.execute("SELECT status FROM polysaga_journal")]
    finally:
        connection.close()


def asked(url: str, method: str = "GET") -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"{}")


def answers(url: str) -> bool:
    try:
        asked(url)
    except urllib.error.URLError:
        return False
    return True


def test_a_saga_of_a_killed_process_is_finished(shop: Path) -> None:
    with begin([sys.executable, "-c", DIES], cwd=shop, env={**os.environ, "DIES": "1"}) as dying:
        assert dying.wait(60) == -signal.SIGKILL
    assert statuses(shop) == ["running"]

    with worker(shop) as process:
        assert next_line(process, "the worker is there") == "drives buy 1; the journal is in orders\n"
        poll_until(lambda: statuses(shop) == ["completed"], "the saga is completed")
        process.send_signal(signal.SIGTERM)
        assert next_line(process, "the worker ends").startswith("ends: its sagas have up to")
        assert process.wait(30) == 0


def test_its_log_says_nothing_of_the_pools_that_it_closes(shop: Path) -> None:
    command = [POLYSAGA, "worker", "shop:everything"]
    with begin(command, cwd=shop, stderr=subprocess.PIPE) as process:
        next_line(process, "the worker is there")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert "INFO database orders is open at" in said
    assert "Pool" not in said


def test_its_health_is_served_until_it_ends(shop: Path) -> None:
    with worker(shop, "--health-port", "0") as process:
        ready = next_line(process, "the worker is there").strip().partition("; health at ")[2]

        assert asked(ready) == (200, {"status": "ready", "databases": {"orders": "ok", "points": "ok"}})
        assert asked(ready.replace("ready", "live")) == (200, {"status": "alive"})
        assert asked(ready, "HEAD") == (200, {})
        assert asked(ready, "POST")[0] == 405
        assert asked(f"{ready}/../../etc/passwd")[0] == 404

        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_it_is_alive_until_its_last_saga_has_ended(shop: Path) -> None:
    """A probe that gets no answer lets an orchestrator kill the process in its sagas."""
    with begin([sys.executable, "-c", DIES], cwd=shop, env={**os.environ, "DIES": "1"}) as dying:
        assert dying.wait(60) == -signal.SIGKILL
    gate = shop / "gate"
    with worker(shop, "--health-port", "0", GATE=str(gate)) as process:
        lines = [next_line(process, "the worker is there and has taken the saga over") for _ in range(2)]
        assert "stands in a step\n" in lines
        (ready,) = (line.strip().partition("; health at ")[2] for line in lines if "health at" in line)
        process.send_signal(signal.SIGTERM)
        assert next_line(process, "the worker ends").startswith("ends: its sagas have up to")

        assert asked(ready) == (503, {"status": "ending"})
        assert asked(ready.replace("ready", "live")) == (200, {"status": "alive"})
        with urllib.request.urlopen(ready.replace("/health/ready", "/metrics"), timeout=30) as answer:
            assert b"polysaga_sagas_in_flight" in answer.read()
        assert process.poll() is None
        gate.touch()
        assert process.wait(30) == 0
    assert statuses(shop) == ["completed"]


def test_it_is_alive_while_it_starts(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration may take minutes; one that waits for another program's lock stands for it."""
    monkeypatch.setenv("POLYSAGA_DATABASES__ORDERS__LOCK_TIMEOUT", "60")
    address = f"http://127.0.0.1:{free_port()}"
    port, live, ready = address.rpartition(":")[2], f"{address}/health/live", f"{address}/health/ready"
    with closing(sqlite3.connect(shop / "orders.sqlite", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with worker(shop, "--health-port", port) as process:
            poll_until(lambda: answers(live), "the port is open")
            assert asked(live) == (200, {"status": "alive"})
            assert asked(ready) == (503, {"status": "starting"})
            assert asked(f"{address}/metrics")[0] == 503
            holder.execute("COMMIT")
            assert next_line(process, "the worker is there").strip().endswith(f"health at {ready}")
            assert asked(ready)[0] == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def test_a_worker_whose_port_is_taken_says_so(shop: Path) -> None:
    with worker(shop, "--health-port", "0") as first:
        port = next_line(first, "the worker is there").rsplit(":", 1)[1].partition("/")[0]
        second = begin(
            [POLYSAGA, "worker", "shop:everything", "--health-port", port],
            cwd=shop,
            stderr=-1,
        )
        with second:
            _, said = second.communicate(timeout=60)
        assert second.returncode == 2
        assert port in said
        assert "Traceback" not in said
        first.send_signal(signal.SIGTERM)


def test_its_metrics_are_served_beside_its_health(shop: Path) -> None:
    with begin([sys.executable, "-c", DIES], cwd=shop, env={**os.environ, "DIES": "1"}) as dying:
        assert dying.wait(60) == -signal.SIGKILL
    with worker(shop, "--health-port", "0") as process:
        ready = next_line(process, "the worker is there").strip().partition("; health at ")[2]
        address = ready.replace("/health/ready", "/metrics")

        def scraped() -> str:
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                return str(answer.read().decode())

        poll_until(lambda: 'polysaga_claims_taken_over_total{saga="buy"} 1.0' in scraped(), "the takeover shows")
        poll_until(lambda: "polysaga_journal_reader 1.0" in scraped(), "the worker counts in the journal")
        assert asked(address, "POST")[0] == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
