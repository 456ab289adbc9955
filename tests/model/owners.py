"""What an owner can do next: one commit, its answer or none, and what the executor makes of that.

The first move of an owner is the one in which everything goes well.
"""

from collections.abc import Iterator
from typing import TypeAlias

from polysaga.sagas.protocol.decisions import (
    BlockPivot,
    CancelActive,
    Compensate,
    Decision,
    Finish,
    GoForward,
    Rest,
    Wait,
)
from tests.model.calls import Calls
from tests.model.databases import holds, land
from tests.model.setting import Setting
from tests.model.states import (
    ABSENT,
    ACTIVE,
    BLOCKED,
    COMPENSATED,
    COMPENSATING,
    COMPLETING,
    DONE,
    NOBODY,
    NOTHING,
    RUNNING,
    STUCK,
    TOLD_ABSENT,
    TOLD_COMPLETED,
    TOLD_UNDONE,
    Commit,
    Owner,
    State,
    changed,
)

Step: TypeAlias = tuple[str, Owner | None, State]  # what it is called, the owner afterwards, the databases
_WRITES_JOURNAL = Compensate | GoForward | Finish | Rest
_OFTEN_LOST = {"do", "pivot", "last", "birth"}


class Owners:
    """The moves of the owners of one saga."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._calls = Calls(setting)

    def moves(self, state: State, place: int) -> Iterator[tuple[str, State]]:
        """Everything that the owner at *place* can do next."""
        owner = state.owners[place]
        before, behind = state.owners[:place], state.owners[place + 1 :]
        for label, after, moved in self._steps(state, owner):
            if after is None:
                moved = self._calls.mend_active(moved, owner)
            elif after.status not in {*_FINAL}:
                moved = moved._replace(owners=(*before, after, *behind))
                yield f"{owner.token} {label}", self._tell(moved, after)
                continue
            yield f"{owner.token} {label}", self._tell(moved._replace(owners=(*before, *behind)), after)

    def is_doomed(self, state: State, owner: Owner) -> bool:
        """Tell whether all that *owner* would do is to find out that its claim is gone."""
        if owner.phase or owner.called or holds(state, owner) or state.row.holder == NOBODY:
            return False
        return isinstance(self.setting.next(owner.status, owner.marks, owner.failed)[1], _WRITES_JOURNAL)

    def _steps(self, state: State, owner: Owner) -> Iterator[Step]:
        if owner.phase == "takes stock":
            yield from self._take_stock(state, owner)
        elif owner.phase:
            yield from self._start(state, owner)
        else:
            marks, decision = self.setting.next(owner.status, owner.marks, owner.failed)
            yield from self._carry_out(state, owner._replace(marks=marks), decision)
            undecided = self.setting.pivot is None or marks[self.setting.pivot] != DONE
            if "cancel" in self.setting.powers and owner.status == RUNNING and not owner.failed and undecided:
                yield "is told to cancel", owner._replace(marks=marks, failed=True), state

    def _carry_out(self, state: State, owner: Owner, decision: Decision) -> Iterator[Step]:
        match decision:
            case Wait():
                attempt = self._undo if owner.status == COMPENSATING else self._attempt
                for step in (number for number, mark in enumerate(owner.marks) if mark == ACTIVE):
                    yield from attempt(state, owner, step)
            case BlockPivot(name):
                yield from self._block(state, owner, self.setting.number[name])
            case CancelActive():
                mended = self._calls.mend_active(state, owner)
                yield "cancels", owner._replace(marks=owner.marks.replace(ACTIVE, NOTHING)), mended
            case Compensate():
                yield from self._compensate(state, owner)
            case GoForward():
                forward = owner._replace(status=RUNNING, failed=False, phase="takes stock")
                yield from self._write(state, owner, self._commit(owner, "forward", status=RUNNING), forward)
            case Finish(status):
                yield from self._finish(state, owner, status.value)
            case Rest() if owner.status == COMPENSATING or self._never_completes(owner):
                yield from self._write(state, owner, self._commit(owner, "park", expected=owner.status), None)
            case Rest():
                yield from self._write(state, owner, self._commit(owner, "postpone"), None)
            case _:
                raise AssertionError(decision)

    def _never_completes(self, owner: Owner) -> bool:
        """Tell whether a person has begun to resolve the saga as completed: a step of it is blocked for ever."""
        undone = BLOCKED in owner.marks or COMPENSATED in owner.marks
        return undone and self.setting.planted != "what is half resolved is put aside"

    def _attempt(self, state: State, owner: Owner, step: int) -> Iterator[Step]:
        """One attempt of an action, and what the owner concludes after looking at the record."""
        if step in self.setting.calls:
            yield from self._calls.attempt(state, owner, step)
            return
        name, kind = self.setting.names[step], self.setting.kinds[step]
        done, failed = _marked(owner, step, DONE), _marked(owner, step, NOTHING)._replace(failed=True)
        if kind == "retriable":
            failed = _marked(owner, step, STUCK)
        commit, ends = self._action(owner, step)
        landed = land(self.setting, state, commit)
        if landed is not None:
            yield f"does {name}", done._replace(status=ends or owner.status), landed
            yield from self._unheard(state, owner, commit, landed)
            if kind != "retriable" or "impatience" in self.setting.powers:
                yield f"gives up {name}", failed, state
        elif commit.kind == "pivot":
            found = holds(state, owner) and state.row.status in {COMPLETING, "completed"}
            after = done._replace(status=state.row.status) if found else None
            yield f"{'finds' if found else 'is too late for'} {name}", after, state
        elif state.ledger[step] == DONE or self.setting.planted == "a late action reports success":
            yield f"finds {name}", done, state
        elif state.ledger[step] == NOTHING:
            yield f"is fenced from {name}", None, state
        else:
            yield f"is too late for {name}", failed, state

    def _action(self, owner: Owner, step: int) -> tuple[Commit, str]:
        """Return the commit of an action, and the status that comes with it."""
        if step == self.setting.pivot and self.setting.pivot_at_home:
            return self._commit(owner, "pivot", step), self.setting.decided
        if self.setting.ends_with(owner.marks, step):
            return self._commit(owner, "last", step, expected=owner.status), "completed"
        return self._commit(owner, "do", step), ""

    def _undo(self, state: State, owner: Owner, step: int) -> Iterator[Step]:
        name = self.setting.names[step]
        if step in self.setting.calls:
            yield from self._calls.undo(state, owner, step)
        else:
            never_ran = state.ledger[step] == NOTHING
            commit = self._commit(owner, "undo", step)
            landed = land(self.setting, state, commit)
            if landed is None:
                yield f"is fenced from undoing {name}", None, state
                return
            if never_ran and self.setting.planted == "no row for what never ran":
                landed = state
            yield f"undoes {name}", _marked(owner, step, BLOCKED if never_ran else COMPENSATED), landed
            yield from self._unheard(state, owner, commit, landed)
        if "impatience" in self.setting.powers:
            yield f"cannot undo {name}", _marked(owner, step, STUCK), state

    def _block(self, state: State, owner: Owner, step: int) -> Iterator[Step]:
        name = self.setting.names[step]
        if state.ledger[step] == DONE and self.setting.planted != "the pivot is not blocked":
            yield f"finds {name}", _marked(owner, step, DONE), state
            return
        commit = self._commit(owner, "block", step)
        landed = land(self.setting, state, commit)
        if landed is None:
            yield f"is fenced from blocking {name}", None, state
            return
        if self.setting.planted == "the pivot is not blocked":
            landed = state
        yield f"blocks {name}", _marked(owner, step, BLOCKED), landed.flagged(TOLD_UNDONE)
        yield from self._unheard(state, owner, commit, landed)
        if "impatience" in self.setting.powers:
            yield f"cannot block {name}", _marked(owner, step, STUCK), state

    def _compensate(self, state: State, owner: Owner) -> Iterator[Step]:
        undoing = owner._replace(status=COMPENSATING, marks=NOTHING * len(owner.marks))
        told = self.setting.pivot is None or self.setting.pivot_at_home
        told = told or self.setting.planted == "cancel is confirmed before the pivot is blocked"
        commit = self._commit(owner, "compensate", status=COMPENSATING)
        pivot = self.setting.pivot
        if holds(state, owner) and state.row.status in {COMPLETING, "completed"} and pivot is not None:
            decided = _marked(owner, pivot, DONE)._replace(status=state.row.status, failed=False)
            yield "finds that it has decided", decided, state
            return
        for label, after, moved in self._write(state, owner, commit, undoing):
            yield label, after, moved.flagged(TOLD_UNDONE) if after is undoing and told else moved

    def _finish(self, state: State, owner: Owner, status: str) -> Iterator[Step]:
        first = self.setting.first
        undoes = status == "compensated" and self.setting.undoes_first and first is not None
        if undoes and first is not None and owner.marks[first] != COMPENSATED:
            commit = self._commit(owner, "undo first", first, status=status)
            yield from self._write(state, owner, commit, owner._replace(status=status))
            if "impatience" in self.setting.powers:
                yield f"cannot undo {self.setting.names[first]}", _marked(owner, first, STUCK), state
            return
        commit = self._commit(owner, "finish", expected=owner.status, status=status)
        yield from self._write(state, owner, commit, owner._replace(status=status))

    def _write(self, state: State, owner: Owner, commit: Commit, after: Owner | None) -> Iterator[Step]:
        """A write to the journal; refused, it may have happened before, and else the claim is gone."""
        landed = land(self.setting, state, commit)
        what = f"{commit.kind} {commit.status}".strip()
        if landed is not None:
            yield what, after, landed
            yield from self._unheard(state, owner, commit, landed)
        elif holds(state, owner) and state.row.status == commit.status:
            yield f"finds {what}", after, state
        else:
            yield f"cannot {what}", None, state

    def _unheard(self, state: State, owner: Owner, commit: Commit, landed: State) -> Iterator[Step]:
        """The commit is on its way and its reply will not come: it lands later, or never."""
        lost = commit.kind in _OFTEN_LOST or "lost replies" in self.setting.powers
        if lost and landed != state and len(state.late) < self.setting.late:
            name = self.setting.names[commit.step] if commit.step >= 0 else commit.status
            unsure = owner._replace(unsure=True) if owner.phase else owner
            yield f"hears nothing of {commit.kind} {name}", unsure, state._replace(late=state.late | {commit})

    def _start(self, state: State, owner: Owner) -> Iterator[Step]:
        refused = owner.phase == "was refused"
        commit = self._commit(owner, "birth", status="compensated" if refused else RUNNING)
        landed = land(self.setting, state, commit)
        drives = owner._replace(phase="", unsure=False)
        if self.setting.first is not None:
            drives = _marked(drives, self.setting.first, DONE)
        if landed is not None:
            what = "is born refused" if refused else "starts"
            yield what, drives._replace(status=landed.row.status), landed
            yield from self._unheard(state, owner, commit, landed)
        elif holds(state, owner) or (self.setting.planted == "the owner is not checked" and state.row.epoch == 1):
            yield "finds its start", drives._replace(status=state.row.status), state
        else:
            yield "joins", None, state
            return
        if landed is not None and not refused and self.setting.first is not None:
            yield "is refused at the start", owner._replace(phase="was refused"), state
        if state.row.status == ABSENT:
            sure = not owner.unsure or self.setting.planted == "absence of the start is taken for not started"
            yield "gives up the start", None, state.flagged(TOLD_ABSENT * owner.token) if sure else state

    def _take_stock(self, state: State, owner: Owner) -> Iterator[Step]:
        """What a takeover learns from the row it claimed and from the ledgers as they are now."""
        marks, first = state.ledger, self.setting.first
        if owner.status == COMPENSATING:
            marks = self._calls.pending(marks.replace(DONE, NOTHING))
            if first is not None and state.row.by_hand:
                marks = changed(marks, first, COMPENSATED)
        elif first is not None:
            marks = changed(marks, first, DONE)
        if self.setting.pivot_at_home and self.setting.pivot is not None and owner.status in {COMPLETING, *_FINAL}:
            marks = changed(marks, self.setting.pivot, DONE)
        yield "takes stock", owner._replace(marks=marks, phase=""), state
        if "impatience" in self.setting.powers and owner.status not in _FINAL:
            yield from self._write(state, owner, self._commit(owner, "park", expected=owner.status), None)

    def _tell(self, state: State, owner: Owner | None) -> State:
        """Answer the caller as soon as the owner believes that the saga is decided."""
        if owner is None or owner.phase:
            return state
        pivot = self.setting.pivot
        decided = pivot is not None and owner.marks[pivot] == DONE and owner.status not in {COMPENSATING, *_FINAL}
        if decided or owner.status == "completed":
            return state.flagged(TOLD_COMPLETED)
        return state.flagged(TOLD_UNDONE) if owner.status == "compensated" else state

    @staticmethod
    def _commit(owner: Owner, kind: str, step: int = -1, *, expected: str = "", status: str = "") -> Commit:
        return Commit(kind, owner.epoch, owner.token, step, expected, status)


_FINAL = ("completed", "compensated")


def _marked(owner: Owner, step: int, mark: str) -> Owner:
    return owner._replace(marks=changed(owner.marks, step, mark))
