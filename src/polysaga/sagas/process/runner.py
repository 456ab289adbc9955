"""Starts sagas and waits for them.

A saga runs in a task of the runner and never in that of the request: a client that goes away cancels nothing.
Callers wait on a future. If this process loses the claim meanwhile, they follow the journal instead and get the
same answer from the process that finishes the saga.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID, uuid4

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from polysaga.errors import (
    Busy,
    KeyReused,
    OutcomePending,
    PayloadUnreadable,
    PolysagaError,
    TryAgain,
    UnknownVersion,
)
from polysaga.events import SagaClaimed, SagasLeft, SagaStarted, WorkerFailed
from polysaga.limits import GRACE, ended, going_on, leave_cancelled_behind, limited
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.definition.identity import id_from_key, id_from_time
from polysaga.sagas.definition.payloads import digest, encoded, is_same
from polysaga.sagas.driving.execution import Execution
from polysaga.sagas.driving.progress import Asked, Progress
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.driving.tracing import SagaTrace
from polysaga.sagas.participants.reading import explaining
from polysaga.sagas.process.closing import Closing
from polysaga.sagas.process.following import Following, include_in_bookmark
from polysaga.sagas.process.handle import SagaHandle
from polysaga.sagas.process.loop import pauses
from polysaga.sagas.protocol.interrupts import FollowJournal, Joined, Lost
from polysaga.sagas.protocol.outcomes import cancelled
from polysaga.sagas.protocol.reasons import HistoryEntry
from polysaga.sagas.protocol.rows import Birth, Claim, Row
from polysaga.texts import said, well_formed

T = TypeVar("T")
_SOON = 1.0  # seconds; what is tried again within them may still end here when the process is asked to stop
_LOOK = 0.1  # seconds between two looks at the sagas of a process that ends
_UNCOMPARED = "-"  # the hash of an input that no other start can meet; '' would be NULL in some SQL modes


class LocalRunner:
    """Drives sagas in tasks of this process."""

    def __init__(self, engine: Engine, definitions: Mapping[str, Definition]) -> None:
        self.engine = engine
        self.executions: dict[UUID, Execution] = {}
        self._definitions = definitions  # by fingerprint
        self._tasks: dict[Execution, asyncio.Task[None]] = {}
        self._arriving: set[Execution] = set()  # taken over, and their steps have not come to a gate yet
        self._freed = asyncio.Event()
        self._closing = Closing(engine.clock, engine.settings.drain)
        self._following = Following(engine, definitions, self._closing, self.take_over)
        self.due = asyncio.Event()  # set when the worker has something to do
        self._cancels: Counter[UUID] = Counter()  # cancellations that callers wait for, by saga
        self._wants_room = False  # the worker waits for room for more takeovers
        engine.finishes.expected = lambda: len(self._tasks)

    @property
    def names(self) -> frozenset[str]:
        """The names of the sagas that this process knows."""
        return frozenset(definition.name for definition in self._definitions.values())

    @property
    def has_deadlines(self) -> bool:
        """Return whether any saga that this process knows has a deadline."""
        return any(definition.saga.deadline is not None for definition in self._definitions.values())

    @property
    def free(self) -> int:
        """How many more sagas this process may drive."""
        return self.engine.settings.max_in_flight - len(self._tasks)

    @property
    def tasks(self) -> Collection["asyncio.Task[None]"]:
        """The tasks that drive sagas now."""
        return self._tasks.values()

    @property
    def room(self) -> int:
        """How many more sagas this process may take over now: at most what their databases can carry."""
        gates = self.engine.gates.values()
        return min(self.free, min(gate.room for gate in gates) - len(self._arriving))

    def claim_more(self) -> None:
        """Let the worker claim again once half of the room is free, or now if it is."""
        gates = self.engine.gates.values()
        half = min(max(self.engine.settings.max_in_flight // 2, 1), *(gate.limit for gate in gates))
        self._wants_room = self.room < half
        if not self._wants_room:
            self.due.set()

    async def start(self, definition: Definition, value: Any, key: str | None) -> SagaHandle[Any]:
        """Start a saga, or join the one that *key* started; return once the start is durable."""
        birth, decoded = self._born(definition, value, key)
        live = self.executions.get(birth.claim.saga_id)
        if live is None and self.free <= 0:
            await self._wait_for_place()
            live = self.executions.get(birth.claim.saga_id)
        if self._closing.begun:
            raise Busy(0, 0.0)
        if live is not None:
            return await self._join(definition, birth, live)
        trace = None if self.engine.tracing is None else self.engine.tracing.begin(birth)
        if trace is not None:
            birth = replace(birth, trace=trace.context)
        execution = self._execution(definition, birth, Asked.now(self.engine.clock), trace)
        execution.progress.values.expect(decoded)
        self._own(execution, self._begin(execution))
        try:
            await asyncio.shield(execution.announcements.started)
        except (Joined, Lost, FollowJournal):
            # The last two: the worker claimed the saga that the key had started, while this start was on its way.
            return await self._join(definition, birth, None)
        self.engine.emit(SagaStarted(birth.claim.saga_id, definition.name, joined=False))
        return self._handle(definition, birth.claim.saga_id, execution, joined=False)

    def take_over(self, row: Row, asked: Asked) -> None:
        """Drive a saga that was claimed by a statement sent after *asked*."""
        if self._closing.drained:
            return  # the process is ending: the claim runs out
        definition = self._definitions[row.fingerprint]
        saga_id = row.claim.saga_id
        if saga_id in self.executions:
            self.abandon(self.executions[saga_id])  # this process was frozen for longer than its lease
        birth = Birth(
            row.claim,
            row.name,
            definition.saga.version,
            row.fingerprint,
            None,
            row.input,
            row.input_hash,
            row.status,
            trace=row.trace,
        )
        trace = None if self.engine.tracing is None else self.engine.tracing.resume(birth)
        execution = self._execution(definition, birth, asked, trace)
        execution.holds_claim = True  # also if it is stopped before it begins
        self.engine.emit(SagaClaimed(saga_id, row.name, row.claim.epoch))
        self._arriving.add(execution)
        self._own(execution, self._resume(execution, row))

    def abandon(self, execution: Execution) -> None:
        """Stop driving a saga whose claim is gone. Callers follow the journal at once: its tasks may hang."""
        self._tasks[execution].cancel()
        execution.announcements.end(FollowJournal())

    def let_begin_anew(self, hanging: Collection["asyncio.Task[Any]"]) -> None:
        """End the callers' wait for starts that hang, so that they repeat them: without a row no process would."""
        for saga_id, execution in tuple(self.executions.items()):
            if not execution.holds_claim and execution.hangs(hanging):
                del self.executions[saga_id]
                execution.announcements.end(FollowJournal())
        self._flush_if_idle()

    def handle(self, definition: Definition, saga_id: UUID) -> SagaHandle[Any]:
        """Return a handle on a saga that was started before."""
        return self._handle(definition, saga_id, self.executions.get(saga_id), joined=True)

    async def cancel(self, saga_id: UUID, why: str) -> None:
        """Undo a saga, whichever process drives it; return once that is certain. Raises `Busy` at the end."""
        self._cancels[saga_id] += 1
        try:
            await self.while_open(self._cancel(saga_id, well_formed(why)), Busy(0, 0.0))
        finally:
            self._cancels[saga_id] -= 1
            if not self._cancels[saga_id]:
                del self._cancels[saga_id]

    async def _cancel(self, saga_id: UUID, why: str) -> None:
        owner, between = uuid4(), pauses()
        while not self._closing.is_over:
            live = self.executions.get(saga_id)
            if live is not None:
                await asyncio.wait([live.announcements.started])
                if self.executions.get(saga_id) is not live:
                    continue  # it has ended meanwhile and would not answer
                try:
                    await live.request_compensation(cancelled(why))
                except (FollowJournal, Lost):
                    pass  # another process drives it now
                else:
                    return
            if await self._following.cancel(saga_id, owner, why):
                return
            await self.engine.clock.sleep(next(between))
        raise Busy(0, 0.0)

    def history(self, saga_id: UUID) -> tuple[HistoryEntry, ...] | None:
        """Return owners and attempts of a saga that this process drives now; None if it does not."""
        live = self.executions.get(saga_id)
        return None if live is None else tuple(live.attempts.history)

    @property
    def closing(self) -> bool:
        """Whether the process starts nothing more."""
        return self._closing.begun

    async def while_open(self, work: Awaitable[T], otherwise: Exception) -> T:
        """Return the result of *work* for a caller; raise *otherwise* when the process ends its callers' wait."""
        return await self._closing.while_open(work, otherwise)

    def wind_down(self) -> None:
        """Start nothing more; end the wait of all callers when `sagas.drain` is over."""
        self._closing.begin(self._end_all_waiting)
        self._freed.set()

    async def drain(self, rounds: "Collection[asyncio.Task[Any]]" = ()) -> None:
        """End *rounds*, which bring in sagas, and let the sagas in flight end until `sagas.drain` is over.

        It is over at once for sagas that only wait for a next attempt, and for all if this call is cancelled. Then
        stop them and hand back their claims. Takes at most three seconds more, and one for the rounds.
        """
        self.wind_down()
        resting = going_on(ended(rounds, GRACE))
        try:
            await self._let_end()
            await asyncio.shield(resting)
            await self._let_end()  # what the rounds have brought in, and what has begun meanwhile
        finally:
            # A task that is cancelled again and again does not wait for it, and nothing goes on for all that.
            await asyncio.shield(going_on(self._stop(resting, asyncio.current_task())))

    async def _stop(self, resting: "asyncio.Future[Any]", closer: "asyncio.Task[Any] | None") -> None:
        await resting
        self._closing.drained = True
        unfinished = dict(self._tasks)  # including sagas that the rounds have just claimed
        self._end_all_waiting()
        stuck = await ended(unfinished.values(), GRACE)
        if stuck:
            self.engine.emit(SagasLeft(len(stuck), "their steps did not end in time for the end of this process"))
            leave_cancelled_behind(but=closer)
        await asyncio.gather(
            limited(self.engine.starts.close(), GRACE / 2, grace=GRACE / 4),
            limited(self.engine.finishes.close(), GRACE / 2, grace=GRACE / 4),
            return_exceptions=True,  # no caller knows yet of what is not written then
        )
        # Also of those that have not heard of their start: it may be written all the same.
        await self._hand_back([execution.progress.claim for execution in unfinished])

    async def _let_end(self) -> None:
        """Return when all sagas have ended or wait for a next attempt that is not soon, or when time is up."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._closing.left
        while (left := until - loop.time()) > 0:
            going = [task for execution, task in self._tasks.items() if self._goes_on(execution)]
            if not going:
                return
            await asyncio.wait(going, timeout=min(left, _LOOK))

    def _goes_on(self, execution: Execution) -> bool:
        return execution.progress.saga_id in self._cancels or not execution.pauses(_SOON)

    async def _hand_back(self, claims: list[Claim]) -> None:
        if not claims:
            return
        try:
            await limited(self.engine.journal.hand_back(claims), GRACE, grace=GRACE / 4)
        except (DBAPIError, PoolTimeout, TryAgain, TimeoutError) as error:
            why = f"once their claims have run out, which could not be handed back ({said(error)})"
            self.engine.emit(SagasLeft(len(claims), why))

    def _end_all_waiting(self) -> None:
        """End the wait of all callers; they ask again, later or elsewhere, and their sagas go on."""
        self._closing.end_waiting()
        for execution in self._tasks:
            progress = execution.progress
            execution.announcements.end(OutcomePending(progress.saga_id, progress.definition.name))

    def birth(self, definition: Definition, value: Any, key: str | None) -> Birth:
        """Return what the row of a new saga says; raise `PayloadError` for what does not fit."""
        return self._born(definition, value, key)[0]

    def _born(self, definition: Definition, value: Any, key: str | None) -> tuple[Birth, Any]:
        """Return `birth`, and its input as a step will read it."""
        saga, limit = definition.saga, self.engine.settings.payload_limit
        text, decoded = encoded(saga.input, value, what=f"the input of saga '{saga.name}'", limit=limit)
        saga_id = id_from_time(self.engine.clock.now()) if key is None else id_from_key(saga.name, key)
        # Only sagas with a key are compared.
        hashed = _UNCOMPARED if key is None else digest(saga.input, value, saga.key_fields)
        claim = Claim(saga_id, 1, uuid4())
        birth = Birth(
            claim,
            saga.name,
            saga.version,
            definition.fingerprint,
            key,
            text,
            hashed,
            deadline=saga.deadline,
        )
        return birth, decoded

    def _execution(self, definition: Definition, birth: Birth, asked: Asked, trace: SagaTrace | None) -> Execution:
        home, limit = self.engine.journal.node.database, self.engine.settings.payload_limit
        return Execution(self.engine, Progress(definition, birth, asked, home=home, limit=limit), trace)

    async def _wait_for_place(self) -> None:
        limit, patience = self.engine.settings.max_in_flight, self.engine.settings.start_timeout
        try:
            async with asyncio.timeout(patience):
                while self.free <= 0 and not self._closing.begun:
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            raise Busy(limit, patience) from None

    async def _begin(self, execution: Execution) -> None:
        await execution.begin()
        await execution.drive()

    async def _resume(self, execution: Execution, row: Row) -> None:
        goes_on = await execution.resume(row)
        self._arriving.discard(execution)
        if goes_on:
            await execution.drive()

    def _own(self, execution: Execution, work: Any) -> None:
        task = asyncio.create_task(work)
        self.executions[execution.progress.saga_id] = execution
        self._tasks[execution] = task
        task.add_done_callback(lambda ended: self._ended(execution, ended))

    def _ended(self, execution: Execution, task: "asyncio.Task[None]") -> None:
        del self._tasks[execution]
        self._arriving.discard(execution)
        saga_id = execution.progress.saga_id
        if self.executions.get(saga_id) is execution:
            del self.executions[saga_id]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Lost | Joined | PolysagaError):
            self.engine.emit(WorkerFailed(f"saga {saga_id}: {said(error)}"))
        # Once there is a row, some process will finish the saga: callers follow the journal.
        execution.announcements.end(FollowJournal() if error is None or execution.holds_claim else error)
        self._freed.set()
        self.engine.finishes.close_if_complete()
        if self._wants_room:
            self.claim_more()
        if execution.trace is not None:
            if error is not None and not execution.holds_claim:
                execution.trace.started(error)
            known = execution.progress.known
            parked = None if known.reason is None else known.reason.parked
            execution.trace.left(known.status, None if parked is None else parked.message)
            self._flush_if_idle()

    def _flush_if_idle(self) -> None:
        if self.engine.tracing is not None and not self.executions:
            self.engine.tracing.flush()

    async def _join(self, definition: Definition, birth: Birth, live: Execution | None) -> SagaHandle[Any]:
        saga_id = birth.claim.saga_id
        if live is not None:
            await asyncio.wait([live.announcements.started])
            error = live.announcements.started.exception()
            if isinstance(error, FollowJournal | Lost | Joined):
                live = None
            elif error is not None:
                raise error
        found: Birth | Row | None
        if live is not None:
            found = live.progress.birth
        else:
            found = await self.while_open(self.load(saga_id), OutcomePending(saga_id, definition.name))
        if found is None:
            raise OutcomePending(saga_id, definition.name)
        self.check_same(definition, birth, found)
        self.engine.emit(SagaStarted(saga_id, definition.name, joined=True))
        return self._handle(definition, saga_id, live, joined=True)

    def _handle(
        self, definition: Definition, saga_id: UUID, live: Execution | None, *, joined: bool
    ) -> SagaHandle[Any]:
        async def wait() -> Any:
            try:
                if live is not None:
                    try:
                        await asyncio.shield(live.announcements.answered)
                    except (FollowJournal, Lost, Joined):
                        pass  # another process drives it now
                    else:
                        return live.progress.values.output  # decoded anew for each caller
                pending = OutcomePending(saga_id, definition.name)
                with explaining(self.engine.journal.node, "journal"):
                    return await self.while_open(self._following.outcome(definition.name, saga_id), pending)
            finally:
                include_in_bookmark(definition)
                if live is not None and live.progress.definition is not definition:
                    include_in_bookmark(live.progress.definition)  # of the version that the key had started

        async def cancel(why: str) -> None:
            with explaining(self.engine.journal.node, "journal"):
                await self.cancel(saga_id, why)

        include_in_bookmark(definition)
        return SagaHandle(saga_id, definition.name, wait, cancel, joined=joined)

    def check_same(self, definition: Definition, given: Birth, found: Birth | Row) -> None:
        """Raise `KeyReused` unless the saga *found* has the same input in all fields that the key vouches for.

        Raises `UnknownVersion` if only a process that has its definition can compare them.
        """
        if found.input_hash == given.input_hash:
            return
        # The input's type may have changed since: what it reads and writes now is compared.
        saga = definition.saga
        try:
            same = is_same(saga.input, given.input, found.input, saga.key_fields)
        except PayloadUnreadable:
            if found.fingerprint not in self._definitions:
                raise UnknownVersion(given.claim.saga_id, definition.name) from None
            same = False
        if not same:
            raise KeyReused(definition.name, given.key or "")

    async def load(self, saga_id: UUID) -> Row | None:
        """Return the journal row; only the caller's time-out ends the wait for a database that is down."""
        return await self._following.load(saga_id)
