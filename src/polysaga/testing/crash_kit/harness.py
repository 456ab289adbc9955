"""Plays one case after the other on the user's databases; recovery ends each of them.

A client asks owner A to run the saga, with a key. Whenever nothing moves any more, time passes: leases end and the
next owner's worker ticks. A client without an answer asks again. A frozen owner wakes up when the saga is at rest.
A person removes the cause and retries a parked saga. Then the run is judged.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import UUID

from polysaga.clock import Clock
from polysaga.config import SagaSettings, Settings
from polysaga.errors import SagaCancelled
from polysaga.events import ignore
from polysaga.migrations import migrate
from polysaga.sagas import Saga, Sagas
from polysaga.sagas.definition.definition import Definition, define
from polysaga.sagas.definition.identity import id_from_key
from polysaga.sagas.driving.resources import assemble
from polysaga.sagas.protocol.rows import Row
from polysaga.sagas.protocol.states import Status
from polysaga.testing.crash_kit.disturbances import Beside, Case, Freeze, Point
from polysaga.testing.crash_kit.intercepts import tap_handle
from polysaga.testing.crash_kit.oracle import Effects, Run, Told, findings
from polysaga.testing.crash_kit.owners import OWNER, OwnedTasks, Owner
from polysaga.testing.crash_kit.processes import Process, new_nodes, staged
from polysaga.testing.crash_kit.records import Observer
from polysaga.testing.crash_kit.run import Scene
from polysaga.testing.crash_kit.sqlite_inline import quicken_all

Invariant = Callable[[Run], Awaitable[None]]

_NAMES = "ABCDE"
_NEWLINE = "\n"
_ROUNDS = 30  # rounds of recovery until a saga counts as never at rest
_BLOCKED = 0.25  # seconds of real time without any movement until a second saga counts as waiting
_RETRIES = 3  # retries by a person, without further disturbance, until a saga counts as never at rest
_PATIENCE = 30.0  # seconds of real time until a run counts as hanging


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """The outcome of one case."""

    case: Case
    problems: list[str]
    story: list[str]
    trace: list[Point]
    gaps: list[Point]  # between two statements of a step
    played: bool  # every act took place

    def text(self) -> str:
        """Return the story of a violation."""
        lines = [f"case {self.case}", *(f"  {line}" for line in self.story)]
        return "\n".join([*lines, *(f"  => {problem}" for problem in self.problems)])


class Theatre:
    """The open databases of *sagas*, and the processes that work on them."""

    def __init__(self, sagas: Sagas, processes: list[Process], observer: Observer) -> None:
        self._sagas, self._processes, self._observer = sagas, processes, observer
        self._definitions: dict[tuple[Saga[Any, Any], bool, bool], Definition] = {}
        self._run_number = 0

    def definition(self, saga: Saga[Any, Any], *, turned: bool = False, limited: bool = False) -> Definition:
        """Return the definition of *saga* whose steps report to the scene; *limited*: with a deadline."""
        asked = (saga, turned, limited)
        if asked not in self._definitions:
            self._definitions[asked] = staged(define(saga), turned=turned, limited=limited)
        return self._definitions[asked]

    async def play(
        self,
        saga: Saga[Any, Any],
        given: Callable[[], Awaitable[Any]],
        second: Callable[[], Awaitable[Any]] | None,
        invariant: Invariant,
        case: Case,
        prefix: str,
    ) -> CaseOutcome:
        """Play *case* with the input that *given* returns, and judge it.

        A second saga gets the input that *second* returns, or the same input.
        """
        definition = self.definition(saga, turned=case.plot.turned, limited=case.overdue)
        self._run_number += 1
        performance = _Performance(self._processes, self._observer, definition, case)
        value = await given()
        if any(isinstance(act, Beside) for act in case.acts):
            performance.expect(value if second is None else await second(), f"{prefix}-{self._run_number}-beside")
        try:
            async with asyncio.timeout(_PATIENCE):
                await performance.play(value, f"{prefix}-{self._run_number}")
        except TimeoutError:
            performance.scene.tell(f"nothing has moved for {_PATIENCE:g} s")
        finally:
            await performance.close()
        problems = await performance.judge(value, invariant)
        scene = performance.scene
        return CaseOutcome(case, problems, scene.story, scene.trace, scene.gaps, scene.played)


@dataclass(slots=True)
class _Second:
    """The second saga of a case; *owner* runs it, once it has been started."""

    saga_id: UUID
    value: Any
    key: str
    owner: Process | None = None
    told: list[Told] = field(default_factory=list)


class _Performance:
    """One case while it is being played."""

    def __init__(self, processes: list[Process], observer: Observer, definition: Definition, case: Case) -> None:
        retriable = frozenset(step.name for step in definition.steps if step.kind == "retriable")
        databases = {step.name: step.database_name or observer.home for step in definition.steps}
        decision = None if definition.decision is None else definition.decision.name
        self.scene = Scene(case, retriable, databases, decision)
        self._definition, self._observer, self._case = definition, observer, case
        self._waiting, self._on_stage = list(processes), list[Process]()
        self._told: list[Told] = []
        self.scene.cancel = self._cancel
        self._cancels = any(isinstance(act, Freeze) and act.cancelled for act in case.acts)
        # The lease has not ended: an owner that ignores its saga's deadline loses the saga for that alone.
        self._only_late = any(isinstance(act, Freeze) and act.overdue for act in case.acts)
        self._retried = 0
        self._saga_id = UUID(int=0)
        self._second: _Second | None = None
        self.scene.meet = self._meet

    def expect(self, value: Any, key: str) -> None:
        """Prepare a second saga with this input and *key*; it runs where the case says."""
        self._second = _Second(id_from_key(self._definition.name, key), value, key)

    async def play(self, value: Any, key: str) -> None:
        """Return when all sagas are at rest and no owner is frozen any more, or when a saga never rests."""
        await self._play_first(value, key)
        if self._second is not None and self._second.owner is not None:
            await self._finish(self._second, self._second.owner)

    async def _play_first(self, value: Any, key: str) -> None:
        self._saga_id = id_from_key(self._definition.name, key)
        self._ask(self._enlist(), value, key)
        before: Row | None = None
        for _ in range(_ROUNDS):
            await self._quiet()
            row = await self._observer.row(self._saga_id)
            frozen = [owner for owner in self._on_stage if owner.frozen]
            if row is not None and row.status.final:
                if not frozen:
                    await self._answered()
                    return
                self._thaw(frozen)
            elif row is not None and row.status is Status.NEEDS_ATTENTION and self._retried == _RETRIES:
                return
            elif row is None:
                if frozen and len(self._on_stage) > len(frozen):
                    self._thaw(frozen)
                else:
                    self.scene.heal()
                    self._ask(self._next_owner(), value, key)
            elif frozen and before is not None and before.claim.epoch == row.claim.epoch:
                self._thaw(frozen)  # no other owner can claim the saga while they hold its row
            else:
                await self._let_time_pass(row)
            before = row

    async def _meet(self, first: Owner) -> None:
        second = self._second
        assert second is not None
        second.owner = owner = self._waiting.pop()
        owner.scene = self.scene
        owner.begin_with([self._definition])
        owner.beside = True
        self.scene.tell(f"a client asks {owner.name} for a second saga")
        client = self._ask_second(second, owner)
        reached = -1
        while not client.done() and reached != self.scene.reached_beside:
            reached = self.scene.reached_beside
            await asyncio.wait({client}, timeout=_BLOCKED)
        if not client.done():
            self.scene.tell(f"{owner.name} waits for what {first.name} holds")

    def _ask_second(self, second: "_Second", owner: Process) -> "asyncio.Task[Any]":
        client = owner.spawn(self._request(owner, second.value, second.key))
        client.add_done_callback(partial(self._note_answer, second.told, f"{owner.name}'s client"))
        return client

    async def _finish(self, second: "_Second", owner: Process) -> None:
        """Return when the second saga is at rest, or never rests."""
        for _ in range(_ROUNDS):
            await self._quiet()
            row = await self._observer.row(second.saga_id)
            if row is None:
                self._ask_second(second, owner)
            elif row.status.final:
                await self._answered()
                return
            else:
                if row.status is Status.NEEDS_ATTENTION:
                    await self._observer.resume(second.saga_id)
                await self._observer.end_lease(second.saga_id)
                owner.spawn(owner.worker.tick())

    @property
    def _everybody(self) -> list[Process]:
        second = self._second
        return self._on_stage if second is None or second.owner is None else [*self._on_stage, second.owner]

    async def close(self) -> None:
        """End the remaining tasks of all processes."""
        for owner in self._everybody:
            owner.thawed.set()
            await owner.bury()

    async def judge(self, value: Any, invariant: Invariant) -> list[str]:
        """Return everything that is wrong; forget a saga that never came to rest."""
        records = await self._observer.records(self._saga_id, self._definition)
        effects = Effects(self.scene.effects, self.scene.maybe)
        problems = list(findings(self._definition, self._case, records, effects, self._told))
        problems += self.scene.offences
        if self.scene.must_be_undone and records.row is not None and records.row.status is Status.COMPLETED:
            problems.append("the saga is completed, although its deadline had passed before it was decided")
        if records.row is not None and records.row.status.final:
            run = Run(self._saga_id, records.row.status, value, str(self._case))
            if self._second is not None and self._second.owner is not None:
                problems += await self._judge_both(run, self._second, invariant)
            else:
                try:
                    await invariant(run)
                except AssertionError as broken:
                    problems.append(f"the invariant does not hold: {broken}")
        elif records.row is not None:
            await self._observer.forget(self._saga_id)
        if problems:
            for line in records.lines():
                self.scene.tell(line)
        return problems

    async def _judge_both(self, run: Run, second: "_Second", invariant: Invariant) -> list[str]:
        records = await self._observer.records(second.saga_id, self._definition)
        effects = Effects(self.scene.effects_beside, self.scene.maybe_beside)
        found = findings(self._definition, self._case, records, effects, second.told)
        problems = [f"of the second saga: {problem}" for problem in found]
        if records.row is None or not records.row.status.final:
            if records.row is not None:
                await self._observer.forget(second.saga_id)
            return problems
        other = Run(second.saga_id, records.row.status, second.value, str(self._case))
        try:
            await invariant(replace(run, beside=other))
            await invariant(replace(other, beside=run))
        except Exception as broken:  # noqa: BLE001 - border: the user's code may be written for one saga only
            problems.append(f"the invariant does not hold after two sagas: {broken!r}")
        return problems

    def _enlist(self) -> Process:
        owner = self._waiting.pop(0)
        owner.scene = self.scene
        owner.begin_with([self._definition])
        owner.refusing = bool(self._on_stage) and any(
            isinstance(act, Freeze) and act.refused for act in self._case.acts
        )
        self._on_stage.append(owner)
        return owner

    def _next_owner(self) -> Process:
        """Return a process that can act: the newest one, or a new one."""
        newest = self._on_stage[-1]
        return self._enlist() if newest.dead or newest.frozen else newest

    def _ask(self, owner: Process, value: Any, key: str) -> None:
        self.scene.tell(f"a client asks {owner.name}")
        client = owner.spawn(self._request(owner, value, key))
        client.add_done_callback(partial(self._note_answer, self._told, "its client"))

    async def _request(self, owner: Process, value: Any, key: str) -> Any:
        handle = await owner.runner.start(self._definition, value, key)
        owner.wait_as_client()
        return await handle.result()

    def _cancel(self, owner: Owner) -> None:
        process = next(one for one in self._on_stage if one is owner)
        self.scene.tell(f"a client cancels the saga in {owner.name}")
        client = process.spawn(process.runner.cancel(self._saga_id, "the crash kit cancels"))
        process.pollers.add(client)
        client.add_done_callback(self._note_cancellation)

    def _note_cancellation(self, client: "asyncio.Task[None]") -> None:
        if client.cancelled():
            return
        error = client.exception() or SagaCancelled(self._saga_id, self._definition.name, "accepted")
        self._told.append(Told(error=error))
        self.scene.tell(f"the caller of cancel gets {error!r}")

    def _note_answer(self, answers: list[Told], who: str, client: "asyncio.Task[Any]") -> None:
        if client.cancelled():
            return
        error = client.exception()
        told = Told(error=error) if error is not None else Told(output=client.result())
        answers.append(told)
        self.scene.tell(f"{who} gets {'the output' if error is None else repr(error)}")

    async def _let_time_pass(self, row: Row) -> None:
        self.scene.heal()
        if row.status is Status.NEEDS_ATTENTION:
            parked = None if row.error is None else row.error.parked
            why = "nothing says why" if parked is None else parked.message
            self.scene.tell(f"the saga is parked: {why.partition(_NEWLINE)[0]}")
            self.scene.tell("a person lets the parked saga be retried")
            self._retried += 1
            await self._observer.resume(self._saga_id)
        owner = self._next_owner()
        if self._cancels:
            self._cancels = False
            self._cancel(owner)
            return
        if self.scene.deadline.is_set():
            await self._observer.pass_deadline(self._saga_id)
            if row.status is Status.RUNNING and self.scene.undecided:
                self.scene.must_be_undone = True
        if self._only_late:
            self._only_late = False
            self.scene.tell(f"{owner.name} looks for sagas whose deadline has passed")
        else:
            await self._observer.end_lease(self._saga_id)
            self.scene.tell(f"the lease ends and {owner.name} looks for overdue sagas")
        owner.spawn(owner.worker.tick())

    def _thaw(self, owners: list[Process]) -> None:
        for owner in owners:
            self.scene.thaw(owner)

    async def _quiet(self) -> None:
        """Return when no process will do anything more by itself."""
        while True:
            for owner in self._on_stage:
                if owner.dead:
                    await owner.bury()
            if all(owner.at_rest for owner in self._everybody):
                return
            await self.scene.bell.wait()

    async def _answered(self) -> None:
        """Return when every waiting client has its answer."""
        while any(owner.tasks for owner in self._everybody):
            await self.scene.bell.wait()


@contextmanager
def _connections_may_break() -> Iterator[None]:
    """Stop pools from logging every connection that was cut on purpose."""
    logger = logging.getLogger("sqlalchemy.pool")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


@asynccontextmanager
async def theatre(
    sagas: Sagas, settings: Settings, setup: Callable[[], Awaitable[None]] | None
) -> AsyncIterator[Theatre]:
    """Open the databases, create the journal and the ledgers, call *setup*, and make the processes."""
    settings = settings.spelt_as([handle.name for handle in sagas.databases])
    alone = Settings(
        databases={name: one.model_copy(update={"replicas": ()}) for name, one in settings.databases.items()}
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(sagas.databases.open(alone))
        for handle in sagas.databases:
            # A step that waits on its own second connection would wait for itself: nothing else runs meanwhile.
            await quicken_all(handle.primary, waits=lambda: OWNER.get() is None)
            tap_handle(handle.primary)
        await migrate(sagas)
        if setup is not None:
            await setup()
        handles = {handle.name: handle for handle in (sagas.journal, *sagas.participants)}.values()
        home = sagas.journal.name
        observing = assemble(
            new_nodes(handles, alone, stack), home, (), SagaSettings(), emit=ignore, clock=Clock()
        )
        processes = [
            Process(name, new_nodes(handles, alone, stack), home, number) for number, name in enumerate(_NAMES)
        ]
        stack.enter_context(OwnedTasks())
        stack.enter_context(_connections_may_break())
        yield Theatre(sagas, processes, Observer(observing))
