"""The journal and the ledgers, read page by page in the order of the sagas' ids, and what is stuck in outboxes.

Ids sort alike everywhere: as UUIDs on PostgreSQL, as bytes on MySQL and MariaDB, as their text on SQLite and
MongoDB. Everything is read on the primaries, through connections on which SQL servers refuse writes.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from polysaga.clock import Clock
from polysaga.databases import Fault, MongoNode, Node, SqlNode
from polysaga.databases.dialects import Rendered
from polysaga.errors import DatabaseUnavailable, SchemaMissing
from polysaga.sagas.journal.tables import JOURNAL, LEDGER, OUTBOX
from polysaga.sagas.protocol.contradictions import Account, Contradiction, Record, stuck_start
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.states import Mark, Status


class JournalSurvey:
    """What the journal says.

    A saga is overdue if its claim ran out more than *patience* seconds ago, and expired if it has been at rest for
    more than *retention* seconds.
    """

    def __init__(self, node: SqlNode, *, patience: float, retention: float) -> None:
        self.node, self._patience, self._retention = node, patience, retention
        dialect = node.dialect
        overdue = f"wake_at < {dialect.ago(':patience')} AND status <> 'needs_attention'"
        self._page = dialect.render(
            "SELECT id, name, version, fingerprint, status, results, error, "
            f"CASE WHEN {overdue} THEN 1 ELSE 0 END AS late, "
            f"CASE WHEN finished_at <= {dialect.ago(':age')} THEN 1 ELSE 0 END AS old FROM {JOURNAL} "
            "WHERE id > :after AND id <= :upto ORDER BY id LIMIT :most"
        )

    async def page(self, after: UUID, upto: UUID, most: int) -> list[Account]:
        """Return the first *most* sagas whose ids are above *after* and not above *upto*."""
        key = self.node.dialect.key
        values = {
            "patience": self._patience,
            "age": self._retention,
            "after": key(after),
            "upto": key(upto),
            "most": most,
        }
        return [self._account(row) for row in await _rows(self.node, self._page, values, "journal")]

    def _account(self, row: Mapping[str, Any]) -> Account:
        return Account(
            saga_id=self.node.dialect.key_from(row["id"]),
            name=row["name"],
            version=row["version"],
            fingerprint=row["fingerprint"],
            status=Status(row["status"]),
            results=json.loads(row["results"]),
            overdue=bool(row["late"]),
            resolved=row["error"] is not None and Reason.from_json(json.loads(row["error"])).resolved is not None,
            expired=bool(row["old"]),
        )


class SqlLedgerSurvey:
    """What the ledger of an SQL database says."""

    def __init__(self, node: SqlNode) -> None:
        self.node = node
        self._page = node.dialect.render(
            f"SELECT saga_id, step, state, result FROM {LEDGER} WHERE saga_id > :after AND saga_id <= :upto "
            "ORDER BY saga_id, step LIMIT :most"
        )

    async def page(self, after: UUID, upto: UUID, most: int) -> list[Record]:
        """Return the first *most* rows of the sagas whose ids are above *after* and not above *upto*."""
        key, key_from = self.node.dialect.key, self.node.dialect.key_from
        values = {"after": key(after), "upto": key(upto), "most": most}
        return [
            Record(key_from(row["saga_id"]), self.node.database, row["step"], Mark(row["state"]), row["result"])
            for row in await _rows(self.node, self._page, values, "ledger")
        ]


class MongoLedgerSurvey:
    """What the ledger of a MongoDB database says."""

    def __init__(self, node: MongoNode) -> None:
        self.node = node

    async def page(self, after: UUID, upto: UUID, most: int) -> list[Record]:
        """Return the first *most* rows of the sagas whose ids are above *after* and not above *upto*."""
        ledger = self.node.documents[LEDGER]
        # `_id` is "<saga>:<step>", and ";" follows ":".
        between = {"$gt": f"{after.hex};", "$lt": f"{upto.hex};"}
        try:
            found = await ledger.find({"_id": between}).sort("_id", 1).limit(most).to_list()
        except self.node.driver.PyMongoError as error:
            raise _explained(self.node, error, "ledger") from error
        return [self._record(document) for document in found]

    def _record(self, document: Mapping[str, Any]) -> Record:
        saga_id, _, step = str(document["_id"]).partition(":")
        return Record(UUID(saga_id), self.node.database, step, Mark(document["state"]), document["result"])


class SqlOutboxSurvey:
    """The starts in the outbox of an SQL database that nobody moves to the journal.

    These are the parked ones, and those that were written more than *patience* seconds ago.
    """

    def __init__(self, node: SqlNode, *, patience: float) -> None:
        self.node, self._patience = node, patience
        self._stuck = node.dialect.render(
            f"SELECT id, name, error FROM {OUTBOX} WHERE error IS NOT NULL "
            f"OR created_at < {node.dialect.ago(':patience')} ORDER BY created_at LIMIT :most"
        )

    async def stuck(self, most: int) -> list[Contradiction]:
        """Return the oldest *most*."""
        rows = await _rows(self.node, self._stuck, {"patience": self._patience, "most": most}, "ledger")
        key_from, database = self.node.dialect.key_from, self.node.database
        return [stuck_start(key_from(row["id"]), row["name"], database, row["error"]) for row in rows]


class MongoOutboxSurvey:
    """The same of a MongoDB database, whose rows were dated by the programs that wrote them."""

    def __init__(self, node: MongoNode, *, patience: float) -> None:
        self.node, self._patience, self._clock = node, timedelta(seconds=patience), Clock()

    async def stuck(self, most: int) -> list[Contradiction]:
        """Return the oldest *most*."""
        rows = self.node.committed(OUTBOX)
        wanted = {"$or": [{"error": {"$ne": None}}, {"created_at": {"$lt": self._clock.now() - self._patience}}]}
        try:
            found = await rows.find(wanted).sort("created_at", 1).limit(most).to_list()
        except self.node.driver.PyMongoError as error:
            raise _explained(self.node, error, "ledger") from error
        database = self.node.database
        return [stuck_start(UUID(row["_id"]), row["name"], database, row["error"]) for row in found]


LedgerSurvey: TypeAlias = SqlLedgerSurvey | MongoLedgerSurvey
OutboxSurvey: TypeAlias = SqlOutboxSurvey | MongoOutboxSurvey


def outbox_survey(node: Node, *, patience: float) -> OutboxSurvey:
    """Return the survey of the outbox on *node*."""
    if isinstance(node, MongoNode):
        return MongoOutboxSurvey(node, patience=patience)
    return SqlOutboxSurvey(node, patience=patience)


def ledger_survey(node: Node) -> LedgerSurvey:
    """Return the survey of the ledger on *node*."""
    return MongoLedgerSurvey(node) if isinstance(node, MongoNode) else SqlLedgerSurvey(node)


async def _rows(
    node: SqlNode, statement: Rendered, values: Mapping[str, Any], line: str
) -> Sequence[Mapping[str, Any]]:
    try:
        async with node.reader.connect() as connection:
            result = await connection.exec_driver_sql(statement.sql, statement.bind(values))
            return [dict(row) for row in result.mappings()]
    except (DBAPIError, PoolTimeout) as error:
        raise _explained(node, error, line) from error


def _explained(node: Node, error: Exception, line: str) -> Exception:
    fault = node.dialect.fault(error)
    if fault is Fault.SCHEMA_MISSING:
        return SchemaMissing(node.database, line)
    if fault is not None and fault.transient:
        return DatabaseUnavailable(node.database, node.name, fault.value)
    return error
