"""What comes next: examples of every decision, and properties over random sagas driven to their end."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

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
    fused_first,
)
from polysaga.sagas.protocol.known import Known
from polysaga.sagas.protocol.states import TRANSITIONS, Mark, Status
from tests.unit.shapes import (
    HOME,
    LEDGER_PIVOT,
    PLACE_ORDER,
    SEVERAL_LEAVES,
    Planned,
    definition_of,
    known_as,
    shapes,
)

ACTIVE, DONE, STUCK = Mark.ACTIVE, Mark.DONE, Mark.STUCK
BLOCKED, COMPENSATED = Mark.BLOCKED, Mark.COMPENSATED
RUNNING, COMPLETING, COMPENSATING = Status.RUNNING, Status.COMPLETING, Status.COMPENSATING

OPENED = {"open_order": DONE}
BETWEEN = {**OPENED, "reserve_stock": DONE, "credit_points": DONE}
DECIDED = {**BETWEEN, "confirm_order": DONE}

PLACE_ORDER_EXAMPLES = [
    ("the first step begins", RUNNING, {}, False, RunSteps(("open_order",))),
    ("branches begin side by side", RUNNING, OPENED, False, RunSteps(("reserve_stock", "credit_points"))),
    (
        "a branch that is under way is waited for",
        RUNNING,
        {**OPENED, "reserve_stock": ACTIVE, "credit_points": DONE},
        False,
        Wait(),
    ),
    ("the pivot follows all branches", RUNNING, BETWEEN, False, RunSteps(("confirm_order",))),
    ("after the pivot comes the retriable step", COMPLETING, DECIDED, False, RunSteps(("record_event",))),
    ("nothing is left", COMPLETING, {**DECIDED, "record_event": DONE}, False, Finish(Status.COMPLETED)),
    ("a retriable step lost its patience", COMPLETING, {**DECIDED, "record_event": STUCK}, False, Rest()),
    (
        "a failure cancels the branch beside it first",
        RUNNING,
        {**OPENED, "credit_points": ACTIVE},
        True,
        CancelActive(),
    ),
    ("a failure undoes", RUNNING, OPENED, True, Compensate()),
    ("a failure in the pivot undoes", RUNNING, BETWEEN, True, Compensate()),
    ("a failure after the decision goes on", COMPLETING, DECIDED, True, RunSteps(("record_event",))),
    ("branches are undone side by side", COMPENSATING, {}, False, UndoSteps(("reserve_stock", "credit_points"))),
    (
        "an undoing branch is waited for",
        COMPENSATING,
        {"reserve_stock": ACTIVE, "credit_points": BLOCKED},
        False,
        Wait(),
    ),
    (
        "a branch beside a stuck one is undone all the same",
        COMPENSATING,
        {"reserve_stock": STUCK},
        False,
        UndoSteps(("credit_points",)),
    ),
    (
        "a compensation lost its patience",
        COMPENSATING,
        {"reserve_stock": STUCK, "credit_points": COMPENSATED},
        False,
        Rest(),
    ),
    (
        "the fused first step is undone with the final status",
        COMPENSATING,
        {"reserve_stock": COMPENSATED, "credit_points": BLOCKED},
        False,
        Finish(Status.COMPENSATED),
    ),
]
LEDGER_PIVOT_EXAMPLES = [
    ("the pivot is blocked before anything", COMPENSATING, {}, False, BlockPivot("ship")),
    ("the pivot was done, another owner had decided", COMPENSATING, {"ship": DONE}, False, GoForward()),
    ("a pivot that cannot be blocked stops everything", COMPENSATING, {"ship": STUCK}, False, Rest()),
    (
        "behind a blocked pivot the last one goes first",
        COMPENSATING,
        {"ship": BLOCKED},
        False,
        UndoSteps(("credit",)),
    ),
    (
        "then the one before it",
        COMPENSATING,
        {"ship": BLOCKED, "credit": COMPENSATED},
        False,
        UndoSteps(("reserve",)),
    ),
    (
        "a first step elsewhere is undone before the end",
        COMPENSATING,
        {"ship": BLOCKED, "credit": COMPENSATED, "reserve": BLOCKED},
        False,
        Finish(Status.COMPENSATED),
    ),
    (
        "a failure that comes after the pivot's commit goes on",
        RUNNING,
        {"reserve": DONE, "credit": DONE, "ship": DONE},
        True,
        RunSteps(("announce",)),
    ),
]
SEVERAL_LEAVES_EXAMPLES = [
    (
        "with several last steps the finish decides",
        RUNNING,
        {"open": DONE, "reserve": DONE, "credit": DONE},
        False,
        Finish(Status.COMPLETED),
    ),
    (
        "a failure in a last step undoes the other",
        RUNNING,
        {"open": DONE, "reserve": DONE},
        True,
        Compensate(),
    ),
    ("there is no pivot to block", COMPENSATING, {}, False, UndoSteps(("reserve", "credit"))),
]
EXAMPLES = [
    (shape, *one)
    for shape, examples in (
        (PLACE_ORDER, PLACE_ORDER_EXAMPLES),
        (LEDGER_PIVOT, LEDGER_PIVOT_EXAMPLES),
        (SEVERAL_LEAVES, SEVERAL_LEAVES_EXAMPLES),
    )
    for one in examples
]


@pytest.mark.parametrize(
    ("shape", "status", "marks", "failed", "expected"),
    [(shape, *rest) for shape, _, *rest in EXAMPLES],
    ids=[name for _, name, *_ in EXAMPLES],
)
def test_decide_says(
    shape: tuple[Planned, ...], status: Status, marks: dict[str, Mark], failed: bool, expected: Move
) -> None:
    assert decide(definition_of(*shape), known_as(status, marks, failed), home=HOME) == expected


def test_every_kind_of_decision_has_an_example() -> None:
    shown = {type(expected) for *_, expected in EXAMPLES}
    assert shown == set(Move.__args__)


def test_a_pivot_at_home_is_not_blocked_because_its_commit_asks_the_journal() -> None:
    definition = definition_of(*PLACE_ORDER)
    assert decide(definition, Known(COMPENSATING, {}), home=HOME) == UndoSteps(("reserve_stock", "credit_points"))
    assert decide(definition, Known(COMPENSATING, {}), home="elsewhere") == BlockPivot("confirm_order")


def test_a_saga_whose_only_undoable_step_is_fused_ends_at_once() -> None:
    definition = definition_of(Planned("open"), Planned("ship", "inventory"))
    marks = {"ship": BLOCKED}
    assert decide(definition, Known(COMPENSATING, marks), home=HOME) == Finish(Status.COMPENSATED)


@pytest.mark.parametrize("journal", [HOME, "inventory", "points"])
def test_the_first_step_is_fused_only_in_the_journals_database(journal: str) -> None:
    assert fused_first(definition_of(*PLACE_ORDER), journal) == ("open_order" if journal == HOME else None)


def test_a_final_state_is_left_by_nothing() -> None:
    assert {status for status, following in TRANSITIONS.items() if not following} == {
        status for status in Status if status.final
    }
    assert set(TRANSITIONS) == set(Status)


def test_every_state_can_still_reach_an_end() -> None:
    for status in Status:
        reached, seen = {status}, set[Status]()
        while reached - seen:
            seen |= reached
            reached |= {following for one in seen for following in TRANSITIONS[one]}
        assert any(one.final for one in reached)


def test_a_person_can_send_a_parked_saga_where_it_was_going_or_to_rest() -> None:
    assert TRANSITIONS[Status.NEEDS_ATTENTION] == set(Status) - {Status.NEEDS_ATTENTION}


@dataclass
class Owner:
    """Carries decisions out against ledgers in memory; *chance* says what fails, and when it is killed."""

    definition: Definition
    chance: random.Random
    troubled: bool = True  # False: nothing fails any more
    status: Status = RUNNING
    marks: dict[str, Mark] = field(default_factory=dict)
    failed: bool = False
    ledger: dict[str, Mark] = field(default_factory=dict)
    effects: set[str] = field(default_factory=set)
    journal: Status = RUNNING
    moves: list[tuple[Status, Status]] = field(default_factory=list)
    trace: list[Move] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fused = fused_first(self.definition, HOME)
        decision = self.definition.decision
        self.pivot = None if decision is None else decision.name
        self.home_pivot = self.pivot if decision is not None and decision.database.name == HOME else None
        if self.fused is not None:
            self.effects.add(self.fused)
            if self.fused == self.home_pivot:
                self._move(COMPLETING if self.definition.following[self.fused] else Status.COMPLETED)
        self._take_stock()

    def drive(self) -> Move:
        """Return the decision with which the saga came to rest."""
        for _ in range(400):
            if self.journal.final:
                return Finish(self.journal)
            if self._unlucky(0.05):
                self._take_stock()
            decision = decide(self.definition, known_as(self.status, self.marks, self.failed), home=HOME)
            self.trace.append(decision)
            self._carry_out(decision)
            if isinstance(decision, Rest):
                return decision
        raise AssertionError(f"no end: {self.trace[-10:]}")

    def _carry_out(self, decision: Move) -> None:
        match decision:
            case RunSteps(steps) | UndoSteps(steps):
                assert steps
                self._check(decision)
                self.marks |= dict.fromkeys(steps, ACTIVE)
            case BlockPivot(step):
                self._block(step)
            case Wait():
                step = self.chance.choice([name for name, mark in self.marks.items() if mark is ACTIVE])
                self._undo(step) if self.status is COMPENSATING else self._attempt(step)
            case CancelActive():
                for step in [name for name, mark in self.marks.items() if mark is ACTIVE]:
                    del self.marks[step]
                    if self._unlucky(0.3):
                        self._commit(step)  # it had been sent
            case Compensate():
                if self.journal is not RUNNING:
                    self._take_stock()  # the pivot's commit had landed
                else:
                    self._move(COMPENSATING)
                    self.marks = {}
            case GoForward():
                self._move(RUNNING)
                self._take_stock()
            case Finish(status):
                self._check(decision)
                if status is Status.COMPENSATED and self.fused is not None:
                    self.effects.discard(self.fused)
                self._move(status)
            case Rest():
                assert STUCK in self.marks.values()

    def _check(self, decision: Move) -> None:
        definition = self.definition
        match decision:
            case RunSteps(steps):
                for name in steps:
                    assert all(self._happened(earlier) for earlier in definition.ancestors[name])
                    behind = self.pivot is not None and self.pivot in definition.ancestors[name]
                    assert behind == (definition.by_name[name].kind == "retriable")
            case UndoSteps(steps):
                self._check_pivot_blocked()
                for name in steps:
                    assert definition.by_name[name].kind == "compensatable"
                    assert name not in {self.pivot, self.fused}
                    later = {one for one in definition.undoable if name in definition.ancestors[one]}
                    assert all(self._undone(one) for one in later)
            case Finish(Status.COMPENSATED):
                self._check_pivot_blocked()
                assert self.effects <= {self.fused}
            case Finish(Status.COMPLETED):
                assert self.effects == set(definition.by_name)

    def _check_pivot_blocked(self) -> None:
        if self.home_pivot is None and self.pivot is not None:
            assert self.ledger.get(self.pivot) is BLOCKED

    def _happened(self, step: str) -> bool:
        return step in self.effects

    def _undone(self, step: str) -> bool:
        return self.ledger.get(step) in {BLOCKED, COMPENSATED}

    def _attempt(self, step: str) -> None:
        kind = self.definition.by_name[step].kind
        if self._unlucky(0.15):
            if self._unlucky(0.4):
                self._commit(step)  # but the reply is lost, and looking fails too
            if kind == "retriable":
                self.marks[step] = STUCK
            else:
                del self.marks[step]
                self.failed = True
            return
        self._commit(step)
        assert self._happened(step)
        self.marks[step] = DONE
        self.status = self.journal

    def _commit(self, step: str) -> None:
        if step == self.home_pivot:
            if self.journal is RUNNING:
                self.effects.add(step)
                self._move(COMPLETING if self.definition.following[step] else Status.COMPLETED, known=False)
        elif step not in self.ledger:
            self.ledger[step] = DONE
            self.effects.add(step)

    def _block(self, step: str) -> None:
        if self._unlucky(0.1):
            self.marks[step] = STUCK
        elif self.ledger.setdefault(step, BLOCKED) is DONE:
            self.marks[step] = DONE
        else:
            self.marks[step] = BLOCKED

    def _undo(self, step: str) -> None:
        if self._unlucky(0.1):
            self.marks[step] = STUCK
            return
        if self.ledger.get(step) is DONE:
            self.effects.remove(step)
            self.ledger[step] = COMPENSATED
        self.marks[step] = self.ledger.setdefault(step, BLOCKED)

    def _move(self, status: Status, *, known: bool = True) -> None:
        self.moves.append((self.journal, status))
        self.journal = status
        if known:
            self.status = status

    def _take_stock(self) -> None:
        """Forget everything and look: what a takeover does."""
        self.status, self.failed = self.journal, False
        rows = dict(self.ledger)
        if self.status is COMPENSATING:
            self.marks = {name: mark for name, mark in rows.items() if mark is not DONE}
            return
        journaled = {self.fused, self.home_pivot} & self.effects
        self.marks = {**rows, **dict.fromkeys(journaled, DONE)}  # type: ignore[arg-type]

    def _unlucky(self, probability: float) -> bool:
        return self.troubled and self.chance.random() < probability


@settings(max_examples=250, deadline=None)
@given(shape=shapes(), seed=st.integers(min_value=0))
@example(shape=PLACE_ORDER, seed=1)
@example(shape=LEDGER_PIVOT, seed=1)
@example(shape=SEVERAL_LEAVES, seed=1)
def test_every_saga_ends_whatever_fails_and_its_effects_are_all_or_none(
    shape: tuple[Planned, ...], seed: int
) -> None:
    owner = Owner(definition_of(*shape), random.Random(seed))
    end = owner.drive()
    if end == Finish(Status.COMPLETED):
        assert owner.effects == set(owner.definition.by_name)
    elif end == Finish(Status.COMPENSATED):
        assert owner.effects == set()
    else:
        assert isinstance(end, Rest)
        assert not owner.journal.final
    assert all(after in TRANSITIONS[before] for before, after in owner.moves)


@settings(max_examples=200, deadline=None)
@given(shape=shapes(), seed=st.integers(min_value=0))
def test_a_saga_put_aside_ends_once_nothing_fails_any_more(shape: tuple[Planned, ...], seed: int) -> None:
    before = Owner(definition_of(*shape), random.Random(seed))
    before.drive()
    after = Owner(before.definition, before.chance, troubled=False)
    after.ledger, after.effects, after.journal = before.ledger, before.effects, before.journal
    after._take_stock()
    assert isinstance(after.drive(), Finish)
    assert after.effects in (set(), set(before.definition.by_name))


@settings(max_examples=100, deadline=None)
@given(shape=shapes())
def test_without_trouble_every_step_runs_once_and_in_order(shape: tuple[Planned, ...]) -> None:
    owner = Owner(definition_of(*shape), random.Random(0), troubled=False)
    assert owner.drive() == Finish(Status.COMPLETED)
    begun = list(_begun(owner.trace))
    expected = [step.name for step in owner.definition.steps if step.name != owner.fused]
    assert sorted(begun) == sorted(expected)


@settings(max_examples=200, deadline=None)
@given(shape=shapes(), seed=st.integers(min_value=0))
def test_the_decision_to_compensate_comes_before_any_undoing_and_the_pivot_is_next(
    shape: tuple[Planned, ...], seed: int
) -> None:
    definition = definition_of(*shape)
    owner = Owner(definition, random.Random(seed))
    owner.drive()
    undoing = [place for place, one in enumerate(owner.trace) if isinstance(one, UndoSteps)]
    blocking = [place for place, one in enumerate(owner.trace) if isinstance(one, BlockPivot)]
    decided = [place for place, one in enumerate(owner.trace) if isinstance(one, Compensate)]
    if undoing:
        assert min(decided) < min(undoing)
        if owner.pivot is not None and owner.home_pivot is None:
            assert min(decided) < min(blocking) < min(undoing)
    assert bool(blocking) <= (owner.pivot is not None and owner.home_pivot is None)


@pytest.mark.parametrize("shape", [PLACE_ORDER, LEDGER_PIVOT, SEVERAL_LEAVES])
def test_the_random_failures_reach_both_ends_and_the_rest(shape: tuple[Planned, ...]) -> None:
    ends = {Owner(definition_of(*shape), random.Random(seed)).drive() for seed in range(120)}
    assert ends == {Finish(Status.COMPLETED), Finish(Status.COMPENSATED), Rest()}


def _begun(trace: list[Move]) -> Iterator[str]:
    for decision in trace:
        if isinstance(decision, RunSteps):
            yield from decision.steps
