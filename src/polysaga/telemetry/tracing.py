"""Traces by OpenTelemetry: one trace for a saga, over all its databases and over takeovers.

    install(app, databases, sagas=sagas, tracing=SagaTracing(databases))

Only `opentelemetry-api` is used. The program sets the provider, or none: without one nothing is recorded.

## The spans

`saga NAME` is the root: it begins with the start and ends when that is durable. So it is exported also if the
process is killed later. Attempts of steps (`step NAME`, `undo NAME`) are its children, whichever process makes
them. A saga that is not simply completed by the process that started it has a child `drive NAME` of each process,
which says how the process left it. That of a killed process is lost. What a span costs is mostly the SDK's, so an
ordinary saga has no more of them.

## The trace's id

The provider chooses it, and samples as it samples all traces. The journal's row keeps the W3C `traceparent`, from
which the next owner goes on. An id made of the saga's own would need a parent that nothing exports, and a flag
that overrules the program's sampler. The root is linked with the span in which the saga was started, and that span
with the root: the saga outlives the request.
"""

from collections.abc import Awaitable, Mapping
from importlib.metadata import version
from typing import TypeVar

from polysaga.clock import Clock
from polysaga.databases import MongoNode, Node, Registry, SqlNode
from polysaga.errors import Refused
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.tracing import SagaTrace, Tracing
from polysaga.sagas.protocol.interrupts import Joined
from polysaga.sagas.protocol.rows import Birth
from polysaga.sagas.protocol.states import Status
from polysaga.texts import said, without_values

try:
    from opentelemetry import trace
    from opentelemetry.context import Context, attach, detach
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("traces are an extra: pip install 'polysaga[tracing]'") from missing

__all__ = ["SagaTracing"]

FactT = TypeVar("FactT")
Attribute = str | int

_W3C, _FIELD = TraceContextTextMapPropagator(), "traceparent"
_SYSTEMS = {"postgresql": "postgresql", "mysql": "mysql", "sqlite": "sqlite"}


class SagaTracing(Tracing):
    """The traces of one process; give it to `install` or `Sagas.open` as `tracing`.

    *provider* is the program's own, or else the one that is set for the process. Without *keys* the keys of sagas,
    which may be personal, are left out.
    """

    def __init__(
        self,
        databases: Registry,
        *,
        provider: TracerProvider | None = None,
        keys: bool = True,
        clock: Clock | None = None,
    ) -> None:
        """Trace the sagas on *databases*."""
        self.tracer = trace.get_tracer("polysaga", version("polysaga"), tracer_provider=provider)
        self.clock = clock or Clock()
        self._databases = {handle.name: handle for handle in databases}
        self._attributes: dict[str, tuple[object, Mapping[str, Attribute]]] = {}
        self._keys = keys

    def begin(self, birth: Birth) -> SagaTrace:
        """Begin the trace of a saga, with a root span that is linked with the current one."""
        root = self._root(birth)
        return _OneTrace(self, birth, trace.set_span_in_context(root, Context()), root)

    def enlist(self, birth: Birth) -> str | None:
        """Make the root span of a saga that a transaction of the caller starts; return its context."""
        root = self._root(birth)
        root.end()
        return _text_of(root.get_span_context())

    def resume(self, birth: Birth) -> SagaTrace:
        """Go on with the trace in the journal's row; without one begin a new trace."""
        if birth.trace is None:
            return self.begin(birth)
        return _OneTrace(self, birth, _W3C.extract({_FIELD: birth.trace}, Context()), None)

    def _root(self, birth: Birth) -> Span:
        caller = trace.get_current_span()
        known = caller.get_span_context()
        attributes = {**_of_saga(birth), "polysaga.saga.version": birth.version}
        if birth.key is not None and self._keys:
            attributes["polysaga.saga.key"] = birth.key
        root = self.tracer.start_span(
            f"saga {birth.name}",
            Context(),  # a trace of its own
            attributes=attributes,
            links=[Link(known)] if known.is_valid else None,
        )
        if known.is_valid and root.get_span_context().is_valid:
            caller.add_link(root.get_span_context(), {"polysaga.saga.id": str(birth.claim.saga_id)})
        return root

    def database(self, name: str) -> Mapping[str, Attribute]:
        """Return the standard attributes of the database *name*, where its primary is now."""
        handle = self._databases.get(name)
        if handle is None:
            return {}
        node = handle.primary
        where = node.followed if isinstance(node, SqlNode) else node
        known = self._attributes.get(name)
        if known is None or known[0] is not where:
            known = self._attributes[name] = where, _of_database(node)
        return known[1]


