"""A simulated process as others see it: it can die or freeze, and has its own tasks and connections.

All owners live in one event loop. A context variable, which every task inherits from its creator, says which owner
a task belongs to.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from polysaga.testing.crash_kit.disturbances import Point, Stage

if TYPE_CHECKING:
    from polysaga.testing.crash_kit.run import Scene

_HOPS = 10  # of the event loop; the executor needs three to cancel its branches

OWNER: ContextVar["Owner | None"] = ContextVar("polysaga.testing.owner", default=None)


class Owner:
    """One process; *scene* is the run it takes part in."""

    scene: "Scene"

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections: dict[int, Any] = {}  # the drivers' own connections, in use
        self.cut_off: set[int] = set()  # ids of connections that were cut
        self.loans: dict[int, Any] = {}  # connections that SQLAlchemy's pools have lent and not got back
        self.endings: dict[int, Callable[[], Awaitable[None]]] = {}  # how the server ends open transactions
        self.begin()

    def begin(self) -> None:
        """Reset everything, for the next run."""
        # If a task is cancelled again while it returns its connection, the pool keeps counting that as lent.
        for loan in list(self.loans.values()):
            if loan.is_valid:
                loan.invalidate()
        self.dead = self.refusing = False
        self.beside = False  # it runs the second saga of a case, which is not disturbed
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.clients: set[asyncio.Task[Any]] = set()  # tasks that only wait for an answer
        self.pollers: set[asyncio.Task[Any]] = set()  # tasks that only wait during their pause between two looks
        self._turn = asyncio.Lock()
        self._holder: asyncio.Task[Any] | None = None
        self._reached: Counter[tuple[Stage, str]] = Counter()

    @property
    def frozen(self) -> bool:
        """Return whether the process stands still."""
        return not self.thawed.is_set()

    @property
    def at_rest(self) -> bool:
        """Return whether nothing will happen in the process by itself; waiting clients do not count."""
        return self.dead or self.frozen or self.tasks <= self.clients

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run *work* as a task of this process."""
        context = copy_context()
        context.run(OWNER.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def point(self, stage: Stage, work: str) -> Point:
        """Return the point that the process has just reached."""
        self._reached[stage, work] += 1
        return self.last_point(stage, work)

    def last_point(self, stage: Stage, work: str) -> Point:
        """Return the last point of this stage and work that the process reached."""
        return Point(self.name, stage, work, self._reached[stage, work])

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Count a poller as a waiting client during its pause between two looks."""
        task = asyncio.current_task()
        if task not in self.pollers:
            yield
            return
        self.clients.add(task)
        self.scene.bell.ring()
        try:
            yield
        finally:
            self.clients.discard(task)

    def wait_as_client(self) -> None:
        """Count the current task as a waiting client from now on."""
        task = asyncio.current_task()
        assert task is not None
        self.clients.add(task)
        self.scene.bell.ring()

    async def take_turn(self) -> None:
        """Wait until no other work of this process is under way, so every run has the same order of works."""
        task = asyncio.current_task()
        if self._holder is not task:
            await self._turn.acquire()
            self._holder = task

    def yield_turn(self) -> None:
        """Let the next work begin, if the current task has the turn."""
        self._pass_on(asyncio.current_task(), 0)

    def yield_turn_soon(self) -> None:
        """Let the next work begin in a moment: the executor can cancel it first if it learns of a failure."""
        self._pass_on(asyncio.current_task(), _HOPS)

    def lose(self, task: "asyncio.Task[Any]") -> None:
        """Forget a task that has ended."""
        self.tasks.discard(task)
        self._pass_on(task, _HOPS)
        self.scene.bell.ring()

    def _pass_on(self, task: "asyncio.Task[Any] | None", hops: int) -> None:
        if task is not None and self._holder is task:
            self._holder = None
            _soon(self._turn.release, hops)

    async def end_transactions(self) -> None:
        """End open transactions, as a server does when they have been idle for too long."""
        for end in list(self.endings.values()):
            await end()

    async def bury(self) -> None:
        """End all tasks of the dead process; their clean-up reaches no database."""
        while self.tasks:
            for task in self.tasks:
                task.cancel()
            await asyncio.wait(self.tasks, timeout=0.1)


class OwnedTasks:
    """Records every owner's tasks while the block runs."""

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._before = self._loop.get_task_factory()
        self._loop.set_task_factory(self._create)

    def __exit__(self, *failure: object) -> None:
        self._loop.set_task_factory(self._before)

    def _create(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        context = options.get("context")
        owner = OWNER.get() if context is None else context.get(OWNER)
        # PyMongo's own tasks live as long as its client.
        if owner is not None and "pymongo" not in work.cr_code.co_filename:
            owner.tasks.add(task)
            task.add_done_callback(lambda ended: _ended(owner, ended))
        return task


def _ended(owner: Owner, task: "asyncio.Task[Any]") -> None:
    owner.lose(task)
    if not task.cancelled():
        task.exception()  # retrieve it: another task handles it, or it died with its process


def _soon(call: Callable[[], None], hops: int) -> None:
    """Call *call* after *hops* rounds of the event loop."""
    loop = asyncio.get_running_loop()
    if hops:
        loop.call_soon(_soon, call, hops - 1)
    else:
        call()
