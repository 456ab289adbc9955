"""The recovery loop: renews the claims of this process and takes over sagas that other processes left behind.

The journal row alone says which process may drive a saga. The process that starts or claims a saga holds it until
the lease in `wake_at` runs out, by the database's clock. Each tick renews, in one statement, the claims that are a
third of a lease old, and claims overdue sagas in one bounded batch. A claim is trusted from before the renewing
statement was sent, so a slow reply shortens the trust and never stretches it. A tick has a connection of its own
(`SqlNode.reserved`): the sagas and the program's sessions may use up the pool, and their claims are still renewed.

A tick looks only for sagas that have become due since the last look, and ten seconds before it: it reads little,
whatever stands in the index before them. So it misses no saga whose commit is visible five seconds after it became
due, if the look itself begins in less than five; otherwise the next look is for all. The worker looks for all
overdue sagas at the start, once a minute, when it hears of work, after a full batch, and if its last look is more
than a lease ago: the process was frozen, the journal was down, or there was no room. The minute's look finds a
start whose transaction committed long after its insert, a row that another claim had locked and then rolled back,
and sagas that became due while the database's clock jumped.

The worker does not renew the claim of a saga whose step hangs although it was cancelled again and again. The claim
runs out, and another process or this one begins the step anew; the ledger refuses a late first run. A start that
hangs has no claim yet: its caller gets `OutcomePending` and may repeat it under its key.

The worker claims no more overdue sagas than the databases can carry (`driving/gates.py`), and claims again when
half of that is done. Hundreds of sagas at once would only wait for each other, and for the next owner. So other
processes get their share.

A process that was frozen finds its claims gone at the next tick and stops; the ledger refuses what it had on the
way to a database (`test_a_frozen_owner_that_wakes_up_changes_nothing`). On SIGTERM the process hands its claims
back at once (`LocalRunner.drain`). After kill -9 they run out, and another process, or the same one started
again, goes on within a lease and a tick.

The owner enforces a deadline with a timer; no SQL is involved. If the owner is frozen, another process claims
the saga one lease after its deadline. A saga claimed past its deadline is claimed as `compensating`: claim and
decision are one write. If only a ledger knows that the pivot committed, the new owner finds it done and goes
forward, without a deadline. If the database's clock is put back, claims and pauses last for that long. A claim
or pause that ends twice as far ahead as any can counts as overdue.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from uuid import UUID

from polysaga.events import SagaNotKnown, WorkerTicked
from polysaga.sagas.driving.execution import Execution
from polysaga.sagas.driving.progress import Asked
from polysaga.sagas.journal.claims import Pick
from polysaga.sagas.process.loop import repeat
from polysaga.sagas.process.retention import BATCH, Retention
from polysaga.sagas.process.runner import LocalRunner
from polysaga.sagas.protocol.rows import NOBODY

_TICKS_PER_LEASE = 4
_AT_LEAST = 10  # one saga of so many in a batch is taken over although the databases are busy
_RARELY = 60.0  # seconds between two looks for unknown definitions and a clock that was put back
_REMOVAL = 60.0  # seconds that the removal of one batch may take
_SLACK = 5.0  # seconds for the commit of a saga that is due, and again for a look to begin


class Worker:
    """One per process."""

    def __init__(self, runner: LocalRunner) -> None:
        self._engine, self._runner = runner.engine, runner
        self._rarely_at = self._at_least_at = 0.0
        self._looked_at = -inf  # by the monotonic clock: before the last look that left no saga overdue
        self._retention = Retention(runner.engine, runner.names)
        self._strangers: set[UUID] = set()

    async def run(self) -> None:
        """Tick until cancelled, and remove old sagas beside it; the next round follows also after a failure."""
        engine = self._engine
        async with asyncio.TaskGroup() as rounds:
            lease, due = engine.settings.lease, self._runner.due
            rounds.create_task(repeat(engine, self._tick, patience=lease, news=due, hear=self._hear))
            # Not in the first tick of every new process.
            await engine.clock.sleep(_RARELY * random.random())
            rounds.create_task(repeat(engine, self._remove_old, patience=_REMOVAL))

    async def _tick(self) -> float:
        await self.tick()
        return self._engine.settings.lease / _TICKS_PER_LEASE

    async def _remove_old(self) -> float:
        return 0.0 if await self._retention.sweep() >= BATCH / 2 else _RARELY

    async def tick(self) -> None:
        """Do one round: renew, claim, look for sagas without a definition here."""
        began = self._engine.clock.monotonic()
        renewed = await self._renew()
        now = self._engine.clock.monotonic()
        rarely = now >= self._rarely_at
        lately = now - self._looked_at <= self._engine.settings.lease
        few = self._few(now)
        claimed = await self._claim(Pick.JUST_DUE if lately and not rarely else Pick.DUE, few)
        if self._runner.has_deadlines:
            claimed += await self._claim(Pick.LATE, few)
        if rarely:
            self._rarely_at = now + _RARELY
            claimed += await self._claim(Pick.CLOCK_SET_BACK, few)
            await self._report_strangers()
        seconds = self._engine.clock.monotonic() - began
        self._engine.emit(WorkerTicked(renewed, claimed, len(self._runner.executions), seconds))

    def _hear(self) -> None:
        self._looked_at = -inf

    async def _renew(self) -> int:
        clock, lease = self._engine.clock, self._engine.settings.lease
        asked, hanging = Asked.now(clock), self._engine.timeouts.hanging()
        if hanging:
            self._runner.let_begin_anew(hanging)
        ageing = [
            execution
            for execution in self._runner.executions.values()
            if execution.holds_claim
            and asked.monotonic - execution.renewed_at > lease / 3
            and not (hanging and execution.hangs(hanging))
        ]
        if not ageing:
            return 0
        held = [(execution.progress.claim, execution.attempts.history) for execution in ageing]
        ours = await self._engine.journal.renew(held)
        refused = []
        for execution in ageing:
            if execution.progress.saga_id in ours:
                execution.renew(asked)
            else:
                refused.append(execution)
        if refused:
            await self._abandon_lost(refused)
        return len(ours)

    async def _abandon_lost(self, refused: Sequence[Execution]) -> None:
        """Abandon the sagas among *refused* whose claim is lost; the others have come to rest."""
        ids = [execution.progress.saga_id for execution in refused]
        found = await self._engine.journal.standings(ids, reserved=True)
        for execution in refused:
            saga_id, claim = execution.progress.saga_id, execution.progress.claim
            ended = self._runner.executions.get(saga_id) is not execution
            standing = found.get(saga_id)
            at_rest = standing is not None and standing.claim in {claim, replace(claim, owner=NOBODY)}
            if not ended and not at_rest:
                self._runner.abandon(execution)

    async def _claim(self, pick: Pick, at_least: int) -> int:
        most, room = min(self._engine.settings.claim_batch, self._runner.free), self._runner.room
        batch = max(min(most, max(room, at_least)), 0)
        asked = Asked.now(self._engine.clock)
        window = asked.monotonic - self._looked_at + 2 * _SLACK
        rows = await self._engine.journal.claim(batch, pick, window=window) if batch else []
        if pick in {Pick.DUE, Pick.JUST_DUE}:
            late = pick is Pick.JUST_DUE and self._engine.clock.monotonic() - asked.monotonic > _SLACK
            self._looked_at = -inf if late or len(rows) == batch else asked.monotonic
        for row in rows:
            self._runner.take_over(row, asked)
        if len(rows) == batch:
            self._runner.claim_more()  # there may be more
        return len(rows)

    def _few(self, now: float) -> int:
        """Return how many sagas to claim in any case: one busy database must not hold up the sagas of the others.

        Zero if news has brought the tick forward: it may do so many times a second.
        """
        if now < self._at_least_at:
            return 0
        self._at_least_at = now + self._engine.settings.lease / _TICKS_PER_LEASE / 2
        return 1 + self._engine.settings.claim_batch // _AT_LEAST

    async def _report_strangers(self) -> None:
        for saga_id, name, version in await self._engine.journal.strangers(batch=100):
            if saga_id not in self._strangers:
                self._strangers.add(saga_id)
                self._engine.emit(SagaNotKnown(saga_id, name, version))
