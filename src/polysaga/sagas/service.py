"""The sagas of one program: declared once with their journal, opened with the databases."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from polysaga.clock import Clock
from polysaga.config import SagaSettings
from polysaga.databases import AnyDatabase, AnyHandle, MongoSession, Registry, SqlDatabase
from polysaga.databases.handles import WITH_THE_APPLICATION
from polysaga.databases.opener import Opener
from polysaga.databases.single_writer import refuse_if_held
from polysaga.errors import Busy, ConfigurationError, DefinitionError, UnknownSaga
from polysaga.events import Emit, Events, ignore
from polysaga.sagas.definition.definition import Definition, define
from polysaga.sagas.definition.identity import as_id
from polysaga.sagas.definition.options import check_kind_of
from polysaga.sagas.definition.saga import Saga
from polysaga.sagas.driving.gates import Gate
from polysaga.sagas.driving.resources import Engine, assemble, check_tables
from polysaga.sagas.driving.tracing import Tracing
from polysaga.sagas.journal.elsewhere import require_one_journal
from polysaga.sagas.journal.figures import Figures
from polysaga.sagas.journal.views import SagaFilter, SagaPage, SagaState
from polysaga.sagas.operations.activity import ActivityReader
from polysaga.sagas.operations.batches import Batches
from polysaga.sagas.operations.causes import ParkedSagas
from polysaga.sagas.operations.census import Census
from polysaga.sagas.operations.findings import BatchProgress, Frozen
from polysaga.sagas.operations.inspector import Inspector
from polysaga.sagas.operations.pages import JournalSurvey
from polysaga.sagas.operations.repairs import Repair, Repairs
from polysaga.sagas.operations.verification import LATE, Verification, Verifier
from polysaga.sagas.participants.outboxes import Outbox, is_there, outbox_of
from polysaga.sagas.participants.reading import explaining
from polysaga.sagas.process.drain import Drain
from polysaga.sagas.process.enlisting import Enlisting
from polysaga.sagas.process.handle import SagaHandle
from polysaga.sagas.process.pulse import Pulse
from polysaga.sagas.process.runner import LocalRunner
from polysaga.sagas.process.worker import Worker
from polysaga.sagas.protocol.reasons import attempts_in, tenures_in
from polysaga.sagas.protocol.repair_rules import RepairAction, RepairOrder, action_of, outcome_of

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


_IN_THEIR_LOOP = (
    "use them in the loop that opened them (from another thread by asyncio.run_coroutine_threadsafe), or open "
    "them anew in this one"
)
_START_IT = "start it with tx=, in the step's own transaction, or from a step without a database"


@dataclass(frozen=True, slots=True)
class _Opened:
    """What drives the sagas of this process while they are open."""

    opener: Opener
    runner: LocalRunner
    enlisting: Enlisting
    pulse: Pulse


class Sagas:
    """All sagas of a program, checked when this object is built; the journal is in the database *journal*.

    Put the journal where most sagas begin and decide: those steps then write it at no cost. *runner* makes what
    drives the sagas of one process; tests hand in a function that keeps it. The sagas get no further steps. Raises
    `DefinitionError` for every mistake.
    """

    def __init__(
        self,
        databases: Registry,
        *sagas: Saga[Any, Any],
        journal: SqlDatabase | AnyDatabase,
        runner: Callable[[Engine, Mapping[str, Definition]], LocalRunner] = LocalRunner,
    ) -> None:
        _check_arguments(databases, sagas, journal)
        self.databases, self.journal = databases, journal
        self._definitions = {saga: _checked(saga, databases) for saga in sagas}
        names = [(saga.name, saga.version) for saga in sagas]
        for name, version in names:
            if names.count((name, version)) > 1:
                raise DefinitionError(f"two sagas are named '{name}' in version {version}; names must be unique")
        for saga in sagas:
            saga.end_declarations()
        databases.journals.add(journal)
        databases.participants.update(self.participants)
        self._make_runner = runner
        self._opened: _Opened | None = None
        self._parked, self._activity = ParkedSagas(), ActivityReader(Clock())
        self._batches = Batches(self._repairs, self._figures, Clock())

    @property
    def participants(self) -> tuple[AnyHandle, ...]:
        """The databases that take part in any saga: each of them has a ledger."""
        used = {step.database_name for definition in self._definitions.values() for step in definition.steps}
        return tuple(handle for handle in self.databases if handle.name in used)

    @property
    def in_flight(self) -> int:
        """How many sagas this process drives now."""
        return 0 if self._opened is None else len(self._opened.runner.executions)

    @property
    def gates(self) -> Mapping[str, Gate]:
        """How many steps are inside each database now, and wait for it; empty while the sagas are not open."""
        return {} if self._opened is None else self._opened.runner.engine.gates

    def census(self) -> Census:
        """Return what counts unfinished sagas and waiting starts, for metrics; the databases must be open."""
        engine = self._engine_at_hand()
        if self._opened is None:
            return Census(engine)
        return Census(engine, self._opened.pulse.process, self._opened.pulse.candidacy)

    @property
    def declared(self) -> tuple[Saga[Any, Any], ...]:
        """The sagas that this object was built with, in their order."""
        return tuple(self._definitions)

    @property
    def settings(self) -> SagaSettings:
        """The settings that the sagas are open with, or else the databases, or else the defaults."""
        if self._opened is not None:
            return self._opened.runner.engine.settings
        known = self.databases.opened_with
        return SagaSettings() if known is None else known.sagas

    @asynccontextmanager
    async def open(
        self,
        settings: SagaSettings | None = None,
        *,
        emit: Emit = ignore,
        clock: Clock | None = None,
        tracing: Tracing | None = None,
    ) -> AsyncIterator["Sagas"]:
        """Begin to drive sagas, also those that other processes left behind; drain at the end of the block.

        The end takes at most `sagas.drain`, or one second, plus three seconds, whatever drivers and steps do.
        Meanwhile starts are refused with `Busy`, unless they are part of a transaction, such as that of a step. If
        the task that closes is cancelled, sagas get no more time to end; they are handed over all the same.

        The databases must be open; *settings* replace those for sagas that they were opened with. *tracing*
        follows the sagas as traces (`polysaga.telemetry.tracing`). Raises `SchemaMissing` if a journal or ledger
        table is missing, or has lost its primary key. Raises `ConfigurationError` if the clock of this process is
        more than a day behind that of a database, or if another database has a journal with sagas of this program,
        unless another `Sagas` object on the same `Databases` keeps it.
        """
        self._refuse_to_open_again()
        events = Events(emit)
        engine = self._engine(settings or self.settings, events, clock or Clock())
        engine = replace(engine, tracing=tracing)
        await check_tables(engine)
        await self._require_one_journal(engine)
        self._refuse_to_open_again()  # another task may have opened them meanwhile
        runner = self._make_runner(engine, self._known())
        pulse = Pulse(engine, self._definitions.values(), lambda: len(runner.executions))
        events.subscribe(pulse)
        drains = [Drain(engine, outbox, runner.due).run() for outbox in engine.outboxes.values()]
        drains += [
            Drain(engine, outbox, runner.due, only=runner.names).run() for outbox in self._former_outboxes(engine)
        ]
        rounds = [asyncio.create_task(one) for one in (Worker(runner).run(), pulse.run(), *drains)]
        self._opened = _Opened(Opener.here(), runner, Enlisting(runner), pulse)
        try:
            yield self
        finally:
            runner.wind_down()  # before the batches are listed: no other begins from now on
            try:
                # Steps that are under way may still start other sagas with their commit.
                await runner.drain([*rounds, *self._batches.tasks])
            finally:
                self._opened = None

    def wind_down(self) -> None:
        """Begin to shut down, when the process is asked to: `sagas.drain` counts from now; harmless if repeated.

        From now on, starts are refused with `Busy`. Callers that still wait when the time is up get
        `OutcomePending`; another process resumes their sagas once this one closes.
        """
        if self._opened is not None:
            self._opened.runner.wind_down()

    async def run(
        self,
        saga: Saga[InputT, OutputT],
        value: InputT,
        *,
        key: str | None = None,
        timeout: float | None = None,
    ) -> OutputT:
        """Start *saga*, or join the one that *key* started, and return its output once it is decided.

        Retriable steps may still be under way at that time. Raises what `SagaHandle.result` raises, and
        `KeyReused`, `PayloadError`, `Busy` or another `TryAgain` if nothing was started.
        """
        participants = self._while_open().runner.engine.participants
        used = self._definition(saga).databases
        for database in (one for one in self.databases if one in used):
            refuse_if_held(participants[database.name].node, f"ran saga '{saga.name}', which works", _START_IT)
        handle = await self.start(saga, value, key=key)
        return await handle.result(timeout)

    async def start(
        self,
        saga: Saga[InputT, OutputT],
        value: InputT,
        *,
        key: str | None = None,
        tx: AsyncSession | AsyncConnection | MongoSession | None = None,
    ) -> SagaHandle[OutputT]:
        """Start *saga*, or join the one that *key* started; return as soon as the start is durable.

        *tx* is a session with an open transaction on the journal's database or on any that takes part in sagas. In
        a step it may be the step's own session or connection. The start is then part of that transaction: the saga
        exists if and only if it commits, and no step runs before. The handle has the saga's id at once; `result`
        raises `NotStarted` until the commit and after a rollback. Raises `NotEnlisted` for anything else as *tx*.
        """
        opened = self._while_open()
        definition = self._definition(saga)
        if tx is None:
            journal = opened.runner.engine.journal.node
            refuse_if_held(journal, f"started saga '{saga.name}', whose journal is", _START_IT)
            with self._explaining():
                return await opened.runner.start(definition, value, key)
        return await opened.enlisting.start(definition, value, key, tx)

    async def get(self, saga_id: UUID) -> SagaState:
        """Return everything known of a saga, with what people did to it; raise `UnknownSaga`.

        This, `find` and the repairs need the databases to be open, not the sagas. They raise `SchemaMissing` if
        our tables are missing, `DatabaseUnavailable` if a primary does not answer, and `PoolExhausted`.
        """
        saga_id = as_id(saga_id)
        with self._explaining():
            found = await self._repairs().catalogue.get(saga_id)
        if found is None:
            raise UnknownSaga(saga_id)
        live = None if self._opened is None else self._opened.runner.history(saga_id)
        if live is not None:
            found = replace(found, driven_here=True, history=attempts_in(live), owners=tenures_in(live))
        for handle in self.participants:
            handle.wrote()  # the caller's later replica reads must include what the saga wrote
        return found

    async def verify(
        self,
        settings: SagaSettings | None = None,
        *,
        limit: int = 1000,
        watch: Callable[[int], None] = lambda _: None,
        expect: Callable[[int], None] = lambda _: None,
        since: datetime | None = None,
    ) -> Verification:
        """Compare the journal and all ledgers with each other, and look for stuck starts; change nothing.

        Only the databases must be open. Sagas may run meanwhile, here and elsewhere: those in flight are no
        contradiction. Ends after *limit* contradictions. *expect* is called once with the number of sagas, and
        *watch* now and then with the number compared so far. *since*, an aware time, leaves out the sagas that
        began before it, and ledger rows that have no saga. Raises `SchemaMissing`, `DatabaseUnavailable` if a
        primary does not answer, or `PoolExhausted`.
        """
        known = settings or self.settings
        patience = LATE * known.lease
        engine = self._engine_at_hand()
        journal = JournalSurvey(engine.journal.node, patience=patience, retention=known.retention)
        former = [outbox for outbox in self._former_outboxes(engine) if await is_there(outbox)]
        outboxes = [*engine.outboxes.values(), *former]
        verifier = Verifier(journal, engine.participants, self._known(), outboxes, patience=patience)
        return await verifier.verify(limit=limit, watch=watch, expect=expect, since=since)

    async def cancel(self, saga_id: UUID, *, why: str = "cancelled by its caller") -> None:
        """Cancel a saga, whichever process drives it; return once it is certain to be undone.

        Raises what `SagaHandle.cancel` raises, `UnknownSaga`, and `UnknownVersion` if this process has no
        definition of it.
        """
        opened, saga_id = self._while_open(), as_id(saga_id)
        with self._explaining():
            await opened.runner.cancel(saga_id, why)

    async def find(
        self, wanted: SagaFilter | None = None, *, limit: int = 50, after: str | None = None
    ) -> SagaPage:
        """Return at most *limit* sagas, the newest first, after *after*: the `next` of the previous page.

        One call reads at most 10,000 rows of finished sagas. A search for rare ones, by name, reason, `known` or
        several statuses at once, may need more: `SagaPage.searched_to` then says how far it has come.
        Sagas of programs and versions that this process does not know are included, marked as not `known`.

        Raises as `get` does.
        """
        with self._explaining():
            return await self._repairs().catalogue.find(wanted or SagaFilter(), limit=limit, after=after)

    def inspector(self, settings: SagaSettings | None = None) -> Inspector:
        """Return what answers people's questions about the sagas of all processes; the databases must be open.

        *settings*: instead of those that the sagas or the databases are open with; they say from when on a saga is
        late.
        """
        engine = self._engine_at_hand(settings)
        pulse = None if self._opened is None else self._opened.pulse
        return Inspector(engine, self._known(), self._parked, self._activity, pulse)

    async def freeze(self, wanted: SagaFilter) -> Frozen:
        """Return the ids of what *wanted* finds now, at most 100,000.

        They are parked, unless *wanted* names a status, or is about late, retrying or waiting sagas.
        Raises as `get` does.
        """
        with self._explaining():
            return await self._batches.freeze(wanted)

    def begin_batch(
        self,
        action: Literal["retry", "skip", "compensate", "resolve"],
        ids: Collection[UUID],
        *,
        by: str,
        why: str,
        step: str | None = None,
        result: Any = None,
        outcome: Literal["completed", "compensated"] | None = None,
    ) -> UUID:
        """Begin to repair all *ids* in the background of this process, whose databases must be open.

        Returns the id of the batch, for `batch`. Each repair is one of its own, as by the method named *action*.
        Closing the sagas stops the batch; the sagas that it has not come to stay as they were. Raises
        `PayloadError` for an *action* or *outcome* that does not exist, and `Busy` while the sagas are closing.
        """
        self._engine_at_hand()
        if self._opened is not None and self._opened.runner.closing:
            raise Busy(0, 0.0)
        what = action_of(action)
        declares = what is RepairAction.RESOLVE or outcome is not None
        order = RepairOrder(
            action=what,
            by=by,
            why=why,
            step=step,
            result=result,
            outcome=outcome_of(outcome) if declares else None,
        )
        return self._batches.begin(order, ids)

    async def batch(self, batch_id: UUID) -> BatchProgress | None:
        """Return how far a batch is, of another process by the audit trail; None if no process knows it.

        Raises as `get` does.
        """
        with self._explaining():
            return await self._batches.progress(batch_id)

    def stop_batch(self, batch_id: UUID, *, by: str) -> bool:
        """Stop a batch: repairs under way are finished, the other sagas stay as they are; *by* is who stops it.

        Return False if it has ended, or if this process does not work on it.
        """
        return self._batches.stop(batch_id, by)

    async def retry(
        self, target: UUID | SagaFilter, *, by: str, why: str, dry_run: bool = False, limit: int = 100
    ) -> tuple[Repair, ...]:
        """Resume a parked saga, or one that was put aside, in the direction it had.

        *target* is one saga, or a filter for the newest *limit* sagas; it selects parked ones unless it names a
        status, or is about late, retrying or waiting sagas. *by* and *why* go to the audit trail. A *dry_run*
        returns what would happen. The worker of this process resumes the saga at once; without one, the next
        worker to tick does. For one saga raises `WrongStatus`, `TooLate`, `UnknownSaga` or `UnknownVersion`; with
        a filter, each `Repair` carries its own problem. Raises as `get` does, too.
        """
        order = RepairOrder(action=RepairAction.RETRY, by=by, why=why)
        return await self._carry_out(target, order, dry_run=dry_run, limit=limit)

    async def skip(
        self,
        target: UUID | SagaFilter,
        step: str,
        result: Any = None,
        *,
        by: str,
        why: str,
        dry_run: bool = False,
        limit: int = 100,
    ) -> tuple[Repair, ...]:
        """Treat *step* of a parked saga, or of one that was put aside, as done by hand; resume as `retry` does.

        Going forward, the step counts as done with *result*, which must be of the type that the step returns.
        Going back, it counts as undone. It never runs afterwards, not even late. The deciding step cannot be
        skipped. Raises as `retry` does, and `DatabaseUnavailable` if the step's database cannot record it: the
        saga then stays as it was.
        """
        order = RepairOrder(action=RepairAction.SKIP, by=by, why=why, step=step, result=result)
        return await self._carry_out(target, order, dry_run=dry_run, limit=limit)

    async def compensate(
        self, target: UUID | SagaFilter, *, by: str, why: str, dry_run: bool = False, limit: int = 100
    ) -> tuple[Repair, ...]:
        """Undo a saga that is running, or parked and not decided; otherwise as `retry`."""
        order = RepairOrder(action=RepairAction.COMPENSATE, by=by, why=why)
        return await self._carry_out(target, order, dry_run=dry_run, limit=limit)

    async def resolve(
        self,
        target: UUID | SagaFilter,
        outcome: Literal["completed", "compensated"],
        *,
        by: str,
        why: str,
        dry_run: bool = False,
        limit: int = 100,
    ) -> tuple[Repair, ...]:
        """End a parked saga, or one that was put aside, as a person declares it; no step of it runs any more.

        A decided saga can only become `completed`; an undecided one only `compensated`. Raises as `skip` does, and
        `PayloadError` for another *outcome*.
        """
        order = RepairOrder(action=RepairAction.RESOLVE, by=by, why=why, outcome=outcome_of(outcome))
        return await self._carry_out(target, order, dry_run=dry_run, limit=limit)

    async def _carry_out(
        self, target: UUID | SagaFilter, order: RepairOrder, *, dry_run: bool, limit: int
    ) -> tuple[Repair, ...]:
        with self._explaining():
            return await self._repairs().carry_out(target, order, dry_run=dry_run, limit=limit)

    def _explaining(self) -> AbstractContextManager[None]:
        """Raise errors of the journal's database within the block as Polysaga's own."""
        return explaining(self.journal.primary, "journal")

    def _former_outboxes(self, engine: Engine) -> list[Outbox]:
        """Return the outboxes, if there are any, of databases to whose outbox no saga of this program writes."""
        used = (self.databases.journals | self.databases.participants) - {self.journal}
        return [outbox_of(handle.primary, engine.clock) for handle in self.databases if handle not in used]

    async def _require_one_journal(self, engine: Engine) -> None:
        # The journal of another `Sagas` object of the program is not one that was left behind.
        others = [handle.primary for handle in self.databases if handle not in self.databases.journals]
        names = {saga.name for saga in self._definitions}
        await require_one_journal(engine.journal.node, others, names, retention=engine.settings.retention)

    def _definition(self, saga: Saga[Any, Any]) -> Definition:
        try:
            return self._definitions[saga]
        except KeyError:
            raise DefinitionError(f"saga '{saga.name}' was not given to Sagas(...)") from None

    def _refuse_to_open_again(self) -> None:
        if self._opened is not None:
            self._opened.opener.refuse_to_open_again("these sagas")

    def _while_open(self) -> _Opened:
        if self._opened is None:
            raise ConfigurationError(
                f"the sagas are not open: use them inside `async with sagas.open()`{WITH_THE_APPLICATION}"
            )
        # A future of another thread's loop, or of a stopped loop, would never wake its waiter.
        self._opened.opener.refuse_another_loop(asyncio.get_running_loop(), "the sagas were", _IN_THEIR_LOOP)
        return self._opened

    def _repairs(self) -> Repairs:
        return Repairs(self._engine_at_hand(), self._known(), self._wake_worker)

    def _wake_worker(self) -> None:
        """Let this process look at once for sagas that are due, if it drives any; others look in their time."""
        if self._opened is not None:
            self._opened.runner.due.set()

    def _figures(self) -> Figures:
        engine = self._engine_at_hand()
        return Figures(engine.journal.node, lease=engine.settings.lease)

    def _engine_at_hand(self, settings: SagaSettings | None = None) -> Engine:
        """Return the engine of the open sagas, or else one that only reads and repairs."""
        if self._opened is not None:
            return self._while_open().runner.engine
        return self._engine(settings or self.settings, ignore, Clock())

    def _known(self) -> dict[str, Definition]:
        return {one.fingerprint: one for one in self._definitions.values()}

    def _engine(self, settings: SagaSettings, emit: Emit, clock: Clock) -> Engine:
        nodes = {handle.name: handle.primary for handle in (self.journal, *self.participants)}
        return assemble(nodes, self.journal.name, self._definitions.values(), settings, emit=emit, clock=clock)


def _check_arguments(databases: Registry, sagas: Collection[object], journal: object) -> None:
    check_kind_of(databases, Registry, "the first argument of Sagas(...)", "give the program's Databases")
    each = "give the sagas one after the other, e.g. Sagas(databases, place_order, cancel_order, journal=orders)"
    for saga in sagas:
        check_kind_of(saga, Saga, "an argument of Sagas(...)", each)
    if not isinstance(journal, SqlDatabase | AnyDatabase):
        raise DefinitionError(f"the journal of Sagas(...) is {journal!r}: give the handle of a SQL database")
    if journal not in databases:
        raise DefinitionError(f"the journal's database '{journal.name}' is not one of the program's databases")


def _checked(saga: Saga[Any, Any], databases: Registry) -> Definition:
    definition = define(saga)
    for step in definition.steps:
        if step.database is not None and step.database not in databases:
            raise DefinitionError(
                f"step '{step.name}' of saga '{saga.name}' runs on '{step.database.name}', "
                "which is not one of the program's databases"
            )
    return definition
