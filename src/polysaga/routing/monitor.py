"""The monitor of one database: one task and one connection per node, which ask for role and position.

The nodes own the truth. A question has a time limit. A node that does not answer within it does not count until it
answers again, and its connections are cut, because a frozen server never reports that it is gone. The limit runs
from the last answer, not from the question, so a silence is noticed in `probe_timeout`, whenever it began. Time in
which this process itself was frozen is no silence of the nodes.

The first question may take as long as a connection may, `connect_timeout`: on a busy host a newly loaded driver
needs that. `start` waits that long for a primary only. A replica joins when it answers.

Readers that wait for a replica hurry the replicas' tasks. While a reader waits, the tasks ask at once and then
every few milliseconds, or when the server itself reports the position (PostgreSQL 19: WAIT FOR LSN). Without
waiters a node is asked every `probe_interval` seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from polysaga.clock import Clock
from polysaga.databases.positions import Position
from polysaga.databases.samples import Sample
from polysaga.errors import DatabaseUnavailable
from polysaga.events import Emit, MonitorFailed, NodeLeft, NodeReturned, PrimaryChanged, PrimaryLost
from polysaga.routing.topology import UNASKED, Seat, Topology, answered, failed, rivals, settled, unknown
from polysaga.texts import said

_HURRY = 0.001, 0.016  # seconds between questions while a reader waits: at first, at last
_PIECES = 4  # of a question's time limit; a time in which the event loop did not run counts as one
_GRACE = 0.05  # seconds that a question gets to notice that its connection is gone


class SampleSource(Protocol):
    """A connection of the monitor's own; see `databases.probe_connection`."""

    async def sample(self) -> Sample:
        """Return role and position."""

    @property
    def waits(self) -> bool:
        """Whether the server can report when it has reached a position."""

    async def wait_for(self, position: Position, seconds: float) -> bool:
        """Return True once it may have, or after *seconds*; False if it cannot tell after all."""

    def cut(self) -> None:
        """Break the connection; a question that waits for an answer fails."""

    async def close(self) -> None:
        """Close; the next question connects again."""


