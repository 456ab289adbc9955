"""Capture: where the primary stands, asked after a commit; concurrent commits share the question.

An answer covers all commits that were acknowledged before its question was *sent*. So a caller that comes while a
question is under way waits for the next one. At most two are ever needed, however many callers wait.
"""

import asyncio
from typing import Protocol

from polysaga.databases.positions import Position
from polysaga.events import BookmarkUnknown, Emit
from polysaga.texts import said


class PositionSource(Protocol):
    """A connection to the primary; see `databases.probe_connection`."""

    async def capture(self) -> Position | None:
        """Return the position of the primary; None if the server has none."""

    def cut(self) -> None:
        """Break the connection; a question that waits for an answer fails."""

    async def close(self) -> None:
        """Close; the next question connects again."""


class Capture:
    """Asks the primary of one database; whatever goes wrong there, every caller gets an answer."""

    def __init__(
        self,
        database: str,
        line: PositionSource,
        *,
        timeout: float,
        emit: Emit,
    ) -> None:
        self.asked = 0  # questions sent
        self._database, self._line, self._timeout = database, line, timeout
        self._emit = emit
        self._next: asyncio.Future[Position | None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def position(self) -> Position | None:
        """Return a position past all that was committed before the call; None, after an event, if unknown."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run())
        return await asyncio.shield(self._next)

    def moved(self) -> None:
        """Break the connection: the primary is elsewhere now."""
        self._line.cut()

    async def close(self) -> None:
        """Close the connection."""
        if self._task is not None and not self._task.done():
            self._line.cut()
            await asyncio.wait([self._task])
        await self._line.close()

    async def _run(self) -> None:
        while self._next is not None:
            waiting, self._next = self._next, None
            self.asked += 1
            position = None
            try:
                position = await self._ask()
            finally:
                if not waiting.done():
                    waiting.set_result(position)

    async def _ask(self) -> Position | None:
        task = asyncio.ensure_future(self._line.capture())
        await asyncio.wait([task], timeout=self._timeout)
        if not task.done():
            self._line.cut()
            task.cancel()
            await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled():
            position = task.result()
            if position is None:
                self._emit(BookmarkUnknown(self._database, "the server does not tell how far it has got"))
            return position
        await self._line.close()
        reason = "no answer in time" if error is None else said(error)
        self._emit(BookmarkUnknown(self._database, reason))
        return None
