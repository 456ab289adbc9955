"""What this process knows of its databases, from memory: no database is asked."""

from polysaga.clock import Clock
from polysaga.dashboard.screens.nodes import DatabaseFacts, NodeFacts, PoolFacts, finite
from polysaga.databases import AnyHandle, MongoNode, SqlNode
from polysaga.databases.samples import NodeRole
from polysaga.errors import ConfigurationError
from polysaga.routing import Databases
from polysaga.routing.breakers import Breaker
from polysaga.routing.router import Router
from polysaga.routing.topology import NodeState

_ENGINES = {"postgresql": "PostgreSQL", "mysql": "MySQL or MariaDB", "sqlite": "SQLite", "mongodb": "MongoDB"}


def databases_of(databases: Databases, journal: str, clock: Clock) -> tuple[DatabaseFacts, ...]:
    """Return what is known of each database."""
    return tuple(_database(handle, databases, handle.name == journal, clock) for handle in databases)


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
    nodes = (_only(node),) if router is None else _nodes(router, clock)
    return DatabaseFacts(
        name=handle.name,
        engine=_engine(handle),
        journal=journal,
        replicated=router is not None or (isinstance(node, MongoNode) and node.members > 1),
        consistency=reads.consistency,
        max_lag=reads.max_lag,
        wait=reads.wait,
        nodes=nodes,
        routed={} if router is None else {(name, why.value): n for (name, why), n in router.routed.items()},
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
    now = clock.monotonic()
    return tuple(_node(router, index, state, now) for index, state in enumerate(router.topology.nodes))


def _node(router: Router, index: int, state: NodeState, now: float) -> NodeFacts:
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
        position="" if state.position is None else str(state.position),
        pool=_pool(router.primary if is_primary else router.nodes[index], reading=not is_primary),
        breaker=_breaker(router.loads[index].breaker, now),
        history=None,
    )


def _breaker(breaker: Breaker, now: float) -> str:
    if not breaker.opened:
        return "closed"
    if now < breaker.open_until:
        return f"open, one session may try in {breaker.open_until - now:.0f} s"
    return "half-open: one session tries" if breaker.trying else "half-open: the next session tries"


def _pool(node: SqlNode | MongoNode, *, reading: bool) -> PoolFacts | None:
    """Return the pool that readers of a replica use, or writers of a primary; None for MongoDB."""
    if not isinstance(node, SqlNode):
        return None
    pool = (node.reader if reading else node.writer).sync_engine.pool
    used = getattr(pool, "checkedout", lambda: 0)()
    settings = node.settings.pool
    size, more = settings.size, settings.max_overflow
    if node.dialect.single_writer and not reading:
        size, more = 1, 0
    return PoolFacts(used=used, size=size, more=more, waiting=None)
