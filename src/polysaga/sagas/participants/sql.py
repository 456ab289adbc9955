"""The ledger on SQL databases: one local transaction around the user's code and our row.

`lending.py` guards the session that the user's code gets; this module defines what is written and when.
"""

from collections.abc import Collection, Coroutine, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from polysaga.databases import Fault, SqlNode
from polysaga.databases.dialects import Write
from polysaga.databases.dialects.sending import Seal, Send, sender
from polysaga.databases.dialects.sql import rows_of_ids
from polysaga.databases.single_writer import file_of, holding
from polysaga.errors import ConfigurationError, SchemaMissing, StepMisused
from polysaga.sagas.journal.tables import LEDGER, OUTBOX, ledger
from polysaga.sagas.participants import Entry, UndoWork, Work
from polysaga.sagas.participants.fence import FENCE, LET_A_TIME_SERVICE_KEEP_BOTH
from polysaga.sagas.participants.lending import lend
from polysaga.sagas.participants.outboxes import SqlOutbox
from polysaga.sagas.participants.reading import read_rows, require_unique
from polysaga.sagas.participants.removal import Removal
from polysaga.sagas.participants.watching import watch
from polysaga.sagas.protocol.contradictions import Record
from polysaga.sagas.protocol.interrupts import Fenced
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark


