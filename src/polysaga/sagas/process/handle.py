"""The handle that a caller gets for a saga that was started."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar
from uuid import UUID

from polysaga.errors import OutcomePending

OutputT = TypeVar("OutputT", covariant=True)


class SagaHandle(Generic[OutputT]):
    """A saga whose start is durable. *joined*: its key had started it before."""

    def __init__(
        self,
        saga_id: UUID,
        saga: str,
        wait: Callable[[], Awaitable[Any]],
        cancel: Callable[[str], Awaitable[None]],
        *,
        joined: bool,
    ) -> None:
        self.id, self.saga, self.joined = saga_id, saga, joined
        self._wait, self._cancel = wait, cancel

    async def result(self, timeout: float | None = None) -> OutputT:
        """Return the output once the saga is decided; wait at most *timeout* seconds.

        Raises `Refused` (or the subclass that the step raised), `SagaUndone` or `SagaFailed` when everything
        was undone, `NeedsAttention` when it is parked, `OutcomePending` when the time is up; the saga goes on.
        """
        if timeout is None:
            return await self._wait()  # type: ignore[no-any-return]
        try:
            async with asyncio.timeout(timeout):
                return await self._wait()  # type: ignore[no-any-return]
        except TimeoutError:
            raise OutcomePending(self.id, self.saga) from None

    async def cancel(self, why: str = "cancelled by its caller") -> None:
        """Undo the saga; return once that is certain. `result` raises `SagaCancelled` when it is undone.

        The steps under way are cancelled, in whichever process they run. Raises `TooLate` if the saga is
        decided: the pivot has the last word. Raises `NeedsAttention` if it is parked. No effect if it is being
        undone already.
        """
        await self._cancel(why)
