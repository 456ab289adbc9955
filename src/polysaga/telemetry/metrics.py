"""The metrics that Polysaga has for Prometheus, each with its labels and its help.

Labels are names from the program and its settings, and kinds of a fixed set: never an id, a key or a text. A name
of a saga or step that the program does not define comes from another program's journal rows. Beyond `limit` of
them all others are `other`.

A gauge says in `multiprocess_mode` what several workers behind one port make of it.
"""

import os
from collections.abc import Collection
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

FamilyT = TypeVar("FamilyT", Counter, Gauge, Histogram)

Mode: TypeAlias = Literal["livemostrecent", "livesum", "livemin", "livemax"]

OTHER = "other"
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own variable
_SAGAS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)  # seconds
_STEPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_WRITES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_WAITS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 200)


class Names:
    """Which names of sagas and steps are labels: those that are known, and a limited number of others."""

    def __init__(self, known: Collection[str], *, limit: int) -> None:
        self._known, self._others, self._limit = frozenset(known), set[str](), limit

    def label(self, name: str) -> str:
        """Return *name*, or `other` for a name beyond the limit."""
        if name in self._known or name in self._others:
            return name
        if len(self._others) >= self._limit:
            return OTHER
        self._others.add(name)
        return name


class Family(Generic[FamilyT]):
    """One metric, and its children by their labels."""

    def __init__(self, metric: FamilyT) -> None:
        self.metric: FamilyT = metric
        self._children: dict[tuple[str, ...], Any] = {}
        self._seen: dict[tuple[str, ...], float] = {}

    def of(self, *labels: str) -> Any:
        """Return the child with *labels*."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self.metric.labels(*labels)
        return child

    def count_to(self, total: float, *labels: str) -> None:
        """Raise a counter to what something else has counted, which began at zero, perhaps again."""
        before = self._seen.get(labels, 0.0)
        self._seen[labels] = total
        self.of(*labels).inc(total - before if total >= before else total)

    def zero(self) -> None:
        """Set all children of a gauge to zero."""
        for child in self._children.values():
            child.set(0)

    def clear(self) -> None:
        """Forget all children. With several workers prometheus-client cannot; the latest value counts there."""
        if MULTIPROCESS not in os.environ:
            self._children.clear()
            self.metric.clear()


class _Maker:
    """Registers metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, said: str, *labels: str) -> Family[Counter]:
        return Family(Counter(f"polysaga_{name}", said, labels, registry=self._registry))

    def gauge(self, name: str, said: str, *labels: str, mode: Mode = "livemostrecent") -> Family[Gauge]:
        made = Gauge(f"polysaga_{name}", said, labels, registry=self._registry, multiprocess_mode=mode)
        return Family(made)

    def histogram(self, name: str, said: str, bounds: Collection[float], *labels: str) -> Family[Histogram]:
        made = Histogram(f"polysaga_{name}", said, labels, registry=self._registry, buckets=tuple(bounds))
        return Family(made)


