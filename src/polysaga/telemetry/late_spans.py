"""Spans that the SDK of OpenTelemetry makes after what they tell of, many at once.

The SDK's code takes most of what tracing costs, and several times as much if it is not in the processor's caches.
See `docs/decisions/0019-spans-are-made-behind-the-attempts.md`.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context as Variables
from contextvars import copy_context
from threading import Lock
from types import TracebackType
from typing import Any, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span, SpanContext, Status, StatusCode
from opentelemetry.util.types import Attributes, AttributeValue

from polysaga.clock import Clock
from polysaga.texts import said, without_values

DoneT = TypeVar("DoneT")

_LATEST = 0.1  # seconds that a span waits at most for others
_MANY = 32  # spans that are made at once
_SLICE = 0.01  # seconds after which the sagas go on, however many spans wait
_PATIENCE = 1.0  # seconds for another thread that makes the same span
_log = logging.getLogger("polysaga")


class LateWork:
    """Work for the SDK that can wait a moment, done in groups: the SDK's code is in the caches then."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._served: asyncio.AbstractEventLoop | None = None  # the loop whose timer runs

    def add(self, work: Callable[[], None]) -> None:
        """Do *work* soon."""
        self._waiting.append(work)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # the loop has ended, and what was left in it is thrown away
            self.do()
            return
        if len(self._waiting) >= _MANY:
            self._do_some()
        self._serve(loop, _LATEST)

    def do(self) -> None:
        """Do everything that waits."""
        while self._waiting:
            tried(self._waiting.popleft())

    def _serve(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if self._waiting and self._served is not loop:
            self._served = loop
            loop.call_later(seconds, self._go_on, loop, context=Variables())

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._served = None
        self._do_some()
        self._serve(loop, 0.0)

    def _do_some(self) -> None:
        began = Clock.monotonic()
        while self._waiting:
            tried(self._waiting.popleft())
            if Clock.monotonic() - began >= _SLICE:
                return


class LateSpan(Span):
    """Stands for a span that the SDK makes later, or at once if the user's code asks for it.

    Its own names are none of the SDK's: what users' code looks for beside the API, it finds at the SDK's span.
    """

    def __init__(self, work: LateWork, parent: Context, make: Callable[[], Span]) -> None:
        self.work, self.within, self.make = work, parent, make
        self.variables: Variables | None = copy_context()  # None: the span has ended, and keeps nothing alive
        # Of an attempt that is over: when, what is to be told, and its error.
        self.outcome: tuple[int, Mapping[str, str], BaseException | None] | None = None
        self.made: Span | None = None
        self.making = Lock()  # of `made` and `variables`: users' code may ask in another thread

    def leave(self, told: Mapping[str, str], error: BaseException | None) -> None:
        """Note that the attempt is over: what is to be *told*, and the *error* if it is one."""
        self.outcome = time.time_ns(), told, error
        self.work.add(self.finish)

    def finish(self) -> None:
        """End the span of an attempt that is over."""
        assert self.outcome is not None
        ended, told, error = self.outcome
        self._sdk()
        with self.making:
            variables, self.variables = self.variables, None
            self.outcome = ended, told, None
        if variables is not None and self.made is not None:
            variables.run(end_span, self.made, ended, told, error)

    def _sdk(self) -> Span:
        """Return the span of the SDK.

        No lock is held while the SDK works on a span that it has made: both may wait for a lock of the program's,
        such as that of a log's handler. A caller whose lock the making itself waits for gets the parent after a
        second.
        """
        if self.made is not None:
            return self.made
        if not self.making.acquire(timeout=_PATIENCE):
            return NonRecordingSpan(trace.get_current_span(self.within).get_span_context())
        try:
            return self._make_once()
        finally:
            self.making.release()

    def _make_once(self) -> Span:
        if self.made is None and self.variables is not None:
            self.made = self.variables.run(self.make)
        return self.made or INVALID_SPAN

    def _real(self) -> Span:
        """Return the span of the SDK; what comes behind the attempt changes it no more."""
        if self.outcome is not None:
            self.finish()
        return self._sdk()

    def is_recording(self) -> bool:
        return self.outcome is None and (self.made is None or self.made.is_recording())

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

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._real().set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - OpenTelemetry's signature
    ) -> None:
        self._real().record_exception(exception, attributes, timestamp, escaped)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, places: TracebackType | None
    ) -> None:
        self._real().__exit__(kind, error, places)

    def __repr__(self) -> str:
        return repr(self._real())

    def __copy__(self) -> "LateSpan":
        return self

    def __getattr__(self, name: str) -> Any:
        """Return what the SDK's span has beside OpenTelemetry's API, such as `attributes`."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)


def tried(work: Callable[[], DoneT]) -> DoneT | None:
    """Return what *work* returns; None if it fails: no saga may suffer from what watches it."""
    try:
        return work()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - border: the program's sampler, processors and exporters
        _log.error("tracing failed with %s: a span is missing or incomplete", said(error))
        return None


def end_span(span: Span, ended: int, told: Mapping[str, AttributeValue], error: BaseException | None) -> None:
    """End *span* at the nanosecond *ended* with the attributes *told*, and with *error*.

    The error comes without users' data: drivers and validators put values into their texts.
    """
    try:
        for name, value in told.items():
            span.set_attribute(name, value)
        if error is not None:
            span.set_attribute("error.type", type(error).__name__)
            shown = without_values(error)
            known = shown if isinstance(shown, Exception) else RuntimeError(said(error))
            span.record_exception(known, timestamp=ended)
            span.set_status(StatusCode.ERROR, said(error))
    finally:
        span.end(ended)
