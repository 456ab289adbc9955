"""Two owners ask `decide` about one saga, and a small reference model says what they may be told.

The model knows nothing of how `decide` decides: only the graph, one status, one record per step and who holds the
claim. Hypothesis chooses who moves, what is refused, when the other one takes over and which work is forgotten.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.protocol.decisions import (
    BlockPivot,
    CancelActive,
    Compensate,
    Finish,
    GoForward,
    Move,
    Rest,
    RunSteps,
    UndoSteps,
    Wait,
    decide,
)
from polysaga.sagas.protocol.known import Known
from polysaga.sagas.protocol.states import Mark, Status
from tests.unit.shapes import Planned, definition_of, known_as, shapes

ELSEWHERE = "elsewhere"  # no step lives in the journal's database: every one has a record of its own


@dataclass
class Owner:
    """What one process believes."""

    epoch: int = 0
    status: Status = Status.RUNNING
    marks: dict[str, Mark] = field(default_factory=dict)
    failed: bool = False
    stopped: bool = True


class TwoOwners(RuleBasedStateMachine):
    """The saga, its records, and two processes that take it from each other."""

    decide = staticmethod(decide)

    @initialize(shape=shapes())
    def begin(self, shape: tuple[Planned, ...]) -> None:
        self.definition: Definition = definition_of(*shape)
        decision = self.definition.decision
        self.pivot = None if decision is None else decision.name
        self.journal, self.epoch, self.claims = Status.RUNNING, 0, 0
        self.records: dict[str, Mark] = {}
        self.stands: set[str] = set()
        self.owners = (Owner(), Owner())
        self._claim(self.owners[0])

    @property
    def live(self) -> list[Owner]:
        return [owner for owner in self.owners if not owner.stopped]

    @precondition(lambda self: not self.journal.final and self.claims < 6)
    @rule(place=st.integers(0, 1))
    def take_over(self, place: int) -> None:
        self._claim(self.owners[place])

    @precondition(lambda self: self.live)
    @rule(place=st.integers(0, 1))
    def fail(self, place: int) -> None:
        """A step of this owner refuses, or a caller cancels."""
        self.live[place % len(self.live)].failed = True

    @precondition(lambda self: self.live)
    @rule(place=st.integers(0, 1), which=st.integers(0, 9))
    def ask(self, place: int, which: int) -> None:
        self._step(self.live[place % len(self.live)], which)

    @precondition(lambda self: self.journal.final or self.claims >= 6)
    @rule()
    def rest(self) -> None:
        assert decide(self.definition, Known(Status.RUNNING, {}), home=ELSEWHERE) != Rest()

    @invariant()
    def nothing_stands_without_what_it_follows(self) -> None:
        for step in getattr(self, "stands", ()):
            assert self.definition.before[step] <= self.stands

    @invariant()
    def rest_means_all_or_nothing(self) -> None:
        if getattr(self, "journal", None) is Status.COMPLETED:
            assert self.stands == set(self.definition.by_name)
        if getattr(self, "journal", None) is Status.COMPENSATED:
            assert not self.stands

    def teardown(self) -> None:
        """A fresh owner, left alone, ends the saga in a number of moves that its size bounds."""
        if not hasattr(self, "journal") or self.journal.final:
            return
        fresh = Owner()
        self._claim(fresh)
        for _ in range(6 * len(self.definition.steps) + 8):
            if fresh.stopped:
                break
            self._step(fresh, 0)
        assert self.journal.final
        self.rest_means_all_or_nothing()

    def _claim(self, owner: Owner) -> None:
        self.epoch, self.claims = self.epoch + 1, self.claims + 1
        owner.epoch, owner.status, owner.failed, owner.stopped = self.epoch, self.journal, False, False
        self._look(owner)

    def _look(self, owner: Owner) -> None:
        back = owner.status is Status.COMPENSATING
        owner.marks = {step: mark for step, mark in self.records.items() if not (back and mark is Mark.DONE)}

    def _step(self, owner: Owner, which: int) -> None:
        decision = self.decide(self.definition, known_as(owner.status, owner.marks, owner.failed), home=ELSEWHERE)
        before = dict(owner.marks)
        match decision:
            case RunSteps(steps) | UndoSteps(steps):
                assert steps
                assert not before.keys() & set(steps)
                assert isinstance(decision, UndoSteps) is (owner.status is Status.COMPENSATING)
                owner.marks |= dict.fromkeys(steps, Mark.ACTIVE)
            case Wait():
                active = [step for step, mark in before.items() if mark is Mark.ACTIVE]
                step = active[which % len(active)]
                self._undo(owner, step) if owner.status is Status.COMPENSATING else self._do(owner, step)
            case BlockPivot(step):
                assert step == self.pivot
                owner.marks[step] = self.records.setdefault(step, Mark.BLOCKED)
            case CancelActive():
                assert Mark.ACTIVE in before.values()
                owner.marks = {step: mark for step, mark in before.items() if mark is not Mark.ACTIVE}
            case Compensate():
                assert Mark.ACTIVE not in before.values()
                if self._write(owner, Status.RUNNING, Status.COMPENSATING):
                    owner.marks = {}
            case GoForward():
                assert self.pivot in self.stands
                if self._write(owner, Status.COMPENSATING, Status.RUNNING):
                    owner.failed = False
                    self._look(owner)
            case Finish(status):
                if self._write(owner, owner.status, status):
                    owner.stopped = True
            case Rest():
                owner.stopped = True

    def _write(self, owner: Owner, expected: Status, status: Status) -> bool:
        holds = owner.epoch == self.epoch and self.journal is expected
        if holds:
            self.journal = owner.status = status
        owner.stopped = not holds
        return holds

    def _do(self, owner: Owner, step: str) -> None:
        record = self.records.setdefault(step, Mark.DONE)
        if record is Mark.DONE:
            self.stands.add(step)
            owner.marks[step] = Mark.DONE
            return
        assert self.definition.by_name[step].kind != "retriable", "nothing behind the pivot is undone"
        del owner.marks[step]
        owner.failed = True

    def _undo(self, owner: Owner, step: str) -> None:
        assert self.pivot is None or self.records[self.pivot] is Mark.BLOCKED
        later = {one for one in self.definition.undoable if step in self.definition.ancestors[one]}
        assert not later & self.stands
        if self.records.get(step) is Mark.DONE:
            self.stands.remove(step)
            self.records[step] = Mark.COMPENSATED
        owner.marks[step] = self.records.setdefault(step, Mark.BLOCKED)


TestTwoOwners = TwoOwners.TestCase
TestTwoOwners.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def no_block(definition: Definition, known: Known, *, home: str) -> Move:
    """Compensate without blocking the pivot first."""
    decision = decide(definition, known, home=home)
    if isinstance(decision, BlockPivot):
        return decide(definition, replace(known, marks={**known.marks, decision.step: Mark.BLOCKED}), home=home)
    return decision


def no_order(definition: Definition, known: Known, *, home: str) -> Move:
    """Undo everything at once."""
    decision = decide(definition, known, home=home)
    if isinstance(decision, UndoSteps):
        return UndoSteps(tuple(name for name in definition.undoable if name not in known.marks))
    return decision


def no_patience(definition: Definition, known: Known, *, home: str) -> Move:
    """Finish while the last steps are still under way."""
    decision = decide(definition, known, home=home)
    return Finish(Status.COMPLETED) if isinstance(decision, Wait) and known.status is Status.RUNNING else decision


@pytest.mark.parametrize("mistake", [no_block, no_order, no_patience])
def test_the_machine_finds_a_mistake_in_decide(mistake: Callable[..., Move]) -> None:
    class Mistaken(TwoOwners):
        decide = staticmethod(mistake)

    tries = settings(
        TestTwoOwners.settings, max_examples=400, derandomize=True, database=None, phases=[Phase.generate]
    )
    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(Mistaken, settings=tries)
