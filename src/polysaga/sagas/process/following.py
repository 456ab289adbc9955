"""Sagas that another process drives: followed through the journal, and cancelled by claiming them."""

from collections.abc import Awaitable, Callable, Mapping
from itertools import chain
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from polysaga.errors import Busy, DatabaseUnavailable, OutcomePending, TooLate, UnknownSaga, UnknownVersion
from polysaga.events import SagaDecided
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.definition.payloads import decode
from polysaga.sagas.driving.attempts import Attempts
from polysaga.sagas.driving.progress import Asked
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.process.closing import Closing
from polysaga.sagas.process.looks import SharedLooks
from polysaga.sagas.process.loop import LONGEST_PAUSE, pauses
from polysaga.sagas.protocol.decisions import pivot_elsewhere
from polysaga.sagas.protocol.outcomes import cancelled, error_of
from polysaga.sagas.protocol.rows import Row, Standing
from polysaga.sagas.protocol.states import Mark, Status
from polysaga.sagas.protocol.verdicts import passes

TakeOver = Callable[[Row, Asked], None]


class Following:
    """The sagas of other processes, seen from this one."""

    def __init__(
        self, engine: Engine, definitions: Mapping[str, Definition], closing: Closing, take_over: TakeOver
    ) -> None:
        self._engine, self._definitions, self._closing = engine, definitions, closing  # by fingerprint
        self._take_over = take_over
        self._looks = SharedLooks(engine, self._passes)

    async def load(self, saga_id: UUID) -> Row | None:
        """Return the journal row; only the caller's time-out ends the wait for a database that is down."""
        return await self._patiently(lambda: self._engine.journal.load(saga_id))

    async def outcome(self, name: str, saga_id: UUID) -> Any:
        """Wait for the outcome of a saga: return its output, or raise its error.

        Its definition may be another one than the caller's: a key may have started an earlier version.
        """
        for pause in chain((0.0,), pauses()):
            row = await self._looks.after(pause, saga_id)
            if row is None:
                raise UnknownSaga(saga_id)
            definition = self._definitions.get(row.fingerprint)
            if definition is None:
                raise UnknownVersion(saga_id, row.name)
            include_in_bookmark(definition)
            if row.status in {Status.COMPLETED, Status.COMPLETING}:
                return _output(definition, row)
            if row.status in {Status.COMPENSATED, Status.NEEDS_ATTENTION}:
                raise error_of(definition, saga_id, row.status, row.error)
            if self._closing.is_over:
                raise OutcomePending(saga_id, name)
        raise AssertionError("unreachable")

    async def cancel(self, saga_id: UUID, owner: UUID, why: str) -> bool:
        """Return whether a saga is certain to be undone; if it is running, claim it as *owner*, and ask again."""
        row = await self.load(saga_id)
        if row is None:
            raise UnknownSaga(saga_id)
        definition = self._definitions.get(row.fingerprint)
        if definition is None:
            raise UnknownVersion(saga_id, row.name)
        match row.status:
            case Status.COMPLETING | Status.COMPLETED:
                raise TooLate(saga_id, row.name, row.status.value)
            case Status.NEEDS_ATTENTION:
                raise error_of(definition, saga_id, row.status, row.error)
            case Status.COMPENSATED:
                return True
            case Status.COMPENSATING:
                return await self._is_blocked(definition, saga_id)
        if self._closing.begun:
            raise Busy(0, 0.0)
        reason, asked = cancelled(why).reason(), Asked.now(self._engine.clock)
        taken = await self._patiently(lambda: self._engine.journal.cancel(saga_id, owner, reason))
        if taken is not None and not self._closing.begun:
            self._engine.emit(SagaDecided(saga_id, row.name, taken.status.value, why))
            self._take_over(taken, asked)
        return False

    async def _is_blocked(self, definition: Definition, saga_id: UUID) -> bool:
        """Return whether the pivot of a saga that is being undone can no longer commit."""
        engine = self._engine
        pivot = pivot_elsewhere(definition, engine.journal.node.database)
        if pivot is None:
            return True
        assert pivot.database_name is not None, "a step without a database does not decide"
        participant = engine.participants[pivot.database_name]
        attempts = Attempts(saga_id, definition.name, engine.clock, engine.emit, engine.timeouts)
        found = await attempts.persist(lambda: participant.look(saga_id, [pivot.name]), participant.fault)
        row = found.get(pivot.name)
        return row is not None and row.state is not Mark.DONE

    async def _patiently(self, ask: Callable[[], Awaitable[Row | None]]) -> Row | None:
        """Ask the journal; only the caller's time-out ends the wait for a database that is down."""
        while True:
            try:
                return await ask()
            except (DBAPIError, PoolTimeout, DatabaseUnavailable) as error:
                if not self._passes(error):
                    raise
            await self._engine.clock.sleep(LONGEST_PAUSE)

    def _passes(self, error: BaseException) -> bool:
        """Return whether to ask the journal again after *error*."""
        return not self._closing.is_over and passes(error, self._engine.home_participant.fault(error))


def include_in_bookmark(definition: Definition) -> None:
    """Make later reads of the caller's scope see what the saga has written so far."""
    for database in definition.databases:
        database.wrote()


def _output(definition: Definition, row: Standing) -> Any:
    decision = definition.decision
    if decision is None:
        return None
    return decode(decision.result, row.results[decision.name], what=f"the output of saga '{row.name}'")
