"""The order service over HTTP: `orders serve` against the same route with plain sessions, one process each.

The customers are a process of their own, the same program for both. Their processor time is not counted: the
client's is that of the service.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2

from benchmarks import shop
from benchmarks.comparing import timed
from benchmarks.parts import Scale, alone
from benchmarks.process import ROOT, Process, Recipe, places_in_environment, wait_or_kill
from benchmarks.servers import running
from benchmarks.side import Places
from devservers.accounts import launched
from devservers.ports import free_port

_PATIENCE = 60.0  # seconds for a service to come up
_ENDING = 30.0  # seconds


def measure(scale: Scale) -> dict[str, Any]:
    """Time both services at every concurrency."""
    with running(shop.ON_SQL) as databases, ExitStack() as stack:
        asyncio.run(shop.fill(databases.urls))
        programs = {"plain": "benchmarks.plain_service", "ours": "orders"}
        sides = {}
        for side, program in programs.items():
            port = free_port()
            words = [str(port)] if side == "plain" else ["serve", "--port", str(port)]
            command = [sys.executable, "-m", program, *words]
            service = stack.enter_context(_service(command, f"http://127.0.0.1:{port}", databases.urls))
            customers = Recipe("benchmarks.http_side", "customers", {"service": f"http://127.0.0.1:{port}"})
            sides[side] = Process(customers, databases.pids, [service], only_calling=True)
        return {"servers": databases.versions, "turns": timed(sides, [("ours", "plain")], scale)}


@contextmanager
def _service(command: list[str], url: str, places: Places) -> Iterator[int]:
    """Run a service until it is ready, and give its process id."""
    pools = {
        f"POLYSAGA_DATABASES__{name.upper()}__{key}": value
        for name, place in places.items()
        for key, value in {
            "URL": place,
            "POOL__SIZE": str(shop.POOL["size"]),
            "POOL__MAX_OVERFLOW": str(shop.POOL["max_overflow"]),
        }.items()
    }
    process = subprocess.Popen(
        launched(command, account=None, death_signal=signal.SIGTERM),
        cwd=ROOT,
        env=os.environ | pools | places_in_environment(places),
        stdout=subprocess.DEVNULL,
    )
    try:
        _until_ready(url, process)
        yield process.pid
    finally:
        process.terminate()
        wait_or_kill(process, _ENDING)


def _until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(round(_PATIENCE)):
        try:
            if httpx2.get(f"{url}/health/ready", timeout=5.0).is_success:
                return
        except httpx2.TransportError:
            pass
        try:
            raise RuntimeError(f"a service ended with code {process.wait(1.0)}; its words are on standard error")
        except subprocess.TimeoutExpired:
            continue
    raise TimeoutError(f"the service at {url} was not ready within {_PATIENCE:.0f} seconds")


if __name__ == "__main__":
    alone("http", measure)
