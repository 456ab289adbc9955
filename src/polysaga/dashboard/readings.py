"""What this process knows of its databases, from memory: no database is asked here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from polysaga.clock import Clock
from polysaga.dashboard.screens.nodes import DatabaseFacts, NodeFacts, PoolFacts, finite
from polysaga.databases import AnyHandle, Member, MongoNode, PoolUse, SqlNode
from polysaga.databases.samples import NodeRole
from polysaga.errors import ConfigurationError
from polysaga.routing import Databases, LagSample, Router
from polysaga.routing.breakers import Breaker
from polysaga.routing.topology import NodeState

_SHOWN, _STEP = timedelta(minutes=15), timedelta(seconds=5)
_ENGINES = {"postgresql": "PostgreSQL", "mysql": "MySQL or MariaDB", "sqlite": "SQLite", "mongodb": "MongoDB"}


def databases_of(
    databases: Databases, journal: str, clock: Clock, silent: Mapping[str, str]
) -> tuple[DatabaseFacts, ...]:
    """Return what is known of each database; *silent* says which do not answer, and why."""
    found = (_database(handle, databases, handle.name == journal, clock) for handle in databases)
    return tuple(
        _silenced(one, silent[one.name]) if one.name in silent and one.refusal is None else one for one in found
    )


def _silenced(one: DatabaseFacts, why: str) -> DatabaseFacts:
    nodes = one.nodes
    if len(nodes) == 1:  # those of a database with replicas are watched one by one
        nodes = (replace(nodes[0], failure=why),)
    return replace(one, nodes=nodes, refusal=why)


def unwatched(databases: Databases) -> list[AnyHandle]:
    """Return the databases that no monitor watches, because they have no replicas."""
    return [handle for handle in databases if handle.name not in databases.routers]


def engines_of(databases: Databases) -> dict[str, str]:
    """Return the product of each database by its name; empty for one that is not open."""
    return {handle.name: _engine(handle) for handle in databases}


def _engine(handle: AnyHandle) -> str:
    try:
        return _ENGINES.get(handle.primary.dialect.name, handle.primary.dialect.name)
    except ConfigurationError:  # it is not open
        return ""


def _database(handle: AnyHandle, databases: Databases, journal: bool, clock: Clock) -> DatabaseFacts:  # noqa: FBT001
    router = databases.routers.get(handle.name)
    try:
        node = handle.primary
    except ConfigurationError as error:
        return _closed(handle.name, journal, str(error))
    reads = node.settings.reads
    mongo = isinstance(node, MongoNode)
    if router is not None:
        nodes = _nodes(router, clock)
    elif isinstance(node, MongoNode) and node.topology:
        nodes = _members(node)
    else:
        nodes = (_only(node),)
    return DatabaseFacts(
        name=handle.name,
        engine=_engine(handle),
        journal=journal,
        replicated=router is not None or (isinstance(node, MongoNode) and node.members > 1),
        consistency=reads.consistency,
        max_lag=reads.max_lag,
        wait=reads.wait,
        nodes=nodes,
        routed={} if router is None else _routed(router),
        waits=None if router is None else (router.history.waits.count, router.history.waits.seconds),
        driver_chooses=mongo,
    )


def _closed(name: str, journal: bool, refusal: str) -> DatabaseFacts:  # noqa: FBT001
    return DatabaseFacts(
        name=name,
        engine="",
        journal=journal,
        replicated=False,
        consistency="",
        max_lag=0.0,
        wait=0.0,
        nodes=(),
        routed={},
        refusal=refusal,
    )


def _only(node: SqlNode | MongoNode) -> NodeFacts:
    return NodeFacts(
        url=node.name,
        role="primary",
        label="primary",
        failure=None,
        asked_ago=None,
        lag=None,
        latency=None,
        zone=None,
        position="",
        pool=_pool(node, reading=False),
        breaker="none: the only node" if isinstance(node, SqlNode) else "none: the driver's matter",
        history=None,
    )


def _nodes(router: Router, clock: Clock) -> tuple[NodeFacts, ...]:
    now, wall = clock.monotonic(), clock.now()
    lags = list(router.history.lags.values())
    return tuple(
        _node(router, index, state, now, _course(lags[index], wall))
        for index, state in enumerate(router.topology.nodes)
    )


def _node(router: Router, index: int, state: NodeState, now: float, course: tuple[float | None, ...]) -> NodeFacts:
    is_primary = index == router.topology.primary
    role = "unknown" if state.role is None else "primary" if state.role is NodeRole.PRIMARY else "replica"
    return NodeFacts(
        url=state.seat.name,
        role="primary" if is_primary else role if role != "primary" else "unknown",
        label=router.role_of(index),
        failure=state.failure,
        asked_ago=finite(now - state.asked_at),
        lag=None if is_primary else finite(state.lag),
        latency=state.latency or None,
        zone=state.seat.zone,
        position="" if state.position is None else state.position.literal,
        pool=_pool(router.primary if is_primary else router.nodes[index], reading=not is_primary),
        breaker=_breaker(router.loads[index].breaker, now),
        history=None if is_primary else course,
    )


def _breaker(breaker: Breaker, now: float) -> str:
    if not breaker.opened:
        return "closed"
    if now < breaker.open_until:
        return f"open, one session may try in {breaker.open_until - now:.0f} s"
    return "half-open: one session tries" if breaker.trying else "half-open: the next session tries"


def _pool(node: SqlNode | MongoNode, *, reading: bool) -> PoolFacts | None:
    """Return the pool that readers of a replica use, or writers of a primary; None if nothing counts it."""
    if isinstance(node, MongoNode):
        return None if not node.pools else _used(node.pools[0])
    name = "reader" if reading else "writer"
    found = next((pool for pool in node.pools if pool.name == name), None)
    if found is not None:
        return _used(found)
    settings = node.settings.pool  # it was never needed
    return PoolFacts(used=0, size=settings.size, more=settings.max_overflow, waiting=0)


def _used(pool: PoolUse) -> PoolFacts:
    return PoolFacts(used=pool.in_use, size=pool.size, more=pool.max_overflow, waiting=pool.waiting)


def _members(node: MongoNode) -> tuple[NodeFacts, ...]:
    pools = {pool.name: pool for pool in node.pools}
    newest = max((one.last_write for one in node.topology if one.last_write is not None), default=None)
    return tuple(_member(one, pools.get(one.address), newest) for one in node.topology)


def _member(one: Member, pool: PoolUse | None, newest: datetime | None) -> NodeFacts:
    behind = None
    if newest is not None and one.last_write is not None and not one.is_primary:
        behind = (newest - one.last_write).total_seconds()
    return NodeFacts(
        url=f"mongodb://{one.address}",
        role="primary" if one.is_primary else "replica",
        label="primary" if one.is_primary else "member",
        failure=one.failure,
        asked_ago=None,
        lag=behind,
        latency=one.round_trip,
        zone=None,
        position="" if one.last_write is None else f"last write {one.last_write:%H:%M:%S}",
        pool=None if pool is None else _used(pool),
        breaker="none: the driver's matter",
        history=None,
    )


def _routed(router: Router) -> Mapping[tuple[str, str], int]:
    """Return the sessions of the last quarter of an hour, by node and reason; of a new router, all of them."""
    counted: Counter[tuple[str, str]] = Counter()
    for sample in router.history.routed:
        counted.update({(name, why.value): number for (name, why), number in sample.routed.items()})
    return counted or {(name, why.value): number for (name, why), number in router.routed.items()}


def _course(samples: Sequence[LagSample], now: datetime) -> tuple[float | None, ...]:
    """Return the worst lag in every five seconds since the first sample; None where the node did not answer."""
    if not samples:
        return ()
    begin = max(samples[0].at, now - _SHOWN)
    steps = int((now - begin) / _STEP) + 1
    worst: list[float | None] = [None] * steps
    for sample in samples:
        place = int((sample.at - begin) / _STEP)
        if 0 <= place < steps and sample.lag is not None:
            worst[place] = max(worst[place] or 0.0, sample.lag)
    return tuple(worst)
