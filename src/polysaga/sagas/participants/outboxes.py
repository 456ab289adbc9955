"""Starts that are committed with a transaction of some participant, but not yet in the journal.

The row is written in the caller's own transaction, so it exists if and only if that transaction committed. A
drain moves it. First it inserts the journal row, due at once, unless it exists; then it deletes the outbox row.
A process that dies between the two leaves both rows, and the next drain finds the journal row. Any number of
processes may drain at once: the journal row's id makes moving a start idempotent. They take no locks and meet
on the primary key.

A row that has waited nearly as long as sagas are kept (`sagas.retention`) may belong to a saga that has run
already: it began before the drain died, ended and was removed. So the insert has a fence. A row past it is
parked, because starting it could run the saga twice
(`test_a_start_that_waits_for_longer_than_sagas_are_kept_is_parked`).

A row cannot be moved past the fence, if its key now stands for another input, or if it cannot be decoded. Such a
row stays with the reason in `error`, is announced once (`StartParked`) and holds up no other row. A drain also
moves sagas that its process does not know: the journal keeps them for a process that does.
"""

import asyncio
import dataclasses
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from polysaga.clock import Clock
from polysaga.databases import Fault, MongoNode, MongoSession, Node, SqlNode
from polysaga.databases.dialects.sending import sender
from polysaga.sagas.journal.paging import quoted
from polysaga.sagas.journal.statements import unless_it_exists
from polysaga.sagas.journal.tables import OUTBOX
from polysaga.sagas.participants.reading import explaining, read_rows
from polysaga.sagas.protocol.contradictions import Contradiction, stuck_start
from polysaga.sagas.protocol.rows import Birth, Claim


@dataclass(frozen=True, slots=True)
class Waiting:
    """One row of an outbox, as it was read."""

    saga_id: UUID
    name: str
    birth: str
    error: str | None = None
    age: float = 0.0  # seconds since it was written


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many starts an outbox has."""

    waiting: int  # to be moved to the journal
    parked: int  # they need a person
    oldest: float  # seconds since the oldest that waits was written; 0 without any


class Outbox(Protocol):
    """One database's outbox."""

    node: Any
    database: str
    news: asyncio.Event  # a start was committed here just now

    async def exists(self) -> bool:
        """Return whether the database has an outbox."""

    async def put(self, tx: Any, waiting: Waiting) -> tuple[bool, Waiting]:
        """Insert *waiting* in the transaction *tx* unless its id exists; return whether it is new, and the row.

        On MySQL and MariaDB a row that another transaction inserts at the same moment counts as new.
        """

    async def page(self, most: int, only: Collection[str] | None = None) -> Sequence[Waiting]:
        """Return the oldest *most* rows that are not parked, as committed on the primary.

        With *only* those of sagas of these names.
        """

    async def find(self, saga_id: UUID) -> Waiting | None:
        """Return the row of a saga, if there is one."""

    async def remove(self, saga_ids: Sequence[UUID]) -> None:
        """Delete the rows of these sagas."""

    async def park(self, saga_id: UUID, reason: str) -> None:
        """Record why the row cannot be moved."""

    async def backlog(self, most: int) -> Backlog:
        """Return how many starts are here; at most *most* are read."""

    async def stuck(self, patience: float, most: int) -> list[Contradiction]:
        """Return the oldest *most* starts that are parked, or were written more than *patience* seconds ago."""