class _OneTrace(SagaTrace):
    """One saga in this process."""

    def __init__(self, tracing: SagaTracing, birth: Birth, parent: Context, root: Span | None) -> None:
        self._tracing, self._parent, self._root = tracing, parent, root
        self._birth, self._began = birth, tracing.clock.now()
        self._within = trace.get_current_span(parent).get_span_context()
        # The sampler decides when the saga starts. Of one that it leaves out no span is made, and what is traced
        # inside of its steps is left out as well.
        self._is_sampled = self._within.trace_flags.sampled
        self._of_saga = _of_saga(birth) if self._is_sampled else {}

    @property
    def context(self) -> str | None:
        return _text_of(self._within)

    def started(self, error: BaseException | None) -> None:
        if self._root is None:
            return
        if isinstance(error, Joined):
            self._root.set_attribute("polysaga.saga.joined", True)  # noqa: FBT003 - its value
        elif error is not None:
            _record(self._root, error)
        self._root.end()
        self._root = None

    async def attempt(
        self,
        work: Awaitable[tuple[FactT | None, Exception | None]],
        step: AnyStep,
        phase: str,
        number: int,
    ) -> tuple[FactT | None, Exception | None]:
        if not self._is_sampled:
            token = attach(self._parent)
            try:
                return await work
            finally:
                detach(token)
        attributes = {**self._of_saga, "polysaga.step.name": step.name, "polysaga.step.attempt": number}
        if step.database_name is not None:
            attributes |= self._tracing.database(step.database_name)
        name = f"{'undo' if phase == 'undo' else 'step'} {step.name}"
        span = self._tracing.tracer.start_span(name, self._parent, SpanKind.INTERNAL, attributes)
        outcome = "given up"  # cancelled, or the claim is lost
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                fact, error = await work
                # A refusal is the answer of the business, and no error.
                outcome = "" if error is None else "refused" if isinstance(error, Refused) else "failed"
                if error is not None and outcome == "failed":
                    _record(span, error)
            finally:
                if outcome:
                    span.set_attribute("polysaga.step.outcome", outcome)
        return fact, error

    def left(self, status: Status, reason: str | None) -> None:
        self.started(None)
        if not self._is_sampled or (status is Status.COMPLETED and self._birth.claim.epoch == 1):
            return
        began = int(self._began.timestamp() * 1e9)  # nanoseconds
        attributes = {**self._of_saga, "polysaga.saga.status": status.value}
        drive = self._tracing.tracer.start_span(
            f"drive {self._birth.name}", self._parent, SpanKind.INTERNAL, attributes, start_time=began
        )
        if status is Status.NEEDS_ATTENTION:
            drive.set_status(StatusCode.ERROR, reason or "a person must look at it")
        drive.end()


def _text_of(context: SpanContext) -> str | None:
    """Return *context* as a `traceparent`; None if there is no trace."""
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _record(span: Span, error: BaseException) -> None:
    """Record *error* without users' data: drivers and validators put values into their texts."""
    span.set_attribute("error.type", type(error).__name__)
    shown = without_values(error)
    span.record_exception(shown if isinstance(shown, Exception) else RuntimeError(said(error)))
    span.set_status(StatusCode.ERROR, said(error))


def _of_saga(birth: Birth) -> dict[str, Attribute]:
    return {
        "polysaga.saga.id": str(birth.claim.saga_id),
        "polysaga.saga.name": birth.name,
        "polysaga.saga.epoch": birth.claim.epoch,
    }


def _of_database(node: Node) -> Mapping[str, Attribute]:
    """Return the attributes of OpenTelemetry's conventions for databases."""
    if isinstance(node, MongoNode):
        return {"db.system.name": "mongodb", "db.namespace": node.documents.name}
    url, dialect = node.followed, node.dialect.name
    system = "mariadb" if url.drivername.startswith("mariadb") else _SYSTEMS.get(dialect, dialect)
    places = {"db.namespace": url.database, "server.address": url.host, "server.port": url.port}
    return {"db.system.name": system, **{name: value for name, value in places.items() if value is not None}}
