"""What a person does to a saga that is parked or put aside (`sagas/operations/repairs.py`).

`retry` and `compensate` are one write. `skip` and `resolve` claim first, write ledger rows one by one, and change
the journal last; the person may go away in between. What a person says is undone, or done, is so from then on.
"""

from collections.abc import Iterator

from tests.model.setting import Setting
from tests.model.states import (
    ATTENTION,
    BLOCKED,
    BY_PERSON,
    COMPENSATED,
    COMPENSATING,
    COMPLETING,
    DONE,
    FINAL,
    LIVE,
    NOBODY,
    NOTHING,
    RUNNING,
    TOLD_UNDONE,
    UNDONE_BY_HAND,
    Person,
    State,
)


class Persons:
    """The repairs of one saga."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def moves(self, state: State) -> Iterator[tuple[str, State]]:
        """Everything that a person can do next."""
        row, person = state.row, state.person
        if person is not None and row.epoch == person.epoch and row.status == person.expected:
            yield self._work(state, person)
        going = row.parked_from if row.status == ATTENTION else row.status
        if going not in LIVE or state.claims + 1 >= self.setting.claims + 2:
            return
        if going in {RUNNING, COMPENSATING} and row.status != COMPENSATING:
            undone = self._repaired(state, COMPENSATING)
            told = self.setting.pivot is None or self.setting.pivot_at_home
            yield "a person compensates", undone.flagged(TOLD_UNDONE) if told else undone
        if row.status != ATTENTION and row.holder != NOBODY:
            return
        if row.status == ATTENTION:
            yield "a person retries", self.retried(state)
        yield from self._claims(state, going)

    def retried(self, state: State) -> State:
        """Return a parked saga sent where it was going."""
        return self._repaired(state, state.row.parked_from)

    def resolves(self, state: State) -> bool:
        """Tell whether a person can resolve *state* as one or the other."""
        going = state.row.parked_from or state.row.status
        for label, claimed in self._claims(state, going):
            if label in {"a person claims to complete", "a person claims to undo"}:
                while claimed.person is not None:
                    _, claimed = self._work(claimed, claimed.person)
                if claimed.row.status in FINAL:
                    return True
        return False

    def _claims(self, state: State, going: str) -> Iterator[tuple[str, State]]:
        setting = self.setting
        names, pivot = setting.names, setting.pivot
        elsewhere = () if pivot is None or setting.pivot_at_home else (pivot,)
        for step, row in enumerate(state.ledger):
            if step == setting.pivot or (step in setting.calls and going != COMPENSATING):
                continue
            if going == COMPENSATING:
                undone = row in {COMPENSATED, BLOCKED} or (step == setting.first and state.row.by_hand)
                if step in setting.undoable and not undone:
                    first = () if setting.planted == "a skip does not block the pivot" else elsewhere
                    taken = self._taken(state, "undone", going, (*first, step))
                    yield f"a person claims to skip {names[step]}", taken
            elif (
                row == NOTHING
                and step != setting.first
                and all(state.effects[one] for one in setting.before[step])
            ):
                yield f"a person claims to skip {names[step]}", self._taken(state, "done", going, (step,))
        decided = going == COMPLETING or (bool(elsewhere) and state.ledger[pivot or 0] == DONE)
        if decided and going != COMPENSATING:
            rest = tuple(step for step in range(len(names)) if step != setting.first and step != self._recorded)
            yield "a person claims to complete", self._taken(state, "resolve completed", going, rest)
        elif not decided:
            undoable = tuple(step for step in setting.undoable if step != setting.first)
            yield "a person claims to undo", self._taken(state, "resolve compensated", going, elsewhere + undoable)

    @property
    def _recorded(self) -> int | None:
        return self.setting.pivot if self.setting.pivot_at_home else None

    def _taken(self, state: State, action: str, going: str, todo: tuple[int, ...]) -> State:
        token = state.claims + 1
        row = state.row._replace(epoch=state.row.epoch + 1, holder=token)
        if going == COMPENSATING or action == "resolve compensated":
            state = state.flagged(UNDONE_BY_HAND)
        seen = frozenset(step for step, mark in enumerate(state.ledger) if mark == DONE)
        person = Person(row.epoch, action, going, row.status, todo, todo, seen)
        return state._replace(row=row, claims=token, person=person)

    def _work(self, state: State, person: Person) -> tuple[str, State]:
        """Write the next ledger row, or at last the journal."""
        setting = self.setting
        if not person.todo:
            return f"a person has it {person.action}", self._end(state, person)
        step = person.todo[0]
        name, row = setting.names[step], state.ledger[step]
        state = state._replace(person=person._replace(todo=person.todo[1:]))
        if setting.planted == "a skip writes no ledger row":
            by_hand = 1 - state.effects[step] if person.action == "done" else -state.effects[step]
            return f"a person skips {name}", state.with_effect(step, by_hand)
        if person.action == "done":
            if row == NOTHING:
                state = state.with_effect(step, +1).with_row(step, DONE)
        elif step == setting.first:
            pass  # its record is the journal row
        elif step == setting.pivot or person.action == "resolve completed":
            if row == NOTHING:
                state = state.with_row(step, BLOCKED)
            elif step == setting.pivot and row == DONE and person.action != "resolve completed":
                state = state._replace(person=None)
                return f"a person is too late: {name} is done", state
        elif row == DONE and step not in person.seen:
            # What the person has not seen is not undone by the person's word.
            if setting.planted == "a person's word covers what no person has seen":
                return f"a person writes {name}", state.with_row(step, COMPENSATED)
            return f"a person learns that {name} has happened", state._replace(person=None)
        elif step in setting.calls:
            state = state.with_effect(step, -state.effects[step]).with_row(step, COMPENSATED)
        elif row == DONE:
            state = state.with_effect(step, -1).with_row(step, COMPENSATED)
        elif row == NOTHING:
            state = state.with_row(step, BLOCKED)
        return f"a person writes {name}", state

    def _end(self, state: State, person: Person) -> State:
        first, row = self.setting.first, state.row
        if not person.action.startswith("resolve"):
            if person.action == "undone" and first is not None and person.steps[-1] == first:
                state = state.with_effect(first, -1)._replace(row=row._replace(by_hand=True))
            return self._repaired(state, person.going)
        status = person.action.removeprefix("resolve ")
        state = self._repaired(state, status).flagged(BY_PERSON)
        if status == "compensated" and first is not None and self.setting.undoes_first and not row.by_hand:
            state = state.with_effect(first, -1)
        return state.flagged(TOLD_UNDONE) if status == "compensated" else state

    def _repaired(self, state: State, status: str) -> State:
        row = state.row._replace(status=status, epoch=state.row.epoch + 1, holder=NOBODY, parked_from="")
        return state._replace(row=row, claims=state.claims + 1, person=None)
