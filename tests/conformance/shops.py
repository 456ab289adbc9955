"""A shop on each kind of database: what a user's steps do there, and what the server says about it.

A step sells (a row per sale, keyed by its receipt), its compensation refunds. Everything that is asserted is
read through a connection of its own, never through the participant under test.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any, Protocol

from pydantic import SecretStr
from sqlalchemy import String, func, insert, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from polysaga.clock import Clock
from polysaga.config import DatabaseSettings, PoolSettings
from polysaga.databases import Fault, MongoNode, SqlNode
from polysaga.databases.dialects.sending import Seal
from polysaga.sagas.journal.tables import LEDGER, OUTBOX, ledger, metadata
from polysaga.sagas.participants import Entry, Participant, UndoWork, Work
from polysaga.sagas.participants.mongo import MongoParticipant
from polysaga.sagas.participants.mysql import MySQLParticipant
from polysaga.sagas.participants.postgres import PostgresParticipant
from polysaga.sagas.participants.sql import SqlParticipant
from polysaga.sagas.participants.sqlite import SQLiteParticipant
from polysaga.sagas.protocol.rows import LedgerRow
from tests.conformance.kinds import Kind
from tests.fixtures.left_behind import driver_threads_ended
from tests.fixtures.waiting import until, within

PARTICIPANTS: dict[str, type[SqlParticipant]] = {
    "postgresql": PostgresParticipant,
    "mysql": MySQLParticipant,
    "sqlite": SQLiteParticipant,
}


class Base(DeclarativeBase):
    """The shop's own tables."""


class Sale(Base):
    """One effect of a step."""

    __tablename__ = "sales"
    receipt: Mapped[str] = mapped_column(String(64), primary_key=True)
    item: Mapped[str] = mapped_column(String(64))


class Refund(Base):
    """One effect of a compensation."""

    __tablename__ = "refunds"
    receipt: Mapped[str] = mapped_column(String(64), primary_key=True)
    item: Mapped[str] = mapped_column(String(64))


class Shelf(Base):
    """A row that several steps want to change."""

    __tablename__ = "shelves"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    touched: Mapped[int] = mapped_column(default=0)


class Pending(Protocol):
    """An action of another process that has written everything and not yet committed."""

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...


class Shop(Protocol):
    """What the suite needs from a kind of database."""

    kind: Kind

    def participant(self, *, connections: int = 4, lock_timeout: float = 5.0) -> Participant:
        """Return a participant with a pool of its own, like that of one more process."""

    async def sell(self, session: Any, item: str, receipt: str | None = None) -> None: ...

    async def refund(self, session: Any, item: str) -> None: ...

    async def touch(self, session: Any, shelf: str) -> None: ...

    async def put_up(self, *shelves: str) -> None: ...

    async def sold(self, item: str) -> int: ...

    async def refunded(self, item: str) -> int: ...

    def uncommitted_action(self, entry: Entry, item: str) -> Any:
        """Lend a `Pending` that sold *item* and wrote its row."""

    async def somebody_waits(self) -> None:
        """Return when a transaction waits for another one, as far as the server can tell."""

    async def open_transactions(self) -> int: ...


def settings(url: str, *, connections: int = 4, lock_timeout: float = 5.0, idle: float = 15.0) -> DatabaseSettings:
    pool = PoolSettings(size=connections, max_overflow=0, acquire_timeout=5.0)
    return DatabaseSettings(
        url=SecretStr(url), pool=pool, lock_timeout=lock_timeout, idle_transaction_timeout=idle
    )


@cache
def lending_connections(kind: type[SqlParticipant]) -> type[SqlParticipant]:
    """Return *kind*, but each step and each compensation gets a connection, as if annotated so."""

    class OnConnections(kind):  # type: ignore[valid-type, misc]
        async def act(self, entry: Entry, work: Work, *, bare: bool = True) -> str:
            return await super().act(entry, work, bare=bare)

        async def transact(self, work: Work, seal: Seal, *, bare: bool = True) -> str:
            return await super().transact(work, seal, bare=bare)

        async def undo(self, entry: Entry, work: UndoWork | None, *, bare: bool = True) -> LedgerRow:
            return await super().undo(entry, work, bare=bare)

    return OnConnections


