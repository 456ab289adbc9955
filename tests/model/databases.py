"""What the databases do with a commit: the conditions of `statements.py` and of `participants/`.

`land` returns None where a condition does not hold: the transaction rolls back, or changes no row. A planted
mistake takes a condition away.
"""

from tests.model.setting import Setting
from tests.model.states import (
    ABSENT,
    AGED,
    ATTENTION,
    BLOCKED,
    BORN_ALL_THE_SAME,
    COMPENSATED,
    COMPENSATING,
    COMPLETING,
    DONE,
    LIVE,
    NOBODY,
    NOTHING,
    RUNNING,
    TOLD_ABSENT,
    USURPED,
    Commit,
    Owner,
    Row,
    State,
)

LEDGER = {"do", "undo", "block", "note"}  # the others write the journal


def land(setting: Setting, state: State, commit: Commit) -> State | None:
    """Return the state after *commit* has reached its database."""
    if commit.kind == "birth":
        return _birth(setting, state, commit)
    if commit.kind in LEDGER:
        return _ledger(setting, state, commit)
    if not _claimed(setting, state, commit):
        return None
    moved = _journal(setting, state, commit)
    if moved is not None and moved.row != state.row and not holds(state, commit):
        return moved.flagged(USURPED)
    return moved


def holds(state: State, one: Commit | Owner) -> bool:
    """Tell whether the claim of *one* is the one that the journal names."""
    return state.row.epoch == one.epoch and state.row.holder == one.token


def may_land(state: State, commit: Commit) -> bool:
    """Tell whether *commit* can land one day: ledger rows stay, and a claim that is lost is lost for good."""
    if commit.kind == "birth":
        return state.row.status == ABSENT
    if commit.kind in LEDGER:
        return state.ledger[commit.step] in ({NOTHING, DONE} if commit.kind == "undo" else {NOTHING})
    return holds(state, commit)


def _claimed(setting: Setting, state: State, commit: Commit) -> bool:
    free = {
        "the pivot does not ask the journal": "pivot",
        "the first step is undone unconditionally": "undo first",
        "the finish asks for nothing": "finish",
    }
    if setting.planted == "the claim is not checked" or free.get(setting.planted) == commit.kind:
        return True
    if setting.planted == "the owner is not checked":
        return state.row.epoch == commit.epoch
    return holds(state, commit)


def _birth(setting: Setting, state: State, commit: Commit) -> State | None:
    if state.row.status != ABSENT:
        return None
    born = state._replace(row=Row(commit.status, commit.epoch, commit.token))
    if state.flags & TOLD_ABSENT * commit.token:
        born = born.flagged(BORN_ALL_THE_SAME)
    return born if setting.first is None or commit.status != RUNNING else born.with_effect(setting.first, +1)


def _ledger(setting: Setting, state: State, commit: Commit) -> State | None:
    row, step = state.ledger[commit.step], commit.step
    unfenced = {"actions have no fence": {"do"}, "compensations have no fence": {"undo", "block"}}
    if state.flags & AGED and commit.kind not in unfenced.get(setting.planted, {"note"}):
        return None
    match commit.kind:
        case "do":
            late = row in {BLOCKED, COMPENSATED} and setting.planted == "a late action overwrites what is there"
            if row != NOTHING and not late:
                return None
            happened = state.with_effect(step, +1)
            if setting.planted == "the ledger row in a transaction of its own":
                return happened._replace(late=happened.late | {commit._replace(kind="note")})
            return happened.with_row(step, DONE)
        case "note":
            return state.with_row(step, DONE) if row == NOTHING else None
        case "undo" if row == DONE:
            return state.with_effect(step, -1).with_row(step, COMPENSATED)
    return state.with_row(step, BLOCKED) if row == NOTHING else state


def _journal(setting: Setting, state: State, commit: Commit) -> State | None:
    row, step = state.row, commit.step
    blind = setting.planted in {
        {"pivot": "the status is not checked", "finish": "the finish asks for nothing"}.get(commit.kind),
        {"pivot": "the pivot does not ask the journal"}.get(commit.kind),
        {"undo first": "the first step is undone unconditionally"}.get(commit.kind),
    }
    if row.status not in _EXPECTED.get(commit.kind, (commit.expected,)) and not blind:
        return None
    match commit.kind:
        case "pivot":
            return state.with_effect(step, +1)._replace(row=row._replace(status=setting.decided))
        case "last":
            if state.ledger[step] != NOTHING:
                return None
            return state.with_effect(step, +1).with_row(step, DONE)._replace(row=row._replace(status="completed"))
        case "undo first":
            return state.with_effect(step, -1)._replace(row=row._replace(status="compensated"))
        case "record":
            return state.with_row(step, DONE) if state.ledger[step] == NOTHING else None
        case "postpone":
            return state._replace(row=row._replace(holder=NOBODY))
        case "park":
            parked = row._replace(status=ATTENTION, holder=NOBODY, parked_from=commit.expected)
            return state._replace(row=parked)
        case _:
            return state._replace(row=row._replace(status=commit.status))


_EXPECTED = {
    "pivot": (RUNNING,),
    "compensate": (RUNNING,),
    "forward": (COMPENSATING,),
    "undo first": (COMPENSATING,),
    "postpone": LIVE,
    "record": (RUNNING, COMPLETING),
}