class SqlOutbox:
    """The outbox of an SQL database."""

    def __init__(self, node: SqlNode) -> None:
        self.node, self.database, self.news = node, node.database, asyncio.Event()
        dialect = node.dialect
        found = f"SELECT id, name, birth, error, -{dialect.seconds_until('created_at')} FROM {OUTBOX} WHERE"
        self._insert = dialect.render(
            f"INSERT INTO {OUTBOX} (id, name, birth, created_at) VALUES (:id, :name, :birth, {dialect.clock}) "
            + unless_it_exists(dialect)
        )
        self._find = dialect.render(f"{found} id = :id")
        self._waiting_text = f"{found} error IS NULL {{}} ORDER BY created_at LIMIT :most"
        self._page = dialect.render(self._waiting_text.format(""))
        self._remove = dialect.render(f"DELETE FROM {OUTBOX} WHERE id = :id")
        self._stuck = dialect.render(
            f"SELECT id, name, error FROM {OUTBOX} WHERE error IS NOT NULL "
            f"OR created_at < {dialect.ago(':patience')} ORDER BY created_at LIMIT :most"
        )
        age = f"CASE WHEN error IS NULL THEN -({dialect.seconds_until('created_at')}) ELSE 0 END"
        parked = "CASE WHEN error IS NULL THEN 0 ELSE 1 END"
        self._backlog = dialect.render(
            "SELECT count(*) AS number, sum(parked) AS parked, max(age) AS oldest FROM "
            f"(SELECT {parked} AS parked, {age} AS age FROM {OUTBOX} LIMIT :most) AS found"
        )
        self._park = dialect.render(f"UPDATE {OUTBOX} SET error = :error WHERE id = :id")

    async def exists(self) -> bool:
        async with self.node.single.connect() as connection:
            return await connection.run_sync(lambda sync: inspect(sync).has_table(OUTBOX))

    async def put(self, tx: AsyncSession | AsyncConnection, waiting: Waiting) -> tuple[bool, Waiting]:
        send = sender(tx if isinstance(tx, AsyncConnection) else await tx.connection())
        dialect = self.node.dialect
        key = {"id": dialect.key(waiting.saga_id)}
        # The count of MySQL's INSERT is the same for a row that exists.
        existed = not dialect.returns_rows and (await send(self._find, key)).count > 0
        inserted = await send(self._insert, {**key, "name": waiting.name, "birth": waiting.birth})
        (row,) = (await send(self._find, key)).rows
        return inserted.count > 0 and not existed, self._waiting(row)

    async def page(self, most: int, only: Collection[str] | None = None) -> Sequence[Waiting]:
        page = self._page
        if only is not None:
            page = self.node.dialect.render(self._waiting_text.format(f"AND name IN ({quoted(only)})"))
        async with self.node.single.connect() as connection:
            rows = (await sender(connection)(page, {"most": most})).rows
        return [self._waiting(row) for row in rows]

    async def find(self, saga_id: UUID) -> Waiting | None:
        async with self.node.single.connect() as connection:
            rows = (await sender(connection)(self._find, {"id": self.node.dialect.key(saga_id)})).rows
        return self._waiting(rows[0]) if rows else None

    async def remove(self, saga_ids: Sequence[UUID]) -> None:
        async with self.node.writer.begin() as connection:
            send = sender(connection)
            for saga_id in sorted(saga_ids):  # in one order, so that two drains do not deadlock
                await send(self._remove, {"id": self.node.dialect.key(saga_id)})

    async def park(self, saga_id: UUID, reason: str) -> None:
        async with self.node.writer.begin() as connection:
            await sender(connection)(self._park, {"id": self.node.dialect.key(saga_id), "error": reason})

    async def backlog(self, most: int) -> Backlog:
        (row,) = await read_rows(self.node, self._backlog, {"most": most}, "ledger")
        parked = int(row["parked"] or 0)
        return Backlog(int(row["number"]) - parked, parked, float(row["oldest"] or 0.0))

    async def stuck(self, patience: float, most: int) -> list[Contradiction]:
        rows = await read_rows(self.node, self._stuck, {"patience": patience, "most": most}, "ledger")
        key_from = self.node.dialect.key_from
        return [stuck_start(key_from(row["id"]), row["name"], self.database, row["error"]) for row in rows]

    def _waiting(self, row: Sequence[Any]) -> Waiting:
        key, name, birth, error, age = row
        return Waiting(self.node.dialect.key_from(key), name, birth, error, age)


