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
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from polysaga.databases import SqlNode
from polysaga.databases.dialects.sql import rows_of_ids
from polysaga.errors import PayloadError
from polysaga.sagas.definition.identity import as_id, id_from_key
from polysaga.sagas.journal.claims import CRASHES
from polysaga.sagas.journal.figures import late_if, late_values
from polysaga.sagas.journal.paging import cursor, instant, place, quoted, where
from polysaga.sagas.journal.tables import AUDIT, BEFORE_NEVER, JOURNAL
from polysaga.sagas.journal.views import AuditEntry, SagaFilter, SagaPage, SagaState, SagaSummary
from polysaga.sagas.protocol.reasons import Attempt, Reason, attempts_in, decoded_history, tenures_in
from polysaga.sagas.protocol.states import Status

_LONG_AGO = 100 * 365 * 24 * 3600.0  # seconds
_MOST = 1000  # sagas on one page
_MOVES = f"status IN ({', '.join(repr(status.value) for status in Status if status.moving)})"
_DONE = frozenset({"done", "found", "null"})  # outcomes of attempts that did not fail
_WITH_REASON = frozenset({Status.COMPENSATING, Status.COMPENSATED, Status.NEEDS_ATTENTION})  # in `error`
_LOOK = 10_000  # rows that one search reads at most
_AT_ONCE = 500  # rows that are compared in this process at once
_SUMMARY = (
    "id, name, version, fingerprint, saga_key, status, error, epoch, owner, wake_at, deadline, expiries, "
    "created_at, finished_at"
)


@dataclass(frozen=True, slots=True)
class _Page:
    """Sagas with their histories, as text, if the search needs them."""

    rows: list[tuple[SagaSummary, str | None]]
    next: str | None
    searched_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class _End:
    """The last row that a search may read; without *row* it may read all."""

    row: tuple[Any, Any] | None = None  # created_at and id
    conditions: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


