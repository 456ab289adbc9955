"""One saga to be searched: its steps by number, what may befall it, and the mistake that is planted.

The owners of the model ask the real `decide`, learn by the real `apply`, and answer by the real `certainty`.
"""

from collections.abc import Collection, Hashable
from typing import Any

from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.protocol.certainty import Answer, answer, is_undone_for_certain
from polysaga.sagas.protocol.decisions import (
    BlockPivot,
    Finish,
    Move,
    RunSteps,
    UndoSteps,
    Wait,
    decide,
    fused_first,
)
from polysaga.sagas.protocol.known import (
    Begun,
    Born,
    Did,
    Fact,
    Failed,
    FoundDecided,
    Interrupted,
    Known,
    Stuck,
    Surveyed,
    Undid,
    Written,
    apply,
)
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark, Status
from tests.model.states import ACTIVE, BLOCKED, COMPENSATED, DONE, NOTHING, STUCK, Owner, changed
from tests.unit.shapes import FAILURE, HOME

_MARKS = {
    ACTIVE: Mark.ACTIVE,
    DONE: Mark.DONE,
    COMPENSATED: Mark.COMPENSATED,
    BLOCKED: Mark.BLOCKED,
    STUCK: Mark.STUCK,
}
_LETTERS = {mark: letter for letter, mark in _MARKS.items()}
_FORGETS = {Born, FoundDecided, Written}  # the reason, on purpose
POWERS = {
    "impatience": "retriable steps and compensations may use up their patience: postponed, parked",
    "cancel": "the owner or a stranger cancels, or a deadline passes",
    "person": "a person repairs what is parked or put aside",
    "starts": "two processes start the saga under one key",
    "failover": "the journal falls back once to what an asynchronous replica had",
    "retention": "what is at rest grows old and is removed",
    "born alone": "the journal row is born in the caller's transaction, without the first step",
    "lost replies": "also the replies to writes of the journal and to compensations get lost",
}


