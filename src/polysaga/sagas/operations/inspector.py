"""What people ask about sagas of all processes: what needs a person, what is slow, and everything about one saga.

It reads the journal's primary, and for one saga all databases that take part in it. It changes nothing; repairs
are in `repairs.py`.
"""

import asyncio
from collections.abc import Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from polysaga.errors import DefinitionError, PayloadError, PolysagaError, UnknownSaga
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.definition.identity import id_from_key
from polysaga.sagas.definition.retries import Retry
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.attempts import Attempts
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.journal.figures import MOST_PARKED, Figures
from polysaga.sagas.journal.paging import cursor
from polysaga.sagas.journal.pulses import Pulses
from polysaga.sagas.journal.views import AuditFilter, SagaFilter, SagaState, SagaSummary
from polysaga.sagas.operations.activity import Activity, ActivityReader, OwnPulse
from polysaga.sagas.operations.causes import ParkedSagas, causes, likeness
from polysaga.sagas.operations.findings import (
    AuditLine,
    AuditPage,
    Count,
    Examination,
    Fates,
    LateGroup,
    LedgerLook,
    Option,
    Overview,
    StepFacts,
)
from polysaga.sagas.operations.repair import SagaRepair
from polysaga.sagas.operations.repairs import catalogue_of
from polysaga.sagas.participants import Participant
from polysaga.sagas.participants.reading import explaining
from polysaga.sagas.protocol.contradictions import Account, Contradiction, Record, contradictions
from polysaga.sagas.protocol.decisions import fused_in
from polysaga.sagas.protocol.interrupts import OutOfReach
from polysaga.sagas.protocol.known import Claimed, Known, Surveyed, apply
from polysaga.sagas.protocol.plans import Planned, planned
from polysaga.sagas.protocol.repair_rules import RepairAction, RepairOrder, direction, status_after
from polysaga.sagas.protocol.rows import LedgerRow, Row
from polysaga.sagas.protocol.states import Mark, Status
from polysaga.texts import said

_ONCE = Retry(within=0.0)  # a database that does not answer is left out
_OLDEST = 6
_MOST_COUNTED = 10_000
_EXAMPLES = 200  # sagas of a batch
_AUDIT_AT_ONCE, _AUDIT_MOST = 500, 10_000  # lines of the audit trail per statement, and per page of people's acts


