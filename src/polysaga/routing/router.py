"""The router of one SQL database with replicas: which node gets the next session, and what happens on failover.

Reads: `policy.pick` decides in memory. If no replica is fit, the reader waits at most `reads.wait` for one to
catch up, then goes to the primary. A limiter protects the primary, which would go down under all reads at once.

Writes go to the one node that stands for the primary and follows it (`SqlNode.follow`). Without a primary they are
refused at once; nothing queues. Before the router lends a new connection there, it checks that it leads to a
primary of the latest known epoch. So a demoted node that came back is never taken for the primary. A new
connection to any other node must still have what the node is known to have. Within an epoch a replayed position
never falls while the server runs, but a restarted server may open before it has replayed its own log again.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from polysaga.clock import Clock
from polysaga.config import ReadSettings, ReplicaSettings
from polysaga.databases.handles import Wish
from polysaga.databases.probe_connection import ProbeConnection
from polysaga.databases.samples import NodeRole, Sample
from polysaga.databases.sql_node import Judge, SqlNode
from polysaga.errors import DatabaseUnavailable, NoPrimary, NoReplica
from polysaga.events import Emit, ReadWaited
from polysaga.routing.breakers import Breaker
from polysaga.routing.history import RoutingHistory
from polysaga.routing.monitor import Monitor
from polysaga.routing.policy import Choice, Limits, RouteReason, clamped, hopeless, least_stale, pick
from polysaga.routing.primary_position import Capture
from polysaga.routing.scopes import Scope
from polysaga.routing.topology import Seat, Topology

_HOPELESS = 1.0  # seconds behind; a replica further behind is not waited for


@dataclass(slots=True)
class Load:
    """This process's use of one node."""

    sessions: int = 0
    breaker: Breaker = field(default_factory=Breaker)


