"""A test whose server dies fails within a minute and shows the server's last log lines; so do all later ones."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from devservers import LocalServer, Server

PROJECT = Path(__file__).parents[2]
PLUGINS = [part for name in ("tiers", "watch", "servers") for part in ("-p", f"tests.fixtures.{name}")]
LIMIT = 60.0  # seconds

NOTED = """
import os, pathlib, signal

def kill(server):
    pathlib.Path("killed").touch()
    os.kill(server.pid, signal.SIGKILL)
"""
SUITE = """
import asyncio, pytest

@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"

async def test_waits_in_an_event_loop({server}):
    kill({server})
    await asyncio.Event().wait()

def test_comes_later({server}):
    pass

def test_needs_no_server():
    pass
"""
THREAD = """
import threading

def test_waits_outside_of_any_loop({server}):
    kill({server})
    threading.Event().wait()
"""
PASSES = """
import os, select

def test_does_not_notice({server}):
    process = os.pidfd_open({server}.pid)
    kill({server})
    select.select([process], [], [], 30)
"""


HIDDEN = """
def test_asks_for_it_secretly(request):
    request.getfixturevalue("postgres_server")
"""


def run(directory: Path, suite: str) -> tuple[str, float]:
    """Return what pytest prints about *suite*, which must not be green, and the seconds since the kill."""
    (directory / "test_suite.py").write_text(NOTED + suite)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-o", "anyio_mode=auto", *PLUGINS, "test_suite.py"],
        cwd=directory,
        env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=2 * LIMIT,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    killed = directory / "killed"
    return done.stdout, time.time() - (killed.stat().st_mtime if killed.exists() else 0.0)


@pytest.fixture(params=["postgres_server", "mariadb_server", "mongo_server"])
def server(request: pytest.FixtureRequest) -> str:
    running: Server = request.getfixturevalue(request.param)
    if not isinstance(running, LocalServer):
        pytest.skip(f"{running.origin} names a server that tests may not kill")
    name: str = request.param
    return name


def test_a_test_that_waits_for_something_else_is_interrupted(server: str, tmp_path: Path) -> None:
    told, seconds = run(tmp_path, SUITE.format(server=server))
    assert "test_waits_in_an_event_loop FAILED" in told
    assert "test_comes_later ERROR" in told
    assert "test_needs_no_server PASSED" in told
    assert "ended with code -9" in told
    assert seconds < LIMIT


def test_the_last_log_lines_are_shown(postgres_server: Server, tmp_path: Path) -> None:
    told, seconds = run(tmp_path, THREAD.format(server="postgres_server"))
    assert "ended with code -9" in told
    assert "database system is ready to accept connections" in told
    assert seconds < LIMIT


def test_a_test_that_does_not_notice_fails_all_the_same(postgres_server: Server, tmp_path: Path) -> None:
    told, _ = run(tmp_path, PASSES.format(server="postgres_server"))
    assert "test_does_not_notice FAILED" in told
    assert "A server ended" in told or "ended with code -9" in told


def test_a_server_that_a_test_does_not_name_is_not_started(tmp_path: Path) -> None:
    """The tier of a test follows from what it names: a hidden use would start servers in `make test-quick`."""
    told, _ = run(tmp_path, HIDDEN)
    assert "this test asks for a server, and nothing in its signature says so" in told
