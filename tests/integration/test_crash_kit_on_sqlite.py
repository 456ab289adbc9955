"""The crash kit's shortcut for SQLite never lets two threads use one connection."""

import subprocess
import sys

import pytest

# SQLite survives all but the end of a connection under a statement: that ends the interpreter.
SCRIPT = """
import asyncio, sys
import aiosqlite
from polysaga.testing.crash_kit.sqlite_inline import AtOnce

async def connect():
    connection = await aiosqlite.connect(sys.argv[1], timeout=0.3, isolation_level=None, check_same_thread=False)
    connection._tx = AtOnce(connection._tx, connection._conn)
    return connection

async def ended(how):
    holder, waiter = await connect(), await connect()
    await holder.execute("BEGIN IMMEDIATE")
    task = asyncio.ensure_future(waiter.execute_fetchall("BEGIN IMMEDIATE"))
    while not waiter._tx._thread_is_busy:
        await asyncio.sleep(0)
    task.cancel()
    if how == "rollback":
        await waiter.rollback()
    if how == "cut":
        waiter._tx.cut()
    if how == "forgotten":
        await waiter.stop()
    else:
        await waiter.close()
    await holder.close()
    print(how)

async def main():
    for how in ("close", "rollback", "cut", "forgotten"):
        await ended(how)

asyncio.run(main())
"""


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("sqlite") / "one.db")


def test_a_connection_that_waits_for_a_lock_can_be_closed(database: str) -> None:
    command = [sys.executable, "-X", "faulthandler", "-c", SCRIPT, database]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.split() == ["close", "rollback", "cut", "forgotten"]
