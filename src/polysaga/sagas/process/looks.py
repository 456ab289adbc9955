"""One look at the journal for all sagas of other processes that callers of this process wait for.

A follower asks for its saga after pauses that grow up to half a second (`loop.pauses`). If each asked by itself, a
thousand of them would send the journal two thousand statements a second. So one task looks for all: when the pause
of one follower is over, the look includes every follower that has waited for half of its own. Soon they wait
together, and the journal gets a few looks a second from each process, however many sagas it follows.

The task lives while there are followers. A look that fails for a while is repeated; one that fails for good is
repeated for each saga alone, so that a row which cannot be read fails its own followers only.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from uuid import UUID

from polysaga.limits import limited
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.process.loop import LONGEST_PAUSE, rest
from polysaga.sagas.protocol.rows import Standing

_MOST = 500  # sagas in one statement


class _Follower:
    """One caller's wait for the next look at its saga."""

    def __init__(self, saga_id: UUID, now: float, pause: float) -> None:
        self.saga_id = saga_id
        self.answer: asyncio.Future[Standing | None] = asyncio.get_running_loop().create_future()
        self.wait(now, pause)

    def wait(self, now: float, pause: float) -> None:
        """Be due after *pause* seconds, and join the look of others after half of it."""
        self.early, self.due = now + pause / 2, now + pause


class SharedLooks:
    """The looks of one process."""

    def __init__(self, engine: Engine, passes: Callable[[BaseException], bool]) -> None:
        """*passes* returns whether an error is one after which to look again."""
        self._engine, self._passes = engine, passes
        self._followers: set[_Follower] = set()
        self._news = asyncio.Event()  # a follower has come
        self._task: asyncio.Task[None] | None = None

    async def after(self, pause: float, saga_id: UUID) -> Standing | None:
        """Look at a saga, *pause* seconds from now at the latest; return None if it has no row.

        Only the caller's time-out ends the wait for a database that is down.
        """
        follower = _Follower(saga_id, self._engine.clock.monotonic(), pause)
        self._followers.add(follower)
        self._news.set()
        if self._task is None:
            self._task = asyncio.create_task(self._look_for_all())
        try:
            return await follower.answer
        finally:
            self._followers.discard(follower)
            if not self._followers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _look_for_all(self) -> None:
        clock, task = self._engine.clock, asyncio.current_task()
        try:
            while self._followers:
                left = min(one.due for one in self._followers) - clock.monotonic()
                if left > 0:
                    self._news.clear()
                    await rest(self._engine, left, self._news)
                else:
                    await self._look_in_parts(clock.monotonic())
        finally:
            if self._task is task:
                self._task = None

    async def _look_in_parts(self, now: float) -> None:
        waiting = defaultdict(list)
        for follower in self._followers:
            if follower.early <= now:
                waiting[follower.saga_id].append(follower)
        ids = list(waiting)
        for begin in range(0, len(ids), _MOST):
            await self._look({saga_id: waiting[saga_id] for saga_id in ids[begin : begin + _MOST]})

    async def _look(self, waiting: Mapping[UUID, Sequence[_Follower]]) -> None:
        engine = self._engine
        # A single connection that has died without notice must not stop all followers.
        work = limited(engine.journal.standings(waiting), engine.settings.lease)
        (outcome,) = await asyncio.gather(work, return_exceptions=True)
        if not isinstance(outcome, BaseException):
            for saga_id, followers in waiting.items():
                for follower in followers:
                    self._followers.discard(follower)
                    if not follower.answer.done():
                        follower.answer.set_result(outcome.get(saga_id))
        elif self._passes(outcome):
            now = engine.clock.monotonic()
            for follower in chain.from_iterable(waiting.values()):
                follower.wait(now, LONGEST_PAUSE)
        elif len(waiting) > 1:
            for saga_id, followers in waiting.items():
                await self._look({saga_id: followers})
        else:
            for follower in chain.from_iterable(waiting.values()):
                self._followers.discard(follower)
                if not follower.answer.done():
                    follower.answer.set_exception(outcome)
