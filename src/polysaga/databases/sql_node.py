"""Nodes: one server each, with its pool. The only place where engines are made.

If a server, proxy or failover cut an idle connection, the pool finds and replaces it at checkout. There is no ping
per checkout: only a connection that has not answered for `_TRUSTED` seconds is pinged first. So under load none is
(HikariCP's bypass window does the same).

A node of a database with replicas is *watched*. `cut` breaks its connections in use when it falls silent or loses
its role; `retire` replaces its idle ones before they are lent again. The node that stands for the primary follows
it: `follow` points its pools at another server. Holders of the node, such as a saga's journal, go on with the next
connection.
"""

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

from sqlalchemy import Connection, ExceptionContext, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from polysaga.clock import Clock
from polysaga.config import DatabaseSettings, masked
from polysaga.databases.dialects import SQL_DIALECTS, SqlDialect
from polysaga.databases.dialects.options import UnusableOption, refuse_without_value
from polysaga.databases.dialects.sql import ANSWERED_AT
from polysaga.databases.driver_errors import driver_errors, errors_of_use, wrap_where_options_are_set
from polysaga.databases.endings import end_alone
from polysaga.databases.poolers import Connect, Pooler, SharedSessions
from polysaga.databases.pools import ORIGIN, CountedPool, Origin, PoolUse, keep_places
from polysaga.databases.samples import Sample
from polysaga.databases.streams import end_with_the_transaction
from polysaga.databases.urls import sql_url, unusable
from polysaga.errors import ConfigurationError, DatabaseUnavailable
from polysaga.faults import Fault
from polysaga.limits import limited

# The option of every engine, and so of every connection: its database, and whether it only reads.
BOUND_TO = "polysaga_bound_to"
_TRUSTED = 1.0  # seconds after its last answer in which a connection is lent again without a ping


Judge: TypeAlias = Callable[[Sample], str | None]  # why to refuse a connection to a server with this sample
Pool: TypeAlias = Literal["writer", "reader", "reserved"]


