"""Traces by OpenTelemetry: one trace for a saga, over all its databases and over takeovers.

    install(app, databases, sagas=sagas, tracing=SagaTracing(databases))

Only `opentelemetry-api` is used. The program sets the provider, or none: without one nothing is recorded.

## The spans

`saga NAME` is the root: it begins with the start and ends when that is durable. So it is exported also if the
process is killed later. Attempts of steps (`step NAME`, `undo NAME`) are its children, whichever process makes
them. `drive NAME` lasts from the start, or a takeover, until this process leaves the saga. That of a killed
process is lost.

## The trace's id

The provider chooses it, and samples as it samples all traces. The journal's row keeps the W3C `traceparent`, from
which the next owner goes on. An id made of the saga's own would need a parent that nothing exports, and a flag
that overrules the program's sampler. The root is linked with the span in which the saga was started, and that span
with the root: the saga outlives the request.
"""

from collections.abc import Awaitable, Mapping
from importlib.metadata import version
from typing import TypeVar

from polysaga.databases import AnyHandle, MongoNode, Registry
from polysaga.databases.sql_node import SqlNode
from polysaga.errors import Refused
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.tracing import SagaTrace, Tracing
from polysaga.sagas.protocol.interrupts import Joined
from polysaga.sagas.protocol.rows import Birth
from polysaga.sagas.protocol.states import Status
from polysaga.texts import said, without_values

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider
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

    def __init__(self, databases: Registry, *, provider: TracerProvider | None = None, keys: bool = True) -> None:
        """Trace the sagas on *databases*."""
        self._tracer = trace.get_tracer("polysaga", version("polysaga"), tracer_provider=provider)
        self._databases = {handle.name: handle for handle in databases}
        self._keys = keys

    def begin(self, birth: Birth) -> SagaTrace:
        """Begin the trace of a saga, with a root span that is linked with the current one."""
        root = self._root(birth)
        return _OneTrace(self, birth, trace.set_span_in_context(root, Context()), root)

    def enlist(self, birth: Birth) -> str | None:
        """Make the root span of a saga that a transaction of the caller starts; return its context."""
        root = self._root(birth)
        root.end()
        return _text_of(trace.set_span_in_context(root, Context()))

    def resume(self, birth: Birth) -> SagaTrace:
        """Go on with the trace in the journal's row; without one begin a new trace."""
        if birth.trace is None:
            return self.begin(birth)
        return _OneTrace(self, birth, _W3C.extract({_FIELD: birth.trace}, Context()), None)

    def _root(self, birth: Birth) -> Span:
        caller = trace.get_current_span()
        known = caller.get_span_context()
        attributes = _of_saga(birth)
        if birth.key is not None and self._keys:
            attributes["polysaga.saga.key"] = birth.key
        root = self._tracer.start_span(
            f"saga {birth.name}",
            Context(),  # a trace of its own
            attributes=attributes,
            links=[Link(known)] if known.is_valid else None,
        )
        if known.is_valid and root.get_span_context().is_valid:
            caller.add_link(root.get_span_context(), {"polysaga.saga.id": str(birth.claim.saga_id)})
        return root

    def span(self, name: str, parent: Context, attributes: Mapping[str, Attribute]) -> Span:
        """Start a span below *parent*."""
        return self._tracer.start_span(name, parent, SpanKind.INTERNAL, attributes)

    def database(self, name: str | None) -> Mapping[str, Attribute]:
        """Return the standard attributes of the database *name*, or of none."""
        handle = None if name is None else self._databases.get(name)
        return {} if handle is None else {"polysaga.database": handle.name, **_of_database(handle)}


class _OneTrace(SagaTrace):
    """One saga in this process."""

    def __init__(self, tracing: SagaTracing, birth: Birth, parent: Context, root: Span | None) -> None:
        self._tracing, self._parent, self._root = tracing, parent, root
        self._of_saga = _of_saga(birth)
        self._drive = tracing.span(f"drive {birth.name}", parent, self._of_saga)
        self._databases: dict[str | None, Mapping[str, Attribute]] = {}

    @property
    def context(self) -> str | None:
        return _text_of(self._parent)

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
        name = step.database_name
        if name not in self._databases:
            self._databases[name] = self._tracing.database(name)
        attributes = {
            **self._of_saga,
            **self._databases[name],
            "polysaga.step.name": step.name,
            "polysaga.step.phase": phase,
            "polysaga.step.attempt": number,
        }
        span = self._tracing.span(f"{'undo' if phase == 'undo' else 'step'} {step.name}", self._parent, attributes)
        outcome = "given up"  # cancelled, or the claim is lost
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                fact, error = await work
                # A refusal is the answer of the business, and no error.
                outcome = "done" if error is None else "refused" if isinstance(error, Refused) else "failed"
                if error is not None and outcome == "failed":
                    _record(span, error)
            finally:
                span.set_attribute("polysaga.step.outcome", outcome)
        return fact, error

    def left(self, status: Status, reason: str | None) -> None:
        self.started(None)
        self._drive.set_attribute("polysaga.saga.status", status.value)
        if status is Status.NEEDS_ATTENTION:
            self._drive.set_status(StatusCode.ERROR, reason or "a person must look at it")
        self._drive.end()


def _text_of(context: Context) -> str | None:
    """Return *context* as a `traceparent`; None if nothing is recorded."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context)
    return carrier.get(_FIELD)


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
        "polysaga.saga.version": birth.version,
        "polysaga.saga.epoch": birth.claim.epoch,
    }


def _of_database(handle: AnyHandle) -> dict[str, Attribute]:
    """Return the attributes of OpenTelemetry's conventions for databases."""
    node = handle.primary
    if isinstance(node, MongoNode):
        return {"db.system.name": "mongodb", "db.namespace": node.documents.name}
    assert isinstance(node, SqlNode)
    url, dialect = node.followed, node.dialect.name
    system = "mariadb" if url.drivername.startswith("mariadb") else _SYSTEMS.get(dialect, dialect)
    places = {"db.namespace": url.database, "server.address": url.host, "server.port": url.port}
    return {"db.system.name": system, **{name: value for name, value in places.items() if value is not None}}