class Families:
    """All metrics, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        make = _Maker(registry)
        self._make_sagas(make)
        self._make_worker(make)
        self._make_journal(make)
        self._make_databases(make)

    def _make_sagas(self, make: _Maker) -> None:
        self.started = make.counter("sagas_started", "Sagas whose start is durable", "saga")
        self.joined = make.counter("sagas_joined", "Starts that joined a saga with the same key", "saga")
        self.finished = make.counter("sagas_finished", "Sagas that have ended", "saga", "status")
        self.duration = make.histogram(
            "sagas_duration_seconds",
            "From the start to the end, also of sagas that were taken over",
            _SAGAS,
            "saga",
            "status",
        )
        self.parkings = make.counter("sagas_parked", "Sagas that were parked and need a person", "saga")
        self.repaired = make.counter("sagas_repaired", "Repairs by people", "saga", "action")
        self.in_flight = make.gauge("sagas_in_flight", "Sagas that this process drives now", mode="livesum")
        self.steps = make.histogram(
            "steps_seconds",
            "Attempts of steps: phase do or undo; outcome done, found, null, refused or failed",
            _STEPS,
            "saga",
            "step",
            "phase",
            "outcome",
        )
        self.failures = make.counter(
            "step_failures",
            "Attempts that failed, by the fault; not refusals",
            "saga",
            "step",
            "phase",
            "fault",
        )
        self.retries = make.counter("step_retries", "Attempts after the first one", "saga", "step", "phase")
        self.steps_inside = make.gauge(
            "steps_inside", "Steps that are in the database now", "database", mode="livesum"
        )
        self.steps_waiting = make.gauge(
            "steps_waiting", "Steps that wait until the database has room", "database", mode="livesum"
        )

    def _make_worker(self, make: _Maker) -> None:
        self.taken_over = make.counter("claims_taken_over", "Sagas taken over after a claim had run out", "saga")
        self.claims_lost = make.counter(
            "claims_lost", "Sagas that another process took over from this one", "saga"
        )
        self.renewed = make.counter("claims_renewed", "Claims prolonged by the worker")
        self.not_known = make.counter("sagas_not_known", "Overdue sagas that this process does not know", "saga")
        self.tick = make.histogram("worker_tick_seconds", "Rounds of the worker", _WRITES)
        self.ticked_at = make.gauge(
            "worker_last_tick_timestamp_seconds", "When the worker ended its last round", mode="livemin"
        )
        self.worker_failures = make.counter("worker_failures", "Rounds of the worker, and of drains, that failed")
        self.removed = make.counter("sagas_removed", "Sagas removed after their retention")
        self.batch_size = make.histogram(
            "journal_batch_size", "Sagas whose starts or finishes shared one commit", _BATCHES, "what"
        )
        self.batch_seconds = make.histogram(
            "journal_batch_seconds", "Commits of starts or finishes", _WRITES, "what"
        )
        self.starts_parked = make.counter("starts_parked", "Starts in an outbox that need a person", "database")
        self.events = make.counter("events", "Everything that was announced", "event")

    def _make_journal(self, make: _Maker) -> None:
        self.unfinished = make.gauge(
            "sagas_unfinished", "Sagas that have not ended, in the journal", "saga", "status"
        )
        self.overdue = make.gauge("sagas_overdue", "Sagas that no process has taken over in time", "saga")
        self.oldest = make.gauge("sagas_oldest_seconds", "Age of the oldest unfinished saga", "status")
        self.outbox_waiting = make.gauge("outbox_waiting", "Starts that are not in the journal yet", "database")
        self.outbox_parked = make.gauge("outbox_parked", "Starts that cannot be moved to the journal", "database")
        self.outbox_oldest = make.gauge("outbox_oldest_seconds", "Age of the oldest start that waits", "database")
        self.reads_journal = make.gauge("journal_reader", "1 in the process that counts for all", mode="livesum")
        self.journal_read_at = make.gauge("journal_read_timestamp_seconds", "When the journal was counted last")
        self.read_failures = make.counter("journal_read_failures", "Counts in the journal that failed")
        self.counts_complete = make.gauge("journal_counts_complete", "0 if a count ended at its limit of rows")
        self.contradictions = make.gauge("verify_contradictions", "What the last verification found", "database")

    def _make_databases(self, make: _Maker) -> None:
        pool = ("database", "node", "pool")
        self.pool_size = make.gauge("pool_size", "Connections that a pool keeps", *pool, mode="livesum")
        self.pool_most = make.gauge("pool_max", "Connections that a pool may have", *pool, mode="livesum")
        self.pool_in_use = make.gauge("pool_in_use", "Connections that are lent now", *pool, mode="livesum")
        self.pool_idle = make.gauge("pool_idle", "Connections that lie ready", *pool, mode="livesum")
        self.pool_waiting = make.gauge(
            "pool_waiting", "Callers that wait for a connection now", *pool, mode="livesum"
        )
        self.pool_waits = make.counter("pool_waits", "Callers that had to wait for a connection", *pool)
        self.pool_waited = make.counter("pool_wait_seconds", "Time that callers waited for connections", *pool)
        node = ("database", "node")
        self.node_up = make.gauge("node_up", "1 if the node answered last", *node, mode="livemin")
        self.node_primary = make.gauge("node_is_primary", "1 for the node that takes writes", *node)
        self.node_lag = make.gauge(
            "node_lag_seconds", "How far a node is behind the primary", *node, mode="livemax"
        )
        self.breaker = make.gauge(
            "breaker_open", "1 if sessions fail there, and it gets none", *node, mode="livemax"
        )
        self.has_primary = make.gauge(
            "database_has_primary", "0 if no node takes writes", "database", mode="livemin"
        )
        self.reads = make.counter("reads", "Sessions that read, by the reason for their node", *node, "reason")
        self.readers_waiting = make.gauge(
            "readers_waiting", "Readers that wait for a replica to catch up", "database", mode="livesum"
        )
        self.bookmark_wait = make.histogram(
            "bookmark_wait_seconds", "Readers that waited for a replica to catch up", _WAITS, "database"
        )
        self.primary_changes = make.counter(
            "primary_changes", "Changes of the primary, and its losses", "database", "what"
        )