class SqlParticipant:
    """What the SQL databases have in common; `postgres.py`, `mysql.py` and `sqlite.py` have the rest."""

    def __init__(self, node: SqlNode) -> None:
        self.node, self._file = node, file_of(node)
        dialect = node.dialect
        render = dialect.render
        columns = "saga_id, step, state, epoch, result, recorded_at"
        given = ":saga_id, :step, :state, :epoch, {}, " + dialect.clock
        self._done = render(self._done_text(columns, given.format(":result")))
        self._block = render(self._block_text(columns, given.format("NULL")))
        lock = " FOR UPDATE" if dialect.locks_rows else ""
        ours = f"saga_id = :saga_id AND step = :step AND {dialect.clock} < :not_after"
        self._lock = render(f"SELECT state, result FROM {LEDGER} WHERE {ours}{lock}")
        self._compensated = render(
            f"UPDATE {LEDGER} SET state = 'compensated', epoch = :epoch, recorded_at = {dialect.clock} "
            "WHERE saga_id = :saga_id AND step = :step AND state = 'done'"
        )
        self._in_time = render(f"SELECT CASE WHEN {dialect.clock} < :not_after THEN 1 ELSE 0 END")
        self._outbox = render(f"SELECT birth, error FROM {OUTBOX} WHERE id = :saga_id")
        self._all = render(f"SELECT step, state, result FROM {LEDGER} WHERE saga_id = :saga_id")
        self._removal = Removal(dialect, LEDGER, "saga_id", f"recorded_at < {dialect.ago(':age')}")
        self._page = render(
            f"SELECT saga_id, step, state, result FROM {LEDGER} WHERE saga_id > :after AND saga_id <= :upto "
            "ORDER BY saga_id, step LIMIT :most"
        )
        self._records = render(
            f"SELECT saga_id, step, state, result FROM {LEDGER} WHERE saga_id IN ({dialect.ids_of_rows()})"
        )
        self.outbox = SqlOutbox(node)
        watch(node)

    def act(self, entry: Entry, work: Work, *, bare: bool = False) -> Coroutine[Any, Any, str]:
        return self.transact(work, self.seal_done(entry), bare=bare)

    async def transact(self, work: Work, seal: Seal, *, bare: bool = False) -> str:
        """Run *work* as one transaction that ends with the writes of *seal*; with *bare* on a connection.

        Raises `Fenced`, after a rollback, if one of them changes no row.
        """
        transaction = lend(self.node, bare=bare)
        async with transaction as lent:
            with nullcontext() if self._file is None else holding(self._file):
                result = await work(lent)
            await transaction.seal_and_commit(seal(result))
        return result

    def seal_done(self, entry: Entry) -> Seal:
        """Return the seal that writes the ledger row."""
        values = {**self._values(entry), "state": str(Mark.DONE)}
        return lambda result: [Write(self._done, {**values, "result": result})]

    async def undo(self, entry: Entry, work: UndoWork | None, *, bare: bool = False) -> LedgerRow:
        transaction = lend(self.node, bare=bare)
        async with transaction as lent:
            send = sender(await transaction.connection())
            found = await self._claim_row(send, entry)
            if found.state is Mark.DONE and work is not None:
                with nullcontext() if self._file is None else holding(self._file):
                    await work(lent, found.result or "null")
                await transaction.check_whole()
                if (await send(self._compensated, self._values(entry))).count != 1:
                    raise StepMisused(f"the compensation of '{entry.step}' changed its own ledger row")
            await transaction.commit()
        return found

    async def look(self, saga_id: UUID, steps: Sequence[str]) -> Mapping[str, LedgerRow]:
        statement = self._all
        values = {"saga_id": self.node.dialect.key(saga_id)}
        async with self.node.writer.connect() as connection:
            result = await connection.exec_driver_sql(statement.sql, statement.bind(values))
            found = result.all()
        return {row.step: LedgerRow(Mark(row.state), row.result) for row in found if row.step in steps}

    async def page(self, after: UUID, upto: UUID, most: int) -> Sequence[Record]:
        key = self.node.dialect.key
        values = {"after": key(after), "upto": key(upto), "most": most}
        return list(map(self._record, await read_rows(self.node, self._page, values, "ledger")))

    async def records(self, saga_ids: Collection[UUID]) -> Sequence[Record]:
        values = {"rows": rows_of_ids(saga_ids)}
        return list(map(self._record, await read_rows(self.node, self._records, values, "ledger")))

    def _record(self, row: Mapping[str, Any]) -> Record:
        saga_id = self.node.dialect.key_from(row["saga_id"])
        return Record(saga_id, self.node.database, row["step"], Mark(row["state"]), row["result"])

    async def remove(self, saga_ids: Collection[UUID], older: timedelta) -> None:
        async with self.node.writer.begin() as connection:
            await self._removal.run(connection, saga_ids, {"age": older.total_seconds()})

    async def check(self, now: datetime) -> None:
        values = {
            "saga_id": self.node.dialect.key(UUID(int=0)),
            "not_after": self.node.dialect.moment(now + FENCE),
        }
        try:
            async with self.node.writer.connect() as connection:
                for statement in (self._all, self._outbox):
                    await connection.exec_driver_sql(statement.sql, statement.bind(values))
                await require_unique(self.node, connection, ledger, "ledger")
                asked = await connection.exec_driver_sql(self._in_time.sql, self._in_time.bind(values))
                if not asked.scalar_one():
                    raise ConfigurationError(
                        "the clock of this process is more than a day behind that of database "
                        f"'{self.node.database}', which would refuse every step: {LET_A_TIME_SERVICE_KEEP_BOTH}; "
                        "a test that freezes the time leaves Polysaga its clock, e.g. "
                        "freeze_time(..., ignore=['polysaga'], real_asyncio=True)"
                    )
        except DBAPIError as error:
            if self.fault(error) is Fault.SCHEMA_MISSING:
                raise SchemaMissing(self.node.database, "ledger") from error
            raise

    def fault(self, error: BaseException) -> Fault | None:
        return self.node.dialect.fault(error)

    async def _claim_row(self, send: Send, entry: Entry) -> LedgerRow:
        """Insert `blocked`, or lock and return the row that exists; raise `Fenced` past the fence.

        A row found and locked before the fence belongs to this saga and stays until the transaction ends.
        """
        blocked = await send(self._block, {**self._values(entry), "state": Mark.BLOCKED.value})
        if blocked.rows:
            return LedgerRow(Mark.BLOCKED, None)
        return await self._locked(send, entry)

    async def _locked(self, send: Send, entry: Entry) -> LedgerRow:
        answer = await send(self._lock, self._values(entry))
        if not answer.rows:
            raise Fenced(f"the claim behind step '{entry.step}' is older than the fence")
        state, result = answer.rows[0]
        return LedgerRow(Mark(state), result)

    def _values(self, entry: Entry) -> dict[str, Any]:
        return {
            "saga_id": self.node.dialect.key(entry.saga_id),
            "step": entry.step,
            "epoch": entry.epoch,
            "not_after": self.node.dialect.moment(entry.not_after),
        }

    def _done_text(self, columns: str, values: str) -> str:
        return f"INSERT INTO {LEDGER} ({columns}) SELECT {values} WHERE {self.node.dialect.clock} < :not_after"

    def _block_text(self, columns: str, values: str) -> str:
        fenced = f"SELECT {values} WHERE {self.node.dialect.clock} < :not_after"
        return f"INSERT INTO {LEDGER} ({columns}) {fenced} ON CONFLICT DO NOTHING RETURNING state"
