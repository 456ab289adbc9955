"""One look at the journal for all viewers of this process.

Pages and streams that want the overview within two seconds share one query. If the journal does not answer, every
page says so from memory, and the next look finds out by itself when it is back.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from polysaga.clock import Clock
from polysaga.config import masked
from polysaga.dashboard import words
from polysaga.databases import AnyHandle
from polysaga.errors import ConfigurationError, DatabaseUnavailable, SchemaMissing, TryAgain
from polysaga.limits import limited
from polysaga.sagas import Activity, Fates, Inspector, Overview, Sagas
from polysaga.texts import said

FoundT = TypeVar("FoundT")

_SHARED = 2.0  # seconds that a look is good for
_ASKED = 5.0  # seconds that it is remembered which databases answer
_PROMPT = 1.0  # seconds for such an answer
_PATIENCE = 5.0  # seconds for one look


class JournalDown(Exception):
    """The journal does not answer, since *since*; *last* is what was known before."""

    def __init__(self, why: str, since: datetime, last: Overview | None) -> None:
        super().__init__(why)
        self.why, self.since, self.last = why, since, last


class _Shared(Generic[FoundT]):
    """An answer of the journal that is good for two seconds: of all callers within them the first one looks."""

    def __init__(self, clock: Clock, look: Callable[[], Awaitable[FoundT]]) -> None:
        self._clock, self._look = clock, look
        self._one_looks = asyncio.Lock()
        self._at = float("-inf")
        self.last: FoundT | None = None

    async def get(self, *, fresh: bool = False) -> FoundT:
        """Return an answer that is at most two seconds old; *fresh*: one that was asked for after this call."""
        asked = self._clock.monotonic()
        async with self._one_looks:
            # Another caller may have looked while this one waited.
            if self.last is None or self._at < (asked if fresh else asked - _SHARED):
                self.last = await self._look()
                self._at = self._clock.monotonic()
            return self.last

    @property
    def is_old(self) -> bool:
        """Whether the next caller looks anew, and no caller looks now."""
        return not self._one_looks.locked() and self._at < self._clock.monotonic() - _SHARED

    def forget(self) -> None:
        """Let the next caller look anew."""
        self._at = float("-inf")


class Looking:
    """The last look."""

    def __init__(self, sagas: Sagas, clock: Clock) -> None:
        self._sagas, self._clock = sagas, clock
        self._down_since: datetime | None = None
        self._overview = _Shared(clock, self._answered(lambda asked: asked.overview()))
        self._activity = _Shared(clock, self._answered(lambda asked: asked.activity()))
        self._fates: dict[UUID, _Shared[Fates]] = {}  # by batch
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self._silent: Mapping[str, str] = {}  # why, by database

    @property
    def last(self) -> Overview | None:
        """What the journal said last; None: it has not answered yet."""
        return self._overview.last

    async def overview(self, *, fresh: bool = False) -> Overview:
        """Return what is unfinished, at most two seconds old unless *fresh*; raise `JournalDown`."""
        return await self._overview.get(fresh=fresh)

    async def activity(self) -> Activity:
        """Return what all processes did in the last hour, at most two seconds old; raise `JournalDown`."""
        return await self._activity.get()

    async def fates(self, batch: UUID) -> Fates:
        """Return how the sagas that *batch* has repaired stand, at most two seconds ago; raise `JournalDown`."""
        self._fates = {one: told for one, told in self._fates.items() if not told.is_old}
        if batch not in self._fates:
            self._fates[batch] = _Shared(self._clock, self._answered(lambda asked: asked.fates(batch)))
        return await self._fates[batch].get()

    async def silent(self, handles: Collection[AnyHandle]) -> Mapping[str, str]:
        """Return which databases do not answer, and why; they are asked at most every five seconds.

        One that takes longer than a second counts as silent.
        """
        asked = self._clock.monotonic()
        async with self._asking:
            if self._asked_at < asked - _ASKED:
                reasons = await asyncio.gather(*map(_why_silent, handles))
                self._silent = {
                    handle.name: why for handle, why in zip(handles, reasons, strict=True) if why is not None
                }
                self._asked_at = self._clock.monotonic()
            return self._silent

    def _answered(self, ask: Callable[[Inspector], Awaitable[FoundT]]) -> Callable[[], Awaitable[FoundT]]:
        async def look() -> FoundT:
            async with self.answering():
                return await ask(self._sagas.inspector())

        return look

    @asynccontextmanager
    async def answering(self, patience: float = _PATIENCE) -> AsyncIterator[None]:
        """Turn the errors of a journal that does not answer within the block into `JournalDown`."""
        try:
            async with asyncio.timeout(patience):
                yield
        except (TryAgain, SchemaMissing, SQLAlchemyError, OSError, TimeoutError) as error:
            self._down_since = self._down_since or self._clock.now()
            self._overview.forget()
            why = masked(said(error)) if str(error) else f"no answer within {patience:g} s"
            raise JournalDown(why, self._down_since, self.last) from error
        self._down_since = None


async def _why_silent(handle: AnyHandle) -> str | None:
    """Return why *handle* does not answer; None: it does, or has no free connection now."""
    try:
        await limited(handle.primary.ping(), _PROMPT)
    except TimeoutError:
        return f"nothing came within {_PROMPT:g} s"
    except DatabaseUnavailable as error:
        return words.short(masked(error.reason))
    except (ConfigurationError, TryAgain, OSError) as error:
        return words.short(masked(said(error)))
    except SQLAlchemyError:
        return None  # as for a health check: the pool is busy
    return None