class Monitor:
    """Keeps `topology` fresh; calls *changed* with the previous and the new one each time."""

    def __init__(
        self,
        database: str,
        seats: Sequence[Seat],
        lines: Sequence[SampleSource],
        *,
        interval: float,
        timeout: float,
        connect_timeout: float,
        changed: Callable[[Topology, Topology], None],
        emit: Emit,
        clock: Clock,
    ) -> None:
        self.topology = unknown(seats)
        self._database, self._lines, self._changed = database, lines, changed
        self._interval, self._timeout = interval, timeout
        self._connect_timeout = max(connect_timeout, timeout)
        self._emit, self._clock = emit, clock
        self._last_primary: str | None = None  # the name of the node that took writes last
        self._tasks: list[asyncio.Task[None]] = []
        self._hurry = [asyncio.Event() for _ in lines]
        self._waiters: dict[asyncio.Future[None], Position | None] = {}  # and what they wait for
        self._answered_at = [clock.monotonic()] * len(lines)

    async def start(self) -> None:
        """Ask every node, then go on asking until `stop`; return once a primary is known, or none can be.

        A node has `timeout` seconds to answer; if no primary has answered by then, all have `connect_timeout`.
        """
        began = self._clock.monotonic()
        questions = [asyncio.create_task(self._ask(index, first=True)) for index in range(len(self._lines))]
        self._tasks = questions
        pending = set(questions)
        while pending and (left := began + self._first_limit - self._clock.monotonic()) > 0:
            done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for question in done:
                question.result()
        silent = f"it has not answered in {self._first_limit:g} s yet"
        for index, question in enumerate(questions):
            if question in pending:
                self._publish(failed(self.topology, index, silent))
        await self._settle()
        # Answers may be as old as the start was slow; no node is late because of that.
        self._answered_at = [self._clock.monotonic()] * len(self._lines)
        self.suspect()
        # `stop` cancels the questions too: a watch cancelled before it begins would not cancel its own.
        watches = [asyncio.create_task(self._watch(*asked)) for asked in enumerate(questions)]
        self._tasks = [*questions, *watches]

    async def _settle(self) -> None:
        """If several nodes claim to be the primary, ask them once more: their answers show which took over."""
        several = rivals(self.topology)
        if len(several) < 2:
            return
        # The last first: of the nodes in the settings an earlier one stays primary unless a later one took over.
        for index in reversed(several):
            await self._ask(index)
        self._publish(settled(self.topology))

    async def stop(self) -> None:
        """Stop asking and close the connections."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for line in self._lines:
            line.cut()
            await line.close()

    def suspect(self) -> None:
        """Ask all nodes now, because something was seen that does not fit the topology."""
        for event in self._hurry:
            event.set()

    async def news(self, patience: float, position: Position | None = None) -> bool:
        """Return True at the next new topology; False if there is none within *patience* seconds.

        With *position* the replicas are watched until they reach it.
        """
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = position
        self.suspect()
        try:
            await asyncio.wait([waiter], timeout=patience)
        finally:
            self._waiters.pop(waiter, None)
        return waiter.done()

    @property
    def _first_limit(self) -> float:
        return self._timeout if self.topology.primary is not None else self._connect_timeout

    async def _watch(self, index: int, first: asyncio.Task[None]) -> None:
        pause = _HURRY[0]
        question: Awaitable[None] = first
        while True:
            try:
                await question
            except Exception as error:  # noqa: BLE001 - border: one bad answer must not end the watch over a node
                self._emit(MonitorFailed(self._database, self.topology.nodes[index].seat.name, said(error)))
            hurry = self._hurry[index]
            if self._waiters and index != self.topology.primary:
                if not await self._waited(index):
                    await self._clock.sleep(pause)
                pause = min(2 * pause, _HURRY[1])
            else:
                pause = _HURRY[0]
                await _first(hurry, self._interval)
            hurry.clear()
            question = self._ask(index)

    async def _waited(self, index: int) -> bool:
        """Wait until the node itself reports what a reader waits for; return False if it cannot."""
        line, known = self._lines[index], self.topology.nodes[index].position
        wanted = next((place for place in self._waiters.values() if _lies_ahead(known, place)), None)
        if wanted is None or not line.waits:
            return False
        task = asyncio.ensure_future(line.wait_for(wanted, _HURRY[1]))
        task.add_done_callback(_look_at)
        await asyncio.wait([task], timeout=self._timeout / 4)
        if not task.done():
            line.cut()  # the next question finds out what has become of the node
            task.cancel()
            await asyncio.wait([task])
        return not task.cancelled() and task.exception() is None and task.result()

    async def _ask(self, index: int, *, first: bool = False) -> None:
        """Ask one node; publish its answer, or that there was none."""
        line, asked_at = self._lines[index], self._clock.monotonic()
        if first:
            patience = self._connect_timeout
        elif self.topology.nodes[index].failure is not None:
            patience = self._timeout
        else:
            # A question sent later than `interval` was held up in this process.
            late = min(asked_at - self._answered_at[index], self._interval)
            patience = self._timeout - late
        patience = max(patience, self._timeout / 4)
        task = asyncio.ensure_future(line.sample())
        task.add_done_callback(_look_at)
        try:
            await _done_in(task, patience)
            if not task.done():
                line.cut()
            silent = f"it did not answer in {max(patience, self._timeout):g} s"
            answer = await _ended(task, line, silent)
        except asyncio.CancelledError:
            # A connection that is still being made would otherwise stay open.
            line.cut()
            task.cancel()
            await asyncio.wait([task], timeout=_GRACE)
            raise
        if isinstance(answer, Sample):
            self._answered_at[index] = self._clock.monotonic()
            latency = self._answered_at[index] - asked_at
            self._publish(answered(self.topology, index, answer, asked_at, latency))
        else:
            self._publish(failed(self.topology, index, answer))

    def _publish(self, after: Topology) -> None:
        before, self.topology = self.topology, after
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._changed(before, after)
        self._announce(before, after)

    def _announce(self, before: Topology, after: Topology) -> None:
        for old, new in zip(before.nodes, after.nodes, strict=True):
            if new.failure is not None and old.failure is None:
                self._emit(NodeLeft(self._database, new.seat.name, new.failure))
            elif new.failure is None and old.failure not in {None, UNASKED}:
                self._emit(NodeReturned(self._database, new.seat.name))
        if before.primary == after.primary:
            return
        if after.primary is None:
            self._emit(PrimaryLost(self._database))
        else:
            last, self._last_primary = self._last_primary, after.nodes[after.primary].seat.name
            self._emit(PrimaryChanged(self._database, self._last_primary, after.epoch, last))


async def _done_in(task: "asyncio.Future[Any]", seconds: float) -> None:
    """Return when *task* is done, or after *seconds* in which the event loop ran.

    In a process that was frozen, time-outs expire before it reads the answers that have arrived.
    """
    for _ in range(_PIECES):
        await asyncio.wait([task], timeout=seconds / _PIECES)
        if task.done():
            return


async def _ended(task: "asyncio.Future[Sample]", line: SampleSource, silent: str) -> Sample | str:
    """Return the sample, or why there is none; the connection is usable or closed afterwards."""
    in_time = task.done()
    if not in_time:
        # Cutting the connection ends the question; a connection that is still being made can only be cancelled.
        # (A cancelled question makes drivers connect anew, to a server that is silent.)
        await asyncio.wait([task], timeout=_GRACE)
        task.cancel()
        await asyncio.wait([task])
    error = None if task.cancelled() else task.exception()
    if in_time and error is None and not task.cancelled():
        return task.result()
    await line.close()
    if not in_time or error is None:
        return silent
    if isinstance(error, DatabaseUnavailable):
        return error.reason
    return said(error)


def _lies_ahead(known: Position | None, wanted: Position | None) -> bool:
    """Return whether *wanted* is ahead of *known* in the same epoch, where the numbers alone decide."""
    return known is not None and wanted is not None and known.epoch == wanted.epoch and not known.reached(wanted)


def _look_at(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()  # the caller may be gone


async def _first(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
