"""Restate's server from its makers' npm package, one node at its default durability, and the Python service.

The server is under the Business Source License 1.1, the SDK under MIT. `scripts/setup bench` installs both.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx2

from benchmarks.process import wait_or_kill
from devservers.accounts import launched
from devservers.ports import free_port

_ROOT = Path(__file__).parents[1]
_PROGRAMS = _ROOT / ".servers" / "programs" / "restate" / "node_modules" / "@restatedev"
_PATIENCE = 60.0  # seconds for the server and the service to come up
_ENDING = 20.0  # seconds
_HYPERCORN = """\
bind = "127.0.0.1:{port}"
h2_max_concurrent_streams = 2147483647
keep_alive_max_requests = 2147483647
keep_alive_timeout = 2147483647
loglevel = "warning"
"""


class RestateMissing(Exception):
    """This machine has no Restate; `scripts/setup bench` installs it."""


@dataclass(frozen=True, slots=True)
class Restate:
    """A running node, with the service registered."""

    ingress: str
    version: str
    server: int  # process ids
    service: int


@contextmanager
def running(directory: Path) -> Iterator[Restate]:
    """Run the server and the service in *directory*; raise `RestateMissing`."""
    program = next(_PROGRAMS.glob("restate-server-*/bin/restate-server"), None)
    if program is None or find_spec("restate") is None or find_spec("hypercorn") is None:
        raise RestateMissing("Restate's server or its SDK is not installed: scripts/setup bench installs them")
    directory.mkdir()
    ingress, admin, node, service = (free_port() for _ in range(4))
    settings = {
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
        "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{node}",
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_LOG_FILTER": "warn",
    }
    serving = directory / "hypercorn.toml"
    serving.write_text(_HYPERCORN.format(port=service))
    commands = {
        "server": [str(program), "--no-logo", "--base-dir", str(directory / "data"), "--node-name", "benchmark"],
        "service": [sys.executable, "-m", "hypercorn", "--config", str(serving), "benchmarks.restate_service:app"],
    }
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for name, command in commands.items():
            # It shall not outlive this process.
            safe = launched(command, account=None, death_signal=signal.SIGTERM)
            with (directory / f"{name}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(safe, cwd=_ROOT, env=os.environ | settings, stdout=log, stderr=log)
                )
        _register(f"http://127.0.0.1:{admin}", f"http://127.0.0.1:{service}", processes, directory)
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=_ENDING)
        yield Restate(f"http://127.0.0.1:{ingress}", told.stdout.strip(), processes[0].pid, processes[1].pid)
    finally:
        for process in reversed(processes):
            process.terminate()
            wait_or_kill(process, _ENDING)


def _register(admin: str, service: str, processes: list[subprocess.Popen[bytes]], directory: Path) -> None:
    """Tell the server where the service is, once both are up; raise `RestateMissing` if they do not come up."""
    for _ in range(round(_PATIENCE)):
        if any(process.poll() is not None for process in processes):
            break
        try:
            answer = httpx2.post(f"{admin}/deployments", json={"uri": service}, timeout=5.0)
        except httpx2.TransportError:
            answer = None
        if answer is not None and answer.is_success:
            return
        _pause(processes[0])
    words = "".join(log.read_text(errors="replace")[-1000:] for log in directory.glob("*.log"))
    raise RestateMissing(f"Restate's server or the service did not come up:\n{words}")


def _pause(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        return
