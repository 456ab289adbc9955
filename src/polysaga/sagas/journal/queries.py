"""Queries of people on the journal: one saga with everything known of it, and pages of many.

A page is found by its key, (created_at, id), newest first, so the thousandth costs what the first one does
(`polysaga_journal_age`). Sagas that are not at rest are found through the index on `wake_at`, however many
finished sagas there are. What went wrong has an index of its own: on PostgreSQL and SQLite all rows with a reason
in `error`, on MySQL and MariaDB each status.

A search for what no index has, such as a name, reads the newest `_LOOK` rows behind its cursor, in the index that
serves it best. If they do not fill the page, the page says how far back the search has come, and its cursor goes
on from there. So no page costs more than that, and only the last page has no cursor.
"""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from polysaga.databases import SqlNode
from polysaga.errors import PayloadError
from polysaga.sagas.definition.identity import id_from_key
from polysaga.sagas.journal.tables import AUDIT, JOURNAL
from polysaga.sagas.journal.views import AuditEntry, SagaFilter, SagaPage, SagaState, SagaSummary
from polysaga.sagas.protocol.reasons import Reason, attempts_in, decoded_history, tenures_in
from polysaga.sagas.protocol.states import Status

_LONG_AGO = 100 * 365 * 24 * 3600.0  # seconds
_MOST = 1000  # sagas on one page
_WITH_REASON = frozenset({Status.COMPENSATING, Status.COMPENSATED, Status.NEEDS_ATTENTION})  # in `error`
_LOOK = 10_000  # rows that one search reads at most
_SUMMARY = (
    "id, name, version, fingerprint, saga_key, status, error, epoch, owner, wake_at, deadline, expiries, "
    "created_at, finished_at"
)


