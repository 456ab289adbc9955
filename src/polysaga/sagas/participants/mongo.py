"""The ledger on MongoDB: the same promise by a multi-document transaction, majority writes, `_id` as the key.

Nothing waits for a lock here: an insert that meets another transaction's uncommitted row fails at once with a
write conflict. So conflicts are retried for a time, not a number of times: at least as long as the server lets a
frozen transaction live (`transactionLifetimeLimitSeconds`, 60 by default).

`_id` is one string, "<saga>:<step>": as a sub-document it would depend on the order of its fields. The fence is
checked with this process's clock directly before COMMIT. If the process freezes between the two, the server ends
its transaction long before the fence matters.
"""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from polysaga.clock import Clock
from polysaga.databases import Fault, MongoNode, MongoSession
from polysaga.errors import SchemaMissing, StepMisused
from polysaga.sagas.journal.tables import LEDGER, OUTBOX
from polysaga.sagas.participants import Entry, UndoWork, Work
from polysaga.sagas.participants.outboxes import MongoOutbox
from polysaga.sagas.participants.reading import explaining
from polysaga.sagas.protocol.contradictions import Record
from polysaga.sagas.protocol.interrupts import Fenced
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark

if TYPE_CHECKING:
    from pymongo.asynchronous.client_session import AsyncClientSession

_COMMIT_ATTEMPTS = 5  # the driver repeats each of them once by itself
_ENDED = "a step ended the transaction of its MongoDB session; it must end with the step"


