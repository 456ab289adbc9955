"""What this process knows about one saga. It may be lost at any moment: the databases know the same.

Steps, calls and announcements read it. Only the execution applies facts, and notes that the claim was prolonged
(`tests/architecture/test_flow.py`).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from polysaga.clock import Clock
from polysaga.frozen import frozen
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.values import SagaValues
from polysaga.sagas.participants import Entry
from polysaga.sagas.participants.fence import FENCE
from polysaga.sagas.protocol.decisions import fused_first
from polysaga.sagas.protocol.known import Fact, Known, apply
from polysaga.sagas.protocol.reasons import HistoryEntry
from polysaga.sagas.protocol.rows import Birth, Claim, Ending
from polysaga.sagas.protocol.states import Mark, Status


@frozen
class Asked:
    """When a claim was asked for, or its renewal: read before the statement is sent.

    A process may be frozen until long after the answer has arrived. A time that it reads then would make a claim
    valid that ran out meanwhile, and put the fence behind the removal of the ledger's rows.
    """

    monotonic: float
    wall: datetime

    @classmethod
    def now(cls, clock: Clock) -> "Asked":
        """Return the readings of *clock*."""
        return cls(clock.monotonic(), clock.now())


class Progress:
    """One saga in the hands of its owner: what it is, what is known of it, and the claim on it."""

    def __init__(self, definition: Definition, birth: Birth, asked: Asked, *, home: str, limit: int) -> None:
        self.definition, self.birth = definition, birth
        self.claim: Claim = birth.claim
        self.saga_id: UUID = birth.claim.saga_id
        self.home = home  # the name of the journal's database
        self.known = Known(birth.status, {}, reason=birth.error)
        self.values = SagaValues(definition, birth, limit=limit)
        self.asked = asked  # before the claim was made, or last prolonged

    def learn(self, fact: Fact) -> None:
        """Apply *fact*."""
        self.values.keep(fact)
        self.known = apply(self.definition, self.known, fact)

    @property
    def fused(self) -> str | None:
        """The name of the first step if it committed with the journal row."""
        return None if self.known.born_alone else fused_first(self.definition, self.home)

    @property
    def undoes_fused(self) -> bool:
        """Whether the final status must undo the fused first step; a person may have undone it by hand."""
        fused = self.fused
        if fused is None or fused not in self.definition.undoable:
            return False
        return self.known.marks.get(fused) is not Mark.COMPENSATED

    def ends_with(self, step: AnyStep) -> bool:
        """Return whether only *step* is missing for the saga to be completed."""
        marks = self.known.marks
        return all(marks.get(other.name) is Mark.DONE for other in self.definition.steps if other is not step)

    def journaled(self, **more: str) -> Mapping[str, str]:
        """Return the results that the journal keeps: of the fused first step and of the decision."""
        decision = self.definition.decision
        names = frozenset({self.fused, decision.name if decision else None})
        return {**self.values.texts_of(names), **more}

    def ending(self, expected: Status, status: Status, history: Sequence[HistoryEntry], **results: str) -> Ending:
        """Return the finishing write from *expected* to *status*."""
        return Ending(self.claim, expected, status, self.journaled(**results), history)

    def entry(self, step: AnyStep) -> Entry:
        """Return what the ledger row of *step* says."""
        return Entry(self.saga_id, step.name, self.claim.epoch, self.not_after)

    @property
    def not_after(self) -> datetime:
        """Ledgers refuse this owner's rows from then on."""
        return self.asked.wall + FENCE

    def place(self, step: AnyStep) -> str:
        """Return the name of the database that has the record of *step*."""
        return step.database_name or self.home
