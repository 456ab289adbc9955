"""The journal, read page by page in the order of the sagas' ids."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from polysaga.databases import SqlNode
from polysaga.sagas.journal.tables import JOURNAL
from polysaga.sagas.participants.reading import read_rows
from polysaga.sagas.protocol.contradictions import Account
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.states import Status


class JournalSurvey:
    """Reads the journal.

    A saga is overdue if its claim ran out more than *patience* seconds ago, and expired if it has been at rest for
    more than *retention* seconds.
    """

    def __init__(self, node: SqlNode, *, patience: float, retention: float) -> None:
        self.node, self._patience, self._retention = node, patience, retention
        dialect = node.dialect
        overdue = f"wake_at < {dialect.ago(':patience')} AND status <> 'needs_attention'"
        account = (
            "SELECT id, name, version, fingerprint, status, results, error, created_at, "
            f"CASE WHEN {overdue} THEN 1 ELSE 0 END AS late, "
            f"CASE WHEN finished_at <= {dialect.ago(':age')} THEN 1 ELSE 0 END AS old FROM {JOURNAL} "
            "WHERE {}"
        )
        self._page = dialect.render(account.format("id > :after AND id <= :upto ORDER BY id LIMIT :most"))
        # Not (created_at, id) > (...): MySQL would not use the index for it.
        behind = "created_at >= :at AND (created_at > :at OR id > :id) ORDER BY created_at, id LIMIT :most"
        self._begun = dialect.render(account.format(behind))
        self._all = dialect.render(f"SELECT count(*) AS number FROM {JOURNAL}")
        self._since = dialect.render(f"SELECT count(*) AS number FROM {JOURNAL} WHERE created_at >= :at")

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
        return [self._account(row) for row in await read_rows(self.node, self._page, values, "journal")]

    async def begun(self, since: datetime, after: tuple[datetime, UUID] | None, most: int) -> list[Account]:
        """Return the first *most* sagas that began at *since* or later, behind *after*, the oldest first."""
        dialect = self.node.dialect
        at, saga_id = after or (since, UUID(int=0))
        values = {
            "patience": self._patience,
            "age": self._retention,
            "at": dialect.moment(at),
            "id": dialect.key(saga_id),
            "most": most,
        }
        return [self._account(row) for row in await read_rows(self.node, self._begun, values, "journal")]

    async def count(self, since: datetime | None) -> int:
        """Return how many sagas there are that began at *since* or later."""
        values = {} if since is None else {"at": self.node.dialect.moment(since)}
        (row,) = await read_rows(self.node, self._all if since is None else self._since, values, "journal")
        return int(row["number"])

    def _account(self, row: Mapping[str, Any]) -> Account:
        return Account(
            saga_id=self.node.dialect.key_from(row["id"]),
            name=row["name"],
            version=row["version"],
            fingerprint=row["fingerprint"],
            status=Status(row["status"]),
            results=json.loads(row["results"]),
            overdue=bool(row["late"]),
            resolved=(Reason.decoded(row["error"]) or Reason()).resolved is not None,
            expired=bool(row["old"]),
            created_at=self.node.dialect.moment_from(row["created_at"]),
        )
