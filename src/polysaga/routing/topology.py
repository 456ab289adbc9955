"""Topology: what is known of a database's nodes at one moment. Frozen, replaced whole, pure.

The nodes own the truth. Every answer is dated by the moment *before* its question, so it never counts as newer
than it is. Within an epoch a replayed position never falls while the server runs: a decision by an old one errs
towards the primary. A lag has no such property, so every comparison adds the age of the sample.

At most one primary is recognised. Of the nodes that claim to be the primary it is the one of the latest epoch;
among equals it is the one that was primary before. So a demoted node that comes back, or a replica that was left
writable, changes nothing. A monitor that starts has no previous primary. MariaDB and MySQL have no epochs, but
their positions show which server has gone on from where the other was (`succeeds`); else the order of the settings
decides. On MySQL that takes an answer that has all of what the other server reports *later*, so `rivals` are asked
once more, in turn. A node that claims to be the primary and is not the one recognised is not read from either.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from polysaga.databases.positions import Gtids, MariaGtid, Position
from polysaga.databases.samples import NodeRole, Sample

_TRAIL = 64  # samples of the primary that lag is measured against
_NEWEST = 0.2  # weight of the newest answer in the latency

UNASKED = "it was not asked yet"


@dataclass(frozen=True, slots=True)
class Seat:
    """The configuration of a node, which never changes."""

    name: str  # its URL without the password
    weight: int = 1
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class NodeState:
    """What is known of one node."""

    seat: Seat
    role: NodeRole | None = None  # None: it never answered
    position: Position | None = None
    asked_at: float = -math.inf  # seconds on the monotonic clock, before the last answered question
    told_at: float = math.inf  # when that answer arrived
    lag: float = math.inf  # seconds behind the primary at `asked_at`, an upper bound
    latency: float = 0.0  # seconds that recent answers took
    failure: str | None = UNASKED  # why it does not count now; None if it does


@dataclass(frozen=True, slots=True)
class Topology:
    """All nodes in the order of the settings, and which of them is the primary."""

    nodes: tuple[NodeState, ...]
    primary: int | None = None
    epoch: int = 0  # the latest that any primary claimed
    trail: tuple[tuple[float, Position], ...] = ()  # when the primary was asked, and where it stood
    version: int = 0
    equal_weights: bool = True  # all nodes have the same weight

    @property
    def primary_state(self) -> NodeState | None:
        """The node that takes writes, if there is one."""
        return None if self.primary is None else self.nodes[self.primary]

    @property
    def latest_position(self) -> Position | None:
        """The last known position of the primary, or else of a node of the latest epoch; None without any."""
        primary = self.primary_state
        if primary is not None and primary.position is not None:
            return primary.position
        known = (node.position for node in self.nodes if node.position is not None)
        return max(known, key=lambda place: place.epoch.number, default=None)


def unknown(seats: Sequence[Seat]) -> Topology:
    """Return the topology before any node was asked."""
    return Topology(
        tuple(NodeState(seat) for seat in seats), equal_weights=len({seat.weight for seat in seats[1:]}) < 2
    )


def answered(before: Topology, index: int, sample: Sample, asked_at: float, latency: float = 0.0) -> Topology:
    """Return the topology after node *index* answered with *sample*, *latency* seconds after the question."""
    old = before.nodes[index]
    state = replace(
        old,
        role=sample.role,
        position=sample.position,
        asked_at=asked_at,
        told_at=asked_at + latency,
        latency=latency if old.failure else old.latency + (latency - old.latency) * _NEWEST,
        failure=None,
    )
    nodes = _with(before.nodes, index, state)
    epoch = max(before.epoch, sample.epoch.number) if sample.role is NodeRole.PRIMARY else before.epoch
    all_asked = all(node.failure is not UNASKED for node in before.nodes)
    primary = _primary(nodes, before.primary if all_asked else None, epoch)
    trail = before.trail if primary == before.primary else ()
    if index == primary and sample.position is not None:
        trail = _longer(trail, asked_at, sample.position)
    elif index != primary:
        nodes = _with(nodes, index, replace(state, lag=_lag(trail, sample, asked_at)))
    return Topology(nodes, primary, epoch, trail, before.version + 1, before.equal_weights)


def failed(before: Topology, index: int, reason: str) -> Topology:
    """Return the topology after node *index* did not answer, or was taken out of service for *reason*."""
    nodes = _with(before.nodes, index, replace(before.nodes[index], failure=reason))
    primary = _primary(nodes, before.primary, before.epoch)
    return replace(before, nodes=nodes, primary=primary, version=before.version + 1)


def rivals(topology: Topology) -> list[int]:
    """Return the nodes of the latest epoch that claim to be the primary."""
    return _claims(topology.nodes, topology.epoch)


def settled(before: Topology) -> Topology:
    """Return the topology with the primary that the answers point to, whichever was recognised before."""
    primary = _primary(before.nodes, None, before.epoch)
    if primary == before.primary:
        return before
    return replace(before, primary=primary, trail=(), version=before.version + 1)


def _with(nodes: tuple[NodeState, ...], index: int, state: NodeState) -> tuple[NodeState, ...]:
    return (*nodes[:index], state, *nodes[index + 1 :])


def _primary(nodes: tuple[NodeState, ...], current: int | None, epoch: int) -> int | None:
    claims = _claims(nodes, epoch)
    if current in claims:
        return current
    found = claims[0] if claims else None
    for index in claims[1:]:
        if found is not None and _took_over(nodes[index], nodes[found]):
            found = index
    return found


def _claims(nodes: tuple[NodeState, ...], epoch: int) -> list[int]:
    return [
        index
        for index, node in enumerate(nodes)
        if node.role is NodeRole.PRIMARY and node.failure is None and _epoch_of(node) >= epoch
    ]


def _took_over(one: NodeState, other: NodeState) -> bool:
    if other.position is None:
        return False
    if isinstance(one.position, Gtids):
        # An older answer of the other may lack what it has by now, and so prove nothing.
        return one.told_at <= other.asked_at and one.position.succeeds(other.position)
    return isinstance(one.position, MariaGtid) and one.position.succeeds(other.position)


def _epoch_of(node: NodeState) -> int:
    return 0 if node.position is None else node.position.epoch.number


def _longer(
    trail: tuple[tuple[float, Position], ...], asked_at: float, position: Position
) -> tuple[tuple[float, Position], ...]:
    if trail and trail[-1][1] == position:
        return (*trail[:-1], (asked_at, position))  # nothing was written meanwhile
    if len(trail) >= _TRAIL:
        # Drop every second sample of the older half: the trail reaches further back, less finely.
        half = _TRAIL // 2
        trail = (*trail[:half:2], *trail[half:])
    return (*trail, (asked_at, position))


def _lag(trail: tuple[tuple[float, Position], ...], sample: Sample, asked_at: float) -> float:
    """Return how many seconds ago, at most, the primary stood where the replica stands now."""
    if sample.position is None:
        return math.inf if sample.lag is None else sample.lag
    for age, (moment, position) in enumerate(reversed(trail)):
        if sample.position.reached(position):
            return 0.0 if age == 0 else max(0.0, asked_at - moment)
    return math.inf if sample.lag is None else sample.lag
