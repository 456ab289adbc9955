"""Metrics for Prometheus: a subscriber to events, and what the process and the journal are like at each scrape.

    metrics = Metrics(databases, sagas)
    install(app, databases, sagas=sagas, emit=Events(LogSubscriber(), metrics))
    app.include_router(metrics_routes(metrics))  # polysaga.fastapi: GET /metrics

Counters and histograms follow the events of this process. Gauges of pools, nodes and gates are set when a client
scrapes. What only the journal knows (parked, overdue, oldest, outboxes) is counted every `every` seconds by one
process for all (`sagas/operations/census.py`), so a scrape never asks a database, however often it comes.

`docs/guides/metrics.md` lists them all, and says what several workers behind one port need.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from polysaga.clock import Clock
from polysaga.databases import MongoNode, Node, SqlNode
from polysaga.errors import ConfigurationError
from polysaga.events import (
    BatchWritten,
    ClaimLost,
    Event,
    PrimaryChanged,
    PrimaryLost,
    ReadWaited,
    SagaClaimed,
    SagaFinished,
    SagaNotKnown,
    SagaParked,
    SagaRepaired,
    SagasRemoved,
    SagaStarted,
    StartParked,
    StepCompensated,
    StepDone,
    StepEvent,
    StepFailed,
    WorkerFailed,
    WorkerTicked,
)
from polysaga.limits import ended, limited
from polysaga.routing import Databases, Router
from polysaga.sagas import Sagas, Status, Verification
from polysaga.sagas.operations.census import Census, CensusResult
from polysaga.telemetry.workers import forget_ended
from polysaga.texts import said

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector
    from prometheus_client.registry import Collector

    from polysaga.telemetry.metrics import MULTIPROCESS, Families, Names
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("metrics are an extra: pip install 'polysaga[prometheus]'") from missing

__all__ = ["Metrics"]

_log = logging.getLogger("polysaga")
_PATIENCE = 30.0  # seconds that one count may take
_UNFINISHED = [status for status in Status if not status.final]


class Metrics(Collector):
    """The metrics of one process; give it to `Events`, and its route to the application.

    *registry* is the caller's, or else prometheus-client's own. *every*: seconds between counts in the journal.
    *limit*: names of sagas that the program does not define, before all others become `other`.
    """

    def __init__(
        self,
        databases: Databases,
        sagas: Sagas | None = None,
        *,
        registry: CollectorRegistry = REGISTRY,
        every: float = 10.0,
        limit: int = 50,
        clock: Clock | None = None,
    ) -> None:
        """Register the metrics; raises `ConfigurationError` if the registry has them already."""
        self.registry = registry
        self._databases, self._sagas, self._every = databases, sagas, every
        self._clock = clock or Clock()
        names = frozenset[str]() if sagas is None else frozenset(saga.name for saga in sagas.declared)
        self._known = names
        self._saga, self._step = Names(names, limit=limit), Names((), limit=20 * (limit + len(names)))
        registry.register(self)  # first: at a scrape it sets the gauges that follow
        try:
            self._to = Families(registry)
        except ValueError:
            registry.unregister(self)
            raise ConfigurationError(
                "this registry has Polysaga's metrics already: make one Metrics in a process, "
                "or give each a registry of its own (registry=CollectorRegistry())"
            ) from None
        self._hear: dict[type[Event], Callable[[Any], None]] = {
            SagaStarted: self._started,
            SagaFinished: self._finished,
            SagaParked: lambda event: self._to.parkings.of(self._saga.label(event.saga)).inc(),
            SagaRepaired: lambda event: self._to.repaired.of(self._saga.label(event.saga), event.action).inc(),
            SagaClaimed: lambda event: self._to.taken_over.of(self._saga.label(event.saga)).inc(),
            ClaimLost: lambda event: self._to.claims_lost.of(self._saga.label(event.saga)).inc(),
            SagaNotKnown: lambda event: self._to.not_known.of(self._saga.label(event.saga)).inc(),
            StartParked: lambda event: self._to.starts_parked.of(event.database).inc(),
            StepDone: self._step_done,
            StepFailed: self._step_failed,
            StepCompensated: self._step_compensated,
            BatchWritten: self._batch_written,
            WorkerTicked: self._ticked,
            WorkerFailed: lambda _: self._to.worker_failures.metric.inc(),
            SagasRemoved: lambda event: self._to.removed.metric.inc(event.count),
            ReadWaited: lambda event: self._to.bookmark_wait.of(event.database).observe(event.seconds),
            PrimaryChanged: self._primary_changed,
            PrimaryLost: lambda event: self._to.primary_changes.of(event.database, "lost").inc(),
        }

    def __call__(self, event: Event) -> None:
        """Count *event*."""
        kind = type(event)
        self._to.events.of(kind.__name__).inc()
        hear = self._hear.get(kind)
        if hear is not None:
            hear(event)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Count in the journal for the length of the block, if this process is the one that does it for all.

        The databases must be open. `polysaga.fastapi.metrics_routes` does this with the application.
        """
        if self._sagas is None:
            yield
            return
        census = self._sagas.census()
        with census.candidate():
            task = asyncio.create_task(self._read(census))
            try:
                yield
            finally:
                await ended({task}, 1.0)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics of the registry, in the format that the header *accept* wants, and its content type.

        With `PROMETHEUS_MULTIPROC_DIR` they are those of all workers, without the gauges of those that have ended.
        """
        encode, content_type = choose_encoder(accept)
        if MULTIPROCESS not in os.environ:
            return encode(self.registry), content_type
        self.refresh()
        forget_ended(Path(os.environ[MULTIPROCESS]))
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return encode(together), content_type

    def verified(self, found: Verification) -> None:
        """Show how many contradictions `sagas.verify()` found; a program that verifies regularly calls this."""
        if self._sagas is not None:
            self._to.contradictions.of(self._sagas.journal.name).set(len(found.contradictions))

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the metrics are registered one by one."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Set the gauges of this process; prometheus-client calls this before it collects the others."""
        self.refresh()
        return ()

    def refresh(self) -> None:
        """Set the gauges of pools, nodes and gates to what they are now."""
        for handle in self._databases:
            router = self._databases.routers.get(handle.name)
            for node in handle.nodes:
                self._pools(node, "primary" if router is not None and node is router.primary else place_of(node))
                if isinstance(node, MongoNode):
                    self._members(node)
            if router is not None:
                self._routing(router)
        for name, gate in ({} if self._sagas is None else self._sagas.gates).items():
            self._to.steps_inside.of(name).set(gate.inside)
            self._to.steps_waiting.of(name).set(gate.waiting)
        if self._sagas is not None:
            self._to.in_flight.metric.set(self._sagas.in_flight)

    def _pools(self, node: Node, place: str) -> None:
        to = self._to
        for use in node.pools:
            # The driver of MongoDB has a pool for each member.
            pool = (use.name, "driver") if isinstance(node, MongoNode) else (place, use.name)
            labels = (node.database, *pool)
            to.pool_size.of(*labels).set(use.size)
            to.pool_most.of(*labels).set(use.size + use.max_overflow)
            to.pool_in_use.of(*labels).set(use.in_use)
            to.pool_idle.of(*labels).set(use.idle)
            to.pool_waiting.of(*labels).set(use.waiting)
            if use.waits is not None and use.waited is not None:
                to.pool_waits.count_to(use.waits, *labels)
                to.pool_waited.count_to(use.waited, *labels)

    def _members(self, node: MongoNode) -> None:
        """Set what the driver knows of the members of a replica set; a lag is in whole seconds."""
        to, members = self._to, node.topology
        primary = next((member for member in members if member.is_primary), None)
        for member in members:
            labels = (node.database, member.address)
            to.node_up.of(*labels).set(member.failure is None and member.round_trip is not None)
            to.node_primary.of(*labels).set(member.is_primary)
            if primary is not None and primary.last_write is not None and member.last_write is not None:
                behind = (primary.last_write - member.last_write).total_seconds()
                to.node_lag.of(*labels).set(max(0.0, behind))
        if members:
            to.has_primary.of(node.database).set(primary is not None)

    def _routing(self, router: Router) -> None:
        to, topology, now = self._to, router.topology, self._clock.monotonic()
        places = {node.name: place_of(node) for node in router.nodes}
        for index, (node, state) in enumerate(zip(router.nodes, topology.nodes, strict=True)):
            labels = (router.name, places[node.name])
            primary = index == topology.primary
            to.node_up.of(*labels).set(state.failure is None)
            to.node_primary.of(*labels).set(primary)
            # Without an answer the lag grows by what has passed since the last one.
            to.node_lag.of(*labels).set(0.0 if primary else state.lag + max(0.0, now - state.asked_at))
            to.breaker.of(*labels).set(router.loads[index].breaker.opened > 0)
        to.has_primary.of(router.name).set(topology.primary is not None)
        for (name, reason), count in dict(router.routed).items():
            to.reads.count_to(count, router.name, places[name], reason.value)
        to.readers_waiting.of(router.name).set(router.history.waits.waiting)

    async def _read(self, census: Census) -> None:
        """Count every *every* seconds while this process is the reader; show nothing while it is not."""
        while True:
            (failure,) = await asyncio.gather(limited(self._count(census), _PATIENCE), return_exceptions=True)
            if failure is not None:
                self._show_nothing()
                self._failed("counting unfinished sagas", said(failure))
            await self._clock.sleep(self._every)

    async def _count(self, census: Census) -> None:
        if await census.elected():
            self._show(await census.count())
        else:
            self._show_nothing()

    def _failed(self, what: str, reason: str) -> None:
        self._to.read_failures.metric.inc()
        _log.warning("%s for metrics failed, again in %g s: %s", what, self._every, reason)

    def _show(self, counts: CensusResult) -> None:
        to = self._to
        unfinished: Counter[tuple[str, str]] = Counter()
        overdue: Counter[str] = Counter()
        for name in self._known:
            overdue[name] = 0
            unfinished.update({(name, status.value): 0 for status in _UNFINISHED})
        oldest = dict.fromkeys(_UNFINISHED, 0.0)
        for group in counts.unfinished:
            name = self._saga.label(group.name)
            unfinished[name, group.status.value] += group.count
            overdue[name] += group.late
            oldest[group.status] = max(oldest[group.status], group.oldest)
        to.unfinished.zero()  # also names of other programs, whose sagas have ended
        to.overdue.zero()
        for labels, count in unfinished.items():
            to.unfinished.of(*labels).set(count)
        for name, late in overdue.items():
            to.overdue.of(name).set(late)
        for status, age in oldest.items():
            to.oldest.of(status.value).set(age)
        for database, backlog in counts.outboxes.items():
            to.outbox_waiting.of(database).set(backlog.waiting)
            to.outbox_parked.of(database).set(backlog.parked)
            to.outbox_oldest.of(database).set(backlog.oldest)
        for database, problem in counts.problems.items():
            self._failed(f"counting the starts that wait in {database}", problem)
        to.counts_complete.metric.set(counts.complete)
        to.reads_journal.metric.set(1)
        to.journal_read_at.metric.set(self._clock.now().timestamp())

    def _show_nothing(self) -> None:
        """Forget what this process has counted: another one counts, or none can."""
        to = self._to
        for family in (
            to.unfinished,
            to.overdue,
            to.oldest,
            to.outbox_waiting,
            to.outbox_parked,
            to.outbox_oldest,
        ):
            family.clear()
        to.reads_journal.metric.set(0)

    def _started(self, event: SagaStarted) -> None:
        (self._to.joined if event.joined else self._to.started).of(self._saga.label(event.saga)).inc()

    def _finished(self, event: SagaFinished) -> None:
        labels = (self._saga.label(event.saga), event.status)
        self._to.finished.of(*labels).inc()
        self._to.duration.of(*labels).observe(event.seconds)

    def _step_done(self, event: StepDone) -> None:
        self._attempt(event, "do", "found" if event.found else "done", event.seconds)

    def _step_failed(self, event: StepFailed) -> None:
        refused = event.fault == "refused"
        self._attempt(event, event.phase, "refused" if refused else "failed", event.seconds)
        if not refused:
            self._to.failures.of(*self._names(event), event.phase, event.fault).inc()

    def _step_compensated(self, event: StepCompensated) -> None:
        self._attempt(event, "undo", "null" if event.null else "done", event.seconds)

    def _attempt(self, event: StepEvent, phase: str, outcome: str, seconds: float) -> None:
        saga, step = self._names(event)
        self._to.steps.of(saga, step, phase, outcome).observe(seconds)
        if event.attempt > 1:
            self._to.retries.of(saga, step, phase).inc()

    def _names(self, event: StepEvent) -> tuple[str, str]:
        return self._saga.label(event.saga), self._step.label(event.step)

    def _batch_written(self, event: BatchWritten) -> None:
        self._to.batch_size.of(event.what).observe(event.count)
        self._to.batch_seconds.of(event.what).observe(event.seconds)

    def _ticked(self, event: WorkerTicked) -> None:
        self._to.tick.metric.observe(event.seconds)
        self._to.ticked_at.metric.set(self._clock.now().timestamp())
        self._to.renewed.metric.inc(event.renewed)
        if MULTIPROCESS in os.environ:
            self.refresh()  # another worker may be the one that is scraped

    def _primary_changed(self, event: PrimaryChanged) -> None:
        if event.before is not None:
            self._to.primary_changes.of(event.database, "changed").inc()


def place_of(node: Node) -> str:
    """Return *node* as a label: host, port and database, without the account."""
    if not isinstance(node, SqlNode):
        return node.name.rpartition("@")[2].partition("?")[0].removeprefix("mongodb://")
    url = node.url
    if url.host is None:
        return url.database or node.name
    return f"{url.host}:{url.port}/{url.database}" if url.port else f"{url.host}/{url.database}"
