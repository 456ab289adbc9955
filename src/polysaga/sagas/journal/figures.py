"""Figures of the journal for people: what is unfinished, why sagas are parked, what people did.

Everything but the audit trail comes from the index on `wake_at`, which has the unfinished sagas only: it costs the
same however many have finished. Parked ones stand at its end.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from polysaga.databases import SqlNode
from polysaga.databases.dialects import Rendered, SqlDialect
from polysaga.databases.dialects.sql import rows_of_ids
from polysaga.sagas.journal.claims import CRASHES, PAUSE, TOLERATED
from polysaga.sagas.journal.paging import cursor, instant, place, where
from polysaga.sagas.journal.tables import AUDIT, BEFORE_NEVER, JOURNAL
from polysaga.sagas.journal.views import AuditFilter
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.states import Status

MOST_PARKED = 5_000  # whose reasons are read
_LINES = 1_000  # lines of a batch that are read at once
_CLOCKS_DIFFER = timedelta(hours=1)  # at most, of a process and the journal
_AUDIT_LOOK = 10_000  # lines that one page of the audit trail reads at most


@dataclass(frozen=True, slots=True)
class Unfinished:
    """How many sagas have one status, or are late."""

    status: Status
    count: int
    waiting: int  # put aside
    crashing: int  # three processes in a row ended or hung while they drove them


@dataclass(frozen=True, slots=True)
class LateRow:
    """Late sagas of one version and status."""

    name: str
    version: int
    fingerprint: str
    status: Status
    count: int
    since: datetime
    example: UUID


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """One parked saga and why."""

    saga_id: UUID
    name: str
    fingerprint: str
    epoch: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One line of the audit trail."""

    id: UUID
    saga_id: UUID
    saga: str | None
    at: datetime
    by: str
    action: str
    why: str
    details: Mapping[str, Any]


