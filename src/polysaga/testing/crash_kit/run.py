"""One run: the script, what has happened so far, and what the databases have really committed.

Owners report every stage of every work here (`reach`) and wait for permission to go on. There the scene kills,
freezes or holds them. The effects of a transaction on the user's data count from the moment when its commit
returns, whatever its owner learns (`committed`).
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from polysaga.clock import Clock
from polysaga.databases import Fault
from polysaga.errors import Refused
from polysaga.testing.crash_kit.disturbances import (
    Act,
    Beside,
    Cancel,
    Case,
    Deadline,
    Disconnect,
    Fail,
    Freeze,
    Hold,
    Kill,
    Kind,
    Point,
    Stage,
    Until,
)
from polysaga.testing.crash_kit.driver_errors import Disturbed, cut
from polysaga.testing.crash_kit.owners import Owner
from polysaga.testing.crash_kit.run_context import RAN, SENT, WORK, Bell

T = TypeVar("T")
Effects = Sequence[tuple[str, int]]  # step, +1 for done or -1 for undone

_HOPS = 20  # rounds of the event loop until a cancellation has arrived
_REAL = Clock()


class Scene:
    """The run of one case."""

    def __init__(
        self, case: Case, retriable: frozenset[str], databases: dict[str, str], decision: str | None
    ) -> None:
        self.case = case
        self.script: dict[Point, Act] = {act.point: act for act in case.acts if not isinstance(act, Fail)}
        self.failures = {act.work: act for act in case.acts if isinstance(act, Fail)}
        self.trace: list[Point] = []
        self.gaps: list[Point] = []  # between two statements
        self.reached_beside = 0  # points reached by the second saga
        self.story: list[str] = []
        self.effects: Counter[str] = Counter()
        self.maybe: list[tuple[str, int]] = []  # effects of commits whose result is unknown
        self.effects_beside: Counter[str] = Counter()  # of the second saga
        self.maybe_beside: list[tuple[str, int]] = []
        self.meet: Callable[[Owner], Awaitable[None]] = _nobody  # runs the second saga
        self.claimant: Owner | None = None  # the owner with the last claim; None: the one that started the saga
        self.offences: list[str] = []  # acts of an owner that must be impossible
        self.cancel: Callable[[Owner], None] = lambda _: None  # plays a client that cancels
        self.bell = Bell()
        self.deadline = asyncio.Event()  # set when the deadline has passed
        self.must_be_undone = False  # the deadline passed before the decision
        self._retriable, self._databases, self._decision = retriable, databases, decision
        self._frozen: dict[str, tuple[Owner, Freeze]] = {}
        self._alarms: dict[asyncio.Task[None], Owner] = {}

    @property
    def undecided(self) -> bool:
        """Return whether the deciding step has certainly not been committed."""
        return not self.effects[self._decision or ""] and not self.maybe

    @property
    def played(self) -> bool:
        """Return whether every act of the case took place."""
        return not self.script

    def tell(self, sentence: str) -> None:
        """Add *sentence* to the story, at most twice in a row."""
        if self.story[-2:] != [sentence] * 2:
            self.story.append(sentence)

    async def reach(self, owner: Owner, stage: Stage, work: str) -> None:
        """Return when *owner* may go on from this point; possibly never."""
        await owner.thawed.wait()
        if owner.dead:
            await _for_ever()
        if owner.beside:
            self.reached_beside += 1
            return
        point = owner.point(stage, work)
        (self.gaps if stage is Stage.BETWEEN else self.trace).append(point)
        self._thaw_at(point)
        act = self.script.get(point)
        if act is not None and not isinstance(act, Disconnect):
            del self.script[point]
        match act:
            case Kill() as kill:
                self._kill(owner, kill)
                await _for_ever()
            case Freeze() as freeze:
                await self._freeze(owner, freeze)
            case Cancel():
                self.cancel(owner)
                await _turns(_HOPS)
            case Deadline():
                self._pass_deadline()
                self.must_be_undone = self._drives(point) and self._decision is not None and self.undecided
                await _turns(_HOPS)
            case Beside():
                self.tell(f"{owner.name} stands {_said(point)}")
                await self.meet(owner)
                self.tell(f"{owner.name} goes on")
            case Hold():
                self.tell(f"{owner.name} stands at {_said(point)} until it is cancelled")
                owner.yield_turn()
                await _for_ever()

    def reply(self, owner: Owner, work: str) -> bool | None:
        """Return None if the reply to this commit arrives; else return whether the commit happens."""
        point = owner.last_point(Stage.BEFORE, work)
        act = self.script.get(point)
        if not isinstance(act, Disconnect):
            return None
        del self.script[point]
        happened = "the commit happened, its reply is lost" if act.happened else "the commit never arrives"
        self.tell(f"{owner.name} loses its connection at the commit of {work}: {happened}")
        return act.happened

    def committed(self, owner: Owner, work: str, effects: Effects) -> None:
        """Record the effects of a commit that returned."""
        self.tell(f"{owner.name} commits {work}")
        counter = self.effects_beside if owner.beside else self.effects
        for step, sign in effects:
            counter[step] += sign

    def uncertain(self, owner: Owner, effects: Effects) -> None:
        """Record the possible effects of a commit that was cancelled."""
        (self.maybe_beside if owner.beside else self.maybe).extend(effects)

    def touch(self, owner: Owner, database: str) -> None:
        """Thaw owners that are frozen in *database*: *owner* needs it and may wait for them."""
        for frozen, act in list(self._frozen.values()):
            work = act.point.work.removeprefix("undo ")
            if act.until is Until.TOUCHED and frozen is not owner and self._databases.get(work) == database:
                self.thaw(frozen)

    async def perform(self, owner: Owner, step: str, sign: int, code: Callable[[], Awaitable[T]]) -> T:
        """Run the user's *code* of *step*, or of its compensation; make it fail if the case says so."""
        work = step if sign > 0 else f"undo {step}"
        if WORK.get() != work:
            await owner.take_turn()
            WORK.set(work)
            self.touch(owner, self._databases[step])
            await self.reach(owner, Stage.BEGIN, work)
        SENT.set([])
        result = await code()
        ran = RAN.get()
        if ran is not None:
            ran.append((step, sign))
        self._fail(owner, step, work)
        return result

    async def wait_for_deadline(self, owner: Owner) -> None:
        """Return when the deadline of the saga has passed and *owner* is not frozen."""
        task = asyncio.current_task()
        assert task is not None
        if not self.deadline.is_set():
            owner.wait_as_client()
            self._alarms[task] = owner
            try:
                await self.deadline.wait()
            finally:
                self._alarms.pop(task, None)
        await owner.thawed.wait()

    def thaw(self, owner: Owner) -> None:
        """Resume a frozen owner."""
        if self._frozen.pop(owner.name, None) is not None:
            self.tell(f"{owner.name} goes on, believing that the saga is its own")
            owner.thawed.set()
            self.bell.ring()

    def heal(self) -> None:
        """Stop all failures from now on."""
        self.failures.clear()

    def _fail(self, owner: Owner, step: str, work: str) -> None:
        if owner.beside:
            return
        undoing = work != step
        refuses = self.case.plot.refused == step or (owner.refusing and step not in self._retriable)
        if refuses and not undoing:
            self.tell(f"{work} refuses in {owner.name}")
            raise Refused("the crash kit says no")
        act = self.failures.get(work)
        if act is None:
            return
        if act.once:
            del self.failures[work]
        self.tell(f"{work} fails in {owner.name}: {act.kind}")
        match act.kind:
            case Kind.REFUSED:
                raise Refused("the crash kit says no")
            case Kind.TRANSIENT:
                raise Disturbed("the crash kit's passing error", Fault.SERIALIZATION)
            case Kind.BUG:
                raise Disturbed("the crash kit's bug", None)

    def _drives(self, point: Point) -> bool:
        """Return whether the owner of *point* runs a step, after it has begun or claimed the saga."""
        before = any(one.owner == point.owner and one.work != point.work for one in self.trace)
        return before and point.work in self._databases

    def _pass_deadline(self) -> None:
        self.tell("the deadline of the saga passes")
        self.deadline.set()
        for task, owner in self._alarms.items():
            owner.clients.discard(task)

    def _kill(self, owner: Owner, act: Kill) -> None:
        self.tell(f"{owner.name} is killed {_said(act.point)}")
        owner.dead = True
        if act.overdue:
            self._pass_deadline()
        for connection in list(owner.connections.values()):
            owner.cut_off.add(id(connection))
            cut(connection)
        self.bell.ring()

    async def _freeze(self, owner: Owner, act: Freeze) -> None:
        self.tell(f"{owner.name} stands still {_said(act.point)}")
        if act.ended:
            self.tell(f"the server ends the transaction of {owner.name}, which has been idle for too long")
            await owner.end_transactions()
        self._frozen[owner.name] = (owner, act)
        owner.thawed.clear()
        if act.overdue:
            self._pass_deadline()
        self.bell.ring()
        await owner.thawed.wait()

    def _thaw_at(self, point: Point) -> None:
        stages = {Until.TOGETHER: {Stage.BEGIN}, Until.OVERTAKEN: {Stage.AT, Stage.AFTER}}
        for owner, act in list(self._frozen.values()):
            if point.work == act.point.work and point.stage in stages.get(act.until, ()):
                self.thaw(owner)


async def _nobody(_: Owner) -> None:
    """Return: there is no second saga."""


async def _turns(hops: int) -> None:
    """Wait for *hops* rounds of the event loop."""
    for _ in range(hops):
        await _REAL.sleep(0)


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def _said(point: Point) -> str:
    match point.stage:
        case Stage.BEGIN:
            return f"before {point.work}"
        case Stage.BETWEEN:
            return f"between two statements of {point.work}"
        case Stage.BEFORE:
            return f"before the commit of {point.work}"
        case Stage.AT:
            return f"at the commit of {point.work}, which happened"
        case _:
            return f"after {point.work}"