class MongoParticipant:
    """One MongoDB database with its ledger collection."""

    def __init__(self, node: MongoNode, clock: Clock) -> None:
        self.node, self._clock = node, clock
        self.outbox = MongoOutbox(node, clock)

    async def act(self, entry: Entry, work: Work, *, bare: bool = False) -> str:
        async with self._transaction() as session:
            result = await work(session)
            self._still_begun(session)
            await session[LEDGER].insert_one(
                {
                    "_id": _key(entry.saga_id, entry.step),
                    "state": Mark.DONE.value,
                    "epoch": entry.epoch,
                    "result": result,
                    "recorded_at": self._clock.now(),
                }
            )
            self._be_in_time(entry)
        return result

    async def undo(self, entry: Entry, work: UndoWork | None, *, bare: bool = False) -> LedgerRow:
        async with self._transaction() as session:
            found = await self._claim_row(session, entry)
            if found.state is Mark.DONE and work is not None:
                await work(session, found.result or "null")
                self._still_begun(session)
                changed = await session[LEDGER].update_one(
                    {"_id": _key(entry.saga_id, entry.step), "state": Mark.DONE.value},
                    {
                        "$set": {
                            "state": Mark.COMPENSATED.value,
                            "epoch": entry.epoch,
                            "recorded_at": self._clock.now(),
                        }
                    },
                )
                if changed.matched_count != 1:
                    raise StepMisused(f"the compensation of '{entry.step}' changed its own ledger row")
            self._be_in_time(entry)
        return found

    async def look(self, saga_id: UUID, steps: Sequence[str]) -> Mapping[str, LedgerRow]:
        keys = {_key(saga_id, step): step for step in steps}
        found = self.node.committed(LEDGER).find({"_id": {"$in": list(keys)}})
        return {keys[row["_id"]]: LedgerRow(Mark(row["state"]), row["result"]) async for row in found}

    async def page(self, after: UUID, upto: UUID, most: int) -> Sequence[Record]:
        between = {"$gt": _end_of(after), "$lt": _end_of(upto)}
        with explaining(self.node, "ledger"):
            found = await self.node.documents[LEDGER].find({"_id": between}).sort("_id", 1).limit(most).to_list()
        return [self._record(document) for document in found]

    async def records(self, saga_ids: Collection[UUID]) -> Sequence[Record]:
        ranges = [{"_id": _all_of(saga_id)} for saga_id in saga_ids]
        if not ranges:
            return []
        with explaining(self.node, "ledger"):
            found = await self.node.documents[LEDGER].find({"$or": ranges}).to_list()
        return [self._record(document) for document in found]

    def _record(self, document: Mapping[str, Any]) -> Record:
        saga_id, _, step = str(document["_id"]).partition(":")
        return Record(UUID(saga_id), self.node.database, step, Mark(document["state"]), document["result"])

    async def remove(self, saga_ids: Collection[UUID], older: timedelta) -> None:
        old = {"$lt": self._clock.now() - older}
        deletes = [
            self.node.driver.DeleteMany({"_id": _all_of(saga_id), "recorded_at": old})
            for saga_id in sorted(saga_ids)
        ]
        await self.node.documents[LEDGER].bulk_write(deletes, ordered=False)

    async def check(self, now: datetime) -> None:
        # The time does not matter: the process itself compares it with the fence.
        if not {LEDGER, OUTBOX} <= set(await self.node.documents.list_collection_names()):
            raise SchemaMissing(self.node.database, "ledger")

    def fault(self, error: BaseException) -> Fault | None:
        return self.node.dialect.fault(error)

    def _be_in_time(self, entry: Entry) -> None:
        if self._clock.now() >= entry.not_after:
            raise Fenced(f"the claim behind step '{entry.step}' is older than the fence")

    async def _claim_row(self, session: MongoSession, entry: Entry) -> LedgerRow:
        before = await session[LEDGER].find_one_and_update(
            {"_id": _key(entry.saga_id, entry.step)},
            {
                "$setOnInsert": {
                    "state": Mark.BLOCKED.value,
                    "epoch": entry.epoch,
                    "result": None,
                    "recorded_at": self._clock.now(),
                },
                # A new value each time, so that two compensators of one step conflict.
                "$set": {"lock": uuid4().hex},
            },
            upsert=True,
        )
        if before is None:
            return LedgerRow(Mark.BLOCKED, None)
        return LedgerRow(Mark(before["state"]), before["result"])

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[MongoSession]:
        async with self.node.client.start_session() as client_session:
            # A coroutine in asynchronous PyMongo: without the await everything would run outside the transaction.
            # A transaction may only read from the primary, but would inherit the client's read preference.
            driver = self.node.driver
            await client_session.start_transaction(
                write_concern=driver.MAJORITY_WRITE, read_preference=driver.PRIMARY
            )
            async with client_session.bind(end_session=False):
                session = MongoSession(driver.without_concerns(self.node.documents), client_session)
                self._still_begun(session)
                with _ending_refused(client_session):
                    yield session
                self._still_begun(session)
            await self._commit(session)

    async def _commit(self, session: MongoSession) -> None:
        for last in (attempt == _COMMIT_ATTEMPTS for attempt in range(1, _COMMIT_ATTEMPTS + 1)):
            try:
                await session.client_session.commit_transaction()
            except self.node.driver.PyMongoError as error:
                if last or not error.has_error_label("UnknownTransactionCommitResult"):
                    raise
            else:
                return

    def _still_begun(self, session: MongoSession) -> None:
        if not session.client_session.in_transaction:
            raise StepMisused(_ENDED)


@contextmanager
def _ending_refused(session: "AsyncClientSession") -> Iterator[None]:
    """Prevent the step from ending the transaction of *session* or beginning another one."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise StepMisused(_ENDED)

    own = vars(session)
    shadowed = ("start_transaction", "commit_transaction", "abort_transaction", "end_session")
    own.update(dict.fromkeys(shadowed, refuse))
    try:
        yield
    finally:
        for name in shadowed:
            own.pop(name, None)


def _key(saga_id: UUID, step: str) -> str:
    return f"{saga_id.hex}:{step}"


def _all_of(saga_id: UUID) -> dict[str, str]:
    """Return the condition on `_id` for all rows of a saga."""
    return {"$gt": _key(saga_id, ""), "$lt": _end_of(saga_id)}


def _end_of(saga_id: UUID) -> str:
    """Return a text behind every `_id` of a saga, and before those of the next."""
    return f"{saga_id.hex};"  # ";" follows ":"
