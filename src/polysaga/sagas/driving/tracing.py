"""What follows a saga as a distributed trace. The core knows no framework: `telemetry.tracing` implements this."""

from collections.abc import Awaitable
from typing import Protocol, TypeVar

from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.protocol.rows import Birth
from polysaga.sagas.protocol.states import Status

FactT = TypeVar("FactT")


class SagaTrace(Protocol):
    """The trace of one saga in this process."""

    @property
    def context(self) -> str | None:
        """The trace context for the journal, at most 64 characters; None: the saga is not traced."""

    def started(self, error: BaseException | None) -> None:
        """Note that the start is durable, or why it is not."""

    async def attempt(
        self,
        work: Awaitable[tuple[FactT | None, Exception | None]],
        step: AnyStep,
        phase: str,
        number: int,
    ) -> tuple[FactT | None, Exception | None]:
        """Await one attempt in a span that is current meanwhile, also in the user's code; return its outcome."""

    def left(self, status: Status, reason: str | None) -> None:
        """Note that this process drives the saga no more, and how it stands."""


class Tracing(Protocol):
    """The traces of one process."""

    def begin(self, birth: Birth) -> SagaTrace:
        """Begin the trace of a saga that is about to be started, linked with what the caller does."""

    def enlist(self, birth: Birth) -> str | None:
        """Return the trace context of a saga that is started by a transaction of the caller."""

    def resume(self, birth: Birth) -> SagaTrace:
        """Go on with the trace of a saga that this process takes over."""

    def flush(self) -> None:
        """Hand on what is known of all traces: this process drives no saga now."""