class Figures:
    """The statements for one journal."""

    def __init__(self, node: SqlNode, *, lease: float) -> None:
        self._node, dialect = node, node.dialect
        self._lease = lease
        render = dialect.render
        # PostgreSQL has no least UUID before version 18.
        example = "cast(id AS text)" if dialect.name == "postgresql" else "id"
        self._unfinished = render(
            "SELECT status, count(*) AS number, sum(CASE WHEN owner IS NULL THEN 1 ELSE 0 END) AS waiting, "
            f"sum(CASE WHEN expiries >= {CRASHES} AND wake_at < {BEFORE_NEVER} THEN 1 ELSE 0 END) AS crashing "
            f"FROM {JOURNAL} WHERE wake_at IS NOT NULL GROUP BY status"
        )
        self._late = render(
            "SELECT name, version, fingerprint, status, count(*) AS number, min(wake_at) AS since, "
            f"min({example}) AS example FROM {JOURNAL} WHERE {late_if(dialect)} "
            "GROUP BY name, version, fingerprint, status ORDER BY min(wake_at)"
        )
        self._parked = render(
            f"SELECT id, epoch FROM {JOURNAL} WHERE wake_at > {BEFORE_NEVER} AND status = 'needs_attention' "
            "ORDER BY wake_at LIMIT :most"
        )
        self._reasons = render(
            f"SELECT id, name, fingerprint, epoch, error FROM {JOURNAL} WHERE id IN ({dialect.ids_of_rows()}) "
            "AND status = 'needs_attention'"
        )
        self._now = render(f"SELECT {dialect.clock} AS now")
        # The lines since a batch began have an index, those of a batch have not. Ids begin with their time, too.
        since = (
            f"SELECT saga_id, details FROM {AUDIT} WHERE recorded_at >= :since AND id >= :first "
            f"ORDER BY recorded_at, id LIMIT {_AUDIT_LOOK}"
        )
        repaired = f"SELECT DISTINCT saga_id FROM ({since}) AS a WHERE details LIKE :batch"
        self._standing = render(
            f"SELECT j.status AS status, count(*) AS number FROM ({repaired}) AS b "
            f"LEFT JOIN {JOURNAL} AS j ON j.id = b.saga_id GROUP BY j.status"
        )
        self._examples_of = render(
            f"SELECT j.id AS id FROM ({repaired}) AS b JOIN {JOURNAL} AS j ON j.id = b.saga_id "
            "ORDER BY CASE WHEN j.wake_at IS NULL THEN 1 ELSE 0 END, j.created_at DESC, j.id DESC LIMIT :most"
        )

    async def unfinished(self) -> list[Unfinished]:
        """Return how many sagas are not at rest, by status."""
        rows = await self._rows(self._unfinished, {})
        return [
            Unfinished(Status(row["status"]), int(row["number"]), int(row["waiting"]), int(row["crashing"]))
            for row in rows
        ]

    async def late(self) -> list[LateRow]:
        """Return the sagas that were due two leases ago, those put aside a minute ago; the earliest first."""
        dialect = self._node.dialect
        return [
            LateRow(
                row["name"],
                row["version"],
                row["fingerprint"],
                Status(row["status"]),
                int(row["number"]),
                dialect.moment_from(row["since"]),
                UUID(row["example"]) if dialect.name == "postgresql" else dialect.key_from(row["example"]),
            )
            for row in await self._rows(self._late, late_values(self._lease))
        ]

    async def parked(self) -> list[tuple[UUID, int]]:
        """Return id and epoch of at most `MOST_PARKED` + 1 parked sagas."""
        rows = await self._rows(self._parked, {"most": MOST_PARKED + 1})
        return [(self._node.dialect.key_from(row["id"]), row["epoch"]) for row in rows]

    async def reasons(self, saga_ids: Collection[UUID]) -> list[ParkedRow]:
        """Return why those of *saga_ids* are parked that are; without tracebacks."""
        values = {"rows": rows_of_ids(saga_ids)}
        return [
            ParkedRow(
                self._node.dialect.key_from(row["id"]),
                row["name"],
                row["fingerprint"],
                row["epoch"],
                (Reason.decoded(row["error"]) or Reason()).without_tracebacks(),
            )
            for row in await self._rows(self._reasons, values)
        ]

    async def now(self) -> datetime:
        """Return the journal's time."""
        (row,) = await self._rows(self._now, {})
        return self._node.dialect.moment_from(row["now"])

    async def audit(
        self, wanted: AuditFilter, after: str | None, most: int, *, sagas: Collection[UUID] | None = None
    ) -> tuple[list[AuditRow], str | None]:
        """Return at most *most* lines behind the cursor *after*, the newest first, and the next cursor.

        Reads at most 10,000 lines; the cursor goes on behind them. *sagas*: only what was done to these.
        """
        dialect = self._node.dialect
        values: dict[str, Any] = {"most": most}
        among = _audit_range(wanted, values, dialect, after)
        if sagas is not None:
            values["rows"] = rows_of_ids(sorted(sagas))
            among.append(f"saga_id IN ({dialect.ids_of_rows()})")
        matches = _audit_matches(wanted, values)
        end = await self._end_of_look(among, values) if matches else None
        if end is not None:
            values |= {"end_at": end["recorded_at"], "end": end["id"]}
            among += ["recorded_at >= :end_at", "(recorded_at > :end_at OR id >= :end)"]
        # The page first: names are looked up for its lines only.
        page = (
            "SELECT id, saga_id, recorded_at, actor, action, why, details "
            f"FROM {AUDIT}{where([*among, *matches])} ORDER BY recorded_at DESC, id DESC LIMIT :most"
        )
        statement = dialect.render(
            f"SELECT a.*, j.name AS saga FROM ({page}) AS a LEFT JOIN {JOURNAL} AS j ON j.id = a.saga_id "
            "ORDER BY a.recorded_at DESC, a.id DESC"
        )
        found = [self._audit_row(row) for row in await self._rows(statement, values)]
        if len(found) == most:
            return found, cursor(found[-1].at, found[-1].id)
        if end is None:
            return found, None
        return found, cursor(dialect.moment_from(end["recorded_at"]), dialect.key_from(end["id"]))

    async def batch(self, batch_id: UUID) -> tuple[int, int | None, datetime, AuditRow, datetime] | None:
        """Return how many lines a batch has, how many sagas, its first moment, its last line, and the time now.

        None if it has no line. The id of a batch says when it began, so later lines only are read.
        """
        wanted, count, after = _of_batch(batch_id), 0, None
        if wanted is None:
            return None
        newest = oldest = None
        while True:
            page, after = await self.audit(wanted, after, _LINES)
            count += len(page)
            if page:
                newest, oldest = newest or page[0], page[-1]
            if after is None:
                break
        if newest is None or oldest is None:
            return None
        size = newest.details.get("batch_size")
        return count, size if isinstance(size, int) else None, oldest.at, newest, await self.now()

    async def standing(self, batch_id: UUID) -> dict[Status | None, int]:
        """Return how many sagas that a batch has repaired have which status now; None: they were removed.

        Reads at most 10,000 lines of the audit trail, the first since the batch began.
        """
        if (values := _batch_values(batch_id, self._node.dialect)) is None:
            return {}
        rows = await self._rows(self._standing, values)
        return {row["status"] and Status(row["status"]): int(row["number"]) for row in rows}

    async def examples_of(self, batch_id: UUID, most: int) -> list[UUID]:
        """Return *most* sagas that a batch has repaired, those that are not at rest first; reads as `standing`."""
        if (values := _batch_values(batch_id, self._node.dialect)) is None:
            return []
        rows = await self._rows(self._examples_of, {**values, "most": most})
        return [self._node.dialect.key_from(row["id"]) for row in rows]

    async def _end_of_look(self, among: Collection[str], values: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the last line that a search may read; None if no line follows it."""
        statement = self._node.dialect.render(
            f"SELECT recorded_at, id FROM {AUDIT}{where(among)} "
            f"ORDER BY recorded_at DESC, id DESC LIMIT 2 OFFSET {_AUDIT_LOOK - 1}"
        )
        found = await self._rows(statement, values)
        return found[0] if len(found) == 2 else None

    def _audit_row(self, row: Mapping[str, Any]) -> AuditRow:
        dialect = self._node.dialect
        return AuditRow(
            dialect.key_from(row["id"]),
            dialect.key_from(row["saga_id"]),
            row["saga"],
            dialect.moment_from(row["recorded_at"]),
            row["actor"],
            row["action"],
            row["why"],
            json.loads(row["details"]),
        )

    async def _rows(self, statement: Rendered, values: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        async with self._node.writer.connect() as connection:
            result = await connection.exec_driver_sql(statement.sql, statement.bind(values))
            return [dict(row) for row in result.mappings()]


def _of_batch(batch_id: UUID) -> AuditFilter | None:
    """Return the filter for the lines of a batch; None if no batch can have this id, which has its time."""
    try:
        since = datetime.fromtimestamp((batch_id.int >> 80) / 1000, UTC) - _CLOCKS_DIFFER
    except (ValueError, OverflowError):
        return None
    return AuditFilter(batch=batch_id, since=since)


def _batch_values(batch_id: UUID, dialect: SqlDialect) -> dict[str, Any] | None:
    """Return the parameters of statements on the lines of a batch; None if no batch can have this id."""
    wanted = _of_batch(batch_id)
    if wanted is None or wanted.since is None:
        return None
    first = UUID(int=batch_id.int >> 80 << 80)  # of the same millisecond
    values: dict[str, Any] = {"since": dialect.moment(wanted.since), "first": dialect.key(first)}
    _audit_matches(wanted, values)
    return values


def late_if(dialect: SqlDialect) -> str:
    """Return the condition of sagas that no process has taken over in time; see `late_values`."""
    driven, aside = dialect.ago(":patience"), dialect.ago(":pause")
    return (
        f"wake_at IS NOT NULL AND wake_at < {BEFORE_NEVER} "
        f"AND wake_at < CASE WHEN owner IS NULL THEN {aside} ELSE {driven} END"
    )


def late_values(lease: float) -> dict[str, float]:
    """Return the parameters of `late_if`, in seconds: two leases, or two pauses of sagas that were put aside."""
    return {"patience": TOLERATED * lease, "pause": TOLERATED * PAUSE}


def _audit_range(wanted: AuditFilter, values: dict[str, Any], dialect: SqlDialect, after: str | None) -> list[str]:
    among = []
    if wanted.saga_id is not None:
        values["saga_id"] = dialect.key(wanted.saga_id)
        among.append("saga_id = :saga_id")
    if wanted.since is not None:
        values["since"] = dialect.moment(instant(wanted.since, "since"))
        among.append("recorded_at >= :since")
    if wanted.until is not None:
        values["until"] = dialect.moment(instant(wanted.until, "until"))
        among.append("recorded_at < :until")
    if after is not None:
        at, line = place(after, "AuditPage")
        values |= {"at": dialect.moment(at), "line": dialect.key(line)}
        among += ["recorded_at <= :at", "(recorded_at < :at OR id < :line)"]
    return among


def _audit_matches(wanted: AuditFilter, values: dict[str, Any]) -> list[str]:
    matches = []
    if wanted.by is not None:
        values["actor"] = wanted.by
        matches.append("actor = :actor")
    if wanted.action is not None:
        values["action"] = wanted.action
        matches.append("action = :action")
    if wanted.batch is not None:
        values["batch"] = f'%"batch": "{wanted.batch}"%'
        matches.append("details LIKE :batch")
    return matches
