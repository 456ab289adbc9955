"""What the journal and the ledgers may not say about one saga, as a pure function.

There are two kinds of rules. A saga at rest has one right set of rows. Completed means that every step is done;
compensated means that no step is done and none can happen any more. For a saga under way, only invariants are
compared: a row once written stays, and `done` may become `compensated` and nothing else. The pivot is blocked
before anything is undone, and no step begins before the ones it follows. So a saga in flight is never a
contradiction, however far it is. Two databases read at two moments can still look like one, so
`operations/verification.py` looks twice.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.protocol.decisions import fused_first
from polysaga.sagas.protocol.states import Mark, Status


class ContradictionKind(StrEnum):
    """What is wrong; the values are stable names for machines."""

    MISSING_STEP = "missing-step"  # completed, but a step has no record
    UNDONE_STEP = "undone-step"  # completed, but a step was undone or blocked
    LASTING_EFFECT = "lasting-effect"  # compensated, but a step is still done
    OPEN_STEP = "open-step"  # compensated, but nothing keeps a late step from happening
    NO_JOURNAL_ROW = "no-journal-row"  # a ledger knows a saga that the journal does not
    WRONG_RESULT = "wrong-result"  # the journal's copy of a result is missing or different
    UNDONE_BEHIND_DECISION = "undone-behind-decision"  # the pivot is done, another step undone
    OUT_OF_ORDER = "out-of-order"  # a step is done, but one that it follows is not
    UNKNOWN_STEP = "unknown-step"  # the saga's definition has no such step
    STRANDED = "stranded"  # unfinished, and no process has claimed it
    PARKED_START = "parked-start"  # committed with a transaction, but it cannot be moved to the journal
    WAITING_START = "waiting-start"  # committed with a transaction, but no process has moved it to the journal


@dataclass(frozen=True, slots=True)
class Contradiction:
    """One fact on which the journal, the ledgers or an outbox disagree.

    *status* is None without a journal row; so is *saga*, unless an outbox names it.
    """

    kind: ContradictionKind
    saga_id: UUID
    saga: str | None
    status: Status | None
    step: str | None
    database: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Account:
    """What the journal says about one saga."""

    saga_id: UUID
    name: str
    version: int
    fingerprint: str
    status: Status
    results: Mapping[str, str]
    overdue: bool  # unfinished, and its claim ran out many leases ago
    resolved: bool  # ended by a person: steps that had not happened by then are blocked
    expired: bool  # being removed, ledger rows first
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What one ledger says about one step."""

    saga_id: UUID
    database: str
    step: str
    state: Mark
    result: str | None


def contradictions(
    account: Account | None, records: Sequence[Record], definition: Definition | None, *, home: str
) -> Iterator[Contradiction]:
    """Yield every contradiction about one saga.

    *home* names the journal's database. Without *definition* (another version of the program has it), only the
    rules that hold for every saga are checked.
    """
    if account is None:
        for record in records:
            detail = f"step '{record.step}' is {record.state}, but the journal does not know the saga"
            yield _about_record(ContradictionKind.NO_JOURNAL_ROW, None, record, detail)
        return
    case = _Comparison(account, {record.step: record for record in records}, home)
    yield from case.of_every_saga()
    if definition is not None:
        yield from case.of_this_saga(definition)