class Inspector:
    """The questions; made by `Sagas.inspector`. The databases must be open.

    Each raises `SchemaMissing` if our tables are missing, `DatabaseUnavailable` if the journal's primary does not
    answer, and `PoolExhausted`.
    """

    def __init__(
        self,
        engine: Engine,
        definitions: Mapping[str, Definition],
        parked: ParkedSagas,
        activity: ActivityReader,
        pulse: OwnPulse | None,
    ) -> None:
        self._engine, self._definitions = engine, definitions
        self._catalogue = catalogue_of(engine, definitions)
        self._parked, self._activity, self._pulse = parked, activity, pulse
        self._figures = Figures(engine.journal.node, lease=engine.settings.lease)
        self._home = engine.journal.node.database
        self._names = {definition.name for definition in definitions.values()}

    async def overview(self) -> Overview:
        """Return what is unfinished now: how many, why parked, how late, how old."""
        with self._explaining():
            unfinished, late = await self._figures.unfinished(), await self._figures.late()
            counts = {one.status: one.count for one in unfinished}
            parked = await self._parked.read(self._figures) if counts.get(Status.NEEDS_ATTENTION) else []
            if parked and len(parked) <= MOST_PARKED:
                counts[Status.NEEDS_ATTENTION] = len(parked)  # of the same moment as the causes
            moving = [status for status in Status if status.moving]
            oldest = await self._catalogue.find(
                SagaFilter(status=moving, oldest_first=True), limit=_OLDEST, after=None
            )
            at = await self._figures.now()
        return Overview(
            at=at,
            unfinished={status: counts.get(status, 0) for status in (*moving, Status.NEEDS_ATTENTION)},
            waiting=sum(one.waiting for one in unfinished if one.status is not Status.NEEDS_ATTENTION),
            crashing=sum(one.crashing for one in unfinished),
            late=tuple(
                LateGroup(
                    name=one.name,
                    version=one.version,
                    known=one.fingerprint in self._definitions,
                    status=one.status,
                    count=one.count,
                    since=one.since,
                    example=one.example,
                )
                for one in late
            ),
            causes=causes(parked[:MOST_PARKED], self._database_of),
            causes_complete=len(parked) <= MOST_PARKED,
            oldest=oldest.sagas,
        )

    async def activity(self) -> Activity:
        """Return what all processes did in the last hour, and which processes there are."""
        with self._explaining():
            return await self._activity.read(Pulses(self._engine.journal.node), self._pulse)

    async def count(self, wanted: SagaFilter) -> Count:
        """Return how many sagas *wanted* finds: at most 10,000 are counted."""
        with self._explaining():
            number, is_all = await self._catalogue.count(wanted, most=_MOST_COUNTED + 1)
        return Count(min(number, _MOST_COUNTED), is_all and number <= _MOST_COUNTED)

    async def examine(self, saga_id: UUID, *, details: SagaState | None = None) -> Examination:
        """Return everything about one saga; raise `UnknownSaga`.

        Each database has 15 seconds to answer; one that does not is left out, with the reason. *details*: the
        saga as it was read just now, to save reading it again.
        """
        with self._explaining():
            saga = details or await self._catalogue.get(saga_id)
            row = await self._engine.journal.load(saga_id)
            if saga is None or row is None:
                raise UnknownSaga(saga_id)
            definition, now = self._definitions.get(row.fingerprint), saga.created_at + timedelta(seconds=row.age)
            looks = await self._looks(row, definition)
            records = {step: found for look in looks for step, found in look.rows.items()}
            removed_at = self._removed_at(saga)
            silent = {look.database for look in looks if look.problem is not None}
            return Examination(
                saga=saga,
                at=now,
                late=saga.late_by(now, self._engine.settings.lease) is not None,
                steps=() if definition is None else tuple(map(_facts, definition.steps)),
                looks=looks,
                contradictions=(
                    self._contradictions(
                        saga, row, looks, definition, expired=removed_at is not None and removed_at <= now
                    )
                    if not silent
                    else ()
                ),
                moves=self._moves(row, definition, records) if definition is not None and not silent else (),
                options=await self._options(row, definition, records, silent),
                alike=await self._alike(saga),
                removed_at=removed_at,
            )

    async def audit(
        self, wanted: AuditFilter | None = None, *, limit: int = 50, after: str | None = None
    ) -> AuditPage:
        """Return what people did, the newest first: at most *limit* acts, one line for each batch.

        A page reads at most 10,000 lines of the audit trail, so it may be short although more follow.
        """
        lines: list[AuditLine] = []
        read, following, before = 0, after, after
        wanted = wanted or AuditFilter()
        sagas = None if wanted.key is None else {id_from_key(name, wanted.key) for name in self._names}
        while read < _AUDIT_MOST:
            with self._explaining():
                rows, following = await self._figures.audit(wanted, following, _AUDIT_AT_ONCE, sagas=sagas)
            for row in rows:
                batch = _batch_of(row.details)
                if lines and batch is not None and lines[-1].batch == batch:
                    lines[-1] = replace(lines[-1], count=lines[-1].count + 1)
                elif len(lines) == limit:
                    return AuditPage(tuple(lines), before)
                else:
                    lines.append(
                        AuditLine(
                            at=row.at,
                            by=row.by,
                            action=row.action,
                            why=row.why,
                            saga_id=row.saga_id,
                            saga=row.saga,
                            details=row.details,
                            batch=batch,
                        )
                    )
                before = cursor(row.at, row.id)
            read += _AUDIT_AT_ONCE
            if following is None:
                break
        return AuditPage(tuple(lines), following)

    async def fates(self, batch_id: UUID) -> Fates:
        """Return how the sagas that a batch has repaired stand now; of a large one its first 10,000."""
        with self._explaining():
            numbers = await self._figures.standing(batch_id)
            removed, examples = numbers.pop(None, 0), tuple[SagaSummary, ...]()
            if numbers:
                ids = await self._figures.examples_of(batch_id, _EXAMPLES)
                examples = (await self._catalogue.find(SagaFilter(ids=ids), limit=_EXAMPLES, after=None)).sagas
        return Fates(
            numbers={status: number for status, number in numbers.items() if status is not None},
            removed=removed,
            examples=examples,
            complete=sum(numbers.values()) + removed < _AUDIT_MOST,
        )

    def _explaining(self) -> AbstractContextManager[None]:
        """Raise errors of the journal's database within the block as Polysaga's own."""
        return explaining(self._engine.journal.node, "journal")

    def _database_of(self, fingerprint: str, step: str) -> str | None:
        definition = self._definitions.get(fingerprint)
        found = None if definition is None else definition.by_name.get(step)
        return None if found is None else found.database_name

    async def _looks(self, row: Row, definition: Definition | None) -> tuple[LedgerLook, ...]:
        """Ask all databases of the saga side by side; those of a version that is not known here: all there are."""
        used = self._engine.participants
        if definition is not None:
            places = {step.database_name or self._home for step in definition.steps} | {self._home}
            used = {name: one for name, one in used.items() if name in places}
        names = None if definition is None else [step.name for step in definition.steps]
        asked = [self._look(name, one, row, names) for name, one in used.items()]
        return tuple(await asyncio.gather(*asked))

    async def _look(
        self, database: str, participant: Participant, row: Row, steps: list[str] | None
    ) -> LedgerLook:
        is_journal, saga_id = database == self._home, row.claim.saga_id
        engine = self._engine
        attempts = Attempts(saga_id, row.name, engine.clock, engine.emit, engine.timeouts)

        async def look() -> dict[str, LedgerRow]:
            if steps is not None:
                return dict(await participant.look(saga_id, steps))
            records = await participant.page(UUID(int=saga_id.int - 1), saga_id, 1000)
            return {record.step: LedgerRow(record.state, record.result) for record in records}

        try:
            found = await attempts.persist(look, participant.fault, retry=_ONCE)
        except OutOfReach as error:
            return LedgerLook(database=database, is_journal=is_journal, problem=said(error.__cause__ or error))
        except (SQLAlchemyError, PolysagaError) as error:
            return LedgerLook(database=database, is_journal=is_journal, problem=said(error))
        if is_journal:
            # A step that was born with the journal's row is undone in one commit with the final status.
            undone = row.status is Status.COMPENSATED and not row.is_resolved
            mark = Mark.COMPENSATED if undone else Mark.DONE
            found |= {step: LedgerRow(mark, text) for step, text in row.results.items() if step not in found}
        return LedgerLook(database=database, is_journal=is_journal, rows=found)

    def _contradictions(
        self,
        saga: SagaState,
        row: Row,
        looks: tuple[LedgerLook, ...],
        definition: Definition | None,
        *,
        expired: bool,
    ) -> tuple[Contradiction, ...]:
        """Return what does not fit; a saga that moves while it is read shows none."""
        if row.status.moving:
            return ()
        account = Account(
            saga_id=saga.id,
            name=row.name,
            version=saga.version,
            fingerprint=row.fingerprint,
            status=row.status,
            results=row.results,
            overdue=False,
            resolved=row.is_resolved,
            expired=expired,
        )
        records = [
            Record(saga.id, look.database, step, found.state, found.result)
            for look in looks
            for step, found in look.rows.items()
            if not (look.is_journal and step in row.results)
        ]
        return tuple(contradictions(account, records, definition, home=self._home))

    def _moves(self, row: Row, definition: Definition, records: Mapping[str, LedgerRow]) -> tuple[Planned, ...]:
        if row.status.final:
            return ()
        born_alone = fused_in(definition, self._home, row.results) is None
        known = Known(row.status, {})
        for fact in (Claimed(direction(row), row.error, born_alone), Surveyed(records)):
            known = apply(definition, known, fact)
        return planned(definition, known, records, home=self._home)

    async def _options(
        self, row: Row, definition: Definition | None, records: Mapping[str, LedgerRow], silent: Set[str]
    ) -> tuple[Option, ...]:
        """Return all repairs, each as a dry run on the *records*; the databases in *silent* do not answer."""
        if row.status.final:
            return ()
        steps = () if definition is None else definition.steps
        orders = [
            RepairOrder(action=RepairAction.RETRY, by="", why=""),
            *[RepairOrder(action=RepairAction.SKIP, by="", why="", step=step.name) for step in steps],
            RepairOrder(action=RepairAction.COMPENSATE, by="", why=""),
            RepairOrder(action=RepairAction.RESOLVE, by="", why="", outcome=Status.COMPLETED),
            RepairOrder(action=RepairAction.RESOLVE, by="", why="", outcome=Status.COMPENSATED),
        ]
        return tuple([await self._option(order, row, definition, records, silent) for order in orders])

    async def _option(
        self,
        order: RepairOrder,
        row: Row,
        definition: Definition | None,
        records: Mapping[str, LedgerRow],
        silent: Set[str],
    ) -> Option:
        told = Option(action=order.action.value, step=order.step, outcome=order.outcome)
        try:
            after = status_after(order, row)
            await SagaRepair(self._engine, definition, row, order, records).check()
        except PayloadError:
            after = status_after(order, row)  # the step's result is missing: a person gives it
        except (PolysagaError, DefinitionError) as error:
            return replace(told, problem=said(error))
        if order.action is RepairAction.SKIP and definition is not None and order.step is not None:
            silent = silent & {definition.by_name[order.step].database_name or self._home}
        if silent and order.action in {RepairAction.SKIP, RepairAction.RESOLVE}:
            return replace(
                told, problem=f"it must be written to {', '.join(sorted(silent))}, which does not answer"
            )
        return replace(told, after=after)

    async def _alike(self, saga: SagaState) -> int:
        """Count the others that are parked for the same reason, also after this one was repaired to try it out."""
        if saga.parked_for is None:
            return 0
        wanted = likeness(saga.name, saga.parked_for)
        parked = await self._parked.read(self._figures)
        return sum(one.saga_id != saga.id and likeness(one.name, one.reason) == wanted for one in parked)

    def _removed_at(self, saga: SagaState) -> datetime | None:
        if saga.finished_at is None:
            return None
        return saga.finished_at + timedelta(seconds=self._engine.settings.retention)


def _facts(step: AnyStep) -> StepFacts:
    return StepFacts(
        name=step.name,
        kind=step.kind,
        database=step.database_name,
        after=tuple(before.name for before in step.after),
        does=step.action.__doc__,
        undoes=None if step.undo is None else step.undo.__doc__,
        undoable=step.undo is not None,
    )


def _batch_of(details: Mapping[str, object]) -> UUID | None:
    batch = details.get("batch")
    return UUID(batch) if isinstance(batch, str) else None