class Catalogue:
    """The journal for people, read from the primary."""

    def __init__(
        self,
        node: SqlNode,
        names: Collection[str],
        fingerprints: Collection[str],
        *,
        places: Mapping[tuple[str, int, str], str] | None = None,
        lease: float = 30.0,
    ) -> None:
        """*places*: the databases of the steps, by the saga's name and version and the step's name."""
        self._node, self._names, self._fingerprints = node, frozenset(names), frozenset(fingerprints)
        self._places, self._lease = places or {}, lease

    async def find(self, wanted: SagaFilter, *, limit: int, after: str | None) -> SagaPage:
        """Return at most *limit* sagas behind the cursor *after*."""
        self._check(wanted, limit)
        if not _reads_histories(wanted):
            page = await self._page(wanted, limit, after)
            return SagaPage(tuple(saga for saga, _ in page.rows), page.next, page.searched_to)
        found: list[SagaSummary] = []
        read = 0
        while True:
            page = await self._page(wanted, _AT_ONCE, after)
            matching = [saga for saga, history in page.rows if self._matches(wanted, saga, history)]
            found += matching
            read += len(page.rows)
            if len(found) > limit:
                last = found[limit - 1]
                return SagaPage(tuple(found[:limit]), cursor(last.created_at, last.id))
            if page.next is None:
                return SagaPage(tuple(found), None)
            if page.searched_to is not None or read >= _LOOK:
                searched_to = page.searched_to or page.rows[-1][0].created_at
                return SagaPage(tuple(found), page.next, searched_to)
            after = page.next

    async def count(self, wanted: SagaFilter, *, most: int) -> tuple[int, bool]:
        """Return how many sagas *wanted* finds, at most *most*, and whether that are all."""
        if _reads_histories(wanted):
            number, after = 0, None
            while True:
                page = await self.find(wanted, limit=_MOST, after=after)
                number += len(page.sagas)
                if page.next is None or page.searched_to is not None or number >= most:
                    return min(number, most), page.next is None
                after = page.next
        self._check(wanted, 1)
        values: dict[str, Any] = {"most": most}
        among = [*self._source(wanted), *self._behind(wanted, None, values)]
        conditions = self._conditions(wanted, values)
        async with self._node.writer.connect() as connection:
            end = await self._end(connection, wanted, among, conditions, values)
            among += end.conditions
            statement = self._node.dialect.render(
                "SELECT count(*) FROM "
                f"(SELECT id FROM {JOURNAL}{where([*among, *conditions])} LIMIT :most) AS found"
            )
            result = await connection.exec_driver_sql(statement.sql, statement.bind({**values, **end.values}))
            number = int(result.scalar_one())
        return number, number < most and end.row is None

    async def _page(self, wanted: SagaFilter, limit: int, after: str | None) -> _Page:
        values: dict[str, Any] = {"limit": limit + 1}
        among = [*self._source(wanted), *self._behind(wanted, after, values)]
        conditions = self._conditions(wanted, values)
        async with self._node.writer.connect() as connection:
            end = await self._end(connection, wanted, among, conditions, values)
            # Few sagas are not at rest: the coalesce keeps their sort off the age index, which holds all sagas.
            age = "coalesce(created_at, created_at)" if _awake(wanted) else "created_at"
            order = "ASC" if wanted.oldest_first else "DESC"
            # Of a saga that moves it is short, and tells which step is retried; of one at rest it may be long.
            history = "history" if _reads_histories(wanted) else f"CASE WHEN {_MOVES} THEN history END AS history"
            statement = self._node.dialect.render(
                f"SELECT {_SUMMARY}, {history} FROM {JOURNAL}{where([*among, *end.conditions, *conditions])} "
                f"ORDER BY {age} {order}, id {order} LIMIT :limit"
            )
            result = await connection.exec_driver_sql(statement.sql, statement.bind({**values, **end.values}))
            found = [(SagaSummary(**self._summary(row)), row["history"]) for row in map(dict, result.mappings())]
        if len(found) > limit:
            last = found[limit - 1][0]
            return _Page(found[:limit], cursor(last.created_at, last.id))
        if end.row is None:
            return _Page(found, None)
        searched_to, last_id = (
            self._node.dialect.moment_from(end.row[0]),
            self._node.dialect.key_from(end.row[1]),
        )
        return _Page(found, cursor(searched_to, last_id), searched_to)

    async def _end(
        self,
        connection: AsyncConnection,
        wanted: SagaFilter,
        among: Collection[str],
        conditions: Collection[str],
        values: Mapping[str, Any],
    ) -> _End:
        """Return where a search must end that no index serves."""
        if not conditions or _awake(wanted) or wanted.key is not None or wanted.ids is not None:
            return _End()
        order = "ASC" if wanted.oldest_first else "DESC"
        statement = self._node.dialect.render(
            f"SELECT created_at, id FROM {JOURNAL}{where(among)} "
            f"ORDER BY created_at {order}, id {order} LIMIT 2 OFFSET {_LOOK - 1}"
        )
        found = (await connection.exec_driver_sql(statement.sql, statement.bind(values))).all()
        if len(found) < 2:
            return _End()
        (created_at, saga_id), _ = map(tuple, found)
        beyond = "<" if wanted.oldest_first else ">"
        within = (f"created_at {beyond}= :end_at", f"(created_at {beyond} :end_at OR id {beyond}= :end_id)")
        return _End((created_at, saga_id), within, {"end_at": created_at, "end_id": saga_id})

    def _check(self, wanted: SagaFilter, limit: object) -> None:
        if not isinstance(limit, int) or not 1 <= limit <= _MOST:
            raise PayloadError(f"a page has 1 to {_MOST} sagas, not {limit}")
        age: object = wanted.older_than
        if age is not None and not (isinstance(age, int | float) and 0 <= age <= _LONG_AGO):
            raise PayloadError(f"older_than is {age} seconds; give it 0 or more, at most 100 years")
        for what in ("name", "step", "database"):
            text = getattr(wanted, what)
            if text is not None and not (isinstance(text, str) and writable(text)):
                raise PayloadError(f"a {what} must be text that can be written as UTF-8, without NUL")
        error: object = wanted.error
        if error is not None and not isinstance(error, str):
            raise PayloadError(f"error is {error!r}; give the text to search for")
        for what in ("since", "until"):
            moment: object = getattr(wanted, what)
            if moment is None:
                continue
            if not isinstance(moment, datetime):
                raise PayloadError(f"{what} is {moment!r}; give an aware time")
            instant(moment, what)

    async def get(self, saga_id: UUID) -> SagaState | None:
        """Return everything about one saga, with what people did to it."""
        render, values = self._node.dialect.render, {"id": self._node.dialect.key(saga_id)}
        one = render(f"SELECT {_SUMMARY}, input, results, history, trace FROM {JOURNAL} WHERE id = :id")
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
            trace_id=None if row["trace"] is None else row["trace"].split("-")[1],  # W3C: version-id-parent-flags
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
        ids = None if wanted.ids is None else set(map(as_id, wanted.ids))
        if wanted.key is not None:
            names = self._names if wanted.name is None else {wanted.name}
            keyed = {id_from_key(name, wanted.key) for name in names}
            ids = keyed if ids is None else keyed.intersection(ids)
        if ids is not None:
            values["rows"] = rows_of_ids(sorted(ids))
            conditions.append(f"id IN ({dialect.ids_of_rows()})")
        if wanted.name is not None:
            values["name"] = wanted.name
            conditions.append("name = :name")
        if wanted.error is not None:
            # Encoded as in the column, which holds JSON.
            values["error"] = f"%{_pattern(json.dumps(wanted.error)[1:-1].lower())}%"
            conditions.append("error IS NOT NULL AND lower(error) LIKE :error ESCAPE '!'")
        if wanted.late:
            values.update(late_values(self._lease))
            conditions.append(late_if(dialect))
        if wanted.waiting:
            conditions.append(f"owner IS NULL AND wake_at < {BEFORE_NEVER}")
        if wanted.crashing:
            conditions.append(f"expiries >= {CRASHES} AND wake_at < {BEFORE_NEVER}")
        if wanted.retrying or wanted.step is not None or wanted.database is not None:
            conditions += self._near(wanted, values)
        if wanted.known is not None:
            known = "IN" if wanted.known else "NOT IN"
            conditions.append(f"fingerprint {known} ({quoted(self._fingerprints)})")
        return conditions

    def _near(self, wanted: SagaFilter, values: dict[str, Any]) -> Iterator[str]:
        """Yield conditions that all rows fulfil that `_matches` finds."""
        if wanted.retrying:
            yield f"wake_at < {BEFORE_NEVER} AND history IS NOT NULL"
        steps = set() if wanted.step is None else {wanted.step}
        if wanted.database is not None:
            there = {step for (*_, step), database in self._places.items() if database == wanted.database}
            steps = there & steps if steps else there
        elif wanted.step is None:
            return
        near = ["1 = 0"]
        for number, step in enumerate(sorted(steps)):
            name, reason, attempt = _pattern(json.dumps(step)), "reason" + number * "_", "attempt" + number * "_"
            # The message follows the step: the facts of a refusal may have a member of this name, too.
            values[reason], values[attempt] = f'%"step": {name}, "message": %', f'%"step":{name}%'
            told = f"error LIKE :{reason} ESCAPE '!'"
            if _reads_histories(wanted):
                told += f" OR (wake_at IS NOT NULL AND history LIKE :{attempt} ESCAPE '!')"
            near.append(told)
        yield f"({' OR '.join(near)})"

    def _matches(self, wanted: SagaFilter, saga: SagaSummary, history: str | None) -> bool:
        last = _failed_last(history)
        failing = None if last is None or saga.status.final else last.step
        if wanted.retrying and saga.retried is None:
            return False
        steps = {step for step in (saga.step, failing) if step}
        if saga.error is not None and saga.error.step:
            steps.add(saga.error.step)
        if wanted.step is not None:
            steps &= {wanted.step}
        if wanted.database is not None:
            steps = {step for step in steps if wanted.database in self._databases_of(saga, step)}
        return bool(steps) or (wanted.step is None and wanted.database is None)

    def _databases_of(self, saga: SagaSummary, step: str) -> set[str]:
        """Return where *step* is; in a version that is not known here, where it is in those that are."""
        found = self._places.get((saga.name, saga.version, step))
        if found is not None:
            return {found}
        return {place for (name, _, one), place in self._places.items() if (name, one) == (saga.name, step)}

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
        if wanted.since is not None:
            values["since"] = self._node.dialect.moment(wanted.since)
            older.append("created_at >= :since")
        if wanted.until is not None:
            values["until"] = self._node.dialect.moment(wanted.until)
            older.append("created_at < :until")
        if after is None:
            return older
        at, saga_id = place(after, "SagaPage")
        values |= {"at": self._node.dialect.moment(at), "id": self._node.dialect.key(saga_id)}
        # Not (created_at, id) < (...): MySQL would not use the index for it.
        beyond = ">" if wanted.oldest_first else "<"
        return [*older, f"created_at {beyond}= :at", f"(created_at {beyond} :at OR id {beyond} :id)"]

    def _summary(self, row: Mapping[str, Any]) -> dict[str, Any]:
        dialect = self._node.dialect

        def moment(name: str) -> datetime | None:
            return None if row[name] is None else dialect.moment_from(row[name])

        status, failed = Status(row["status"]), _failed_last(row["history"])
        return {
            "id": dialect.key_from(row["id"]),
            "name": row["name"],
            "version": row["version"],
            "key": row["saga_key"],
            "status": status,
            "known": row["fingerprint"] in self._fingerprints,
            "error": Reason.decoded(row["error"]),
            "epoch": row["epoch"],
            "owner": None if row["owner"] is None else dialect.key_from(row["owner"]),
            "wake_at": None if status is Status.NEEDS_ATTENTION else moment("wake_at"),
            "deadline": moment("deadline"),
            "expiries": row["expiries"],
            "created_at": moment("created_at"),
            "finished_at": moment("finished_at"),
            "retried": failed.step if status.moving and failed is not None else None,
        }


def writable(text: str) -> bool:
    """Return whether every database can store *text*."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


def _failed_last(history: str | None) -> Attempt | None:
    """Return the last attempt in a saga's history if it failed."""
    last = next(reversed(attempts_in(decoded_history(history))), None)
    return None if last is None or last.outcome in _DONE else last


def _awake(wanted: SagaFilter) -> bool:
    """Return whether only unfinished sagas are wanted."""
    unfinished = bool(wanted.statuses) and not any(status.final for status in wanted.statuses)
    return unfinished or wanted.retrying or wanted.late or wanted.waiting or wanted.crashing


def _reads_histories(wanted: SagaFilter) -> bool:
    """Return whether the step that failed last must be known, which no column has.

    A saga that is parked or at rest has the step in its reason.
    """
    moving = not wanted.statuses or any(status.moving for status in wanted.statuses)
    return wanted.retrying or wanted.database is not None or (wanted.step is not None and moving)


def _pattern(text: str) -> str:
    """Return *text* for LIKE with the escape character !."""
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