class Setting:
    """A definition as numbers, and the answers of the real `decide`."""

    def __init__(
        self,
        definition: Definition,
        *,
        powers: Collection[str] = (),
        claims: int = 3,
        late: int = 1,
        planted: str = "",
        forgetful: bool = True,
    ) -> None:
        """*forgetful*: the outside does not remember which keys were undone."""
        assert set(powers) <= set(POWERS)
        self.definition, self.planted, self.forgetful = definition, planted, forgetful
        self.powers, self.claims, self.late = frozenset(powers), claims, late
        self.steps = definition.steps
        self.names = [step.name for step in self.steps]
        self.number = {name: number for number, name in enumerate(self.names)}
        self.kinds = [step.kind for step in self.steps]
        self.calls = frozenset(number for number, step in enumerate(self.steps) if step.database is None)
        self.before = [[self.number[one] for one in definition.before[name]] for name in self.names]
        fused, decision = fused_first(definition, HOME), definition.decision
        self.alone = "born alone" in powers
        self.first = None if fused is None or self.alone else self.number[fused]
        self.pivot = None if decision is None else self.number[decision.name]
        self.pivot_at_home = decision is not None and decision.database_name == HOME
        self.decided = self._decided()
        self.undoable = [self.number[name] for name in definition.undoable]
        self.undoes_first = self.first is not None and self.first in self.undoable
        self._decisions: dict[tuple[str, str, bool], tuple[str, Move]] = {}
        self._learned: dict[Hashable, tuple[str, str, bool]] = {}
        self._certain: dict[tuple[str, str], tuple[bool, bool]] = {}

    def next(self, status: str, marks: str, failed: bool) -> tuple[str, Move]:
        """Ask the real `decide` until it names something that leaves the process; return the marks by then."""
        asked = (status, marks, failed)
        if asked not in self._decisions:
            while isinstance(decision := self._ask(status, marks, failed), RunSteps | UndoSteps):
                known = apply(self.definition, self._known(status, marks, failed), Begun(decision.steps))
                marks = self._letters(known)
            self._decisions[asked] = marks, decision
        return self._decisions[asked]

    def learn(self, owner: Owner, kind: type[Fact], *said: Any, by_hand: bool = False) -> Owner:
        """Return *owner* after the real `apply` of a fact, of which *said* is what the model knows.

        *by_hand*: a person has undone the fused first step.
        """
        asked = (owner.status, owner.marks, owner.failed, kind, said, by_hand)
        if asked not in self._learned:
            known = self._known(owner.status, owner.marks, owner.failed, by_hand=by_hand)
            after = apply(self.definition, known, self._fact(kind, *said))
            assert (after.born_alone, after.reason) == (known.born_alone, known.reason) or kind in _FORGETS
            self._learned[asked] = after.status.value, self._letters(after), after.failure is not None
        status, marks, failed = self._learned[asked]
        return owner._replace(status=status, marks=marks, failed=failed)

    def certain(self, owner: Owner) -> tuple[bool, bool]:
        """Return whether callers can be told that the saga is completed, and that it is undone for certain."""
        asked = (owner.status, owner.marks)
        if asked not in self._certain:
            known = self._known(owner.status, owner.marks, failed=False)
            completed = answer(self.definition, known) is Answer.COMPLETED
            self._certain[asked] = completed, is_undone_for_certain(self.definition, known, home=HOME)
        return self._certain[asked]

    def _fact(self, kind: type[Fact], *said: Any) -> Fact:
        if kind is Did:
            step, status = said
            return Did(self.names[step], "null", Status(status) if status else None)
        if kind is Undid:
            step, letter, status = said
            return Undid(self.names[step], _MARKS[letter], Status(status) if status else None)
        if kind is Failed:
            (step,) = said
            return Failed(FAILURE, None if step is None else self.names[step])
        if kind is Stuck:
            return Stuck(self.names[said[0]])
        if kind is Surveyed:
            named = zip(self.names, said[0], strict=True)
            return Surveyed({name: LedgerRow(_MARKS[one], None) for name, one in named if one in _MARKS})
        if kind is Born or kind is FoundDecided:
            status, steps = said
            results = {self.names[step]: "null" for step in steps}
            return kind(status=Status(status), results=results)
        return Interrupted() if kind is Interrupted else Written(Status(said[0]))

    def _letters(self, known: Known) -> str:
        return "".join(_LETTERS[known.marks[name]] if name in known.marks else NOTHING for name in self.names)

    def _known(self, status: str, marks: str, failed: bool, *, by_hand: bool = False) -> Known:
        named = {name: _MARKS[mark] for name, mark in zip(self.names, marks, strict=True) if mark in _MARKS}
        reason = Reason(undone_by_hand=(self.names[self.first],)) if by_hand and self.first is not None else None
        return Known(Status(status), named, FAILURE if failed else None, self.alone, reason)

    def ends_with(self, marks: str, step: int) -> bool:
        """Tell whether *step*, in the journal's database, is all that is missing."""
        at_home = self.steps[step].database_name == HOME and not (step == self.pivot and self.pivot_at_home)
        return at_home and all(mark == DONE for number, mark in enumerate(marks) if number != step)

    def _decided(self) -> str:
        """Return the status that comes with the commit of a pivot in the journal's database."""
        behind = self.pivot is not None and self.definition.following[self.names[self.pivot]]
        return "completing" if behind else "completed"

    def _ask(self, status: str, marks: str, failed: bool) -> Move:
        decision = self._decide(status, marks, failed)
        if self.planted == "pivot blocked last" and isinstance(decision, BlockPivot):
            others = self._decide(status, changed(marks, self.number[decision.step], BLOCKED), failed)
            return decision if isinstance(others, Finish) else others
        if self.planted == "finish before the last step" and decision == Wait() and status != "compensating":
            last = marks.count(ACTIVE) == 1 and set(marks) <= {ACTIVE, DONE}
            return Finish(Status.COMPLETED) if last else decision
        if self.planted == "undone in the order of doing" and isinstance(decision, UndoSteps):
            pending = [number for number in self.undoable if marks[number] == NOTHING and number != self.first]
            return UndoSteps((self.names[pending[0]],))
        return decision

    def _decide(self, status: str, marks: str, failed: bool) -> Move:
        return decide(self.definition, self._known(status, marks, failed), home=HOME)
