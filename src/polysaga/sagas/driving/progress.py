"""What this process knows about one saga. It may be lost at any moment: the databases know the same.

Steps, calls and announcements read it. Only the execution applies facts, and notes that the claim was prolonged
(`tests/architecture/test_flow.py`).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.driving.values import SagaValues
from polysaga.sagas.participants import Entry
from polysaga.sagas.protocol.decisions import fused_first
from polysaga.sagas.protocol.known import Fact, Known, apply
from polysaga.sagas.protocol.reasons import Attempt
from polysaga.sagas.protocol.rows import Birth, Claim, Ending
from polysaga.sagas.protocol.states import Mark, Status

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Progress:
    """One saga in the hands of its owner: what it is, what is known of it, and the claim on it."""

    def __init__(self, definition: Definition, birth: Birth, *, home: str, limit: int) -> None:
        self.definition, self.birth = definition, birth
        self.claim: Claim = birth.claim
        self.saga_id: UUID = birth.claim.saga_id
        self.home = home  # the name of the journal's database
        self.known = Known(birth.status, {}, reason=birth.error)
        self.values = SagaValues(definition, birth, limit=limit)
        self.renewed_at = 0.0  # the clock's reading from before the claim was made or last prolonged
        self.not_after: datetime = _LONG_AGO  # ledgers refuse this owner's rows from then on

    def learn(self, fact: Fact) -> None:
        """Apply *fact*."""
        self.values.keep(fact)
        self.known = apply(self.definition, self.known, fact)

    @property
    def fused(self) -> str | None:
        """The name of the first step if it committed with the journal row."""
        return None if self.known.alone else fused_first(self.definition, self.home)

    @property
    def decided(self) -> bool:
        """Whether the deciding step is known to be done."""
        return self.known.decided(self.definition)

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

    def ending(self, expected: Status, status: Status, history: Sequence[Attempt], **results: str) -> Ending:
        """Return the finishing write from *expected* to *status*."""
        return Ending(self.claim, expected, status, self.journaled(**results), history)

    def entry(self, step: AnyStep) -> Entry:
        """Return what the ledger row of *step* says."""
        return Entry(self.saga_id, step.name, self.claim.epoch, self.not_after)

    def place(self, step: AnyStep) -> str:
        """Return the name of the database that has the record of *step*."""
        return step.database_name or self.home
