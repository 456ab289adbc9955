"""Moves starts from outboxes to the journal.

A database that takes part in no saga any more may still have starts of the former program, and so may that of the
journal, which needs no outbox. They are moved as well, if the program knows the saga's name: what another program
has written there is that program's.
"""

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from polysaga.errors import KeyReused, TryAgain
from polysaga.events import SagaStarted, StartParked
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.participants.outboxes import Outbox, Waiting, birth_of, is_there
from polysaga.sagas.process.loop import repeat
from polysaga.sagas.protocol.rows import Birth
from polysaga.texts import said

_BATCH = 100
_CLOCKS = 2 * 3600.0  # seconds by which the clocks of outbox, journal and processes may differ, all together
_RARELY = 30.0  # seconds between two looks for starts of a former program
_TOO_OLD = (
    "it has waited here for nearly as long as sagas are kept: the saga may have begun, ended and been removed; "
    "if it has not, start it again; then delete this row"
)


class Drain:
    """Moves the rows of one outbox into the journal; every process has a drain for each outbox."""

    def __init__(
        self, engine: Engine, outbox: Outbox, due: asyncio.Event, *, only: Collection[str] | None = None
    ) -> None:
        """Set *due* when the worker has something to do.

        *only*: no saga of this program writes to the outbox; starts of these names are moved, if there is one.
        """
        self._engine, self._outbox, self._due, self._only = engine, outbox, due, only

    async def run(self) -> None:
        """Drain until cancelled, four times per lease and at once after a commit in this process."""
        await repeat(self._engine, self._round, patience=self._engine.settings.lease, news=self._outbox.news)

    async def _round(self) -> float:
        soon = self._engine.settings.lease / 4
        if self._only is None:
            await self.drain()
            return soon
        return soon if await self._is_there() and await self.drain() else _RARELY

    async def _is_there(self) -> bool:
        try:
            return await is_there(self._outbox)
        except TryAgain:
            return False  # no saga needs the database

    async def drain(self) -> bool:
        """Move everything that is there now; return whether there was anything."""
        moved = False
        while True:
            now = self._engine.clock.now()  # read before the page, because this process may be frozen at any time
            page = await self._outbox.page(_BATCH, self._only)
            if page:
                await self._move(page, now + timedelta(seconds=self._engine.settings.retention - _CLOCKS))
                self._due.set()
                moved = True
            if len(page) < _BATCH:
                return moved

    async def _move(self, page: Sequence[Waiting], fence: datetime) -> None:
        """Move *page*; *fence* applies to a start that was committed just before the page was read."""
        births, bad = [], {}
        for waiting in page:
            try:
                births.append((birth_of(waiting), fence - timedelta(seconds=waiting.age)))
            except (ValueError, TypeError, KeyError) as error:
                bad[waiting.saga_id] = f"this start cannot be read: {said(error)}"
        bad |= await self._enlist(births)
        for waiting in page:
            if waiting.saga_id in bad:
                reason = bad[waiting.saga_id]
                await self._outbox.park(waiting.saga_id, reason)
                parked = StartParked(waiting.saga_id, waiting.name, self._outbox.database, reason)
                self._engine.emit(parked)
        moved = [waiting.saga_id for waiting in page if waiting.saga_id not in bad]
        if moved:
            await self._outbox.remove(moved)

    async def _enlist(self, births: Sequence[tuple[Birth, datetime]]) -> dict[UUID, str]:
        """Insert the journal rows; return the reason for each that has to stay."""
        if not births:
            return {}
        try:
            stand = await self._engine.journal.enlist_all(births)
        except DBAPIError as error:
            fault = self._engine.home_participant.fault(error)
            if fault is not None and fault.transient:
                raise
            if len(births) == 1:
                return {births[0][0].claim.saga_id: f"the journal refuses this start: {said(error)}"}
            found = [await self._enlist([birth]) for birth in births]
            return {saga_id: reason for one in found for saga_id, reason in one.items()}
        bad = {}
        for (birth, _), found_there in zip(births, stand, strict=True):
            if found_there is None:
                bad[birth.claim.saga_id] = _TOO_OLD
                continue
            inserted, digest = found_there
            if digest != birth.input_hash:
                bad[birth.claim.saga_id] = str(KeyReused(birth.name, birth.key or ""))
            else:
                self._engine.emit(SagaStarted(birth.claim.saga_id, birth.name, joined=not inserted))
        return bad
