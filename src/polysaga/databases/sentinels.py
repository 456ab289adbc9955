"""Detect silent servers and hung drivers, for databases without replicas.

A frozen server never reports that it is gone: its clients would wait without a limit. While sessions are lent, the
sentinel of a SQL node asks the server over a connection of its own. If the server does not answer for twice
`pool.connect_timeout`, the sentinel cuts every connection, and waiting sessions raise `DatabaseUnavailable`.
Nodes of databases with replicas have a monitor that does the same sooner (`routing.monitor`). A pooler may have no
server connection to spare for the sentinel. As long as other connections come back in order, the server answers.

PyMongo watches its servers by itself, but nothing in it watches the client: if its pool hangs, it lends no
connection for the rest of the process's life. The sentinel asks a question that should not outlive the client's
own limits. If it does, and a new client gets an answer at once, the node uses the new client from then on.

A process that was frozen must not mistake that for the silence of others: only time in which the event loop ran
counts.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from polysaga.clock import Clock
from polysaga.databases.mongo_node import MongoNode
from polysaga.databases.probe_connection import ProbeConnection
from polysaga.databases.sql_node import SqlNode
from polysaga.events import ClientReplaced, Emit, ServerSilent
from polysaga.faults import Fault
from polysaga.limits import GRACE, ended, limited

_EVERY = 2.0  # seconds between two checks of a node
_SLICE = 0.25  # seconds; a time in which the event loop did not run counts as this at most
_SILENT = {None, Fault.UNREACHABLE, Fault.DISCONNECTED}  # any other error is an answer
_SPARE = 5.0  # seconds that a client of MongoDB may need beyond its own limits


class Sentinels:
    """Watches nodes until `stop`."""

    def __init__(self, nodes: Sequence[SqlNode | MongoNode], emit: Emit, clock: Clock) -> None:
        self._emit, self._clock = emit, clock
        self._tasks = [asyncio.create_task(self._watch(node)) for node in nodes]

    async def stop(self) -> None:
        """Stop watching."""
        await ended(self._tasks, GRACE / 4)

    async def _watch(self, node: SqlNode | MongoNode) -> None:
        if isinstance(node, MongoNode):
            await self._watch_client(node)
        elif not node.dialect.single_writer:  # a file does not fall silent
            await self._watch_server(node)

    async def _watch_server(self, node: SqlNode) -> None:
        patience = 2 * node.settings.pool.connect_timeout
        line = ProbeConnection(node)
        try:
            while True:
                await self._clock.sleep(_EVERY)
                left = patience
                while node.in_use and left > 0:
                    given_back = node.given_back
                    answer = await self._ask(line.ask, left)
                    if answer.seen or (answer.error and node.dialect.fault(answer.error) not in _SILENT):
                        break
                    await _hang_up(line)
                    line = ProbeConnection(node)
                    if node.given_back > given_back:
                        break
                    left -= answer.seconds
                    await self._clock.sleep(_SLICE)
                if left <= 0 and node.in_use:
                    self._emit(ServerSilent(node.database, node.name, patience))
                    node.cut()
        finally:
            await _hang_up(line)

    async def _watch_client(self, node: MongoNode) -> None:
        pool = node.settings.pool
        patience = pool.acquire_timeout + 2 * pool.connect_timeout + _SPARE
        while True:
            await self._clock.sleep(_EVERY)
            if not (await self._ask(node.ask, patience)).hung:
                continue
            other = node.another_client()
            if (await self._ask(partial(node.ask, other), pool.connect_timeout + 1.0)).seen:
                node.replace_client(other)
                self._emit(ClientReplaced(node.database, node.name, patience))
            else:
                await other.close()

    async def _ask(self, ask: Callable[[], Awaitable[Any]], patience: float) -> "_ProbeReply":
        task, seconds = asyncio.ensure_future(ask()), 0.0
        try:
            while seconds < patience and not task.done():
                before = self._clock.monotonic()
                await asyncio.wait({task}, timeout=_SLICE)
                seconds += min(self._clock.monotonic() - before, _SLICE)
        finally:
            if not task.done():
                await ended({task}, GRACE)
        if not task.done() or task.cancelled():
            return _ProbeReply(seconds, hung=True)
        error = task.exception()
        return _ProbeReply(seconds, seen=error is None, error=error)


@dataclass(frozen=True, slots=True)
class _ProbeReply:
    """The outcome of a question, and the *seconds* that the event loop ran until then."""

    seconds: float
    seen: bool = False
    hung: bool = False
    error: BaseException | None = None


async def _hang_up(line: ProbeConnection) -> None:
    line.cut()
    with contextlib.suppress(TimeoutError):
        await limited(line.close(), GRACE)