class SqlShop:
    """A shop on PostgreSQL, MariaDB, MySQL or SQLite."""

    def __init__(self, kind: Kind, url: str, stack: AsyncExitStack) -> None:
        self.kind, self.url, self._stack = kind, url, stack
        self.observer: AsyncEngine = create_async_engine(url)
        stack.push_async_callback(self.observer.dispose)

    def node(self, *, connections: int = 4, lock_timeout: float = 5.0, idle: float = 15.0) -> SqlNode:
        """Return a node with a pool of its own, closed with the test."""
        limits = settings(self.url, connections=connections, lock_timeout=lock_timeout, idle=idle)
        node = SqlNode("shop", "primary", self.url, limits)
        self._stack.push_async_callback(node.close)
        return node

    def participant(self, *, connections: int = 4, lock_timeout: float = 5.0) -> SqlParticipant:
        node = self.node(connections=connections, lock_timeout=lock_timeout)
        kind = PARTICIPANTS[node.dialect.name]
        return lending_connections(kind)(node) if self.kind.bare else kind(node)

    async def sell(self, session: Any, item: str, receipt: str | None = None) -> None:
        await session.execute(insert(Sale).values(receipt=receipt or uuid.uuid4().hex, item=item))

    async def refund(self, session: Any, item: str) -> None:
        await session.execute(insert(Refund).values(receipt=uuid.uuid4().hex, item=item))

    async def touch(self, session: Any, shelf: str) -> None:
        await session.execute(update(Shelf).where(Shelf.name == shelf).values(touched=Shelf.touched + 1))

    async def put_up(self, *shelves: str) -> None:
        async with self.observer.begin() as connection:
            await connection.execute(insert(Shelf), [{"name": name, "touched": 0} for name in shelves])

    async def sold(self, item: str) -> int:
        return await self.count(select(func.count()).where(Sale.item == item))

    async def refunded(self, item: str) -> int:
        return await self.count(select(func.count()).where(Refund.item == item))

    async def count(self, query: Any) -> int:
        async with self.observer.connect() as connection:
            return int((await connection.execute(query)).scalar_one())

    @asynccontextmanager
    async def uncommitted_action(self, entry: Entry, item: str) -> AsyncIterator[AsyncConnection]:
        key = self.participant().node.dialect.key(entry.saga_id)
        values = {"saga_id": key, "step": entry.step, "state": "done", "epoch": entry.epoch, "result": '"sold"'}
        async with self.observer.connect() as connection:
            if self.kind.scheme.startswith("sqlite"):
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            await connection.execute(insert(Sale).values(receipt=uuid.uuid4().hex, item=item))
            now = "2026-01-01 00:00:00" if self.kind.scheme.startswith("sqlite") else func.now()
            await connection.execute(insert(ledger).values(**values, recorded_at=now))
            yield _SqlPending(connection) if self.kind.scheme.startswith("sqlite") else connection  # type: ignore[misc]

    async def somebody_waits(self) -> None:
        query = {
            "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event_type = 'Lock'",
            "mysql": "SHOW GLOBAL STATUS WHERE variable_name = 'Innodb_row_lock_current_waits'",
        }.get(self.kind.scheme.partition("+")[0])
        if query is None:
            await turns(50)
            return
        async with self.observer.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await until(lambda: _nonzero(connection, query), "a transaction waits for another one")

    async def open_transactions(self) -> int:
        if self.kind.scheme.startswith("postgresql"):
            return await self.count(
                text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND application_name = 'polysaga' AND state LIKE 'idle in transaction%'"
                )
            )
        if self.kind.scheme.startswith("mysql"):
            return await self._open_in_innodb()
        async with self.observer.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.exec_driver_sql("PRAGMA busy_timeout = 0")
            try:
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            except OperationalError:
                return 1
            await connection.exec_driver_sql("ROLLBACK")
        return 0

    async def _open_in_innodb(self) -> int:
        # Not information_schema.innodb_trx: it is a copy that is not renewed while it is read often.
        async with self.observer.connect() as connection:
            status = (await connection.exec_driver_sql("SHOW ENGINE INNODB STATUS")).mappings().one()["Status"]
            own = (await connection.exec_driver_sql("SELECT connection_id(), database()")).one()
            # Not information_schema.processlist: MySQL warns of it.
            shown = await connection.exec_driver_sql("SHOW PROCESSLIST")
            threads = {row.Id for row in shown if row.db == own[1] and row.Id != own[0]}
        blocks = status.split("---TRANSACTION ")[1:]
        active = [block for block in blocks if ", ACTIVE" in block.splitlines()[0]]
        return sum(1 for block in active if any(f"thread id {thread}," in block for thread in threads))


