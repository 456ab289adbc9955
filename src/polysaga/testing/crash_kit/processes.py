"""An owner with an engine: all that one process of the user's program has, in this event loop.

It has its own connections, journal, participants, runner and worker. Its clock advances only when the owner waits,
and differs from the other owners' clocks: nothing may depend on clocks that agree.
"""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from copy import copy
from datetime import timedelta
from functools import partial, wraps
from typing import Any, TypeVar

from polysaga.clock import Clock
from polysaga.config import DatabaseSettings, PoolSettings, SagaSettings, Settings
from polysaga.databases import AnyHandle, MongoNode, Node, SqlNode
from polysaga.errors import ConfigurationError
from polysaga.events import ignore
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.resources import assemble
from polysaga.sagas.process.runner import LocalRunner
from polysaga.sagas.process.worker import Worker
from polysaga.testing.clock import HandClock
from polysaga.testing.crash_kit.intercepts import tap_journal, tap_node, tap_participant
from polysaga.testing.crash_kit.owners import OWNER, Owner
from polysaga.testing.crash_kit.sqlite_inline import quicken

T = TypeVar("T")

_REAL = Clock()
_SKEW = timedelta(minutes=7)  # between the clocks of two owners
_LEASE = 900.0  # seconds; the crash kit ends leases by hand
_HASTE = 10
_SETTINGS = SagaSettings(lease=_LEASE)
_DEADLINE = 5 * 365 * 86400.0  # seconds; the crash kit lets deadlines pass by hand


class Process(Owner):
    """One owner, reused for every run."""

    def __init__(self, name: str, nodes: Mapping[str, Node], journal_in: str, number: int) -> None:
        self._nodes, self._journal_in = nodes, journal_in
        self._clock = _OwnClock(self, number)
        super().__init__(name)
        for node in nodes.values():
            tap_node(node, self)

    def begin_with(self, definitions: Sequence[Definition]) -> None:
        """Become a new process that knows *definitions*."""
        self.begin()
        engine = assemble(
            self._nodes, self._journal_in, definitions, _SETTINGS, emit=ignore, clock=self._clock, patience=0.0
        )
        for participant in engine.participants.values():
            tap_participant(participant, self)
        tap_journal(engine.journal, self)
        self.runner = _Runner(engine, {one.fingerprint: one for one in definitions})
        self.worker = Worker(self.runner)


class _Runner(LocalRunner):
    """Never winds down, so a client's work stays in the client's own task, which the owner knows."""

    async def while_open(self, work: Awaitable[T], otherwise: Exception) -> T:
        return await work


class _OwnClock(HandClock):
    """Advances when its owner waits; a pause gives the databases time to answer the other owners."""

    def __init__(self, owner: Owner, number: int) -> None:
        super().__init__(_REAL.now() + number * _SKEW)
        self._owner = owner

    async def sleep(self, seconds: float) -> None:
        if seconds > _DEADLINE / 2:  # no pause is that long
            await self._owner.scene.wait_for_deadline(self._owner)
            return
        await self._owner.thawed.wait()
        with self._owner.pause():
            # One round of the event loop is too short for a database to answer the others.
            await _REAL.sleep(0.001)
        # While something keeps failing, time passes faster, so that retries end after a few attempts.
        self.move(seconds * (_HASTE if self._owner.scene.failures else 1))


def new_nodes(handles: Iterable[AnyHandle], settings: Settings, stack: AsyncExitStack) -> dict[str, Node]:
    """Return a node with its own connections for the primary of each open handle in *handles*."""
    nodes: dict[str, Node] = {}
    for handle in handles:
        known = settings.databases[handle.name]
        own = DatabaseSettings(
            url=known.url,
            pool=PoolSettings(size=4, max_overflow=4, acquire_timeout=15.0),
            idle_transaction_timeout=known.idle_transaction_timeout,
            lock_timeout=known.lock_timeout,
        )
        kind = MongoNode if isinstance(handle.primary, MongoNode) else SqlNode
        nodes[handle.name] = node = kind(handle.name, "primary", known.url.get_secret_value(), own)
        stack.push_async_callback(node.close)
        quicken(node)
    return nodes


def staged(definition: Definition, *, turned: bool, limited: bool) -> Definition:
    """Return *definition* with steps that report to the scene of the owner that runs them.

    *turned* reverses the order in which parallel branches take turns. *limited* gives the saga a far-away deadline
    if it has none. A deadline that the saga has becomes just as far away.
    """
    steps = [_staged_step(step) for step in _ordered(definition, turned=turned)]
    saga = copy(definition.saga)
    saga.deadline = _DEADLINE if limited or saga.deadline is not None else None
    return Definition(saga, tuple(steps))


def _ordered(definition: Definition, *, turned: bool) -> list[AnyStep]:
    """Return the steps in a topological order; the first step stays first."""
    if not turned:
        return list(definition.steps)
    first, *rest = definition.steps
    ordered, left = [first], list(reversed(rest))
    while left:
        known = {step.name for step in ordered}
        chosen = next(step for step in left if definition.before[step.name] <= known)
        left.remove(chosen)
        ordered.append(chosen)
    return ordered


def _staged_step(step: AnyStep) -> AnyStep:
    played = copy(step)
    action, undo = step.action, step.undo

    @wraps(action)  # its annotations are checked
    async def act(session: Any, value: Any, context: Any) -> Any:
        owner = _owner()
        return await owner.scene.perform(owner, step.name, 1, partial(action, session, value, context))

    played.action = act
    if undo is not None:
        compensate = undo

        async def take_back(session: Any, value: Any, done: Any, context: Any) -> None:
            owner = _owner()
            code = partial(compensate, session, value, done, context)
            await owner.scene.perform(owner, step.name, -1, code)

        played.undo = take_back
    return played


def _owner() -> Owner:
    owner = OWNER.get()
    if owner is None:
        raise ConfigurationError("this step is played by the crash kit and runs in no other program")
    return owner
