"""Group commit: what several sagas write at the same moment shares one commit.

Whoever comes while a batch is being written joins the next one, so nobody waits for a timer, unless all that
has come is patient: then the batch stays open for a moment, for company, if there is anybody who could come. One
bad item fails its whole batch; the batch is then repeated item by item, so that the others do not suffer. A
database that does not answer fails all items at once, also when its connection just went silent: nobody may wait
for ever behind somebody else's write.
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


PATIENCE = 0.05  # seconds


class GroupCommit(Generic[ItemT, AnswerT]):
    """Writes items together; one commit at a time."""

    def __init__(
        self,
        write: "Write[ItemT, AnswerT]",
        *,
        most: int = 200,
        timeout: float = 10.0,
        patience: float = PATIENCE,
        shared: Callable[[BaseException], bool] = lambda error: isinstance(error, TimeoutError),
    ) -> None:
        """*timeout* is in seconds, for one batch; *patience* too, for company that a patient item waits for.

        *shared* tells a failure that no single item can have caused.
        """
        self._write, self._most, self._timeout, self._shared = write, most, timeout, shared
        self._patience = patience
        self._waiting: list[tuple[ItemT, asyncio.Future[AnswerT]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._urgent = asyncio.Event()
        self.expected: Callable[[], float] = lambda: math.inf  # how many may come, with those who wait already

    async def add(self, item: ItemT, *, patient: bool = False) -> AnswerT:
        """Return *item*'s answer once its batch is durable; raise what its own write raised."""
        if not patient:
            self._urgent.set()
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self.look_round()
        if self._writer is None:
            self._writer = asyncio.create_task(self._drain())
        return await future

    def look_round(self) -> None:
        """Keep the open batch open no longer if there is nobody left who could join it."""
        if self._waiting and len(self._waiting) >= self.expected():
            self._urgent.set()

    async def close(self) -> None:
        """Return when everything that was added is written."""
        self._urgent.set()
        if self._writer is not None:
            await self._writer

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._stay_open()
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                if not self._waiting:
                    self._urgent.clear()
                await self._settle(batch)
        finally:
            self._writer = None

    async def _stay_open(self) -> None:
        if not self._urgent.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await self._urgent.wait()

    async def _settle(self, batch: list[tuple[ItemT, "asyncio.Future[AnswerT]"]]) -> None:
        items = [item for item, _ in batch]
        (outcome,) = await asyncio.gather(limited(self._write(items), self._timeout), return_exceptions=True)
        if not isinstance(outcome, BaseException):
            for (_, future), answer in zip(batch, outcome, strict=True):
                if not future.done():
                    future.set_result(answer)
        elif len(batch) > 1 and not self._shared(outcome):
            for one in batch:
                await self._settle([one])
        else:
            for _, future in batch:
                if not future.done():
                    future.set_exception(outcome)
