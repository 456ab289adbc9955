"""A simulated process as others see it: it can die, stand still, and has tasks and connections of its own.

All owners live in one event loop. What belongs to which is told by a context variable, which every task
inherits from the one that created it.
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
    """One process. *scene* is the run it takes part in."""

    scene: "Scene"

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections: dict[int, Any] = {}  # drivers' own, in use
        self.cut_off: set[int] = set()  # ids of those that were broken
        self.loans: dict[int, Any] = {}  # what SQLAlchemy's pools have lent and not got back
        self.endings: dict[int, Callable[[], Awaitable[None]]] = {}  # how the server ends what is open
        self.begin()

    def begin(self) -> None:
        """Be as good as new, for the next run."""
        # A task that is cancelled again while it gives its connection back leaves it with the pool for lent.
        for loan in list(self.loans.values()):
            if loan.is_valid:
                loan.invalidate()
        self.dead = self.refusing = False
        self.beside = False  # it runs the second saga of a case, which is not disturbed
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.clients: set[asyncio.Task[Any]] = set()  # that only wait for an answer
        self.pollers: set[asyncio.Task[Any]] = set()  # that only wait while they pause between two looks
        self._turn = asyncio.Lock()
        self._holder: asyncio.Task[Any] | None = None
        self._reached: Counter[tuple[Stage, str]] = Counter()

    @property
    def frozen(self) -> bool:
        """Tell whether it stands still."""
        return not self.thawed.is_set()

    @property
    def at_rest(self) -> bool:
        """Tell whether nothing will happen in it by itself; clients that wait do not count."""
        return self.dead or self.frozen or self.tasks <= self.clients

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run *work* as a task of this process."""
        context = copy_context()
        context.run(OWNER.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def point(self, stage: Stage, work: str) -> Point:
        """Return the point that it has just come to."""
        self._reached[stage, work] += 1
        return self.last_point(stage, work)

    def last_point(self, stage: Stage, work: str) -> Point:
        """Return the point that it came to last, of this stage and work."""
        return Point(self.name, stage, work, self._reached[stage, work])

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Let a poller that pauses between two looks count as one that waits."""
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
        """Note that this task only waits from now on."""
        task = asyncio.current_task()
        assert task is not None
        self.clients.add(task)
        self.scene.bell.ring()

    async def take_turn(self) -> None:
        """Wait until no other work of this process is under way: so every run has one order of works."""
        task = asyncio.current_task()
        if self._holder is not task:
            await self._turn.acquire()
            self._holder = task

    def yield_turn(self) -> None:
        """Let the next work begin, if this task has the turn."""
        self._pass_on(asyncio.current_task(), 0)

    def yield_turn_soon(self) -> None:
        """Let the next work begin in a moment: whoever learns of a failure can cancel it before that."""
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
        """Do what a server does to transactions that have been idle for too long."""
        for end in list(self.endings.values()):
            await end()

    async def bury(self) -> None:
        """End all tasks of the dead process; nothing they do on the way out reaches a database."""
        while self.tasks:
            for task in self.tasks:
                task.cancel()
            await asyncio.wait(self.tasks, timeout=0.1)


class OwnedTasks:
    """Notes in every owner which tasks are its own, while the block runs."""

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
        task.exception()  # somebody else asks for it, or it died with its process


def _soon(call: Callable[[], None], hops: int) -> None:
    """Do *call* after the event loop has gone round *hops* times."""
    loop = asyncio.get_running_loop()
    if hops:
        loop.call_soon(_soon, call, hops - 1)
    else:
        call()