class MongoOutbox:
    """The outbox of a MongoDB database."""

    def __init__(self, node: MongoNode, clock: Clock) -> None:
        self.node, self.database, self.news = node, node.database, asyncio.Event()
        self._clock = clock

    async def exists(self) -> bool:
        return bool(await self.node.documents.list_collection_names(filter={"name": OUTBOX}))

    async def put(self, tx: MongoSession, waiting: Waiting) -> tuple[bool, Waiting]:
        # Find first: a duplicate key would end the caller's transaction.
        rows = self.node.driver.without_concerns(tx.database)[OUTBOX]
        found = await rows.find_one({"_id": waiting.saga_id.hex}, session=tx.client_session)
        if found is not None:
            return False, self._waiting(found)
        row = {"_id": waiting.saga_id.hex, "name": waiting.name, "birth": waiting.birth, "error": None}
        await rows.insert_one({**row, "created_at": self._clock.now()}, session=tx.client_session)
        return True, waiting

    async def page(self, most: int, only: Collection[str] | None = None) -> Sequence[Waiting]:
        named = {} if only is None else {"name": {"$in": sorted(only)}}
        found = self._committed().find({"error": None, **named}).sort("created_at").limit(most)
        return [self._waiting(row) async for row in found]

    async def find(self, saga_id: UUID) -> Waiting | None:
        row = await self._committed().find_one({"_id": saga_id.hex})
        return None if row is None else self._waiting(row)

    async def remove(self, saga_ids: Sequence[UUID]) -> None:
        await self.node.documents[OUTBOX].delete_many({"_id": {"$in": [saga_id.hex for saga_id in saga_ids]}})

    async def park(self, saga_id: UUID, reason: str) -> None:
        await self.node.documents[OUTBOX].update_one({"_id": saga_id.hex}, {"$set": {"error": reason}})

    async def backlog(self, most: int) -> Backlog:
        rows = self.node.documents[OUTBOX]
        waiting = await rows.count_documents({"error": None}, limit=most)
        parked = await rows.count_documents({"error": {"$ne": None}}, limit=most)
        oldest = await self.page(1)
        return Backlog(waiting, parked, max(0.0, oldest[0].age) if oldest else 0.0)

    async def stuck(self, patience: float, most: int) -> list[Contradiction]:
        # `created_at` comes from the clocks of the programs that wrote the rows.
        late = {"created_at": {"$lt": self._clock.now() - timedelta(seconds=patience)}}
        found = self._committed().find({"$or": [{"error": {"$ne": None}}, late]}).sort("created_at", 1).limit(most)
        with explaining(self.node, "ledger"):
            rows = await found.to_list()
        return [stuck_start(UUID(row["_id"]), row["name"], self.database, row["error"]) for row in rows]

    def _waiting(self, row: Any) -> Waiting:
        age = (self._clock.now() - row["created_at"]).total_seconds()
        return Waiting(UUID(row["_id"]), row["name"], row["birth"], row["error"], age)

    def _committed(self) -> Any:
        return self.node.committed(OUTBOX)  # a write that a failover can still roll back must not start a saga


def outbox_of(node: Node, clock: Clock) -> Outbox:
    """Return the outbox of the database of *node*, which may have none."""
    return MongoOutbox(node, clock) if isinstance(node, MongoNode) else SqlOutbox(node)


async def is_there(outbox: Outbox) -> bool:
    """Return whether a database that may have no outbox has one that its login may read.

    Raises `DatabaseUnavailable` if the database does not answer, and `PoolExhausted`.
    """
    node = outbox.node
    drivers = DBAPIError if isinstance(node, SqlNode) else node.driver.PyMongoError
    with explaining(node, "ledger"):
        try:
            # Asked beforehand: servers log a statement about a table that is missing as an error.
            if not await outbox.exists():
                return False
            await outbox.page(1)
        except drivers as error:
            if node.dialect.fault(error) is not Fault.DENIED:
                raise
            return False  # it is another program's
    return True


def waiting_of(birth: Birth) -> Waiting:
    """Encode *birth* as an outbox row."""
    facts = dataclasses.asdict(birth)
    for name in ("claim", "status", "results", "error", "history"):
        del facts[name]  # the same in every birth
    if birth.trace is None:
        del facts["trace"]  # earlier versions do not know it
    return Waiting(birth.claim.saga_id, birth.name, json.dumps(facts))


def birth_of(waiting: Waiting) -> Birth:
    """Decode the birth in an outbox row, under a new owner; raise if it cannot be decoded."""
    return Birth(Claim(waiting.saga_id, 0, uuid4()), **json.loads(waiting.birth))
