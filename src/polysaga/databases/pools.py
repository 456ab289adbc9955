"""Nodes: one server each, with its pool. The only place where engines and clients are made.

A connection that a server, proxy or failover cut while it lay idle is found and replaced at checkout. There
is no ping per checkout: only a connection that nobody used for `_TRUSTED` seconds is asked first, so under
load the question is never put (HikariCP's bypass window does the same).
"""

import asyncio
import importlib.util
from collections.abc import Callable
from typing import Any

from sqlalchemy import event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from polysaga.clock import Clock
from polysaga.config import DatabaseSettings, masked
from polysaga.databases.dialects import SQL_DIALECTS, SqlDialect
from polysaga.databases.faults import Fault
from polysaga.errors import ConfigurationError, DatabaseUnavailable

_TRUSTED = 1.0  # seconds a connection may lie idle and still be trusted


class SqlNode:
    """One SQL server of a database: a pool that writes, a pool that reads, made on first use."""

    def __init__(self, database: str, role: str, url: str, settings: DatabaseSettings) -> None:
        self.database, self.role, self.settings = database, role, settings
        self.url = _sql_url(database, url)
        self.dialect: SqlDialect = SQL_DIALECTS[self.url.drivername]()
        self._engines: dict[bool, AsyncEngine] = {}
        self._single: AsyncEngine | None = None
        self._on_reader: Callable[[AsyncEngine], None] | None = None

    @property
    def name(self) -> str:
        """The node as people see it: its URL without the password."""
        return masked(self.url.render_as_string(hide_password=True))

    @property
    def writer(self) -> AsyncEngine:
        """The engine for transactions that may write."""
        return self._engine(read_only=False)

    @property
    def single(self) -> AsyncEngine:
        """The same pool for transactions of one statement, without BEGIN and COMMIT where that saves packets."""
        if not self.dialect.free_autocommit:
            return self.writer
        if self._single is None:
            self._single = self.writer.execution_options(isolation_level="AUTOCOMMIT")
        return self._single

    @property
    def reader(self) -> AsyncEngine:
        """The engine for plain reads: autocommit, and the server itself refuses writes."""
        return self._engine(read_only=True)

    def on_reader(self, prepare: Callable[[AsyncEngine], None]) -> None:
        """Have *prepare* see the engine for plain reads once, when it is made; at once if it exists."""
        self._on_reader = prepare
        if True in self._engines:
            prepare(self._engines[True])

    async def ping(self) -> None:
        """Return if the server answers; raise `DatabaseUnavailable` or `ConfigurationError` otherwise."""
        patience = self.settings.pool.connect_timeout
        try:
            async with asyncio.timeout(patience), self.reader.connect() as connection:
                await connection.exec_driver_sql("SELECT 1")
        except TimeoutError as error:
            raise DatabaseUnavailable(self.database, self.name, f"no answer in {patience:g} s") from error

    async def close(self) -> None:
        """Close every connection of both pools."""
        for engine in self._engines.values():
            await engine.dispose()
        self._engines.clear()
        self._single = None

    def _engine(self, *, read_only: bool) -> AsyncEngine:
        if read_only not in self._engines:
            self._engines[read_only] = self._create(read_only=read_only)
        return self._engines[read_only]

    def _create(self, *, read_only: bool) -> AsyncEngine:
        arguments = self.dialect.engine_arguments(self.url, self.settings)
        if read_only:
            arguments = self.dialect.reader_arguments(arguments)
        pool = self.settings.pool
        one = self.dialect.single_writer and not read_only
        engine = create_async_engine(
            self.url,
            pool_size=1 if one else pool.size,
            max_overflow=0 if one else pool.max_overflow,
            pool_timeout=pool.acquire_timeout,
            pool_recycle=pool.recycle,
            pool_use_lifo=not one,
            hide_parameters=True,  # errors end up in logs and in the journal, values do not
            pool_reset_on_return="rollback" if self.dialect.rolls_back_on_return else None,
            **arguments,
        )
        self.dialect.prepare(engine, read_only=read_only)
        self._watch(engine)
        if read_only and self._on_reader is not None:
            self._on_reader(engine)
        return engine

    def _watch(self, engine: AsyncEngine) -> None:
        clock = Clock()
        dialect = engine.sync_engine.dialect
        refusals: tuple[type[Exception], ...] = (OSError, TimeoutError, *_driver_errors(dialect))

        @event.listens_for(engine.sync_engine, "do_connect")
        def connect(_: Any, record: Any, positional: list[Any], named: dict[str, Any]) -> DBAPIConnection:
            try:
                return dialect.connect(*positional, **named)
            except refusals as error:
                raise self._refusal(error) from error

        @event.listens_for(engine.sync_engine, "checkin")
        def remember(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
            record.info["idle_since"] = clock.monotonic()

        @event.listens_for(engine.sync_engine, "checkout")
        def distrust(connection: DBAPIConnection, record: ConnectionPoolEntry, _: Any) -> None:
            idle_since = record.info.get("idle_since")
            if idle_since is None or clock.monotonic() - idle_since < _TRUSTED:
                return
            try:
                alive = dialect.do_ping(connection)
            except (OSError, dialect.loaded_dbapi.Error):
                alive = False
            if not alive:
                raise DisconnectionError  # the pool replaces the connection and asks again

    def _refusal(self, error: BaseException) -> Exception:
        reason = str(error).strip() or type(error).__name__
        if self.dialect.fault(error) is Fault.REJECTED:
            return ConfigurationError(
                f"database '{self.database}': {self.name} rejects the login ({reason}); "
                f"check databases.{self.database}.url"
            )
        return DatabaseUnavailable(self.database, self.name, reason)


def _driver_errors(dialect: Any) -> tuple[type[Exception], ...]:
    """Return what connecting may raise: SQLAlchemy does not wrap all of the driver's own errors there."""
    driver = getattr(dialect.loaded_dbapi, dialect.driver, None)
    names = ("Error", "PostgresError", "InterfaceError")
    raw = (getattr(driver, name) for name in names if hasattr(driver, name))
    return (dialect.loaded_dbapi.Error, *raw)


def _sql_url(database: str, text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise ConfigurationError(
            f"databases.{database}.url is not a URL; write e.g. postgresql+asyncpg://user@host/{database}"
        ) from None
    if url.drivername not in SQL_DIALECTS:
        known = ", ".join(f"{scheme}://" for scheme in SQL_DIALECTS)
        raise ConfigurationError(
            f"databases.{database}.url: '{url.drivername}://' is not supported for this handle; use one of {known}"
        )
    dialect = SQL_DIALECTS[url.drivername]
    require_driver(database, url.drivername.partition("+")[2], dialect.extra)
    return url


def require_driver(database: str, module: str, extra: str) -> None:
    """Raise `ConfigurationError` with the install command if *module* is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ConfigurationError(
            f"database '{database}' needs the driver '{module}': pip install 'polysaga[{extra}]'"
        )
