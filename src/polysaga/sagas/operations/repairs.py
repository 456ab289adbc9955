"""What a person does to a saga that cannot go on by itself: retry, skip, compensate, resolve.

A repair is a claim: it raises the epoch, so an owner that still believes in its own claim finds out. Repairs
that say what happened to a step (skip, resolve) claim first. They then write the ledgers, so that a late run of
the step meets a row, and change the journal last. If a database is down, or the program dies in between, the
saga stays parked, or its next owner parks it again, and the person can repeat the repair. Declaring a step
undone covers what the ledger showed at that moment. If the step commits afterwards, the repair fails and says so
(`test_a_step_that_happens_while_a_person_says_it_is_undone_is_told_and_stays`). The change of the journal and
its line in the audit trail are one transaction. Afterwards the saga is due: any worker continues it at its next
tick.

    retry        parked, or put aside with its claim given up: goes on in the direction it had
    skip         the same: one step is taken as done (going forward, with a result) or as undone (going back)
    compensate   running, or parked while running or compensating: is undone
    resolve      parked or put aside: is at rest, by a person's word; what has not happened never will

`states.TRANSITIONS` has the arrows. A saga that is decided is never undone: `TooLate`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from polysaga.errors import (
    PayloadError,
    PolysagaError,
    UnknownSaga,
    WrongStatus,
)
from polysaga.events import SagaRepaired
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.definition.identity import as_id
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.journal.queries import Catalogue, writable
from polysaga.sagas.journal.views import SagaFilter, SagaPage, SagaSummary
from polysaga.sagas.operations.repair import SagaRepair
from polysaga.sagas.protocol.repair_rules import RepairOrder, status_after
from polysaga.sagas.protocol.rows import Row
from polysaga.sagas.protocol.states import Status
from polysaga.texts import said

_TRIES = 5  # looks at a saga that changes while it is being repaired


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What a repair did to one saga, or would do in a dry run."""

    saga_id: UUID
    saga: str
    action: str
    before: Status
    after: Status | None  # None if it is refused
    done: bool
    problem: str | None = None  # why it was refused


class Repairs:
    """The repairs on one journal."""

    def __init__(
        self,
        engine: Engine,
        definitions: Mapping[str, Definition],
        resumed: Callable[[], None] = lambda: None,
    ) -> None:
        """Call *resumed* after each repair of a saga that goes on; *definitions* are by fingerprint."""
        self._engine, self._definitions, self._resumed = engine, definitions, resumed
        self.catalogue = catalogue_of(engine, definitions)

    async def carry_out(
        self, target: UUID | SagaFilter, order: RepairOrder, *, dry_run: bool, limit: int
    ) -> tuple[Repair, ...]:
        """Repair one saga, or the newest *limit* that a filter finds (`SagaFilter.to_repair`).

        Raises if a single saga cannot be repaired; of many, each result has its own problem, so that what is done
        is known although a database fails in between.
        """
        check_order(order)
        if not isinstance(target, SagaFilter):
            target = as_id(target)
            return (await self._repair(target, order, dry_run=dry_run),)
        repairs = []
        for saga in await newest(self.catalogue.find, target.to_repair(), limit):
            try:
                repairs.append(await self._repair(saga.id, order, dry_run=dry_run))
            except (PolysagaError, DBAPIError) as error:
                refused = Repair(
                    saga_id=saga.id,
                    saga=saga.name,
                    action=order.action.value,
                    before=saga.status,
                    after=None,
                    done=False,
                    problem=said(error),
                )
                repairs.append(refused)
        return tuple(repairs)

    async def _repair(self, saga_id: UUID, order: RepairOrder, *, dry_run: bool) -> Repair:
        for _ in range(_TRIES):
            row = await self._load(saga_id)
            after = status_after(order, row)
            work = SagaRepair(self._engine, self._definitions.get(row.fingerprint), row, order)
            await work.check()
            told = Repair(
                saga_id=saga_id,
                saga=row.name,
                action=order.action.value,
                before=row.status,
                after=after,
                done=not dry_run,
            )
            if dry_run:
                return told
            if await work.carry_out(after):
                self._engine.emit(
                    SagaRepaired(saga_id, row.name, order.action.value, after.value, order.by, order.why)
                )
                if after.moving:
                    self._resumed()
                return told
        row = await self._load(saga_id)
        raise WrongStatus(saga_id, row.name, order.action, row.status, "it keeps changing; look at it again")

    async def _load(self, saga_id: UUID) -> Row:
        row = await self._engine.journal.load(saga_id)
        if row is None:
            raise UnknownSaga(saga_id)
        return row


class Find(Protocol):
    """One page of a search: `Catalogue.find`, or `Sagas.find`."""

    async def __call__(self, wanted: SagaFilter, /, *, limit: int, after: str | None) -> SagaPage: ...


async def newest(find: Find, wanted: SagaFilter, limit: int) -> list[SagaSummary]:
    """Return the newest *limit* sagas that *wanted* finds, however many pages that takes."""
    page = await find(wanted, limit=limit, after=None)
    found = [*page.sagas]
    while page.next is not None and len(found) < limit:  # the search has not come to the end
        page = await find(wanted, limit=limit - len(found), after=page.next)
        found += page.sagas
    return found


def catalogue_of(engine: Engine, definitions: Mapping[str, Definition]) -> Catalogue:
    """Return the catalogue of the engine's journal; *definitions* are by fingerprint."""
    names = {definition.name for definition in definitions.values()}
    home = engine.journal.node.database
    places = {
        (definition.name, definition.saga.version, step.name): step.database_name or home
        for definition in definitions.values()
        for step in definition.steps
    }
    return Catalogue(engine.journal.node, names, definitions, places=places, lease=engine.settings.lease)


def check_order(order: RepairOrder) -> None:
    """Raise `PayloadError` unless *order* can be kept in the audit trail."""
    if not 1 <= len(order.by) <= 255:
        raise PayloadError("by= names who repairs the saga, in 1 to 255 characters")
    if not (writable(order.by) and writable(order.why)):
        raise PayloadError("by= and why= must be text that can be written as UTF-8, without NUL")
    if not order.why.strip():
        raise PayloadError("why= says why the saga is repaired; it is kept in the audit trail")
