"""What owners write to the journal; a saga's row alone decides which process may drive it.

Every update that changes a status is conditional on the claim and on the status that the owner expects: an owner
that lost its claim changes no row. A renewal asks for the owner only. `undo_call`, which writes a ledger row, asks
for the fence. Times come from the database's clock. Starts that are not fused with a first step, and finishes, are
written in batches, many sagas in one commit (`group_commit.py`).

A *seal* returns the last writes of a step's transaction, given the step's result. For a step in the journal's own
database they write the journal row itself; that row is then the record of the step. See `seal_start`,
`seal_decision` and `seal_finish`.

Claims, renewals and what else keeps claims go through the node's reserved connection. They never wait behind the
sagas they keep alive, nor behind the program's own sessions.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

from polysaga.databases import Fault, SqlNode
from polysaga.databases.dialects import Write
from polysaga.databases.dialects.sending import Seal, Send, Transaction, sender
from polysaga.databases.dialects.sql import COMMITTED, rows_of_ids
from polysaga.errors import DatabaseUnavailable
from polysaga.sagas.definition.payloads import as_json
from polysaga.sagas.journal.claims import Claims, Pick
from polysaga.sagas.journal.group_commit import MOST_BYTES
from polysaga.sagas.journal.statements import statements
from polysaga.sagas.protocol.reasons import HistoryEntry, Reason, decoded_history, encoded_history
from polysaga.sagas.protocol.rows import NOBODY, Birth, Claim, Ending, Row, Standing
from polysaga.sagas.protocol.states import Status

# Approximate bytes of a row without its payload, and of one attempt in a history.
_ROW, _ENTRY = 300, 120


class Journal:
    """The journal in one SQL database."""

    def __init__(self, node: SqlNode, fingerprints: Iterable[str], *, lease: float) -> None:
        self.node, self.lease = node, lease
        self._dialect = node.dialect
        self._claims = Claims(node.dialect, frozenset(fingerprints))
        self._sql = statements(node.dialect)

    def seal_start(self, birth: Callable[[str], Birth]) -> Seal:
        """Return the seal of a fused first step: the step's commit inserts the row."""
        return lambda result: [Write(self._sql["insert"], self._birth_values(birth(result)))]

    def seal_decision(self, claim: Claim, results: Callable[[str], Mapping[str, str]]) -> Seal:
        """Return the seal of a pivot in this database: its commit is the decision, running to completing."""

        def seal(result: str) -> Sequence[Write]:
            values = {**self._claim_values(claim), "results": as_json(results(result))}
            return [Write(self._sql["decide"], values)]

        return seal

    def seal_finish(self, ending: Callable[[str], Ending]) -> Seal:
        """Return a seal that ends the saga together with the step."""

        def seal(result: str) -> Sequence[Write]:
            end = ending(result)
            values = {
                **self._claim_values(end.claim),
                "expected": str(end.expected),
                "status": str(end.status),
                "results": as_json(end.results),
                "history": encoded_history(end.history),
            }
            return [Write(self._sql["finish"], values)]

        return seal

    async def insert(self, births: Sequence[Birth]) -> None:
        """Insert all rows in one commit; a row that exists already fails them all."""
        if len(births) == 1:
            async with Transaction(self.node.single) as send:
                await send(self._sql["insert"], self._birth_values(births[0]))
        elif any("\0" in (birth.key or "") for birth in births):
            # Not as JSON: databases refuse a NUL character in it, or end the text there.
            async with Transaction(self.node.writer) as send:
                for birth in births:
                    await send(self._sql["insert"], self._birth_values(birth))
        else:
            # In one order, so that two processes with the same keys do not deadlock.
            rows = as_json([self._given(birth) for birth in sorted(births, key=lambda birth: birth.claim.saga_id)])
            async with Transaction(self.node.single) as send:
                await send(self._sql["insert_many"], {"rows": rows, "lease": self.lease})

    async def enlist(self, send: Send, birth: Birth) -> tuple[bool, str]:
        """Insert a row that is due at once, in the caller's transaction, unless it exists.

        Return whether it was inserted, and the hash of the stored input.
        """
        await send(self._sql["enlist"], self._birth_values(birth))
        found = await self._born(send, birth)
        assert found is not None
        return found

    async def input_of(self, send: Send, saga_id: UUID) -> tuple[str, str]:
        """Return input and fingerprint of an existing saga, as the transaction of *send* sees it."""
        ((text, fingerprint),) = (await send(self._sql["input"], {"id": self._dialect.key(saga_id)})).rows
        return str(text), str(fingerprint)

    async def enlist_all(self, births: Sequence[tuple[Birth, datetime]]) -> list[tuple[bool, str] | None]:
        """Enlist *births* in one commit, each before its fence; None for one past its fence that has no row."""
        async with Transaction(self.node.writer) as send:
            found = []
            for birth, fence in births:
                values = {**self._birth_values(birth), "not_after": self._dialect.moment(fence)}
                await send(self._sql["enlist_fenced"], values)
                found.append(await self._born(send, birth))
            return found

    async def finish(self, endings: Sequence[Ending]) -> set[UUID]:
        """Write all endings in one commit; return the ids of those whose claim still held."""
        rows = as_json(
            [
                {
                    "saga_id": str(ending.claim.saga_id),
                    "epoch": ending.claim.epoch,
                    "owner": str(ending.claim.owner),
                    "expected": str(ending.expected),
                    "status": str(ending.status),
                    "results": as_json(ending.results),
                    "history": encoded_history(ending.history),
                }
                for ending in sorted(endings, key=lambda ending: ending.claim.saga_id)
            ]
        )
        async with Transaction(self.node.single) as send:
            return await self._change_many(send, "finish_many", rows, [ending.claim for ending in endings])

    async def renew(self, held: Sequence[tuple[Claim, Sequence[HistoryEntry]]]) -> set[UUID]:
        """Renew all claims, each with its history so far; return the ids still ours.

        One statement is enough, or a few if the histories are long.
        """
        ours: set[UUID] = set()
        for some in _parts(held):
            ours |= await self._renew(some)
        return ours

    async def _renew(self, held: Sequence[tuple[Claim, Sequence[HistoryEntry]]]) -> set[UUID]:
        rows = json.dumps(
            [
                {
                    "saga_id": str(claim.saga_id),
                    "owner": str(claim.owner),
                    "history": encoded_history(history),
                }
                for claim, history in sorted(held, key=lambda one: one[0].saga_id)
            ]
        )
        async with self._reserved() as connection:
            return await self._change_many(sender(connection), "renew_many", rows, [claim for claim, _ in held])

    async def hand_back(self, claims: Sequence[Claim]) -> None:
        """Make all claimed sagas due at once: the next worker to tick claims them."""
        rows = json.dumps([{"saga_id": str(claim.saga_id), "owner": str(claim.owner)} for claim in claims])
        async with self._reserved() as connection:
            await self._change_many(sender(connection), "hand_back_many", rows, claims)

    async def compensate(self, claim: Claim, error: Reason) -> bool:
        """Write the decision to compensate; False if the claim, or the status running, is gone."""
        return await self._change("compensate", claim, error=error.encoded())

    async def record_call(self, claim: Claim, step: str, result: str) -> bool:
        """Write the ledger row of a step without a database; False if the claim no longer allows it."""
        return await self._change("record_call", claim, step=step, result=result)

    async def undo_call(self, claim: Claim, step: str, not_after: datetime) -> None:
        """Note in the ledger that a step without a database is undone; do nothing past the fence *not_after*."""
        await self._change("undo_call", claim, step=step, not_after=self._dialect.moment(not_after))

    async def go_forward(self, claim: Claim) -> bool:
        """Revoke the decision to compensate: the pivot had committed before it could be blocked."""
        return await self._change("go_forward", claim)

    async def park(self, claim: Claim, expected: Status, error: Reason, history: Sequence[HistoryEntry]) -> bool:
        """Park the saga: stop retrying until a person repairs it."""
        told = {"error": error.encoded(), "history": encoded_history(history)}
        return await self._change("park", claim, expected=expected.value, **told)

    async def postpone(self, claim: Claim, seconds: float, history: Sequence[HistoryEntry]) -> bool:
        """Give up the claim; the saga is due again after *seconds*."""
        return await self._change("postpone", claim, seconds=seconds, history=encoded_history(history))

    async def note_progress(self, claim: Claim, rows: int) -> bool:
        """Store how many ledger rows a takeover found, and restart the count of expiries."""
        return await self._change("progress", claim, progress=rows)

    async def cancel(self, saga_id: UUID, owner: UUID, error: Reason) -> Row | None:
        """Claim a running saga and decide to compensate it, in one write; return its row if *owner* has it now."""
        key = self._dialect.key
        values = {"id": key(saga_id), "owner": key(owner), "error": error.encoded(), "lease": self.lease}
        async with Transaction(self.node.single) as send:
            await send(self._sql["cancel"], values)
        row = await self.load(saga_id)
        return row if row is not None and row.claim.owner == owner else None

    async def take_for_person(self, claim: Claim, expected: Status, owner: UUID) -> bool:
        """Claim a saga for a person, if it is still as it was read: in *claim* and *expected*."""
        values = {**self._claim_values(claim), "owner": self._dialect.key(owner), "expected": expected.value}
        async with Transaction(self.node.single) as send:
            return (await send(self._sql["take_for_person"], values)).count == 1

    async def repair(
        self,
        claim: Claim,
        expected: Status,
        status: Status,
        *,
        results: Mapping[str, str],
        error: Reason | None,
        audit: Mapping[str, Any],
    ) -> bool:
        """Set *status* as a person ordered, due at once unless final, in one transaction with the *audit*."""
        key = self._dialect.key
        values = {
            "id": key(claim.saga_id),
            "epoch": claim.epoch,
            "expected": expected.value,
            "status": status.value,
            "final": int(status.final),
            "results": json.dumps(dict(results)),
            "error": None if error is None else error.encoded(),
        }
        async with Transaction(self.node.writer) as send:
            if (await send(self._sql["repair"], values)).count != 1:
                return False
            line = {**audit, "id": key(audit["id"]), "saga_id": key(claim.saga_id)}
            await send(self._sql["audit"], line)
        return True

    async def load(self, saga_id: UUID) -> Row | None:
        """Return the row of *saga_id*, from the primary."""
        statement = self._sql["load"]
        async with self.node.single.connect() as connection:
            result = await connection.exec_driver_sql(
                statement.sql, statement.bind({"id": self._dialect.key(saga_id)})
            )
            found = result.mappings().first()
        return None if found is None else self._row(dict(found))

    async def standings(self, saga_ids: Iterable[UUID], *, reserved: bool = False) -> dict[UUID, Standing]:
        """Return how far sagas are, from the primary, in one look; those without a row are left out.

        *reserved*: look through the reserved connection.
        """
        rows = rows_of_ids(saga_ids)
        async with self._reserved() if reserved else self.node.single.connect() as connection:
            found = (await sender(connection)(self._sql["standings"], {"rows": rows})).rows
        standings = map(self._standing, found)
        return {standing.claim.saga_id: standing for standing in standings}

    async def claim(self, batch: int, pick: Pick = Pick.DUE, *, window: float = 0.0) -> list[Row]:
        """Take over at most *batch* sagas under a new owner and the next epoch.

        Those that are `JUST_DUE` have been due for less than *window* seconds.
        """
        values = {
            "owner": self._dialect.key(uuid4()),
            "lease": self.lease,
            "window": window,
            "batch": batch,
        }
        async with self._reserved() as connection:
            return [self._row(found) for found in await self._claims.take(connection, values, pick)]

    async def strangers(self, batch: int) -> list[tuple[UUID, str, int]]:
        """Return id, name and version of overdue sagas whose definition this process does not know."""
        async with self._reserved() as connection:
            found = await self._claims.strangers(connection, batch)
        return [(self._dialect.key_from(row["id"]), row["name"], row["version"]) for row in found]

    async def _born(self, send: Send, birth: Birth) -> tuple[bool, str] | None:
        rows = (await send(self._sql["born"], {"id": self._dialect.key(birth.claim.saga_id)})).rows
        if not rows:
            return None
        owner, digest = rows[0]
        return owner is not None and self._dialect.key_from(owner) == birth.claim.owner, digest

    async def _change(self, statement: str, claim: Claim, **values: Any) -> bool:
        async with Transaction(self.node.single) as send:
            answer = await send(self._sql[statement], {**self._claim_values(claim), **values})
            return answer.count == 1

    @asynccontextmanager
    async def _reserved(self) -> AsyncIterator[AsyncConnection]:
        """Lend the reserved connection for one transaction; one of the pool if the server has no place for it."""
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self.node.reserved.connect())
            except DatabaseUnavailable as error:
                cause = error.__cause__
                if cause is None or self._dialect.fault(cause) is not Fault.TOO_MANY_CONNECTIONS:
                    raise
                connection = await stack.enter_async_context(self.node.writer.connect())
            async with connection.begin():
                yield connection
            connection.info[COMMITTED] = True

    async def _change_many(self, send: Send, statement: str, rows: str, claims: Sequence[Claim]) -> set[UUID]:
        answer = await send(self._sql[statement], {"rows": rows, "lease": self.lease})
        if self._dialect.returns_rows:
            return {self._dialect.key_from(row[0]) for row in answer.rows}
        if answer.count == len(claims):
            return {claim.saga_id for claim in claims}
        # The count shows that some claims are gone, but not which.
        answer = await send(self._sql[f"{statement}_found"], {"rows": rows})
        return {self._dialect.key_from(row[0]) for row in answer.rows}

    def _claim_values(self, claim: Claim) -> dict[str, Any]:
        key = self._dialect.key
        return {
            "id": key(claim.saga_id),
            "epoch": claim.epoch,
            "owner": key(claim.owner),
            "lease": self.lease,
        }

    def _birth_values(self, birth: Birth) -> dict[str, Any]:
        return {
            **self._claim_values(birth.claim),
            "name": birth.name,
            "version": birth.version,
            "fingerprint": birth.fingerprint,
            "saga_key": birth.key,
            "input": birth.input,
            "input_hash": birth.input_hash,
            "status": str(birth.status),
            "final": int(birth.status.final),
            # NULL for a row that is inserted final: it never wakes.
            "lease": None if birth.status.final else self.lease,
            "deadline": birth.deadline,
            "results": as_json(birth.results),
            "error": None if birth.error is None else birth.error.encoded(),
            "history": encoded_history(birth.history) if birth.history else None,
            "trace": birth.trace,
        }

    def _given(self, birth: Birth) -> dict[str, Any]:
        """Return *birth* as a row of `insert_many`; what is None is left out, which is NULL in every dialect."""
        values = {
            **self._birth_values(birth),
            "id": str(birth.claim.saga_id),
            "owner": str(birth.claim.owner),
            "deadline": None if birth.deadline is None else repr(birth.deadline),
        }
        del values["lease"]  # all rows share one
        return {name: value for name, value in values.items() if value is not None}

    def _row(self, found: Mapping[str, Any]) -> Row:
        return Row(
            claim=self._claim(found["id"], found["epoch"], found["owner"]),
            name=found["name"],
            fingerprint=found["fingerprint"],
            status=Status(found["status"]),
            input=found["input"],
            input_hash=found["input_hash"],
            results=json.loads(found["results"]),
            error=Reason.decoded(found["error"]),
            history=decoded_history(found["history"]),
            expiries=found["expiries"],
            progress=found["progress"],
            remaining=found["remaining"],
            age=-float(found["youth"]),
            trace=found["trace"],
        )

    def _standing(self, found: Sequence[Any]) -> Standing:
        key, epoch, owner, name, fingerprint, status, results, error = found
        return Standing(
            claim=self._claim(key, epoch, owner),
            name=name,
            fingerprint=fingerprint,
            status=Status(status),
            results={} if results is None else json.loads(results),
            error=Reason.decoded(error),
        )

    def _claim(self, key: Any, epoch: int, owner: Any) -> Claim:
        key_from = self._dialect.key_from
        return Claim(key_from(key), epoch, NOBODY if owner is None else key_from(owner))


def size_of_birth(birth: Birth) -> int:
    """Return the approximate bytes of the row of *birth*."""
    return len(birth.input) + _size_of_history(birth.history)


def size_of_ending(ending: Ending) -> int:
    """Return the approximate bytes of *ending*."""
    return sum(map(len, ending.results.values())) + _size_of_history(ending.history)


def _size_of_history(history: Sequence[HistoryEntry]) -> int:
    return _ROW + _ENTRY * len(history)


def _parts(
    held: Sequence[tuple[Claim, Sequence[HistoryEntry]]],
) -> Iterator[Sequence[tuple[Claim, Sequence[HistoryEntry]]]]:
    """Yield *held* in parts small enough for one statement."""
    begin = size = 0
    for index, (_, history) in enumerate(held):
        more = _size_of_history(history)
        if index > begin and size + more > MOST_BYTES:
            yield held[begin:index]
            begin, size = index, 0
        size += more
    if held:
        yield held[begin:]
