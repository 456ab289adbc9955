"""Steps without a database: a call outside and, in a move of its own, its record (`sagas/driving/calls.py`).

The outside does one thing per key however often it is called. It may remember the keys that were undone, then all
promises hold as they stand; or forget them, then a call that comes too late stands until its owner undoes it.
"""

from collections.abc import Iterator

from polysaga.sagas.protocol.known import Did, Failed, Stuck, Undid
from tests.model.databases import land
from tests.model.setting import Setting
from tests.model.states import (
    ACTIVE,
    BLOCKED,
    COMPENSATED,
    DONE,
    NOTHING,
    Commit,
    Owner,
    State,
    changed,
)


class Calls:
    """The calls of one saga."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def attempt(self, state: State, owner: Owner, step: int) -> Iterator[tuple[str, Owner | None, State]]:
        """The call, or the record of one that was made; an owner that called in vain undoes it."""
        name, planted = self.setting.names[step], self.setting.planted
        retriable = self.setting.kinds[step] == "retriable"
        failed = self.setting.learn(owner, Stuck if retriable else Failed, step)
        done = self.setting.learn(owner, Did, step, "")
        if step not in owner.called:
            undone = state.ledger[step] == COMPENSATED and not self.setting.forgetful
            called = owner._replace(called=owner.called | {step})
            if planted == "a result is used before it is recorded":
                called = done
            yield f"calls {name}", called, state if undone else _stand(state, step, 1)
            if not retriable:
                yield f"is refused by {name}", failed, state
            return
        settled = owner.called - {step}
        recorded = land(self.setting, state, Commit("record", owner.epoch, owner.token, step))
        row = state.ledger[step]
        if row == DONE:
            yield f"finds {name}", done._replace(called=settled), state
        elif recorded is not None:
            yield f"records {name}", done._replace(called=settled), recorded
            if not retriable:
                yield f"gives up {name}", failed, state
        elif row != NOTHING:
            yield f"undoes its own call of {name}", failed._replace(called=settled), self._mend(state, step)
        else:
            yield f"cannot record {name}", None, state

    def undo(self, state: State, owner: Owner, step: int) -> Iterator[tuple[str, Owner | None, State]]:
        """A call that no owner recorded: its row is blocked first, and undone outside only then."""
        name, row, planted = self.setting.names[step], state.ledger[step], self.setting.planted
        settled = owner._replace(called=owner.called - {step})
        undone = self.setting.learn(settled, Undid, step, COMPENSATED, "")
        if row == NOTHING and planted != "a call is undone before it is blocked":
            blocked = land(self.setting, state, Commit("block", owner.epoch, owner.token, step))
            yield f"blocks {name}", owner if blocked else None, blocked or state
            return
        unmade = owner.epoch == 1 and step not in owner.called
        if row == COMPENSATED:
            yield f"finds {name} undone", undone, state
        elif row == BLOCKED and (unmade or planted == "an unrecorded call is not undone"):
            yield f"blocks {name}", self.setting.learn(owner, Undid, step, BLOCKED, ""), state
        else:
            gone = _stand(state, step, 0)
            yield f"undoes {name}", undone, gone.with_row(step, row if row == NOTHING else COMPENSATED)

    def mend_active(self, state: State, owner: Owner) -> State:
        """Calls under way are awaited by an owner that cancels or stops."""
        for step in owner.called:
            if owner.marks[step] == ACTIVE:
                state = self._mend(state, step)
        return state

    def surveyed(self, owner: Owner, ledger: str) -> Owner:
        """Return *owner*, who has read *ledger*; for a planted mistake it takes blocked calls for undone."""
        for step in self.setting.calls:
            if ledger[step] == BLOCKED and self.setting.planted == "a blocked call counts as undone":
                owner = owner._replace(marks=changed(owner.marks, step, BLOCKED))
        return owner

    def _mend(self, state: State, step: int) -> State:
        """An owner that called looks at the row; if it is blocked or undone, so is its call."""
        if state.ledger[step] in {NOTHING, DONE} or self.setting.kinds[step] == "retriable":
            return state
        if self.setting.planted == "a late call stays":
            return state
        return _stand(state, step, 0).with_row(step, COMPENSATED)


def _stand(state: State, step: int, stands: int) -> State:
    return state.with_effect(step, stands - state.effects[step])
