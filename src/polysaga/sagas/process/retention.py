"""Removes sagas that have been at rest for long: ledger rows first, in every database, the journal row last.

A ledger row may be removed when it can no longer have to refuse anything. Its saga is at rest for good, and
ledgers accept nothing from an owner later than a day after the last renewal of its claim (`FENCE`). A late
`blocked` would stop the next saga with the same key, and a late compensation would undo it. The journal row is
removed last, because it leads to the others again after a crash.

Any number of workers may remove at once. While one of them is slow, another may remove the saga, and its key may
be used for a new saga with the same id. So only rows older than the fence are removed; the new saga has none
(`test_a_slow_remover_leaves_the_saga_that_took_the_same_key_alone`).

Workers do not agree on who removes what, because nothing may be locked while ledgers in other databases are
cleared. A worker takes the oldest sagas. If another one has taken the same, the slower waits statement by
statement, and finds less to remove than it took. For a while from then on it takes a random share of many more, so
that two workers seldom take the same.

A look begins ten minutes before the oldest saga that the last one found. So it does not read past all that stays
for long: sagas that are not at rest, and those of unknown names, of which there may be a million. A saga that took
longer to end may have its place before that. Once an hour a look begins at the oldest saga of all, and finds it.

Sagas whose name this process does not know stay, and so does the audit trail, which is short and is about people.
Sagas of a known name and an old version are removed from the ledgers that the program has now.
"""

import random
from collections.abc import Collection, Sequence
from math import inf
from typing import Any
from uuid import UUID

from polysaga.events import SagasRemoved
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.journal.paging import quoted
from polysaga.sagas.journal.tables import JOURNAL
from polysaga.sagas.participants.fence import FENCE
from polysaga.sagas.participants.removal import Removal

BATCH = 200  # sagas per transaction, about
_SHARES = 16  # batches among which each worker chooses
_SHARING = 50  # batches for which a worker shares once it has met another one
_AT_LEAST = 2  # batches below which there is nothing to share
_MARGIN = 600.0  # seconds that a look begins before the last one's oldest saga: most sagas end within them
_WHOLE = 3600.0  # seconds between two looks that begin at the oldest saga of all
_ALL = 100 * 365 * 86_400.0  # seconds; no saga is as old


class Retention:
    """Removes old sagas from one journal and its ledgers."""

    def __init__(self, engine: Engine, names: Collection[str]) -> None:
        self._engine, self._node = engine, engine.journal.node
        self._sharing = 0  # batches for which this worker leaves most of the oldest sagas to others
        self._looked_at = 0.0  # by the monotonic clock
        self._passed = 0.0  # seconds: then no saga older than that was to be removed
        self._whole_at = -inf  # when the next look begins at the oldest saga of all
        dialect = self._node.dialect
        old = f"wake_at IS NULL AND finished_at <= {dialect.ago(':age')}"
        # Uses the index on `created_at`: a saga that ended long ago began before.
        self._expired = dialect.render(
            f"SELECT id, {dialect.seconds_until('created_at')} FROM {JOURNAL} "
            f"WHERE created_at BETWEEN {dialect.ago(':oldest')} AND {dialect.ago(':age')} "
            f"AND {old} AND name IN ({quoted(names)}) ORDER BY created_at, id LIMIT :batch"
        )
        self._removal = Removal(dialect, JOURNAL, "id", old)

    async def sweep(self, batch: int = BATCH) -> int:
        """Remove about *batch* sagas that came to rest `sagas.retention` ago; return how many it took."""
        sharing = self._sharing > 0
        found = await self.expired(_SHARES * batch if sharing else batch)
        if sharing:
            found = a_share(found, batch)
        if found:
            removed = await self.remove(found)
            self._sharing = _SHARING if removed < len(found) else max(0, self._sharing - 1)
            if removed:
                self._engine.emit(SagasRemoved(removed))
        return len(found)

    async def expired(self, batch: int) -> Sequence[UUID]:
        """Return the ids of the oldest sagas that may be removed, the oldest first."""
        now, age = self._engine.clock.monotonic(), self._engine.settings.retention
        whole = now >= self._whole_at
        oldest = _ALL if whole else self._passed + (now - self._looked_at) + _MARGIN
        values = {"age": age, "oldest": oldest, "batch": batch}
        async with self._node.writer.connect() as connection:
            result = await connection.exec_driver_sql(self._expired.sql, self._expired.bind(values))
            found: Sequence[Any] = result.all()
        if whole:
            self._whole_at = now + _WHOLE
        self._looked_at, self._passed = now, -found[0][1] if found else age
        return [self._node.dialect.key_from(key) for key, _ in found]

    async def remove(self, saga_ids: Collection[UUID]) -> int:
        """Remove sagas, and return how many were there; after a crash in between, the next removal finds them."""
        for participant in self._engine.participants.values():
            await participant.remove(saga_ids, FENCE)
        async with self._node.writer.begin() as connection:
            return await self._removal.run(connection, saga_ids, {"age": self._engine.settings.retention})


def a_share(oldest: Sequence[UUID], batch: int) -> Sequence[UUID]:
    """Return a random share of *oldest*, of about *batch* ids; of fewer than two batches, the first *batch*.

    The last digits of an id are random in both kinds of ids, so shares of the same size do not overlap.
    """
    shares = len(oldest) // batch
    if shares < _AT_LEAST:
        return oldest[:batch]
    share = random.randrange(shares)
    return [saga_id for saga_id in oldest if saga_id.int % shares == share]
