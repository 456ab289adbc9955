"""Policy: which node answers a read, and why. Pure; it runs for every session, so it takes microseconds.

A replica must be fit, past the required position, and not too far behind. Of such replicas the one that this scope
has read from already wins: reads never go back in time. Otherwise replicas in this process's own zone are
preferred, if there are any. Of two of them, drawn by weight, the less busy one is chosen (`p2c`).

No safety depends on a clock: the required position alone decides what may be read after a write.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from polysaga.databases.positions import Position
from polysaga.databases.samples import NodeRole
from polysaga.routing.topology import NodeState, Topology


class RouteReason(StrEnum):
    """Why a node was chosen."""

    PINNED = "pinned"  # the scope has read there already
    CAUGHT_UP = "caught-up"  # it has reached the bookmark
    FRESH = "fresh"  # no bookmark; not too far behind
    STRONG = "strong"  # the caller asked for the primary
    NO_REPLICA = "no-replica"  # none was fit: the primary answers instead
    STALE = "stale"  # none was fresh enough: the caller or the settings allow stale reads


@dataclass(frozen=True, slots=True)
class Limits:
    """What makes a replica fit; see `ReadSettings`."""

    max_lag: float  # seconds
    silence: float  # seconds after which an answer is too old to believe that the node is alive
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A node by its place in the settings, and why it was chosen."""

    index: int
    reason: RouteReason


Score = Callable[[int], float]  # how busy a node is; less is better


def pick(
    topology: Topology,
    required: Position | None,
    limits: Limits,
    now: float,
    *,
    score: Score,
    random: Random,
    pinned: int | None = None,
    shut: Collection[int] = (),
) -> Choice | None:
    """Return the replica to read from; None if none is fit. The nodes in *shut* have an open breaker."""
    primary, nodes = topology.primary, topology.nodes
    heard_since = now - limits.silence
    # Without a primary nothing gets any fresher.
    max_lag = math.inf if primary is None else limits.max_lag
    found: list[int] = []
    for index in range(len(nodes)) if pinned is None else (pinned, *range(len(nodes))):
        node = nodes[index]
        asked_at = node.asked_at
        if (
            index == primary
            or node.failure is not None
            or node.role is not NodeRole.REPLICA
            or asked_at < heard_since
            or (required is not None and (node.position is None or not node.position.reached(required)))
            or node.lag + now - asked_at > max_lag
            or (shut and index in shut)
        ):
            continue
        if index == pinned:
            return Choice(index, RouteReason.PINNED)
        found.append(index)
    if not found:
        return None
    reason = RouteReason.FRESH if required is None else RouteReason.CAUGHT_UP
    if len(found) > 1 and limits.zone is not None:
        found = [index for index in found if nodes[index].seat.zone == limits.zone] or found
    return Choice(found[0] if len(found) == 1 else _less_busy(topology, found, score, random), reason)


def hopeless(topology: Topology, patience: float, now: float) -> bool:
    """Return whether no replica can be expected to catch up within *patience* seconds."""
    return all(
        node.failure is not None or node.role is not NodeRole.REPLICA or _lag(node, now) > patience
        for index, node in enumerate(topology.nodes)
        if index != topology.primary
    )


def least_stale(topology: Topology, shut: Collection[int] = ()) -> int | None:
    """Return the replica that is the least far behind, however far that is; None if none answers."""
    found = [
        index
        for index, node in enumerate(topology.nodes)
        if node.failure is None and node.role is NodeRole.REPLICA and index not in shut
    ]
    return min(found, key=lambda index: topology.nodes[index].lag, default=None)


def clamped(topology: Topology, required: Position, known_since: float) -> Position:
    """Return *required*, or the primary's position if that was asked for later and is lower.

    A bookmark that no server ever reached is left over from a failover that lost writes, or was made up. The
    primary must have been asked after *known_since*: an older answer may be behind an honest position.
    """
    primary = topology.primary_state
    if primary is None or primary.position is None or primary.asked_at < known_since:
        return required
    if not primary.position.comparable(required) or not primary.position.reached(required):
        return primary.position
    return required


def _lag(node: NodeState, now: float) -> float:
    return node.lag + (now - node.asked_at)


def _less_busy(topology: Topology, found: Sequence[int], score: Score, random: Random) -> int:
    """Return the less busy one of two that are drawn at random, by weight."""
    if topology.equal_weights:
        first = int(random.random() * len(found))
        second = int(random.random() * (len(found) - 1))
        one, other = found[first], found[second + 1 if second >= first else second]
    else:
        one, other = random.choices(found, [topology.nodes[index].seat.weight for index in found], k=2)
    return one if score(one) <= score(other) else other