class Router:
    """Chooses nodes; `start` and `stop` its monitor.

    *nodes* are the servers in the order of the settings; *primary* is the node that follows the primary.
    """

    def __init__(
        self,
        name: str,
        primary: SqlNode,
        nodes: Sequence[SqlNode],
        replicas: Sequence[ReplicaSettings],
        reads: ReadSettings,
        *,
        emit: Emit,
        clock: Clock,
    ) -> None:
        self.name, self.primary, self.nodes, self.reads, self.clock = name, primary, tuple(nodes), reads, clock
        self.routed: Counter[tuple[str, RouteReason]] = Counter()  # sessions by node and reason
        self.history = RoutingHistory([node.name for node in nodes], self.routed, clock)
        self._emit = emit
        self.loads = [Load() for _ in nodes]
        self.limiter = asyncio.Semaphore(reads.primary_read_limit)
        self.limits = Limits(reads.max_lag, reads.probe_interval + reads.probe_timeout, reads.zone)
        self._opened = False  # whether any breaker may be open
        self._random = Random()
        seats = [Seat(nodes[0].name, zone=reads.zone)]
        seats += [
            Seat(node.name, replica.weight, replica.zone)
            for node, replica in zip(nodes[1:], replicas, strict=True)
        ]
        self.monitor = Monitor(
            name,
            seats,
            [ProbeConnection(node) for node in nodes],
            interval=reads.probe_interval,
            timeout=reads.probe_timeout,
            connect_timeout=primary.settings.pool.connect_timeout,
            changed=self._changed,
            emit=emit,
            clock=clock,
        )
        self.capture = Capture(name, ProbeConnection(primary), timeout=reads.probe_timeout, emit=emit)
        primary.admit = lambda: self._admit
        for index, node in enumerate(nodes):
            node.admit = partial(self._as_it_was, index)

    @property
    def topology(self) -> Topology:
        """What is known of the nodes now."""
        return self.monitor.topology

    async def start(self) -> None:
        """Ask every node once and go on asking; raise `DatabaseUnavailable` if none answers."""
        await self.monitor.start()
        if all(node.failure is not None for node in self.topology.nodes):
            raise DatabaseUnavailable(self.name, self.nodes[0].name, self.topology.nodes[0].failure or "")

    async def stop(self) -> None:
        """Stop asking."""
        await self.monitor.stop()
        await self.capture.close()

    def role_of(self, index: int) -> str:
        """Return a node's name for people: `primary`, or `replica-` and its place in the settings."""
        return "primary" if index == self.topology.primary else f"replica-{index}"

    def choose(self, scope: Scope | None, wish: Wish, left: int | None = None) -> Choice | None:
        """Return the node for a reader, but not *left*, which has just failed it; None if it must `search`."""
        topology = self.topology
        if scope is None:
            consistency, required, pinned = wish.consistency or self.reads.consistency, None, None
        else:
            consistency = wish.consistency or scope.consistency or self.reads.consistency
            required = scope.required.get(self.name)
            pinned = None if scope.pinned is None else scope.pinned.get(self.name)
        if consistency == "strong":
            if topology.primary is None:
                raise NoPrimary(self.name)
            return Choice(topology.primary, RouteReason.STRONG)
        if consistency == "eventual":
            required = None
        elif scope is not None and self.name in scope.written:
            return None  # the position of its own commits must be asked for first
        limits = self.limits
        if wish.max_lag is not None:
            limits = Limits(wish.max_lag, limits.silence, limits.zone)
        return pick(
            topology,
            required,
            limits,
            self.clock.monotonic(),
            score=self._score,
            random=self._random,
            pinned=pinned,
            shut=self._shut(left) if self._opened or left is not None else (),
        )

    async def search(self, scope: Scope | None, wish: Wish, left: int | None = None) -> Choice:
        """Return the node for a reader, but not *left*, after asking and waiting; raise `NoReplica` if none may.

        If the reason is `NO_REPLICA`, the caller holds a place of `limiter` and must release it.
        """
        if scope is not None and self.name in scope.written:
            await scope.settle(self.name)
        if scope is None or self.name not in scope.unsure:
            choice = await self._wait(scope, wish, left)
            if choice is not None:
                return choice
        stale = wish.allow_stale or self.reads.no_replica == "stale"
        if self.topology.primary is None:
            reason = "it has no primary, and no replica has what the reader must see"
        elif self.reads.no_replica == "fail":
            reason = "no replica has what the reader must see"
        elif await self._enter():
            return Choice(self.topology.primary, RouteReason.NO_REPLICA)
        else:
            reason = f"{self.reads.primary_read_limit} readers are on the primary already"
        if stale:
            index = least_stale(self.topology, self._shut(left))
            if index is not None:
                return Choice(index, RouteReason.STALE)
        raise NoReplica(self.name, reason)

    def note(self, scope: Scope | None, choice: Choice) -> None:
        """Record where a session went, for people and for the next read of the scope."""
        self.routed[self.nodes[choice.index].name, choice.reason] += 1
        if scope is None:
            return
        if scope.pinned is not None and choice.index != self.topology.primary:
            scope.pinned[self.name] = choice.index
        if scope.explains:
            node = self.topology.nodes[choice.index]
            behind = "" if math.isinf(node.lag) else f";lag={node.lag * 1000:.0f}ms"
            scope.answered[self.name] = f"{self.role_of(choice.index)};reason={choice.reason}{behind}"

    def node(self, choice: Choice) -> SqlNode:
        """Return the node whose pools serve *choice*."""
        return self.primary if choice.index == self.topology.primary else self.nodes[choice.index]

    def failed(self, index: int) -> None:
        """Note that a node failed a session."""
        self._opened |= self.loads[index].breaker.failed(self.clock.monotonic())
        self.monitor.suspect()

    async def _wait(self, scope: Scope | None, wish: Wish, left: int | None) -> Choice | None:
        began = self.clock.monotonic()
        choice = self.choose(scope, wish, left)
        if choice is not None:
            return choice
        if self.reads.wait > 0 and not hopeless(self.topology, _HOPELESS, began):
            with self.history.reader_waits():
                choice = await self._caught_up(scope, wish, left, began + self.reads.wait)
            self._emit(ReadWaited(self.name, self.clock.monotonic() - began))
            if choice is not None:
                return choice
        if scope is None or self.name not in scope.required:
            return None
        required = scope.required[self.name]
        honest = clamped(self.topology, required, scope.known_since(self.name))
        if honest is required:
            return None
        scope.correct(self.name, honest, self.capture)
        return self.choose(scope, wish, left)

    async def _caught_up(
        self, scope: Scope | None, wish: Wish, left: int | None, deadline: float
    ) -> Choice | None:
        """Wait until a replica is fit; return None at *deadline*, or when none can be expected to be in time."""
        now = self.clock.monotonic()
        while now < deadline and not hopeless(self.topology, _HOPELESS, now):
            await self.monitor.news(deadline - now, None if scope is None else scope.required.get(self.name))
            choice = self.choose(scope, wish, left)
            if choice is not None:
                return choice
            now = self.clock.monotonic()
        return None

    async def _enter(self) -> bool:
        """Take a place among the readers of the primary; return False if none becomes free in time."""
        try:
            async with asyncio.timeout(self.reads.primary_wait):
                await self.limiter.acquire()
        except TimeoutError:
            return False
        if self.topology.primary is None:
            self.limiter.release()
            return False
        return True

    def _score(self, index: int) -> float:
        node = self.topology.nodes[index]
        return (self.loads[index].sessions + 1) * (node.latency + 1e-4) / node.seat.weight

    def _shut(self, left: int | None) -> set[int]:
        """Return *left* and the nodes whose breakers are open now; only *left* if that shuts all replicas."""
        now = self.clock.monotonic()
        shut = {index for index, load in enumerate(self.loads) if not load.breaker.allows(now)}
        self._opened = any(load.breaker.opened for load in self.loads)
        without = set() if left is None else {left}
        return without if len(shut | {self.topology.primary}) >= len(self.nodes) else shut | without

    def _admit(self, sample: Sample) -> str | None:
        """Return why a new connection does not lead to the primary; None if it does."""
        if sample.role is NodeRole.PRIMARY and sample.epoch.number >= self.topology.epoch:
            return None
        self.monitor.suspect()
        return "it is not the primary any more"

    def _as_it_was(self, index: int) -> Judge:
        """Return what refuses a new connection to a node that has less than it is known to have had.

        Such a node was restarted or copied since its last answer, which must not decide what is read from it.
        """
        known = self.topology.nodes[index].position

        def judge(sample: Sample) -> str | None:
            if known is None or (sample.position is not None and sample.position.reached(known)):
                return None
            self.monitor.suspect()
            return "it has gone back in time; it may have been restarted"

        return judge

    def _changed(self, before: Topology, after: Topology) -> None:
        for index, (old, new) in enumerate(zip(before.nodes, after.nodes, strict=True)):
            if new is old:
                continue
            self.history.note(index, new, is_primary=index == after.primary)
            if new.failure is not None:
                if old.failure is None or index != before.primary:
                    self.nodes[index].cut()
                if old.failure is not None and self._leads(index):
                    self.primary.cut()  # silent for the second time: sessions there would hang for ever
            elif old.failure is not None or old.role is not new.role:
                self.nodes[index].retire()
                self.loads[index].breaker.succeeded()
                if new.role is not NodeRole.PRIMARY and self._leads(index):
                    self.primary.retire()  # what is lent from now on is asked first, and refused
        if after.primary is not None and after.primary != before.primary:
            if self._leads(after.primary):
                self.primary.retire()
            else:
                self.primary.follow(self.nodes[after.primary])
                self.capture.moved()

    def _leads(self, index: int) -> bool:
        return self.primary.followed == self.nodes[index].url