class _SqlPending:
    """SQLite: the transaction that was begun by hand is ended by hand."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def commit(self) -> None:
        await self._connection.exec_driver_sql("COMMIT")

    async def rollback(self) -> None:
        await self._connection.exec_driver_sql("ROLLBACK")


class MongoShop:
    """A shop on MongoDB."""

    def __init__(self, kind: Kind, url: str, stack: AsyncExitStack) -> None:
        self.kind, self.url, self._stack = kind, url, stack
        self.observer = self.node()

    def node(self, *, connections: int = 4, lock_timeout: float = 5.0) -> MongoNode:
        node = MongoNode("shop", "primary", self.url, settings(self.url, connections=connections))
        self._stack.push_async_callback(node.close)
        return node

    def participant(self, *, connections: int = 4, lock_timeout: float = 5.0) -> MongoParticipant:
        return MongoParticipant(self.node(connections=connections), Clock())

    async def sell(self, session: Any, item: str, receipt: str | None = None) -> None:
        await session["sales"].insert_one({"_id": receipt or uuid.uuid4().hex, "item": item})

    async def refund(self, session: Any, item: str) -> None:
        await session["refunds"].insert_one({"item": item})

    async def touch(self, session: Any, shelf: str) -> None:
        await session["shelves"].update_one({"_id": shelf}, {"$inc": {"touched": 1}})

    async def put_up(self, *shelves: str) -> None:
        await self.observer.documents["shelves"].insert_many([{"_id": name, "touched": 0} for name in shelves])

    async def sold(self, item: str) -> int:
        return await self.observer.documents["sales"].count_documents({"item": item})

    async def refunded(self, item: str) -> int:
        return await self.observer.documents["refunds"].count_documents({"item": item})

    @asynccontextmanager
    async def uncommitted_action(self, entry: Entry, item: str) -> AsyncIterator[Pending]:
        documents = self.observer.documents
        async with self.observer.client.start_session() as session:
            await session.start_transaction()
            await documents["sales"].insert_one({"item": item}, session=session)
            row = {"state": "done", "epoch": entry.epoch, "result": '"sold"'}
            await documents[LEDGER].insert_one(
                {"_id": f"{entry.saga_id.hex}:{entry.step}", **row}, session=session
            )
            yield _MongoPending(session)

    async def somebody_waits(self) -> None:
        """No writer ever waits here."""
        await turns(50)

    async def open_transactions(self) -> int:
        return 0  # not told; what was left open would fail the next write with a conflict


class _MongoPending:
    def __init__(self, session: Any) -> None:
        self._session = session

    async def commit(self) -> None:
        await self._session.commit_transaction()

    async def rollback(self) -> None:
        await self._session.abort_transaction()


async def furnish(kind: Kind, url: str) -> None:
    """Create the ledger, the journal and the shop's own tables."""
    if not kind.sql:
        async with AsyncExitStack() as stack:
            shop = MongoShop(kind, url, stack)
            for name in (LEDGER, OUTBOX, "sales", "refunds", "shelves"):
                await shop.observer.documents.create_collection(name)
        return
    node = SqlNode("shop", "primary", url, settings(url))
    async with node.writer.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.run_sync(Base.metadata.create_all)
    await node.close()


@asynccontextmanager
async def opened(kind: Kind, url: str) -> AsyncIterator[SqlShop | MongoShop]:
    """Lend a shop; every pool that it made is closed at the end."""
    _expect_noise()
    async with driver_threads_ended(), AsyncExitStack() as stack:
        yield SqlShop(kind, url, stack) if kind.sql else MongoShop(kind, url, stack)


def _expect_noise() -> None:
    """Let asyncpg's complaint pass that a connection given up by a cancellation was lost.

    It leaves a future behind that no task awaits; the loop reports it whenever the collector comes by.
    """
    loop = asyncio.get_running_loop()
    report = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "connection_lost" in str(context.get("exception")):
            return
        if report is None:
            loop.default_exception_handler(context)
        else:
            report(loop, context)

    loop.set_exception_handler(handle)


async def turns(count: int) -> None:
    """Let the other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def nothing_open(shop: Shop) -> None:
    """Return when no transaction is open; what was cut off may take the server a moment to roll back."""

    async def closed() -> bool:
        return await shop.open_transactions() == 0

    await until(closed, "no transaction is open", patience=5.0)


async def settled(participant: Participant, call: Callable[[], Awaitable[Any]], faults: list[Fault]) -> Any:
    """Repeat *call* as long as it fails with what the database calls transient; note what it was."""

    async def repeat() -> Any:
        while True:
            try:
                return await call()
            except Exception as error:
                fault = participant.fault(error)
                if fault is None or not fault.transient:
                    raise
                faults.append(fault)
                await turns(20)

    return await within(repeat(), "the call succeeds")


async def _nonzero(connection: AsyncConnection, query: str) -> bool:
    *_, told = (await connection.exec_driver_sql(query)).one()  # MySQL puts a name before it
    return int(told) > 0
