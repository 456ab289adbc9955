"""Group commit: the writes of several sagas at the same moment share one commit.

Items that arrive during a write join the next batch; there is no timer. A batch of patient items only stays open
for up to `patience` seconds, and only while other sagas that could join are in flight. One bad item fails its
whole batch; the batch is then retried item by item, so the other items still succeed. If the database does not
answer, all items fail at once. The same holds if its connection goes silent, before or during the retry: no item
may wait for ever behind the write of another.

A batch may be too large for the server or for its time limit. The server does not always say so: a packet beyond
its limit looks like a lost connection. So a batch is bounded in items and in bytes. After a failure that no single
item can have caused, the next batches are half as large, until one succeeds.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from polysaga.limits import limited

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")
Write = Callable[[Sequence[ItemT]], Awaitable[Sequence[AnswerT]]]
Batch = list[tuple[ItemT, "asyncio.Future[AnswerT]"]]


PATIENCE = 0.05  # seconds
MOST_BYTES = 256 * 1024  # of one batch; servers accept a megabyte or more, but each quote counts several times


class GroupCommit(Generic[ItemT, AnswerT]):
    """Writes items together; one commit at a time."""

    def __init__(
        self,
        write: "Write[ItemT, AnswerT]",
        *,
        most: int = 200,
        most_bytes: int = MOST_BYTES,
        size: Callable[[ItemT], int] = lambda item: 0,
        timeout: float = 10.0,
        patience: float = PATIENCE,
        shared: Callable[[BaseException], bool] = lambda error: isinstance(error, TimeoutError),
    ) -> None:
        """*timeout* is in seconds, for one batch; a batch of patient items stays open for *patience* seconds.

        *size* estimates the bytes of an item; a batch of several items has at most *most_bytes*.
        *shared* returns whether an error is one that no single item can have caused.
        """
        self._write, self._most, self._timeout, self._shared = write, most, timeout, shared
        self._most_bytes, self._size = most_bytes, size
        self._limit = most  # items of the next batch: fewer than *most* after a failure
        self._patience = patience
        self._waiting: list[tuple[ItemT, asyncio.Future[AnswerT]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._urgent = asyncio.Event()
        self.expected: Callable[[], float] = lambda: math.inf  # items that can join, including those waiting

    async def add(self, item: ItemT, *, patient: bool = False) -> AnswerT:
        """Return *item*'s answer once its batch is durable; raise what its own write raised."""
        if not patient:
            self._urgent.set()
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self.close_if_complete()
        if self._writer is None:
            self._writer = asyncio.create_task(self._drain())
        return await future

    def close_if_complete(self) -> None:
        """Write the open batch now if no further item can be expected."""
        if self._waiting and len(self._waiting) >= self.expected():
            self._urgent.set()

    async def close(self) -> None:
        """Return when all added items are written."""
        self._urgent.set()
        if self._writer is not None:
            await self._writer

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._stay_open()
                count = self._fitting()
                batch, self._waiting = self._waiting[:count], self._waiting[count:]
                if not self._waiting:
                    self._urgent.clear()
                await self._settle(batch)
        finally:
            self._writer = None

    def _fitting(self) -> int:
        """Return how many waiting items fit into one batch: at least one."""
        size = 0
        for count, (item, _) in enumerate(self._waiting):
            size += self._size(item)
            if count and (count == self._limit or size > self._most_bytes):
                return count
        return len(self._waiting)

    async def _stay_open(self) -> None:
        if not self._urgent.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await self._urgent.wait()

    async def _settle(self, batch: "Batch[ItemT, AnswerT]") -> BaseException | None:
        """Write *batch* and answer every item; return the error if no single item can have caused it."""
        items = [item for item, _ in batch]
        (outcome,) = await asyncio.gather(limited(self._write(items), self._timeout), return_exceptions=True)
        if not isinstance(outcome, BaseException):
            self._limit = min(2 * self._limit, self._most)
            for (_, future), answer in zip(batch, outcome, strict=True):
                if not future.done():
                    future.set_result(answer)
            return None
        if self._shared(outcome):
            if len(batch) > 1:
                # While a server is silent, each batch makes the items behind it wait for one time-out.
                least = self._most // 8 if isinstance(outcome, TimeoutError) else 1
                self._limit = max(least, len(batch) // 2)
            _fail(batch, outcome)
            return outcome
        if len(batch) == 1:
            _fail(batch, outcome)
            return None
        for tried, one in enumerate(batch, 1):
            broken = await self._settle([one])
            if broken is not None:
                _fail(batch[tried:], broken)  # each of them would wait just as long
                return broken
        return None


def _fail(batch: "Batch[ItemT, AnswerT]", error: BaseException) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
