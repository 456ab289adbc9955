"""Traces by OpenTelemetry: one trace for a saga, over all its databases and over takeovers.

    install(app, databases, sagas=sagas, tracing=SagaTracing(databases))

Only `opentelemetry-api` is used. The program sets the provider, or none: without one nothing is recorded.

## The spans

`saga NAME` is the root: it begins with the start and ends when that is durable. So it is exported also if the
process is killed later. Attempts of steps (`step NAME`, `undo NAME`) are its children, whichever process makes
them. A saga that is not simply completed by the process that started it has a child `drive NAME` of each process,
which says how the process left it. That of a killed process is lost. What a span costs is mostly the SDK's, so an
ordinary saga has no more of them.

## When the SDK makes them

Behind the attempts, many at once: within a tenth of a second, and at the latest when the process drives no saga.
Their times are those of the attempts. A span that the user's code asks for is made at once. See
`docs/decisions/0019-spans-are-made-behind-the-attempts.md`.

## The trace's id

The provider chooses it, and samples as it samples all traces. The journal's row keeps the W3C `traceparent`, from
which the next owner goes on. An id made of the saga's own would need a parent that nothing exports, and a flag
that overrules the program's sampler. The root is linked with the span in which the saga was started, and that span
with the root: the saga outlives the request.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context as Variables
from contextvars import copy_context
from functools import partial
from importlib.metadata import version
from threading import RLock
from time import time_ns
from typing import Any, TypeVar

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
    from opentelemetry.trace import Status as State
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    from opentelemetry.util.types import Attributes, AttributeValue
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("traces are an extra: pip install 'polysaga[tracing]'") from missing

__all__ = ["SagaTracing"]

FactT = TypeVar("FactT")
Attribute = str | int

_W3C, _FIELD = TraceContextTextMapPropagator(), "traceparent"
_LATEST = 0.1  # seconds that a span waits at most for others
_MANY = 32  # spans at once: some milliseconds in which no saga goes on
_SYSTEMS = {"postgresql": "postgresql", "mysql": "mysql", "sqlite": "sqlite"}
_log = logging.getLogger("polysaga")


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
        self.tracer = trace.get_tracer("polysaga", version("polysaga"), tracer_provider=provider)
        self.late, self.making = _LateWork(), RLock()  # the lock: users' code may ask in another thread
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
        self._birth, self._began = birth, time_ns()  # the SDK's clock
        self._within = trace.get_current_span(parent).get_span_context()
        # The sampler decides when the saga starts. Of one that it leaves out no span is made, and what is traced
        # inside of its steps is left out as well.
        self._is_sampled = self._within.trace_flags.sampled
        self._of_saga = _of_saga(birth) if self._is_sampled else {}
        tracing.late.open()

    @property
    def context(self) -> str | None:
        return _text_of(self._within)

    def started(self, error: BaseException | None) -> None:
        root, self._root = self._root, None
        if root is None:
            return
        if isinstance(error, Joined):
            root.set_attribute("polysaga.saga.joined", True)  # noqa: FBT003 - its value
        elif error is not None:
            _record(root, error)
        self._tracing.late.add(partial(copy_context().run, root.end, time_ns()))

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
        span = _LateSpan(self._tracing, name, self._parent, attributes)
        outcome, error = "given up", None  # cancelled, or the claim is lost
        token = attach(trace.set_span_in_context(span, self._parent))
        try:
            fact, error = await work
            # A refusal is the answer of the business, and no error.
            outcome = "" if error is None else "refused" if isinstance(error, Refused) else "failed"
        finally:
            detach(token)
            span.leave(outcome, error)
        return fact, error

    def left(self, status: Status, reason: str | None) -> None:
        self.started(None)
        if self._is_sampled and (status is not Status.COMPLETED or self._birth.claim.epoch > 1):
            self._tracing.late.add(partial(copy_context().run, self._drive, time_ns(), status, reason))
        self._tracing.late.close()

    def _drive(self, ended: int, status: Status, reason: str | None) -> None:
        attributes = {**self._of_saga, "polysaga.saga.status": status.value}
        drive = self._tracing.tracer.start_span(
            f"drive {self._birth.name}", self._parent, SpanKind.INTERNAL, attributes, start_time=self._began
        )
        if status is Status.NEEDS_ATTENTION:
            drive.set_status(StatusCode.ERROR, reason or "a person must look at it")
        drive.end(ended)


class _LateWork:
    """Work for the SDK that can wait a moment, done in groups: the SDK's code is in the caches then."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []
        self._open = 0  # sagas that this process drives
        self._served: asyncio.AbstractEventLoop | None = None  # the loop whose timer runs

    def open(self) -> None:
        """Note that the process drives one saga more."""
        self._open += 1

    def close(self) -> None:
        """Note that the process drives one saga less; do everything if that was the last one."""
        self._open -= 1
        if self._open <= 0:
            self._do()

    def add(self, work: Callable[[], None]) -> None:
        """Do *work* soon."""
        self._waiting.append(work)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # the loop has ended, and what was left in it is thrown away
            self._do()
            return
        if len(self._waiting) >= _MANY:
            self._do()
        elif self._served is not loop:
            self._served = loop
            loop.call_later(_LATEST, self._do_for, loop, context=Variables())

    def _do_for(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._served is loop:
            self._served = None
        self._do()

    def _do(self) -> None:
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - border: the program's sampler, processors and exporters
                _log.error("a span was lost: the program's tracing failed with %s", said(error))


class _LateSpan(Span):
    """The span of an attempt. The SDK makes it when the attempt is over, or when the user's code asks for it."""

    def __init__(self, tracing: SagaTracing, name: str, parent: Context, attributes: dict[str, Attribute]) -> None:
        self._tracing, self._name, self._parent, self._attributes = tracing, name, parent, attributes
        self._began, self._variables = time_ns(), copy_context()
        self._left: tuple[int, str, BaseException | None] | None = None  # when, and the outcome
        self._made: Span | None = None
        self._is_over = False

    def leave(self, outcome: str, error: BaseException | None) -> None:
        """End the attempt now."""
        self._left = time_ns(), outcome, error
        self._tracing.late.add(self._finish)

    def _real(self) -> Span:
        """Return the span of the SDK, as it is now."""
        with self._tracing.making:
            if self._left is not None:
                self._finish()
            return self._made or self._variables.run(self._make)

    def _make(self) -> Span:
        self._made = self._tracing.tracer.start_span(
            self._name, self._parent, SpanKind.INTERNAL, self._attributes, start_time=self._began
        )
        return self._made

    def _finish(self) -> None:
        with self._tracing.making:
            if not self._is_over and self._left is not None:
                ended, outcome, error = self._left
                self._left, self._is_over = (ended, outcome, None), True  # users' tasks may keep this object
                self._variables.run(self._end, ended, outcome, error)

    def _end(self, ended: int, outcome: str, error: BaseException | None) -> None:
        if outcome and self._made is None:
            self._attributes["polysaga.step.outcome"] = outcome
        elif outcome and self._made is not None:
            self._made.set_attribute("polysaga.step.outcome", outcome)
        span = self._made or self._make()
        if error is not None and outcome == "failed":
            _record(span, error, ended)
        span.end(ended)

    def is_recording(self) -> bool:
        return self._left is None and (self._made is None or self._made.is_recording())

    def get_span_context(self) -> SpanContext:
        return self._real().get_span_context()

    def end(self, end_time: int | None = None) -> None:
        self._real().end(end_time)

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self._real().set_attributes(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self._real().set_attribute(key, value)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        self._real().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        self._real().add_link(context, attributes)

    def update_name(self, name: str) -> None:
        self._real().update_name(name)

    def set_status(self, status: State | StatusCode, description: str | None = None) -> None:
        self._real().set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - OpenTelemetry's signature
    ) -> None:
        self._real().record_exception(exception, attributes, timestamp, escaped)

    def __getattr__(self, name: str) -> Any:
        """Return what the SDK's span has beside OpenTelemetry's API, such as `attributes`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._real(), name)


def _text_of(context: SpanContext) -> str | None:
    """Return *context* as a `traceparent`; None if there is no trace."""
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _record(span: Span, error: BaseException, at: int | None = None) -> None:
    """Record *error*, at the nanosecond *at* or now.

    Without users' data: drivers and validators put values into their texts.
    """
    span.set_attribute("error.type", type(error).__name__)
    shown = without_values(error)
    known = shown if isinstance(shown, Exception) else RuntimeError(said(error))
    span.record_exception(known, timestamp=at)
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
