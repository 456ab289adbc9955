"""A connection to a SQLite file lives in a thread, which is stopped once; every waiting task gets an answer."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from polysaga import Databases, SqlDatabase
from polysaga.config import parse_settings
from tests.fixtures.waiting import until, within


@pytest.fixture
async def adapted(tmp_path: Path) -> AsyncIterator[Any]:
    """SQLAlchemy's adapter of a connection that no pool has any more."""
    handle, shop = SqlDatabase("shop"), {"url": f"sqlite+aiosqlite:///{tmp_path}/shop.db"}
    async with (
        Databases(handle).open(parse_settings({"databases": {"shop": shop}})),
        handle.primary.writer.connect() as connection,
    ):
        raw: Any = await connection.get_raw_connection()
        raw.detach()
        yield raw.dbapi_connection


async def test_two_tasks_that_close_one_connection_both_return(adapted: Any) -> None:
    closed = asyncio.gather(*(adapted.driver_connection.close() for _ in range(2)))
    await within(closed, "both have closed it")


async def test_a_task_that_is_cancelled_while_it_waits_for_the_end_takes_no_other_with_it(adapted: Any) -> None:
    cancelled, waiting = (adapted.driver_connection.stop() for _ in range(2))
    cancelled.cancel()
    await within(waiting, "the thread has ended")


async def test_nothing_is_asked_of_a_thread_that_ends(adapted: Any) -> None:
    """SQLAlchemy puts it into the thread's queue itself, and would wait for an answer for ever."""
    adapted.driver_connection.stop()
    with pytest.raises(ValueError, match="closed"):
        adapted.isolation_level = None


async def test_a_connection_that_is_given_up_commits_nothing_of_a_task_that_goes_on(
    adapted: Any, tmp_path: Path
) -> None:
    """Outside of the transaction that was rolled back each statement would be committed by itself."""
    driver = adapted.driver_connection
    await driver.execute_fetchall("CREATE TABLE sales (item TEXT)")
    await driver.execute_fetchall("BEGIN IMMEDIATE")
    open_before = await driver.execute("INSERT INTO sales VALUES ('lantern')")
    await driver._execute(driver._conn.give_up)
    for late in (open_before.execute, driver.execute):
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            await late("INSERT INTO sales VALUES ('candle')")
    assert not driver.in_transaction
    await driver.close()

    with closing(sqlite3.connect(tmp_path / "shop.db")) as other:
        assert other.execute("SELECT count(*) FROM sales").fetchone() == (0,)


async def test_a_thread_ends_although_its_file_cannot_be_closed(adapted: Any) -> None:
    driver = adapted.driver_connection

    class Broken:
        def close(self) -> None:
            raise OSError("no more")

    file, driver._connection = driver._connection, Broken()
    with pytest.raises(OSError, match="no more"):
        await driver.close()
    await until(lambda: not driver._thread.is_alive(), "the thread has ended")
    file.close()


async def test_a_connection_that_was_stopped_may_be_closed(adapted: Any) -> None:
    adapted.driver_connection.stop()
    await within(adapted.driver_connection.close(), "it is closed")
    await until(lambda: not adapted.driver_connection._thread.is_alive(), "the thread has ended")
