"""PostgreSQL through psycopg 3."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from polysaga.config import DatabaseSettings
from polysaga.databases.dialects import postgres_options
from polysaga.databases.dialects.postgres import WAITS, Postgres
from polysaga.databases.dialects.sending import Rendered, StatementResult
from polysaga.limits import GRACE, leave_behind
from polysaga.loading import load_module

# The driver reads text in these forms only, and roles and databases may set others.
_TEXT_FORMS = {"DateStyle": "ISO", "IntervalStyle": "postgres", "extra_float_digits": "1", "array_nulls": "on"}
_FAILED = 3  # of libpq's states: the server answers to COMMIT that it has rolled back
_NO_TRANSACTION = (0, 4)  # of libpq's states: idle, and unknown because the connection is closed


class PostgresPsycopg(Postgres):
    """psycopg 3: everything libpq can do, and the same driver for synchronous tools."""

    extra: ClassVar[str] = "psycopg"

    def options(self, url: URL) -> dict[str, Any]:
        inherited = load_module("psycopg").pq.Conninfo.get_defaults()
        known = {option.keyword: option.val for option in inherited if option.val}
        return postgres_options.libpq_options(url, known.get(b"options", b"").decode())

    def engine_arguments(self, url: URL, settings: DatabaseSettings) -> dict[str, Any]:
        theirs = self.options(url)
        given = {**self._limits(settings), **_TEXT_FORMS}
        values = {name: value.replace(" ", r"\ ") for name, value in given.items()}
        limits = " ".join(f"-c {name}={value}" for name, value in values.items())
        return {
            "isolation_level": "READ COMMITTED",
            "connect_args": {
                "application_name": "polysaga",
                **theirs,
                "client_encoding": "utf8",
                "options": f"{theirs['options']} {limits}" if "options" in theirs else limits,
                "connect_timeout": max(1, round(settings.pool.connect_timeout)),
            },
        }

    def refusing_writes(self, connect: dict[str, Any]) -> dict[str, Any]:
        options = f"{connect['options']} -c default_transaction_read_only=on"
        return {**postgres_options.reader_arguments(connect), "options": options}

    def prepare(self, engine: AsyncEngine, *, read_only: bool) -> None:
        super().prepare(engine, read_only=read_only)
        # SQLAlchemy closes a connection that a caller has lost only where that takes no wait.
        dialect = engine.sync_engine.dialect
        dialect.has_terminate = True
        dialect.do_terminate = self._discard_adapted  # type: ignore[method-assign,assignment]

    def _discard_adapted(self, adapted: Any) -> None:
        self.discard(adapted.driver_connection)

    def without_settings(self, connect: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in connect.items() if name != "options"}

    def session_settings(self, connect: dict[str, Any]) -> dict[str, str]:
        return postgres_options.settings_in(connect["options"])

    def _told_session(self, driver: Any) -> int:
        return int(driver.info.backend_pid)

    async def session_of(self, driver: Any) -> int:
        session = await super().session_of(driver)
        await driver.commit()  # the question began a transaction
        return session

    async def set_session(self, driver: Any, settings: Mapping[str, str]) -> None:
        await super().set_session(driver, settings)
        await driver.commit()  # or a rollback would undo the settings

    def _forget_plans(self, cursor: Any) -> None:
        cursor.execute("DEALLOCATE ALL")

    def connector(self, adapter: Any) -> Callable[..., Any]:
        return adapter.psycopg.AsyncConnection.connect  # type: ignore[no-any-return]

    def line_arguments(self, url: URL, settings: DatabaseSettings) -> dict[str, Any]:
        return {**super().line_arguments(url, settings), "autocommit": True}

    async def hang_up(self, driver: Any) -> None:
        if driver.lock.locked():
            self.cut(driver)
        closing = asyncio.ensure_future(_close(driver))
        _, late = await asyncio.wait({closing}, timeout=GRACE / 2)
        for one in late:
            leave_behind(one)

    def waits(self, driver: Any) -> bool:
        return bool(driver.info.server_version >= WAITS * 10_000)

    def _begin(self, adapted: Any) -> None:
        if not self.in_transaction(adapted.driver_connection):
            adapted.run_async(lambda driver: driver.execute("BEGIN"))

    def check_commit(self, driver: Any) -> bool:
        return bool(driver.pgconn.transaction_status != _FAILED)

    def in_transaction(self, driver: Any) -> bool:
        return driver.pgconn.transaction_status not in _NO_TRANSACTION

    def cut(self, driver: Any) -> None:
        if driver.closed:
            return
        # libpq has no call that ends a wait from outside; shutting down its socket ends it.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(driver.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)

    def statement_lock(self, adapted: Any) -> asyncio.Lock:
        lock: asyncio.Lock = adapted.driver_connection.lock  # SQLAlchemy's adapter relies on it
        return lock

    def discard(self, driver: Any) -> None:
        self.cut(driver)
        if driver.lock.locked():
            leave_behind(asyncio.ensure_future(_close(driver)))
        else:
            driver.pgconn.finish()

    async def send(self, driver: Any, statement: Rendered, values: Mapping[str, Any]) -> StatementResult:
        cursor = await driver.execute(statement.sql, statement.bind(values))
        rows = await cursor.fetchall() if statement.answers else ()
        # psycopg gives -1 as rowcount with RETURNING: decide by the rows.
        return StatementResult(rows, len(rows) if statement.answers else cursor.rowcount)

    def _placeholder(self, name: str, order: list[str]) -> str:
        order.append(name)
        return "%s"


async def _close(driver: Any) -> None:
    """Close psycopg's connection when no task uses it any more.

    Closing it frees memory that libpq still reads for a waiting task; the process would crash.
    """
    async with driver.lock:
        await driver.close()
