"""What an owner can do next: one commit, its answer or none, and the fact that it learns from that.

The first move of an owner is the one in which everything goes well.
"""

from collections.abc import Iterator
from typing import TypeAlias

from polysaga.sagas.protocol.decisions import (
    BlockPivot,
    CancelActive,
    Compensate,
    Finish,
    GoForward,
    Move,
    Rest,
    Wait,
)
from polysaga.sagas.protocol.known import (
    Born,
    Did,
    Failed,
    FoundDecided,
    Interrupted,
    Stuck,
    Surveyed,
    Undid,
    Written,
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
                yield "gets a cancel", self.setting.learn(owner._replace(marks=marks), Failed, None), state

    def _carry_out(self, state: State, owner: Owner, decision: Move) -> Iterator[Step]:
        match decision:
            case Wait():
                attempt = self._undo if owner.status == COMPENSATING else self._attempt
                for step in (number for number, mark in enumerate(owner.marks) if mark == ACTIVE):
                    yield from attempt(state, owner, step)
            case BlockPivot(name):
                yield from self._block(state, owner, self.setting.number[name])
            case CancelActive():
                mended = self._calls.mend_active(state, owner)
                yield "cancels", self.setting.learn(owner, Interrupted), mended
            case Compensate():
                yield from self._compensate(state, owner)
            case GoForward():
                forward = self.setting.learn(owner, Written, RUNNING)._replace(phase="takes stock")
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
        learn = self.setting.learn
        done, failed = learn(owner, Did, step, ""), learn(owner, Stuck if kind == "retriable" else Failed, step)
        commit, ends = self._action(owner, step)
        landed = land(self.setting, state, commit)
        if landed is not None:
            yield f"does {name}", learn(owner, Did, step, ends), landed
            yield from self._unheard(state, owner, commit, landed)
            if kind != "retriable" or "impatience" in self.setting.powers:
                yield f"gives up {name}", failed, state
        elif commit.kind == "pivot":
            found = holds(state, owner) and state.row.status in {COMPLETING, "completed"}
            after = learn(owner, Did, step, state.row.status) if found else None
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
            mark = BLOCKED if never_ran else COMPENSATED
            yield f"undoes {name}", self.setting.learn(owner, Undid, step, mark, ""), landed
            yield from self._unheard(state, owner, commit, landed)
        if "impatience" in self.setting.powers:
            yield f"cannot undo {name}", self.setting.learn(owner, Stuck, step), state

    def _block(self, state: State, owner: Owner, step: int) -> Iterator[Step]:
        name = self.setting.names[step]
        if state.ledger[step] == DONE and self.setting.planted != "the pivot is not blocked":
            yield f"finds {name}", self.setting.learn(owner, Did, step, ""), state
            return
        commit = self._commit(owner, "block", step)
        landed = land(self.setting, state, commit)
        if landed is None:
            yield f"is fenced from blocking {name}", None, state
            return
        if self.setting.planted == "the pivot is not blocked":
            landed = state
        yield f"blocks {name}", self.setting.learn(owner, Undid, step, BLOCKED, ""), landed
        yield from self._unheard(state, owner, commit, landed)
        if "impatience" in self.setting.powers:
            yield f"cannot block {name}", self.setting.learn(owner, Stuck, step), state

    def _compensate(self, state: State, owner: Owner) -> Iterator[Step]:
        undoing = self.setting.learn(self.setting.learn(owner, Failed, None), Written, COMPENSATING)
        told = self.setting.planted == "cancel is confirmed before the pivot is blocked"
        commit = self._commit(owner, "compensate", status=COMPENSATING)
        pivot = self.setting.pivot
        if holds(state, owner) and state.row.status in {COMPLETING, "completed"} and pivot is not None:
            steps = tuple(step for step in (self.setting.first, pivot) if step is not None)
            yield (
                "finds that it has decided",
                self.setting.learn(owner, FoundDecided, state.row.status, steps),
                state,
            )
            return
        for label, after, moved in self._write(state, owner, commit, undoing):
            yield label, after, moved.flagged(TOLD_UNDONE) if after is undoing and told else moved

    def _finish(self, state: State, owner: Owner, status: str) -> Iterator[Step]:
        first = self.setting.first
        undoes = status == "compensated" and self.setting.undoes_first and first is not None
        if undoes and first is not None and owner.marks[first] != COMPENSATED:
            commit = self._commit(owner, "undo first", first, status=status)
            undone = self.setting.learn(owner, Undid, first, COMPENSATED, status)
            yield from self._write(state, owner, commit, undone)
            if "impatience" in self.setting.powers:
                yield f"cannot undo {self.setting.names[first]}", self.setting.learn(owner, Stuck, first), state
            return
        commit = self._commit(owner, "finish", expected=owner.status, status=status)
        yield from self._write(state, owner, commit, self.setting.learn(owner, Written, status))

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
        if landed is not None:
            what = "is born refused" if refused else "starts"
            yield what, self._born(owner, landed.row.status), landed
            yield from self._unheard(state, owner, commit, landed)
        elif holds(state, owner) or (self.setting.planted == "the owner is not checked" and state.row.epoch == 1):
            yield "finds its start", self._born(owner, state.row.status), state
        else:
            yield "joins", None, state
            return
        if landed is not None and not refused and self.setting.first is not None:
            failed = self.setting.learn(owner, Failed, self.setting.first)
            yield "is refused at the start", failed._replace(phase="was refused"), state
        if state.row.status == ABSENT:
            sure = not owner.unsure or self.setting.planted == "absence of the start is taken for not started"
            yield "gives up the start", None, state.flagged(TOLD_ABSENT * owner.token) if sure else state

    def _born(self, owner: Owner, status: str) -> Owner:
        """Return the owner that drives after it wrote, or found, the row in *status*."""
        first, drives = self.setting.first, owner._replace(phase="", unsure=False)
        if first is not None and not owner.failed:
            return self.setting.learn(drives, Did, first, status)
        happened = () if first is None or status == "compensated" else (first,)
        return self.setting.learn(drives, Born, status, happened)

    def _take_stock(self, state: State, owner: Owner) -> Iterator[Step]:
        """What a takeover learns from the row it claimed and from the ledgers as they are now."""
        records, first, pivot = state.ledger, self.setting.first, self.setting.pivot
        if first is not None:
            records = changed(records, first, DONE)
        if self.setting.pivot_at_home and pivot is not None and owner.status in {COMPLETING, *_FINAL}:
            records = changed(records, pivot, DONE)
        by_hand = owner.status == COMPENSATING and state.row.by_hand
        knows = self.setting.learn(owner, Surveyed, records, by_hand=by_hand)
        yield "takes stock", self._calls.surveyed(knows, records)._replace(phase=""), state
        if "impatience" in self.setting.powers and owner.status not in _FINAL:
            yield from self._write(state, owner, self._commit(owner, "park", expected=owner.status), None)

    def _tell(self, state: State, owner: Owner | None) -> State:
        """Answer the callers as soon as the owner takes the end of the saga for certain."""
        if owner is None or owner.phase:
            return state
        completed, undone = self.setting.certain(owner)
        if completed:
            return state.flagged(TOLD_COMPLETED)
        return state.flagged(TOLD_UNDONE) if undone else state

    @staticmethod
    def _commit(owner: Owner, kind: str, step: int = -1, *, expected: str = "", status: str = "") -> Commit:
        return Commit(kind, owner.epoch, owner.token, step, expected, status)


_FINAL = ("completed", "compensated")
