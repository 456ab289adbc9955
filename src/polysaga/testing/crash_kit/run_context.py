"""The context of code under test during a run of the crash kit."""

import asyncio
from contextvars import ContextVar

WORK: ContextVar[str | None] = ContextVar("polysaga.testing.work", default=None)

RAN: ContextVar[list[tuple[str, int]] | None] = ContextVar("polysaga.testing.ran", default=None)

SENT: ContextVar[list[str] | None] = ContextVar("polysaga.testing.sent", default=None)  # by the user's code


class Bell:
    """Wakes all tasks that wait for something to happen."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Wake all tasks that wait now."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    async def wait(self) -> None:
        """Return at the next ring."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future