class Catalogue:
    """The journal for people, read from the primary."""

    def __init__(self, node: SqlNode, names: Collection[str], fingerprints: Collection[str]) -> None:
        self._node, self._names, self._fingerprints = node, frozenset(names), frozenset(fingerprints)

    async def find(self, wanted: SagaFilter, *, limit: int, after: str | None) -> SagaPage:
        """Return at most *limit* sagas behind the cursor *after*."""
        if not 1 <= limit <= _MOST:
            raise PayloadError(f"a page has 1 to {_MOST} sagas, not {limit}")
        if wanted.older_than is not None and not 0 <= wanted.older_than <= _LONG_AGO:
            raise PayloadError(f"older_than is {wanted.older_than} seconds; give it 0 or more, at most 100 years")
        if wanted.name is not None and not writable(wanted.name):
            raise PayloadError("a name must be text that can be written as UTF-8, without NUL")
        values: dict[str, Any] = {"limit": limit + 1}
        among = [*self._source(wanted), *self._behind(wanted, after, values)]
        conditions = self._conditions(wanted, values)
        async with self._node.writer.connect() as connection:
            end = None
            if conditions and not (_awake(wanted) or wanted.key is not None):
                end = await self._end_of_look(connection, among, values)
            if end is not None:
                values |= {"end_at": end[0], "end_id": end[1]}
                among += ["created_at >= :end_at", "(created_at > :end_at OR id >= :end_id)"]
            # Few sagas are not at rest: the coalesce keeps their sort off the age index, which holds all sagas.
            age = "coalesce(created_at, created_at)" if _awake(wanted) else "created_at"
            statement = self._node.dialect.render(
                f"SELECT {_SUMMARY} FROM {JOURNAL}{_where([*among, *conditions])} "
                f"ORDER BY {age} DESC, id DESC LIMIT :limit"
            )
            result = await connection.exec_driver_sql(statement.sql, statement.bind(values))
            found = [SagaSummary(**self._summary(dict(row))) for row in result.mappings()]
        if len(found) > limit:
            last = found[limit - 1]
            return SagaPage(tuple(found[:limit]), _cursor(last.created_at, last.id))
        if end is None:
            return SagaPage(tuple(found), None)
        searched_to, last_id = self._node.dialect.moment_from(end[0]), self._node.dialect.key_from(end[1])
        return SagaPage(tuple(found), _cursor(searched_to, last_id), searched_to)

    async def _end_of_look(
        self, connection: AsyncConnection, among: Collection[str], values: Mapping[str, Any]
    ) -> tuple[Any, Any] | None:
        """Return created_at and id of the last row that a search may read; None if no row follows it."""
        statement = self._node.dialect.render(
            f"SELECT created_at, id FROM {JOURNAL}{_where(among)} "
            f"ORDER BY created_at DESC, id DESC LIMIT 2 OFFSET {_LOOK - 1}"
        )
        found = (await connection.exec_driver_sql(statement.sql, statement.bind(values))).all()
        if len(found) < 2:
            return None
        (created_at, saga_id), _ = map(tuple, found)
        return created_at, saga_id

    async def get(self, saga_id: UUID) -> SagaState | None:
        """Return everything about one saga, with what people did to it."""
        render, values = self._node.dialect.render, {"id": self._node.dialect.key(saga_id)}
        one = render(f"SELECT {_SUMMARY}, input, results, history FROM {JOURNAL} WHERE id = :id")
        done = render(
            f"SELECT recorded_at, actor, action, why, details FROM {AUDIT} "
            "WHERE saga_id = :id ORDER BY recorded_at, id"
        )
        async with self._node.writer.connect() as connection:
            row = (await connection.exec_driver_sql(one.sql, one.bind(values))).mappings().first()
            if row is None:
                return None
            audit = (await connection.exec_driver_sql(done.sql, done.bind(values))).all()
        history = decoded_history(row["history"])
        return SagaState(
            **self._summary(dict(row)),
            driven_here=False,
            input=row["input"],
            results=json.loads(row["results"]),
            history=attempts_in(history),
            owners=tenures_in(history),
            audit=tuple(
                AuditEntry(
                    at=self._node.dialect.moment_from(line.recorded_at),
                    by=line.actor,
                    action=line.action,
                    why=line.why,
                    details=json.loads(line.details),
                )
                for line in audit
            ),
        )

    def _conditions(self, wanted: SagaFilter, values: dict[str, Any]) -> list[str]:
        dialect, conditions = self._node.dialect, []
        if wanted.statuses and not self._is_indexed(wanted):
            named = ", ".join(f"'{status.value}'" for status in wanted.statuses)
            conditions.append(f"status IN ({named})")
        if wanted.key is not None:
            names = self._names if wanted.name is None else {wanted.name}
            ids = [{"saga_id": str(id_from_key(name, wanted.key))} for name in sorted(names)]
            values["rows"] = json.dumps(ids)
            given = f"SELECT {dialect.key_of('given.saga_id')} FROM {dialect.rows_of({'saga_id': 'uuid'})}"
            conditions.append(f"id IN ({given})")
        if wanted.name is not None:
            values["name"] = wanted.name
            conditions.append("name = :name")
        if wanted.error is not None:
            # Encoded as in the column, which holds JSON.
            text = json.dumps(wanted.error)[1:-1].lower()
            values["error"] = f"%{text.replace('!', '!!').replace('%', '!%').replace('_', '!_')}%"
            conditions.append("error IS NOT NULL AND lower(error) LIKE :error ESCAPE '!'")
        if wanted.known is not None:
            known = ", ".join(f"'{fingerprint}'" for fingerprint in sorted(self._fingerprints)) or "''"
            conditions.append(f"fingerprint {'IN' if wanted.known else 'NOT IN'} ({known})")
        return conditions

    def _source(self, wanted: SagaFilter) -> list[str]:
        """Return the condition of the index that holds all wanted sagas, and the fewest others."""
        if _awake(wanted):
            return ["wake_at IS NOT NULL"]
        if self._is_indexed(wanted):
            return [f"status = '{wanted.statuses[0].value}'"]
        all_have_reasons = bool(wanted.statuses) and _WITH_REASON.issuperset(wanted.statuses)
        served = self._node.dialect.name != "mysql" and (all_have_reasons or wanted.error is not None)
        return ["error IS NOT NULL"] if served else []

    def _is_indexed(self, wanted: SagaFilter) -> bool:
        """Return whether an index holds exactly the sagas with the status wanted."""
        return self._node.dialect.name == "mysql" and len(set(wanted.statuses)) == 1 and not _awake(wanted)

    def _behind(self, wanted: SagaFilter, after: str | None, values: dict[str, Any]) -> list[str]:
        older = []
        if wanted.older_than is not None:
            values["age"] = wanted.older_than
            older.append(f"created_at <= {self._node.dialect.ago(':age')}")
        if after is None:
            return older
        try:
            at, _, saga_id = after.partition("~")
            values["at"] = self._node.dialect.moment(datetime.fromisoformat(at))
            values["id"] = self._node.dialect.key(UUID(saga_id))
        except ValueError:
            raise PayloadError(f"{after!r} is no cursor: pass on `SagaPage.next` as it is") from None
        # Not (created_at, id) < (...): MySQL would not use the index for it.
        return [*older, "created_at <= :at", "(created_at < :at OR id < :id)"]

    def _summary(self, row: Mapping[str, Any]) -> dict[str, Any]:
        dialect = self._node.dialect

        def moment(name: str) -> datetime | None:
            return None if row[name] is None else dialect.moment_from(row[name])

        return {
            "id": dialect.key_from(row["id"]),
            "name": row["name"],
            "version": row["version"],
            "key": row["saga_key"],
            "status": Status(row["status"]),
            "known": row["fingerprint"] in self._fingerprints,
            "error": Reason.decoded(row["error"]),
            "epoch": row["epoch"],
            "owner": None if row["owner"] is None else dialect.key_from(row["owner"]),
            "wake_at": None if row["status"] == Status.NEEDS_ATTENTION else moment("wake_at"),
            "deadline": moment("deadline"),
            "expiries": row["expiries"],
            "created_at": moment("created_at"),
            "finished_at": moment("finished_at"),
        }


def writable(text: str) -> bool:
    """Return whether every database can store *text*."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


def _awake(wanted: SagaFilter) -> bool:
    return bool(wanted.statuses) and not any(status.final for status in wanted.statuses)


def _where(conditions: Collection[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _cursor(created_at: datetime, saga_id: UUID) -> str:
    return f"{created_at.isoformat()}~{saga_id}"
