"""Compares the journal with all ledgers and outboxes. It only reads, and the program may run meanwhile.

The databases have no common snapshot, so a first mismatch is only a suspicion. The verifier reads a suspect saga
again: its ledger rows, then its journal row, then its ledger rows once more. It reports what both readings of
the ledgers contradict. Nothing needs to stop for that, because the compared rows are written in one order and
stay. A ledger row comes after the journal's start and before its final status, and retention removes it before
the journal row. A row that was there before and after the reading of the journal must be known to the journal. A
row that a final status requires must be there afterwards (`test_verify_raises_no_false_alarm_while_sagas_run`).

A start that was committed and stays in its outbox, parked or for longer than any process takes, is reported as
well.

All sides are read in the order of the ids and compared window by window, so memory is bounded by the size of a
page.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.journal.paging import instant
from polysaga.sagas.operations.pages import JournalSurvey
from polysaga.sagas.participants import Participant
from polysaga.sagas.participants.outboxes import Outbox
from polysaga.sagas.protocol.contradictions import Account, Contradiction, Record, contradictions
from polysaga.sagas.protocol.states import Status

LATE = 10  # leases after which an unfinished saga counts as stranded

_SAGAS = 500  # per page of the journal
_ROWS = 4000  # per page of a ledger: more than one saga has steps
_FIRST, _LAST = UUID(int=0), UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared and what does not fit. Parked sagas are counted; they are no contradiction."""

    sagas: Mapping[Status, int]
    rows: Mapping[str, int]  # ledger rows by database
    strangers: int  # sagas of which this program has no definition: compared as far as possible
    contradictions: Sequence[Contradiction]
    complete: bool  # False if it ended at the limit, before the last saga

    @property
    def clean(self) -> bool:
        """Return whether everything fits."""
        return not self.contradictions


@dataclass(slots=True)
class _VerificationTally:
    sagas: Counter[Status] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    strangers: int = 0
    found: list[Contradiction] = field(default_factory=list)


class Verifier:
    """Compares one journal with the ledgers of *participants* and *outboxes*; *definitions* are by fingerprint.

    A start that has waited in an outbox for more than *patience* seconds is one that no process moves.
    """

    def __init__(
        self,
        journal: JournalSurvey,
        participants: Mapping[str, Participant],
        definitions: Mapping[str, Definition],
        outboxes: Collection[Outbox],
        *,
        patience: float,
    ) -> None:
        self._journal, self._participants, self._definitions = journal, participants, definitions
        self._outboxes, self._patience = outboxes, patience

    async def verify(
        self,
        *,
        limit: int,
        watch: Callable[[int], None],
        expect: Callable[[int], None] = lambda _: None,
        since: datetime | None = None,
    ) -> Verification:
        """Compare everything, or the sagas that began *since*; stop after *limit* contradictions.

        *watch* gets the number of sagas so far, and *expect*, once, how many there are.
        """
        if since is not None:
            instant(since, "since")
        expect(await self._journal.count(since))
        tally = _VerificationTally(rows=Counter(dict.fromkeys(self._participants, 0)))
        for outbox in self._outboxes:
            tally.found += await outbox.stuck(self._patience, limit + 1)
        complete = False
        async with aclosing(
            self._windows(tally) if since is None else self._windows_since(since, tally)
        ) as windows:
            while not complete and len(tally.found) < limit:
                complete = await anext(windows)
                watch(sum(tally.sagas.values()))
        return Verification(
            {status: tally.sagas[status] for status in Status},
            dict(tally.rows),
            tally.strangers,
            tuple(tally.found[:limit]),
            complete and len(tally.found) <= limit,
        )

    async def _windows(self, tally: _VerificationTally) -> AsyncGenerator[bool, None]:
        """Compare one window after the other, and yield whether it was the last."""
        after = _FIRST
        while after != _LAST:
            after = await self._window(after, tally)
            yield after == _LAST

    async def _windows_since(self, since: datetime, tally: _VerificationTally) -> AsyncGenerator[bool, None]:
        """Do the same for the sagas that began *since*, found by their age; ledger rows without a saga are not."""
        after: tuple[datetime, UUID] | None = None
        while True:
            accounts = await self._journal.begun(since, after, _SAGAS)
            ids = [account.saga_id for account in accounts]
            rows = _by_saga([row for ledger in self._participants.values() for row in await ledger.records(ids)])
            for account in accounts:
                self._count(account, rows[account.saga_id], tally)
                if self._compare(account, rows[account.saga_id]):
                    tally.found.extend(await self._look_again(account.saga_id))
            yield len(accounts) < _SAGAS
            assert accounts[-1].created_at is not None
            after = accounts[-1].created_at, accounts[-1].saga_id

    async def _window(self, after: UUID, tally: _VerificationTally) -> UUID:
        """Compare the sagas that follow *after*, as many as fit into a page everywhere; return the last id."""
        accounts = await self._journal.page(after, _LAST, _SAGAS)
        upto = accounts[-1].saga_id if len(accounts) == _SAGAS else _LAST
        records: list[Record] = []
        for ledger in self._participants.values():
            page = await ledger.page(after, upto, _ROWS)
            if len(page) == _ROWS:
                # A full page may end in the middle of a saga.
                upto = UUID(int=page[-1].saga_id.int - 1)
            records.extend(page)
        by_id = {account.saga_id: account for account in accounts if account.saga_id <= upto}
        rows = _by_saga(record for record in records if record.saga_id <= upto)
        for saga_id in sorted(by_id.keys() | rows.keys()):
            account = by_id.get(saga_id)
            self._count(account, rows[saga_id], tally)
            if self._compare(account, rows[saga_id]):
                tally.found.extend(await self._look_again(saga_id))
        return upto

    async def _look_again(self, saga_id: UUID) -> list[Contradiction]:
        just_before = UUID(int=saga_id.int - 1)
        earlier = await self._records(just_before, saga_id)
        account = next(iter(await self._journal.page(just_before, saga_id, 1)), None)
        later = await self._records(just_before, saga_id)
        before = set(self._compare(account, earlier))
        return [one for one in self._compare(account, later) if one in before]

    async def _records(self, after: UUID, upto: UUID) -> list[Record]:
        return [
            record for ledger in self._participants.values() for record in await ledger.page(after, upto, _ROWS)
        ]

    def _compare(self, account: Account | None, records: Sequence[Record]) -> list[Contradiction]:
        definition = None if account is None else self._definitions.get(account.fingerprint)
        return list(contradictions(account, records, definition, home=self._journal.node.database))

    def _count(self, account: Account | None, records: Sequence[Record], tally: _VerificationTally) -> None:
        tally.rows.update(record.database for record in records)
        if account is not None:
            tally.sagas[account.status] += 1
            tally.strangers += account.fingerprint not in self._definitions


def _by_saga(records: Iterable[Record]) -> defaultdict[UUID, list[Record]]:
    found: defaultdict[UUID, list[Record]] = defaultdict(list)
    for record in records:
        found[record.saga_id].append(record)
    return found