class SqlNode:
    """One SQL server of a database: a pool that writes, a pool that reads, made on first use.

    A node that keeps a journal also has a reserved connection.
    """

    def __init__(self, database: str, role: str, url: str, settings: DatabaseSettings) -> None:
        self.database, self.role, self.settings = database, role, settings
        self.url = sql_url(database, url)
        self.dialect: SqlDialect = SQL_DIALECTS[self.url.drivername]()
        try:
            refuse_without_value(url)
            self.dialect.address(self.url)
            self.dialect.options(self.url)
        except UnusableOption as error:
            raise unusable(database, role, error) from None
        self.admit: Callable[[], Judge] | None = None  # called before the server of a new connection is sampled
        self.watched = False
        self._engines: dict[Pool, AsyncEngine] = {}
        self._single: AsyncEngine | None = None
        self._on_reader: Callable[[AsyncEngine], None] | None = None
        self._snapshots: AsyncEngine | None = None
        self._followed = self.url
        # For people: the URL, without the password, of the server where new connections go.
        self.name = masked(self.url.render_as_string(hide_password=True))
        self._generation = 0
        self.given_back = 0  # connections that came back in order so far: the server had answered
        self._connections: set[Any] = set()  # all that are open, in use or not
        self._lent: set[Any] = set()  # those in use, of a watched node
        # Connected, while the dialect still questions the server.
        self._opening: weakref.WeakKeyDictionary[ConnectionPoolEntry, Any] = weakref.WeakKeyDictionary()
        self._dialing: set[asyncio.Task[Any]] = set()

    @property
    def writer(self) -> AsyncEngine:
        """The engine for transactions that may write."""
        return self._engines.get("writer") or self._create("writer")

    @property
    def single(self) -> AsyncEngine:
        """The writer's pool for transactions of one statement, without BEGIN and COMMIT if that saves packets."""
        if not self.dialect.free_autocommit:
            return self.writer
        if self._single is None:
            self._single = self.writer.execution_options(isolation_level="AUTOCOMMIT")
        return self._single

    @property
    def reader(self) -> AsyncEngine:
        """The engine for plain reads: autocommit, and the server itself refuses writes."""
        return self._engines.get("reader") or self._create("reader")

    @property
    def reserved(self) -> AsyncEngine:
        """One connection that writes and is not part of the pools, so that it never waits behind their users.

        For short transactions, one after the other; those of one statement are as on `single`. The only writer of
        a file has no other beside it: there this is `writer`.
        """
        if self.dialect.single_writer:
            return self.writer
        return self._engines.get("reserved") or self._create("reserved")

    def on_reader(self, prepare: Callable[[AsyncEngine], None]) -> None:
        """Call *prepare* once with the engine for plain reads: when it is made, or at once if it exists."""
        self._on_reader = prepare
        if "reader" in self._engines:
            prepare(self._engines["reader"])

    @property
    def snapshots(self) -> AsyncEngine:
        """The reader's pool for sessions that are one snapshot from their first statement to their last."""
        if self._snapshots is None:
            self._snapshots = self.reader.execution_options(isolation_level=self.dialect.snapshot)
        return self._snapshots

    @property
    def followed(self) -> URL:
        """Where new connections go: the node's own URL, unless it follows another node."""
        return self._followed

    @property
    def in_use(self) -> bool:
        """Whether any connection is lent."""
        return any(engine.sync_engine.pool.checkedout() > 0 for engine in self._engines.values())  # type: ignore[attr-defined]

    @property
    def pools(self) -> tuple[PoolUse, ...]:
        """What each pool is used for now; one that was never needed is left out."""
        return tuple(
            pool.use(name)
            for name, engine in self._engines.items()
            if isinstance(pool := engine.sync_engine.pool, CountedPool)
        )

    def follow(self, other: "SqlNode") -> None:
        """Connect to the server of *other* from now on, and cut the existing connections."""
        self._followed, self.name = other.url, other.name
        self.cut()

    def retire(self) -> None:
        """Replace every connection before it is lent again; those in use are left alone."""
        self._generation += 1

    def cut(self) -> None:
        """Replace every connection; break off those that are in use or being made."""
        self.retire()
        for adapted in (*(self._lent if self.watched else self._connections), *self._opening.values()):
            self.dialect.cut(adapted.driver_connection)
        for task in tuple(self._dialing):
            task.cancel()

    async def ping(self) -> None:
        """Return if the server answers; raise `DatabaseUnavailable` or `ConfigurationError` otherwise."""
        patience = self.settings.pool.connect_timeout
        if self.dialect.single_writer:
            patience += self.settings.lock_timeout  # another program may hold a new file
        try:
            await limited(self._ask(), patience)
        except TimeoutError as error:
            raise DatabaseUnavailable(self.database, self.name, f"no answer in {patience:g} s") from error

    async def _ask(self) -> None:
        async with self.reader.connect() as connection:
            await connection.exec_driver_sql("SELECT 1")

    def abandon(self) -> None:
        """Break off every connection, in use or not, without notice to the server: it or its driver hangs."""
        for adapted in (*self._connections, *self._opening.values()):
            self.dialect.discard(adapted.driver_connection)

    async def close(self) -> None:
        """Close every connection."""
        for engine in self._engines.values():
            await engine.dispose()
        self._engines.clear()
        self._single = self._snapshots = None

    def _arguments(self, url: URL, *, read_only: bool) -> dict[str, Any]:
        arguments = self.dialect.engine_arguments(url, self.settings)
        return self.dialect.reader_arguments(arguments) if read_only else arguments

    def _create(self, pool: Pool) -> AsyncEngine:
        read_only = pool == "reader"
        arguments = self._arguments(self.url, read_only=read_only)
        if pool == "reserved" and self.dialect.free_autocommit:
            arguments["isolation_level"] = "AUTOCOMMIT"
        settings = self.settings.pool
        one = self.dialect.single_writer and not read_only
        size, more = (1, 0) if one else (settings.size, settings.max_overflow)
        if pool == "reserved":
            size, more = 1, 1  # one more while a transaction that was given up still holds the first
        try:
            engine = create_async_engine(
                self.dialect.address(self.url),
                poolclass=CountedPool,
                pool_size=size,
                max_overflow=more,
                pool_timeout=settings.acquire_timeout,
                pool_recycle=settings.recycle,
                pool_use_lifo=not one,
                execution_options={BOUND_TO: (self.database, read_only)},
                hide_parameters=True,  # errors end up in logs and in the journal; values must not
                pool_reset_on_return="rollback" if self.dialect.rolls_back_on_return else None,
                **arguments,
                **self.settings.engine,
            )
        except (TypeError, ValueError, ArgumentError) as error:
            if not self.settings.engine and not isinstance(error, ArgumentError):
                raise
            place = "engine" if self.settings.engine else "url"
            raise ConfigurationError(
                f"databases.{self.database}.{place}: SQLAlchemy refuses it: {error}"
            ) from error
        keep_places(engine.sync_engine)
        cast(CountedPool, engine.sync_engine.pool).origin = Origin(self, read_only)
        end_alone(engine.sync_engine, self.dialect, self.database, read_only=read_only)
        self.dialect.prepare(engine, read_only=read_only)
        end_with_the_transaction(engine.sync_engine, self.dialect, self.database)
        wrap_where_options_are_set(engine.sync_engine)
        self._translate_refusals(engine, read_only=read_only)
        self._keep_count(engine)
        self._ask_the_idle(engine)
        self._replace_the_stale(engine, read_only=read_only)
        if self.watched:
            self._watch(engine)
        if read_only and self._on_reader is not None:
            self._on_reader(engine)
        self._engines[pool] = engine
        return engine

    def _keep_count(self, engine: AsyncEngine) -> None:
        @event.listens_for(engine.sync_engine, "connect", insert=True)
        def connected(connection: Any, record: ConnectionPoolEntry) -> None:
            self._opening[record] = connection

        @event.listens_for(engine.sync_engine, "connect")
        def opened(connection: Any, record: ConnectionPoolEntry) -> None:
            self._connections.add(connection)
            self._opening.pop(record, None)
            record.info.setdefault("generation", self._generation)

        @event.listens_for(engine.sync_engine, "checkin")
        def given_back(connection: Any, _: ConnectionPoolEntry) -> None:
            if connection is not None:  # None: it was broken off
                self.given_back += 1

        def closed(connection: Any, *_: Any) -> None:
            self._connections.discard(connection)

        for ending in ("close", "close_detached", "invalidate"):
            event.listen(engine.sync_engine, ending, closed)

    def _watch(self, engine: AsyncEngine) -> None:
        @event.listens_for(engine.sync_engine, "checkout", insert=True)
        def lend(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
            if record.info["generation"] != self._generation:
                self.dialect.cut(connection.driver_connection)  # closing it politely could take seconds
                raise DisconnectionError  # the pool replaces the connection and asks again
            self._lent.add(connection)

        def take_back(connection: Any, record: ConnectionPoolEntry, *_: Any) -> None:
            self._lent.discard(connection)

        for ending in ("checkin", "invalidate", "close"):
            event.listen(engine.sync_engine, ending, take_back)

    async def _dial(self, connect: Callable[..., Any], positional: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Connect, unless the node is cut meanwhile."""
        task = asyncio.ensure_future(connect(*positional, **named))
        self._dialing.add(task)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            self.dialect.discard_what_comes(task)
            raise
        finally:
            self._dialing.discard(task)
        if task.cancelled():
            raise ConnectionAbortedError("the node was taken out of service")
        return task.result()

    def _connect(self, open_one: Connect, pooler: Pooler, *, read_only: bool) -> DBAPIConnection:
        before = _cancellations()
        try:
            connection = pooler.connect(open_one)
        except SharedSessions:
            raise ConfigurationError(
                f"database '{self.database}': a pooler at {self.name} lends a connection of PostgreSQL for one "
                "transaction at a time, and Polysaga needs sessions; set pool_mode = session in the pooler "
                f"(PgBouncer) for this database, or let databases.{self.database}.url name PostgreSQL itself"
            ) from None
        try:
            if self.watched and self.admit is not None:
                self._admit(connection, self.admit())
            self.dialect.configure(connection, read_only=read_only)
            if _cancellations() > before:
                raise asyncio.CancelledError
        except BaseException:
            self.dialect.discard(connection.driver_connection)
            raise
        return connection  # type: ignore[no-any-return]

    def _open_one(
        self, dialect: Any, positional: Sequence[Any], named: dict[str, Any], *, read_only: bool, bare: bool
    ) -> Any:
        """Connect to the followed server, *bare* of our settings if a pooler refuses them."""
        if bare or self._followed is not self.url:
            positional, named = dialect.create_connect_args(self.dialect.address(self._followed))
            ours = self._arguments(self._followed, read_only=read_only)["connect_args"]
            named |= self.dialect.without_settings(ours) if bare else ours
        creator = self.dialect.connector(dialect.loaded_dbapi)
        if self.dialect.single_writer:  # a file has no login that could hang
            return dialect.connect(*positional, **named, async_creator_fn=creator)

        async def dial(*positional: Any, **named: Any) -> Any:
            return await self._dial(creator, positional, named)

        return dialect.connect(*positional, **named, async_creator_fn=dial)

    def _admit(self, watched: Any, judge: Judge) -> None:
        patience = self.settings.pool.connect_timeout
        sample = watched.run_async(lambda driver: limited(self.dialect.sample(driver), patience))
        watched.rollback()  # some drivers have begun a transaction for it
        refused = judge(sample)
        if refused is not None:
            raise DatabaseUnavailable(self.database, self.name, refused)

    def _translate_refusals(self, engine: AsyncEngine, *, read_only: bool) -> None:
        dialect = engine.sync_engine.dialect
        # Drivers raise TypeError and ValueError for options that they do not take.
        refusals: tuple[type[Exception], ...] = (OSError, TimeoutError, TypeError, ValueError)
        refusals += driver_errors(dialect)
        patience = self.settings.pool.connect_timeout
        poolers: dict[URL, Pooler] = {}  # by the server that is followed

        @event.listens_for(engine.sync_engine, "do_connect")
        def connect(_: Any, record: Any, positional: list[Any], named: dict[str, Any]) -> DBAPIConnection:
            def open_one(*, bare: bool) -> Any:
                return self._open_one(dialect, positional, named, read_only=read_only, bare=bare)

            try:
                if self.watched:
                    # Set first: a `cut` or `retire` while this one connects applies to it too.
                    record.info["generation"] = self._generation
                if self._followed not in poolers:
                    ours = self._arguments(self._followed, read_only=read_only)["connect_args"]
                    settings = self.dialect.session_settings(ours)
                    poolers[self._followed] = Pooler(self.dialect, settings, refusals, patience)
                return self._connect(open_one, poolers[self._followed], read_only=read_only)
            except RuntimeError as error:
                if self.dialect.hindrance(error) is None:
                    raise
                raise self._refusal(error) from error
            except refusals as error:
                raise self._refusal(error) from error

    def _ask_the_idle(self, engine: AsyncEngine) -> None:
        clock = Clock()
        dialect = engine.sync_engine.dialect
        errors = errors_of_use(dialect)

        @event.listens_for(engine.sync_engine, "checkout")
        def distrust(connection: DBAPIConnection, record: ConnectionPoolEntry, _: Any) -> None:
            now, info = clock.monotonic(), record.info
            answered_at, info[ANSWERED_AT] = info.get(ANSWERED_AT, now), now
            if info["generation"] != self._generation:
                raise DisconnectionError  # cut while it lay idle
            if now - answered_at < _TRUSTED:
                return
            try:
                alive = dialect.do_ping(connection)
            except errors:
                alive = False
            if not alive:
                raise DisconnectionError  # the pool replaces the connection and asks again

    def _replace_the_stale(self, engine: AsyncEngine, *, read_only: bool) -> None:
        @event.listens_for(engine.sync_engine, "handle_error")
        def look(context: ExceptionContext) -> None:
            if context.sqlalchemy_exception is not None:
                setattr(context.sqlalchemy_exception, ORIGIN, Origin(self, read_only))
            fault = self.dialect.fault(context.sqlalchemy_exception or context.original_exception)
            if fault is Fault.STALE_PLAN:
                self.retire()  # every connection prepared its statements before the schema changed
            elif fault is not None and fault.is_of_the_connection and not read_only:
                _replace_later(context.connection)

    def _refusal(self, error: BaseException) -> Exception:
        reason = str(error).strip() or type(error).__name__
        if isinstance(error, TimeoutError) and not str(error):
            reason = f"no answer in {self.settings.pool.connect_timeout:g} s"
        remedy = self.dialect.hindrance(error)
        if remedy is not None:
            return ConfigurationError(f"database '{self.database}': no login at {self.name} ({reason}); {remedy}")
        fault = self.dialect.fault(error)
        if fault in (Fault.REJECTED, Fault.DENIED):
            remedy = (
                "the password is '***', as SQLAlchemy writes it in a text: let the settings have the URL as an "
                "object, or url.render_as_string(hide_password=False)"
                if self.url.password == "***"  # noqa: S105 - SQLAlchemy's mask
                else f"correct the account or its password in databases.{self.database}.url, or let the account "
                "connect to this database"
            )
            return ConfigurationError(
                f"database '{self.database}': {self.name} rejects the login ({reason}); {remedy}"
            )
        if fault is Fault.NO_DATABASE:
            # Without a name PostgreSQL takes the account's.
            create = (
                f"CREATE DATABASE {self.url.database}" if self.url.database else "name it at the end of the URL"
            )
            return ConfigurationError(
                f"database '{self.database}': {self.name} has no database of this name ({reason}); "
                f"{create}, or correct databases.{self.database}.url"
            )
        if self.dialect.misfit(error):
            return ConfigurationError(
                f"database '{self.database}': a connection to {self.name} as its URL wants it cannot be had "
                f"({masked(' '.join(reason.split()))}); correct databases.{self.database}.url"
            )
        if fault is Fault.LOCK_TIMEOUT:
            reason += (
                f" by another program, for longer than databases.{self.database}.lock_timeout "
                f"({self.settings.lock_timeout:g} s)"
            )
        return DatabaseUnavailable(self.database, self.name, reason)


def _replace_later(connection: Connection | None) -> None:
    """Let *connection* be replaced before it is lent again."""
    if connection is not None and not connection.closed and not connection.invalidated:
        connection.info["generation"] = None


def _cancellations() -> int:
    """Return how often the current task was cancelled.

    Drivers connect by `asyncio.wait_for`. In Python 3.11 it loses a cancellation that comes just as the connection
    is made (bpo-37658): the task would live on, and a caller that waits for its end would wait for ever.
    """
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
