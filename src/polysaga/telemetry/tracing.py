"""Traces by OpenTelemetry: one trace for a saga, over all its databases and over takeovers.

    install(app, databases, sagas=sagas, tracing=SagaTracing(databases))

Only `opentelemetry-api` is used. The program sets the provider, or none: without one nothing is recorded.

## The spans

`saga NAME` is the root: it begins with the start and ends when that is durable. So it is exported also if the
process is killed later. Attempts of steps (`step NAME`, `undo NAME`) are its children, whichever process makes
them. A saga that is not simply completed by the process that started it has a child `drive NAME` of each process,
which says how the process left it. That of a killed process is lost. What a span costs is mostly the SDK's, so an
ordinary saga has no more of them.

## When they are made

`SagaTracing` has the SDK make the spans of attempts after the attempts, many at once: within a tenth of a second,
and at the latest when the process drives no saga. Their times are those of the attempts. A span that the user's
code asks for is made at once. See `docs/decisions/0019-spans-are-made-behind-the-attempts.md`.

## The trace's id

The provider chooses it, and samples as it samples all traces. The journal's row keeps the W3C `traceparent`, from
which the next owner goes on. An id made of the saga's own would need a parent that nothing exports, and a flag
that overrules the program's sampler. The root is linked with the span in which the saga was started, and that span
with the root: the saga outlives the request.
"""

import time
from collections.abc import Awaitable, Mapping
from contextvars import copy_context
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

from polysaga.databases import MongoNode, Node, Registry, SqlNode
from polysaga.errors import Refused
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.tracing import SagaTrace, Tracing
from polysaga.sagas.protocol.interrupts import Joined
from polysaga.sagas.protocol.rows import Birth
from polysaga.sagas.protocol.states import Status

try:
    from opentelemetry import trace
    from opentelemetry.context import Context, attach, detach
    from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    from opentelemetry.util.types import Attributes

    from polysaga.telemetry.late_spans import LateSpan, LateWork, end_span, tried
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("traces are an extra: pip install 'polysaga[tracing]'") from missing

__all__ = ["SagaTracing"]

FactT = TypeVar("FactT")
Attribute = str | int

_W3C, _FIELD = TraceContextTextMapPropagator(), "traceparent"


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
    ) -> None:
        """Trace the sagas on *databases*."""
        self._spans, self._keys = _Spans(databases, provider), keys

    def begin(self, birth: Birth) -> SagaTrace:
        """Begin the trace of a saga, with a root span that is linked with the current one."""
        root = self._root(birth)
        return _OneTrace(self._spans, birth, trace.set_span_in_context(root, Context()), root)

    def enlist(self, birth: Birth) -> str | None:
        """Make the root span of a saga that a transaction of the caller starts; return its context."""
        root = self._root(birth)
        tried(root.end)
        return _text_of(root.get_span_context())

    def resume(self, birth: Birth) -> SagaTrace:
        """Go on with the trace in the journal's row; without one begin a new trace."""
        if birth.trace is None:
            return self.begin(birth)
        return _OneTrace(self._spans, birth, _W3C.extract({_FIELD: birth.trace}, Context()), None)

    def flush(self) -> None:
        """Give all spans of attempts that are over to the SDK."""
        self._spans.late.do()

    def _root(self, birth: Birth) -> Span:
        caller = trace.get_current_span()
        known = caller.get_span_context()
        attributes = {**_of_saga(birth), "polysaga.saga.version": birth.version}
        if birth.key is not None and self._keys:
            attributes["polysaga.saga.key"] = birth.key
        links = [Link(known)] if known.is_valid else None
        root = self._spans.start(f"saga {birth.name}", Context(), attributes, links=links)  # a trace of its own
        if known.is_valid and root.get_span_context().is_valid:
            caller.add_link(root.get_span_context(), {"polysaga.saga.id": str(birth.claim.saga_id)})
        return root


class _Spans:
    """Starts the spans of one process, at once or later."""

    def __init__(self, databases: Registry, provider: TracerProvider | None) -> None:
        self.late = LateWork()
        self._tracer = trace.get_tracer("polysaga", version("polysaga"), tracer_provider=provider)
        self._databases = {handle.name: handle for handle in databases}
        self._attributes: dict[str, tuple[object, Mapping[str, Attribute]]] = {}

    def start(self, name: str, parent: Context, attributes: Attributes, **more: Any) -> Span:
        """Start a span; if the program's sampler or processor fails, return one that records nothing."""
        made = tried(partial(self._tracer.start_span, name, parent, SpanKind.INTERNAL, attributes, **more))
        return made or NonRecordingSpan(trace.get_current_span(parent).get_span_context())

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

    def __init__(self, spans: _Spans, birth: Birth, parent: Context, root: Span | None) -> None:
        self._spans, self._parent, self._root = spans, parent, root
        self._birth, self._began = birth, time.time_ns()  # the SDK's clock
        self._within = trace.get_current_span(parent).get_span_context()
        # The sampler decides when the saga starts. Of one that it leaves out no span is made, and what is traced
        # inside of its steps is left out as well.
        self._is_sampled = self._within.trace_flags.sampled
        self._of_saga = _of_saga(birth) if self._is_sampled else {}

    @property
    def context(self) -> str | None:
        return _text_of(self._within)

    def started(self, error: BaseException | None) -> None:
        root, self._root = self._root, None
        if root is not None:
            joined = isinstance(error, Joined)
            told, failure = ({"polysaga.saga.joined": True}, None) if joined else ({}, error)
            self._spans.late.add(partial(copy_context().run, end_span, root, time.time_ns(), told, failure))

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
            attributes |= self._spans.database(step.database_name)
        name = f"{'undo' if phase == 'undo' else 'step'} {step.name}"
        make = partial(self._spans.start, name, self._parent, attributes, start_time=time.time_ns())
        span = LateSpan(self._spans.late, self._parent, make)
        outcome, error = "given up", None  # cancelled, or the claim is lost
        token = attach(trace.set_span_in_context(span, self._parent))
        try:
            fact, error = await work
            # A refusal is the answer of the business, and no error.
            outcome = "" if error is None else "refused" if isinstance(error, Refused) else "failed"
        finally:
            detach(token)
            span.leave(
                {"polysaga.step.outcome": outcome} if outcome else {}, error if outcome == "failed" else None
            )
        return fact, error

    def left(self, status: Status, reason: str | None) -> None:
        self.started(None)
        if self._is_sampled and (status is not Status.COMPLETED or self._birth.claim.epoch > 1):
            self._spans.late.add(partial(copy_context().run, self._drive, time.time_ns(), status, reason))

    def _drive(self, ended: int, status: Status, reason: str | None) -> None:
        attributes = {**self._of_saga, "polysaga.saga.status": status.value}
        drive = self._spans.start(f"drive {self._birth.name}", self._parent, attributes, start_time=self._began)
        if status is Status.NEEDS_ATTENTION:
            drive.set_status(StatusCode.ERROR, reason or "a person must look at it")
        drive.end(ended)


def _text_of(context: SpanContext) -> str | None:
    """Return *context* as a `traceparent`; None if there is no trace."""
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


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
    url = node.followed
    system = "mariadb" if url.drivername.startswith("mariadb") else node.dialect.name
    places = {"db.namespace": url.database, "server.address": url.host, "server.port": url.port}
    return {"db.system.name": system, **{name: value for name, value in places.items() if value is not None}}
