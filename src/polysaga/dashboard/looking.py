"""One look at the journal for all viewers of this process.

Pages and streams that want the overview within two seconds share one query. If the journal does not answer, every
page says so from memory, and the next look finds out by itself when it is back.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from polysaga.clock import Clock
from polysaga.config import masked
from polysaga.databases import AnyHandle
from polysaga.errors import TryAgain
from polysaga.limits import limited
from polysaga.routing.health import state_of
from polysaga.sagas import Activity, Fates, Overview, Sagas
from polysaga.texts import said

_SHARED = 2.0  # seconds that a look is good for
_ASKED = 5.0  # seconds that it is remembered which databases answer
_PROMPT = 1.0  # seconds for such an answer
_PATIENCE = 5.0  # seconds for one look


class JournalDown(Exception):
    """The journal does not answer, since *since*; *last* is what was known before."""

    def __init__(self, why: str, since: datetime, last: Overview | None) -> None:
        super().__init__(why)
        self.why, self.since, self.last = why, since, last


class Looking:
    """The last look."""

    def __init__(self, sagas: Sagas, clock: Clock) -> None:
        self._sagas, self._clock = sagas, clock
        self._lock = asyncio.Lock()
        self._at = float("-inf")
        self._down_since: datetime | None = None
        self.last: Overview | None = None
        self._activity: Activity | None = None
        self._activity_at = float("-inf")
        self._fates: dict[UUID, tuple[float, Fates]] = {}  # when, and what, by batch
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self._silent: frozenset[str] = frozenset()

    async def overview(self, *, fresh: bool = False) -> Overview:
        """Return what is unfinished, at most two seconds old unless *fresh*; raise `JournalDown`."""
        asked = self._clock.monotonic()
        async with self._lock:
            # Another caller may have looked while this one waited.
            good = asked if fresh else asked - _SHARED
            if self.last is None or self._at < good:
                async with self.answering():
                    self.last = await self._sagas.inspector().overview()
                self._at = self._clock.monotonic()
            return self.last

    async def activity(self) -> Activity:
        """Return what all processes did in the last hour, at most two seconds old; raise `JournalDown`."""
        asked = self._clock.monotonic()
        async with self._lock:
            if self._activity is None or self._activity_at < asked - _SHARED:
                async with self.answering():
                    self._activity = await self._sagas.inspector().activity()
                self._activity_at = self._clock.monotonic()
            return self._activity

    async def fates(self, batch: UUID) -> Fates:
        """Return how the sagas that *batch* has repaired stand, at most two seconds ago; raise `JournalDown`."""
        asked = self._clock.monotonic()
        async with self._lock:
            self._fates = {one: told for one, told in self._fates.items() if told[0] >= asked - _SHARED}
            if batch not in self._fates:
                async with self.answering():
                    found = await self._sagas.inspector().fates(batch)
                self._fates[batch] = self._clock.monotonic(), found
            return self._fates[batch][1]

    async def silent(self, handles: Collection[AnyHandle]) -> frozenset[str]:
        """Return the names of the databases that do not answer; they are asked at most every five seconds.

        One that takes longer than a second counts as silent.
        """
        asked = self._clock.monotonic()
        async with self._asking:
            if self._asked_at < asked - _ASKED:
                answers = await asyncio.gather(*(self._answers(handle) for handle in handles))
                self._silent = frozenset(
                    handle.name for handle, answer in zip(handles, answers, strict=True) if not answer
                )
                self._asked_at = self._clock.monotonic()
            return self._silent

    async def _answers(self, handle: AnyHandle) -> bool:
        try:
            return await limited(state_of(handle), _PROMPT) != "unreachable"
        except (TimeoutError, TryAgain, SQLAlchemyError, OSError):
            return False

    @asynccontextmanager
    async def answering(self, patience: float = _PATIENCE) -> AsyncIterator[None]:
        """Turn the errors of a journal that does not answer within the block into `JournalDown`."""
        try:
            async with asyncio.timeout(patience):
                yield
        except (TryAgain, SQLAlchemyError, OSError, TimeoutError) as error:
            self._down_since = self._down_since or self._clock.now()
            self._at = float("-inf")
            why = masked(said(error)) if str(error) else f"no answer within {patience:g} s"
            raise JournalDown(why, self._down_since, self.last) from error
        self._down_since = None