class _Comparison:
    """One saga with its journal account and its ledger records."""

    def __init__(self, account: Account, records: Mapping[str, Record], home: str) -> None:
        self.account, self.records, self.home = account, records, home

    def of_every_saga(self) -> Iterator[Contradiction]:
        status = self.account.status
        if status is Status.COMPLETED:
            undone = (Mark.COMPENSATED,) if self.account.resolved else (Mark.BLOCKED, Mark.COMPENSATED)
            for record in self._in_state(*undone):
                detail = f"the saga is completed, but step '{record.step}' is {record.state}"
                yield _about_record(ContradictionKind.UNDONE_STEP, self.account, record, detail)
        if status is Status.COMPENSATED:
            for record in self._in_state(Mark.DONE):
                detail = f"the saga is compensated, but step '{record.step}' is still done"
                yield _about_record(ContradictionKind.LASTING_EFFECT, self.account, record, detail)
        if self.account.overdue:
            detail = f"{status}, and for many leases no process has come for it"
            yield self._about(ContradictionKind.STRANDED, None, detail)

    def of_this_saga(self, definition: Definition) -> Iterator[Contradiction]:
        for step in self.records.keys() - definition.by_name.keys():
            detail = f"the definition of '{definition.name}' has no step '{step}'"
            yield _about_record(ContradictionKind.UNKNOWN_STEP, self.account, self.records[step], detail)
        yield from self._wrong_results(definition)
        match self.account.status:
            case Status.COMPLETED | Status.COMPENSATED if self.account.expired:
                return
            case Status.COMPLETED:
                yield from self._missing(definition)
            case Status.COMPENSATED:
                yield from self._open(definition)
            case _:
                yield from self._disorder(definition)

    def _wrong_results(self, definition: Definition) -> Iterator[Contradiction]:
        decision, status = definition.decision, self.account.status
        if decision is None:
            return
        told, record = self.account.results.get(decision.name), self.records.get(decision.name)
        at_home = decision.database_name == self.home
        if told is None:
            if status is Status.COMPLETED or (status is Status.COMPLETING and at_home):
                detail = f"the journal lacks the result of step '{decision.name}', which decides the saga"
                yield self._about(ContradictionKind.WRONG_RESULT, decision, detail)
        elif record is not None and record.state is Mark.DONE and not _same(told, record.result):
            detail = f"the journal and the ledger have different results of step '{decision.name}'"
            yield _about_record(ContradictionKind.WRONG_RESULT, self.account, record, detail)

    def _missing(self, definition: Definition) -> Iterator[Contradiction]:
        for step in definition.steps:
            # `_wrong_results` checks the result of the decision.
            if step.name not in self.records and not self._kept_in_journal(definition, step):
                detail = f"the saga is completed, but step '{step.name}' has no record"
                yield self._about(ContradictionKind.MISSING_STEP, step, detail)

    def _open(self, definition: Definition) -> Iterator[Contradiction]:
        first = fused_first(definition, self.home)
        if first is not None and first not in self.account.results and not self.records:
            return  # refused in its fused first step: nothing else ever began
        for step in definition.steps:
            stoppable = step is definition.decision or step.name in definition.undoable
            if stoppable and step.name not in self.records and not self._kept_in_journal(definition, step):
                detail = f"the saga is compensated, but no ledger row keeps step '{step.name}' from happening"
                yield self._about(ContradictionKind.OPEN_STEP, step, detail)

    def _disorder(self, definition: Definition) -> Iterator[Contradiction]:
        """Yield what is impossible at any moment of a saga under way."""
        decision = definition.decision
        if decision is not None and self._done(definition, decision):
            for record in self._in_state(Mark.BLOCKED, Mark.COMPENSATED):
                detail = f"step '{decision.name}' has decided the saga, but step '{record.step}' is {record.state}"
                yield _about_record(ContradictionKind.UNDONE_BEHIND_DECISION, self.account, record, detail)
        for record in self._in_state(Mark.DONE):
            for earlier in sorted(definition.before.get(record.step, ())):
                if not self._done(definition, definition.by_name[earlier]):
                    detail = f"step '{record.step}' is done, but step '{earlier}', which it follows, is not"
                    yield _about_record(ContradictionKind.OUT_OF_ORDER, self.account, record, detail)

    def _done(self, definition: Definition, step: AnyStep) -> bool:
        if self._kept_in_journal(definition, step):
            return step.name in self.account.results
        return step.name in self.records and self.records[step.name].state is Mark.DONE

    def _kept_in_journal(self, definition: Definition, step: AnyStep) -> bool:
        """Return whether the journal row is the record of *step*, which then has no ledger row.

        A saga that began in a caller's transaction has a journal row that was inserted without the first step.
        """
        if step is definition.decision and step.database_name == self.home:
            return True
        return step.name == fused_first(definition, self.home) and step.name in self.account.results

    def _in_state(self, *states: Mark) -> list[Record]:
        return [record for _, record in sorted(self.records.items()) if record.state in states]

    def _about(self, kind: ContradictionKind, step: AnyStep | None, detail: str) -> Contradiction:
        account = self.account
        name, database = (None, None) if step is None else (step.name, step.database_name)
        return Contradiction(kind, account.saga_id, account.name, account.status, name, database, detail)


def stuck_start(saga_id: UUID, saga: str, database: str, error: str | None) -> Contradiction:
    """Return the contradiction of a start that stays in the outbox of *database*; *error*: why it is parked."""
    if error is None:
        kind = ContradictionKind.WAITING_START
        detail = (
            "it was committed, but for many leases no process has moved it from polysaga_outbox to the journal; "
            "let one run that reaches both databases"
        )
    else:
        kind = ContradictionKind.PARKED_START
        detail = (
            f"it was committed, but cannot start: {error}; "
            "once that is seen to, delete this row of polysaga_outbox"
        )
    return Contradiction(kind, saga_id, saga, None, None, database, detail)


def _about_record(kind: ContradictionKind, account: Account | None, record: Record, detail: str) -> Contradiction:
    name, status = (None, None) if account is None else (account.name, account.status)
    return Contradiction(kind, record.saga_id, name, status, record.step, record.database, detail)


def _same(told: str, recorded: str | None) -> bool:
    return told == recorded or _value(told) == _value(recorded or "null")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
