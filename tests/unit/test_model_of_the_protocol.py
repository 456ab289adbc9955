"""The protocol as built, checked exhaustively: several owners of one saga, driven by the real `decide`.

Every interleaving of: takeovers at any moment, old owners that stop for good or wake up late, refusals, and
commits whose reply was lost and which land at any later time or never. The world around `decide` is a journal
row with the conditional writes of `journal.py` and ledgers with those of `participants/`; each move is one
commit. A planted mistake changes one of these writes; the same search must find it.

With `cancels`, the owner is told at any moment before the decision to have the saga undone, and any other process
decides so for a running saga in the very write that claims it: a caller that cancels, and a deadline.

A step without a database is a call outside and, in a move of its own, its record. The outside does one thing per
key however often it is called. It may remember the keys that were undone, then all promises hold as they stand; or
forget them, then a call that comes too late stands until its owner has undone it.

What must hold in every state: each effect happened at most once and was undone at most once; `completed` means
all effects, `compensated` means none; who was told "completed" is never undone; and a fresh owner, left alone,
brings the saga to rest.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple, TypeAlias

import pytest

from polysaga.sagas.decisions import (
    BlockPivot,
    CancelActive,
    Compensate,
    Decision,
    Finish,
    GoForward,
    Known,
    Mark,
    Rest,
    Run,
    Status,
    Undo,
    Wait,
    decide,
    fused_first,
)
from polysaga.sagas.definition import Definition
from tests.unit.shapes import HOME, LEDGER_PIVOT, OUTSIDE, PLACE_ORDER, SEVERAL_LEAVES, Planned, definition_of

# One letter per step, in an owner's memory (NOTHING: not known) and in the ledgers (NOTHING: no row).
ACTIVE, DONE, COMPENSATED, BLOCKED, NOTHING = "A", "D", "C", "B", "."
_MARKS = {ACTIVE: Mark.ACTIVE, DONE: Mark.DONE, COMPENSATED: Mark.COMPENSATED, BLOCKED: Mark.BLOCKED}
# Plain text: hashing members of an enum would be most of the time of a search.
RUNNING, COMPLETING, COMPENSATING = "running", "completing", "compensating"
FINAL = ("completed", "compensated")


class Owner(NamedTuple):
    """What one process believes; it never moves again if it was killed."""

    epoch: int
    status: str
    marks: str
    failed: bool = False
    stock_taken: bool = True
    called: frozenset[int] = frozenset()  # calls that may have happened outside and are not settled


class State(NamedTuple):
    """The databases, everybody who owned the saga, and the commits that are on their way."""

    status: str
    epoch: int
    ledger: str
    effects: tuple[int, ...]
    owners: tuple[Owner, ...]
    late: frozenset[tuple[int, int]] = frozenset()  # (epoch, step): given up by the owner, may still land
    told: bool = False  # a caller was told "completed"


Move: TypeAlias = tuple[str, State]
Become: TypeAlias = Callable[
    [Owner | None, State], State
]  # the state with the owner as it is afterwards, or without


class World:
    """One definition with its databases; *planted* names a mistake in what the owners or the statements do."""

    def __init__(
        self,
        definition: Definition,
        *,
        owners: int = 3,
        late: int = 1,
        planted: str = "",
        forgetful: bool = True,
        cancels: bool = False,
        alone: bool = False,
    ) -> None:
        self.definition, self.owners, self.late, self.planted = definition, owners, late, planted
        self.forgetful, self.cancels, self.alone = forgetful, cancels, alone
        self.calls = frozenset(number for number, step in enumerate(definition.steps) if step.database is None)
        self.steps = definition.steps
        self.number = {step.name: number for number, step in enumerate(self.steps)}
        fused, decision = fused_first(definition, HOME), definition.decision
        self.first = None if fused is None or alone else self.number[fused]
        self.pivot = None if decision is None else self.number[decision.name]
        self.home_pivot = self.pivot if decision is not None and decision.database_name == HOME else None
        self._decisions: dict[tuple[str, str, bool], tuple[str, Decision]] = {}
        self._ends: dict[tuple[str, str, tuple[int, ...]], bool] = {}

    def born(self) -> State:
        """The start is durable, and a fused first step with it."""
        fused = [number == self.first for number in range(len(self.steps))]
        marks = "".join(DONE if one else NOTHING for one in fused)
        owner = Owner(1, RUNNING, marks)
        return State(RUNNING, 1, NOTHING * len(fused), tuple(map(int, fused)), (owner,))

    def moves(self, state: State) -> Iterator[Move]:
        """Everything that can happen next."""
        if state.status not in FINAL and state.epoch < self.owners:
            yield f"{state.epoch + 1} takes over", self._taken_over(state)
            if self.cancels:
                yield from self._cancelled(state)
        for epoch, step in state.late:
            landed = self._land(state._replace(late=state.late - {(epoch, step)}), epoch, step)
            if landed is not None:
                yield f"late commit of {self.steps[step].name} by {epoch} lands", landed
        for place, owner in enumerate(state.owners):
            for label, moved in self._owner_moves(state, place, owner):
                yield f"{owner.epoch} {label}", moved

    def wrong(self, state: State) -> str | None:
        """Which promise *state* breaks."""
        if any(effect not in {0, 1} for effect in state.effects):
            return "an effect happened twice or was undone twice"
        if state.status == "completed" and not all(state.effects):
            return "completed with a missing effect"
        unsettled: frozenset[int] = frozenset()
        if self.forgetful:
            unsettled = unsettled.union(*(owner.called for owner in state.owners))
        if state.status == "compensated" and any(
            effect and step not in unsettled for step, effect in enumerate(state.effects)
        ):
            return "compensated with an effect left"
        if state.status == "compensated" and state.told:
            return "a caller was told 'completed' and the saga was undone"
        if state.status not in FINAL and not self._a_fresh_owner_ends(state):
            return "no fresh owner can finish"
        return None

    def _taken_over(self, state: State) -> State:
        epoch = state.epoch + 1
        owner = Owner(epoch, state.status, NOTHING * len(self.steps), stock_taken=False)
        return state._replace(epoch=epoch, owners=(*state.owners, owner))

    def _cancelled(self, state: State) -> Iterator[Move]:
        """Another process than the owner cancels, or finds the deadline passed."""
        if state.status != RUNNING and self.planted != "the cancel asks for no status":
            return
        label = f"{state.epoch + 1} takes over and cancels"
        if self.planted == "the cancel ends what has no row" and state.ledger == NOTHING * len(self.steps):
            ended = state._replace(status="compensated", epoch=state.epoch + 1)
            yield label, ended if self.first is None else self._effect(ended, self.first, -1)
        else:
            yield label, self._taken_over(state._replace(status=COMPENSATING))

    def _is_stopped(self, owner: Owner) -> bool:
        """Tell whether the owner obeys when it is told that the saga was cancelled, or is overdue."""
        undecided = self.pivot is None or owner.marks[self.pivot] != DONE
        return self.cancels and owner.status == RUNNING and not owner.failed and undecided

    def _owner_moves(self, state: State, place: int, owner: Owner) -> Iterator[Move]:
        def become(after: Owner | None, state: State) -> State:
            kept = () if after is None or after.status in FINAL else (after,)
            if after is None:
                state = self._mend_active(state, owner)
            return state._replace(owners=(*state.owners[:place], *kept, *state.owners[place + 1 :]))

        if not owner.stock_taken:
            after = self._with_stock(owner, state)
            yield "takes stock", become(after, self._tell(state, after))
            return
        marks, decision = self._decide(owner)
        owner = owner._replace(marks=marks)
        if self._is_stopped(owner):
            yield "is told to stop", become(owner._replace(failed=True), state)
        match decision:
            case Wait():
                for step in (number for number, mark in enumerate(marks) if mark == ACTIVE):
                    if owner.status == COMPENSATING:
                        after, moved = self._undo(state, owner, step)
                        yield f"undoes {self.steps[step].name}", become(after, moved)
                    else:
                        for label, done, moved in self._attempt(state, owner, step):
                            told = moved if done is None else self._tell(moved, done)
                            yield f"{label} {self.steps[step].name}", become(done, told)
            case CancelActive():
                active = {number for number, mark in enumerate(marks) if mark == ACTIVE}
                late = {(owner.epoch, number) for number in active - self.calls}  # calls are awaited
                sent = state._replace(late=state.late | late) if len(state.late) < self.late else state
                after = owner._replace(marks=marks.replace(ACTIVE, NOTHING))
                yield "cancels", become(after, self._mend_active(sent, owner))
            case Compensate():
                if state.status == RUNNING and self._ours(state, owner):
                    after = owner._replace(status=COMPENSATING, marks=NOTHING * len(marks))
                    yield "decides to compensate", become(after, state._replace(status=COMPENSATING))
                elif self._ours(state, owner) and state.status in {COMPLETING, "completed"}:
                    assert self.home_pivot is not None
                    decided = _changed(marks, self.home_pivot, DONE)
                    after = owner._replace(status=state.status, marks=decided, failed=False)
                    yield "finds itself decided", become(after, self._tell(state, after))
                else:
                    yield "cannot compensate", become(None, state)
            case BlockPivot(name):
                yield f"blocks {name}", self._block(state, owner, become, self.number[name])
            case GoForward():
                if state.status == COMPENSATING and self._ours(state, owner):
                    after = self._with_stock(owner._replace(status=RUNNING, failed=False), state)
                    moved = self._tell(state._replace(status=RUNNING), after)
                    yield "goes forward", become(after, moved)
                else:
                    yield "cannot go forward", become(None, state)
            case Finish(status):
                yield f"finishes as {status}", become(None, self._finish(state, owner, status.value))
            case Rest():
                yield "rests", become(None, state)
            case _:
                raise AssertionError(decision)

    def _decide(self, owner: Owner) -> tuple[str, Decision]:
        """Ask the real `decide` until it names something that leaves the process."""
        asked = (owner.status, owner.marks, owner.failed)
        if asked not in self._decisions:
            marks = owner.marks
            while True:
                decision = self._ask(owner, marks)
                if not isinstance(decision, Run | Undo):
                    break
                begun = {self.number[name] for name in decision.steps}
                marks = "".join(ACTIVE if number in begun else mark for number, mark in enumerate(marks))
            self._decisions[asked] = marks, decision
        return self._decisions[asked]

    def _ask(self, owner: Owner, marks: str) -> Decision:
        def asked(marks: str) -> Decision:
            named = {
                step.name: _MARKS[mark] for step, mark in zip(self.steps, marks, strict=True) if mark in _MARKS
            }
            known = Known(Status(owner.status), named, failed=owner.failed, alone=self.alone)
            return decide(self.definition, known, journal=HOME)

        decision = asked(marks)
        if self.planted == "pivot blocked last" and isinstance(decision, BlockPivot):
            others = asked(_changed(marks, self.number[decision.step], BLOCKED))
            return decision if isinstance(others, Finish) else others
        if self.planted == "a cancelled pivot needs no blocking" and isinstance(decision, BlockPivot):
            return asked(_changed(marks, self.number[decision.step], BLOCKED)) if owner.failed else decision
        return decision

    def _attempt(self, state: State, owner: Owner, step: int) -> Iterator[tuple[str, Owner | None, State]]:
        """One attempt of an action, and what the owner concludes after looking at the record."""
        if step in self.calls:
            yield from self._attempt_call(state, owner, step)
            return
        kind = self.steps[step].kind
        row = state.ledger[step]
        done = owner._replace(marks=_changed(owner.marks, step, DONE))
        failed = owner._replace(marks=_changed(owner.marks, step, NOTHING), failed=True)
        landed = self._land(state, owner.epoch, step)
        if landed is not None:
            status = landed.status if step == self.home_pivot else owner.status
            yield "does", done._replace(status=status), landed
            if kind != "retriable":
                yield "is refused", failed, state
                if len(state.late) < self.late:
                    yield "gives up", failed, state._replace(late=state.late | {(owner.epoch, step)})
        elif step == self.home_pivot:
            found = self._ours(state, owner) and state.status in {COMPLETING, "completed"}
            yield "finds", done._replace(status=state.status) if found else None, state
        elif row == DONE or self.planted == "a late action reports success":
            yield "finds", done, state
        else:
            # A retriable step tries again until its patience ends; then its owner puts the saga aside.
            yield "is too late for", None if kind == "retriable" else failed, state
        if self._ends_with(owner, step) and row == NOTHING:
            if owner.status == state.status and self._ours(state, owner):
                fused = self._effect(state, step, +1)._replace(
                    status="completed", ledger=_changed(state.ledger, step, DONE)
                )
                yield "finishes with", done._replace(status="completed"), fused
            else:
                yield "cannot finish with", None, state

    def _attempt_call(self, state: State, owner: Owner, step: int) -> Iterator[tuple[str, Owner | None, State]]:
        """The call, or the record of one that was made; whoever called in vain undoes it."""
        failed = owner._replace(marks=_changed(owner.marks, step, NOTHING), failed=True)
        if step not in owner.called:
            undone = state.ledger[step] == COMPENSATED and not self.forgetful
            happened = state if undone else self._stand(state, step, 1)
            yield "calls", owner._replace(called=owner.called | {step}), happened
            if self.steps[step].kind != "retriable":
                yield "is refused", failed, state
            return
        done = owner._replace(marks=_changed(owner.marks, step, DONE), called=owner.called - {step})
        row = state.ledger[step]
        if row == DONE:
            yield "finds", done, state
        elif row != NOTHING:
            settled = failed._replace(called=owner.called - {step})
            yield "undoes its own call of", settled, self._mend(state, step)
        elif state.status in {RUNNING, COMPLETING} and self._ours(state, owner):
            yield "records", done, state._replace(ledger=_changed(state.ledger, step, DONE))
        else:
            yield "cannot record", None, state
        if self.steps[step].kind != "retriable" and row == NOTHING:
            yield "gives up", failed, state

    def _mend(self, state: State, step: int) -> State:
        """Whoever called looks at the row when the call has ended; a blocked one says that it was in vain."""
        if state.ledger[step] in {NOTHING, DONE} or self.planted == "a late call stays":
            return state
        return self._stand(state, step, 0)._replace(ledger=_changed(state.ledger, step, COMPENSATED))

    def _mend_active(self, state: State, owner: Owner) -> State:
        """Calls under way are awaited by an owner that cancels or stops."""
        for step in owner.called:
            if owner.marks[step] == ACTIVE:
                state = self._mend(state, step)
        return state

    def _stand(self, state: State, step: int, stands: int) -> State:
        return self._effect(state, step, stands - state.effects[step])

    def _land(self, state: State, epoch: int, step: int) -> State | None:
        """The commit of an action reaches its database; None if its condition does not hold."""
        if step != self.home_pivot:
            if state.ledger[step] != NOTHING:
                return None
            return self._effect(state, step, +1)._replace(ledger=_changed(state.ledger, step, DONE))
        if self.planted != "the pivot does not ask the journal":
            held = state.epoch == epoch or self.planted == "the epoch is not checked"
            if not held or (state.status != RUNNING and self.planted != "the status is not checked"):
                return None
        following = self.definition.following[self.steps[step].name]
        return self._effect(state, step, +1)._replace(status=COMPLETING if following else "completed")

    def _undo(self, state: State, owner: Owner, step: int) -> tuple[Owner, State]:
        row = state.ledger[step]
        if step in self.calls and row in {NOTHING, BLOCKED}:
            return self._undo_call(state, owner, step)
        undone = owner._replace(marks=_changed(owner.marks, step, COMPENSATED), called=owner.called - {step})
        if step in self.calls and row == DONE:
            gone = self._stand(state, step, 0)
            return undone, gone._replace(ledger=_changed(state.ledger, step, COMPENSATED))
        if row == DONE:
            moved = self._effect(state, step, -1)._replace(ledger=_changed(state.ledger, step, COMPENSATED))
        elif row == NOTHING and self.planted != "no row for what never ran":
            moved = state._replace(ledger=_changed(state.ledger, step, BLOCKED))
        else:
            moved = state
        mark = BLOCKED if row == NOTHING else COMPENSATED
        return owner._replace(marks=_changed(owner.marks, step, mark)), moved

    def _undo_call(self, state: State, owner: Owner, step: int) -> tuple[Owner, State]:
        """A call that nobody recorded: its row is blocked first, and undone outside only then."""
        if state.ledger[step] == NOTHING and self.planted != "a call is undone before it is blocked":
            return owner, state._replace(ledger=_changed(state.ledger, step, BLOCKED))
        unmade = owner.epoch == 1 and step not in owner.called
        if unmade or self.planted == "what nobody recorded is not undone":
            return owner._replace(marks=_changed(owner.marks, step, BLOCKED)), state
        after = owner._replace(marks=_changed(owner.marks, step, COMPENSATED), called=owner.called - {step})
        row = COMPENSATED if state.ledger[step] == BLOCKED else NOTHING
        return after, self._stand(state, step, 0)._replace(ledger=_changed(state.ledger, step, row))

    def _block(self, state: State, owner: Owner, become: Become, step: int) -> State:
        if state.ledger[step] == DONE:
            return become(owner._replace(marks=_changed(owner.marks, step, DONE)), state)
        after = owner._replace(marks=_changed(owner.marks, step, BLOCKED))
        return become(after, state._replace(ledger=_changed(state.ledger, step, BLOCKED)))

    def _finish(self, state: State, owner: Owner, status: str) -> State:
        fused = status == "compensated" and self.first is not None and self.first != self.pivot
        holds = self._ours(state, owner) and state.status == owner.status
        unconditional = "the first step is undone unconditionally" if fused else "the finish asks for nothing"
        if not holds and self.planted != unconditional:
            return state
        moved = state._replace(status=status, told=state.told or status == "completed")
        return self._effect(moved, self.first or 0, -1) if fused else moved

    def _ours(self, state: State, owner: Owner) -> bool:
        return state.epoch == owner.epoch or self.planted == "the epoch is not checked"

    def _with_stock(self, owner: Owner, state: State) -> Owner:
        """What a takeover learns from the row it claimed and from the ledgers as they are now."""
        if owner.status == COMPENSATING:
            marks = state.ledger.replace(DONE, NOTHING)
            for step in self.calls:
                if marks[step] == BLOCKED and self.planted != "a blocked call counts as undone":
                    marks = _changed(marks, step, NOTHING)
            return owner._replace(marks=marks, stock_taken=True)
        marks = state.ledger
        if self.first is not None:
            marks = _changed(marks, self.first, DONE)
        if self.home_pivot is not None and owner.status == COMPLETING:
            marks = _changed(marks, self.home_pivot, DONE)
        return owner._replace(marks=marks, stock_taken=True)

    def _tell(self, state: State, owner: Owner) -> State:
        """Answer the caller as soon as the owner believes that the saga is decided."""
        decided = self.pivot is not None and owner.marks[self.pivot] == DONE and owner.status != COMPENSATING
        return state._replace(told=True) if decided or owner.status == "completed" else state

    def _ends_with(self, owner: Owner, step: int) -> bool:
        others = (mark for number, mark in enumerate(owner.marks) if number != step)
        at_home = self.steps[step].database_name == HOME and step != self.home_pivot
        return at_home and all(mark == DONE for mark in others)

    def _effect(self, state: State, step: int, change: int) -> State:
        effects = list(state.effects)
        effects[step] += change
        return state._replace(effects=tuple(effects))

    def _a_fresh_owner_ends(self, state: State) -> bool:
        seen = (state.status, state.ledger, state.effects)
        if seen not in self._ends:
            alone = self._taken_over(state._replace(owners=(), late=frozenset()))
            for _ in range(8 * len(self.steps)):
                if alone.status in FINAL or not alone.owners:
                    break
                _, alone = next(self._owner_moves(alone, 0, alone.owners[0]))
            self._ends[seen] = alone.status in FINAL
        return self._ends[seen]


class Found(NamedTuple):
    """How a search ended: what was wrong and the moves that led there, or how many states are fine."""

    wrong: str | None
    path: tuple[str, ...]
    states: int
    seen: frozenset[str]  # the names of all moves


@cache
def search(
    steps: tuple[Planned, ...],
    planted: str = "",
    *,
    forgetful: bool = True,
    cancels: bool = False,
    alone: bool = False,
) -> Found:
    """Visit every state that can be reached, breadth first; stop at the first that breaks a promise."""
    world = World(definition_of(*steps), planted=planted, forgetful=forgetful, cancels=cancels, alone=alone)
    start = world.born()
    came: dict[State, Move | None] = {start: None}
    queue, labels = deque([start]), set[str]()
    while queue:
        state = queue.popleft()
        wrong = world.wrong(state)
        if wrong is not None:
            return Found(wrong, _path(came, state), len(came), frozenset(labels))
        for label, following in world.moves(state):
            labels.add(label)
            if following not in came:
                came[following] = label, state
                queue.append(following)
    return Found(None, (), len(came), frozenset(labels))


def _path(came: dict[State, Move | None], state: State) -> tuple[str, ...]:
    labels: list[str] = []
    step = came[state]
    while step is not None:
        labels.append(step[0])
        step = came[step[1]]
    return tuple(reversed(labels))


def _changed(letters: str, place: int, letter: str) -> str:
    return letters[:place] + letter + letters[place + 1 :]


LAST_AT_HOME = (
    Planned("reserve", "inventory", ()),
    Planned("write", HOME, ()),
)
LAST_RETRIABLE_AT_HOME = (
    Planned("reserve", "inventory"),
    Planned("ship", "inventory", kind="pivot"),
    Planned("note", kind="retriable"),
)
TWO_ROOTS = (
    Planned("reserve", "inventory", ()),
    Planned("credit", "points", ()),
    Planned("ship", "parcels", ("reserve", "credit"), "pivot"),
    Planned("announce", HOME, kind="retriable"),
)
LAST_STEP_DECIDES = (Planned("open"), Planned("reserve", "inventory"), Planned("confirm"))
LAST_STEP_DECIDES_ELSEWHERE = (Planned("open"), Planned("reserve", "inventory"))
CALL_BEFORE_A_LEDGER_PIVOT = (Planned("charge", OUTSIDE), Planned("ship", "inventory", kind="pivot"))
CALLS_AROUND_A_PIVOT_AT_HOME = (
    Planned("open"),
    Planned("charge", OUTSIDE),
    Planned("confirm", kind="pivot"),
    Planned("mail", OUTSIDE, kind="retriable"),
)
CALL_BESIDE_A_STEP = (
    Planned("reserve", "inventory", ()),
    Planned("charge", OUTSIDE, ()),
    Planned("ship", "parcels", ("reserve", "charge"), "pivot"),
)
TWO_CALLS = (Planned("charge", OUTSIDE, ()), Planned("insure", OUTSIDE, ()))

SHAPES = {
    "first step and pivot at home": PLACE_ORDER,
    "no step at home": LEDGER_PIVOT,
    "several last steps": SEVERAL_LEAVES,
    "several last steps, one at home": LAST_AT_HOME,
    "retriable last step at home": LAST_RETRIABLE_AT_HOME,
    "two first steps": TWO_ROOTS,
    "last step decides, at home": LAST_STEP_DECIDES,
    "last step decides, elsewhere": LAST_STEP_DECIDES_ELSEWHERE,
    "call before a ledger pivot": CALL_BEFORE_A_LEDGER_PIVOT,
    "calls around a pivot at home": CALLS_AROUND_A_PIVOT_AT_HOME,
    "call beside a step": CALL_BESIDE_A_STEP,
    "two calls": TWO_CALLS,
}

# Which mistake breaks which shape; every other pair is harmless, because something else carries the promise.
PLANTED = [
    ("pivot blocked last", LEDGER_PIVOT),
    ("pivot blocked last", LAST_RETRIABLE_AT_HOME),
    ("a late action reports success", LEDGER_PIVOT),
    ("a late action reports success", LAST_STEP_DECIDES_ELSEWHERE),
    ("no row for what never ran", PLACE_ORDER),
    ("no row for what never ran", LEDGER_PIVOT),
    ("no row for what never ran", SEVERAL_LEAVES),
    ("the first step is undone unconditionally", PLACE_ORDER),
    ("the first step is undone unconditionally", SEVERAL_LEAVES),
    ("the pivot does not ask the journal", PLACE_ORDER),
    ("the pivot does not ask the journal", LAST_STEP_DECIDES),
    ("the status is not checked", PLACE_ORDER),
    ("the finish asks for nothing", SEVERAL_LEAVES),
    *(
        (planted, shape)
        for planted in (
            "a late call stays",
            "what nobody recorded is not undone",
            "a blocked call counts as undone",
            "a call is undone before it is blocked",
        )
        for shape in (CALL_BEFORE_A_LEDGER_PIVOT, CALL_BESIDE_A_STEP, TWO_CALLS)
    ),
]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_no_interleaving_of_three_owners_and_a_late_commit_breaks_a_promise(shape: tuple[Planned, ...]) -> None:
    found = search(shape)
    assert (found.wrong, found.path) == (None, ())


@pytest.mark.parametrize(("planted", "shape"), PLANTED)
def test_a_planted_mistake_is_found(planted: str, shape: tuple[Planned, ...]) -> None:
    found = search(shape, planted)
    assert found.wrong is not None, f"{found.states} states and nothing wrong"


CANCELLED = {
    "first step and pivot at home": PLACE_ORDER,
    "no step at home": LEDGER_PIVOT,
    "several last steps": SEVERAL_LEAVES,
    "retriable last step at home": LAST_RETRIABLE_AT_HOME,
    "last step decides, at home": LAST_STEP_DECIDES,
    "call before a ledger pivot": CALL_BEFORE_A_LEDGER_PIVOT,
    "calls around a pivot at home": CALLS_AROUND_A_PIVOT_AT_HOME,
}
PLANTED_IN_CANCELLING = [
    ("the cancel asks for no status", PLACE_ORDER),
    ("the cancel asks for no status", CALLS_AROUND_A_PIVOT_AT_HOME),
    ("the cancel ends what has no row", PLACE_ORDER),
    ("the cancel ends what has no row", LEDGER_PIVOT),
    ("the cancel ends what has no row", SEVERAL_LEAVES),
    ("a cancelled pivot needs no blocking", LEDGER_PIVOT),
    ("a cancelled pivot needs no blocking", LAST_RETRIABLE_AT_HOME),
]


@pytest.mark.parametrize("shape", CANCELLED.values(), ids=CANCELLED)
def test_no_cancellation_and_no_deadline_at_any_moment_breaks_a_promise(shape: tuple[Planned, ...]) -> None:
    found = search(shape, cancels=True)
    assert (found.wrong, found.path) == (None, ())
    assert {"1 is told to stop", "2 takes over and cancels", "3 takes over and cancels"} <= found.seen


def test_a_cancellation_reaches_a_pivot_that_has_committed_or_commits_late() -> None:
    assert "1 finds itself decided" in search(PLACE_ORDER, cancels=True).seen
    assert {"1 goes forward", "2 goes forward"} <= search(LEDGER_PIVOT, cancels=True).seen


@pytest.mark.parametrize(("planted", "shape"), PLANTED_IN_CANCELLING)
def test_a_mistake_in_cancelling_is_found(planted: str, shape: tuple[Planned, ...]) -> None:
    found = search(shape, planted, cancels=True)
    assert found.wrong is not None, f"{found.states} states and nothing wrong"


@pytest.mark.parametrize("shape", [LAST_STEP_DECIDES, LEDGER_PIVOT])
def test_the_ledger_and_the_status_carry_the_promise_also_without_the_epoch(shape: tuple[Planned, ...]) -> None:
    """The epoch tells an old owner to stop; the effects are right without it, at the price of more work."""
    found = search(shape, "the epoch is not checked")
    assert (found.wrong, found.path) == (None, ())


def test_a_pivot_in_the_journal_carries_the_promise_also_if_the_finish_asks_for_nothing() -> None:
    """Its commit has asked already; nobody who has not seen it done gets as far as the finish."""
    found = search(PLACE_ORDER, "the finish asks for nothing")
    assert (found.wrong, found.path) == (None, ())


@pytest.mark.parametrize("shape", [LAST_STEP_DECIDES, SEVERAL_LEAVES, CALLS_AROUND_A_PIVOT_AT_HOME])
def test_a_saga_that_was_born_in_somebody_elses_transaction_keeps_the_promises_too(
    shape: tuple[Planned, ...],
) -> None:
    """Its journal row was born without the first step, which has a ledger row like the others."""
    found = search(shape, alone=True)
    assert (found.wrong, found.path) == (None, ())
    assert f"1 does {shape[0].name}" in found.seen


@pytest.mark.parametrize("shape", [CALL_BEFORE_A_LEDGER_PIVOT, CALLS_AROUND_A_PIVOT_AT_HOME, TWO_CALLS])
def test_no_call_stands_for_a_moment_after_its_saga_was_undone_if_the_outside_remembers_undone_keys(
    shape: tuple[Planned, ...],
) -> None:
    found = search(shape, forgetful=False)
    assert (found.wrong, found.path) == (None, ())


def test_the_search_reaches_calls_in_vain() -> None:
    seen = search(CALL_BEFORE_A_LEDGER_PIVOT).seen
    in_vain = {"1 undoes its own call of charge", "1 cannot record charge"}
    assert {*in_vain, "2 records charge", "1 finds charge", "1 gives up charge"} <= seen


def test_the_search_reaches_the_rare_moves() -> None:
    seen = search(LEDGER_PIVOT).seen
    assert {
        "1 goes forward",
        "2 blocks ship",
        "late commit of ship by 1 lands",
        "1 is too late for credit",
        "1 cannot compensate",
        "3 finishes as compensated",
        "3 finishes as completed",
    } <= seen


def test_the_search_reaches_both_ends_of_the_fused_shapes() -> None:
    seen = search(PLACE_ORDER).seen
    assert {"2 does confirm_order", "late commit of confirm_order by 1 lands", "1 finds confirm_order"} <= seen
    assert {"2 finishes as compensated", "2 finishes as completed", "1 cancels"} <= seen
    assert "1 finishes with write" in search(LAST_AT_HOME).seen
