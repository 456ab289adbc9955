"""What the databases say of one saga: its steps with attempts and results, and a line for each ledger row."""

from dataclasses import dataclass, replace

from markupsafe import Markup

from polysaga.dashboard import words
from polysaga.dashboard.drawing.elements import tag
from polysaga.dashboard.masking import Mask, without
from polysaga.dashboard.screens.declared import DeclaredSaga, DeclaredStep, by_name
from polysaga.dashboard.screens.history import (
    AttemptLine,
    attempt_lines,
    attempts_of,
    failures,
    kind_of,
    spent,
    steps_of,
)
from polysaga.dashboard.screens.payloads import Payload, payload
from polysaga.sagas import Examination, LedgerLook, Status, StepFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPart:
    """One step with its attempts."""

    name: str
    where: str
    told: str
    state: str
    word: str
    took: str
    kind: str
    does: str
    undo: str
    undoes: str
    attempts: tuple[AttemptLine, ...]
    result: Payload | None
    trace: str
    open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLine:
    """What a ledger says of a step."""

    database: str
    step: str
    state: str
    word: str
    means: Markup


def steps(
    found: Examination, declared: DeclaredSaga | None, mask: Mask, hidden: frozenset[str], *, whole: bool
) -> list[StepPart]:
    """Return the steps of the saga, in their order; *hidden* are values that texts must not show."""
    known = by_name(declared)
    return [_step(found, step, known.get(step.name), mask, hidden, whole=whole) for step in steps_of(found)]


def _step(
    found: Examination,
    step: StepFacts,
    declared: DeclaredStep | None,
    mask: Mask,
    hidden: frozenset[str],
    *,
    whole: bool,
) -> StepPart:
    saga, (state, word) = found.saga, _state(found, step)
    rows = [row for look in found.looks for name, row in look.rows.items() if name == step.name]
    result = next((row.result for row in rows if row.result is not None), saga.results.get(step.name))
    cause = None if saga.error is None else saga.error.parked or saga.error
    trace = cause.traceback if cause is not None and cause.step == step.name and cause.traceback else ""
    does = words.first_line(step.does or "")
    seconds = spent(saga.history, step.name)
    lines = attempt_lines(saga.history, step.name)
    return StepPart(
        name=step.name,
        where=f"in {step.database}" if step.database else _no_place(found),
        told=_told(found, step) or does,
        state=state,
        word=word,
        took="" if seconds is None else words.duration(seconds),
        kind=step.kind,
        does=does,
        undo="" if declared is None else declared.undo or "",
        undoes=words.first_line(step.undoes or ""),
        attempts=tuple(replace(line, said=without(line.said, hidden)) for line in lines),
        result=None if result is None else payload(result, mask, whole=whole),
        trace=without(trace, hidden),
        open=step.name == saga.step or state in {"active", "stuck"},
    )


def _no_place(found: Examination) -> str:
    return "without a database" if found.steps else "in a database that is not known here"


def _state(found: Examination, step: StepFacts) -> tuple[str, str]:
    """Return the state of a step as a chip, and its word."""
    saga, going = found.saga, found.saga.parked_from or found.saga.status
    look = _look_of(found, step)
    row = None if look is None else look.rows.get(step.name)
    kinds = [kind_of(one) for one in attempts_of(saga.history, step.name)]
    if look is not None and look.problem is not None:
        return "gone", "no answer"
    if row is not None and row.state.value == "done":
        if saga.status is Status.NEEDS_ATTENTION and going is Status.COMPENSATING and saga.step == step.name:
            return "stuck", "not undone"
        return "done", "done"
    if row is not None and row.state.value == "compensated":
        return "compensated", "undone"
    if row is not None and row.state.value == "blocked":
        return "blocked", "blocked"
    if saga.status is Status.NEEDS_ATTENTION and saga.step == step.name:
        return "stuck", "failed" if kinds else "not done"
    if "failed" in kinds and going in {Status.COMPENSATING, Status.COMPENSATED}:
        return "failed", "failed"
    first = found.moves[0].step if found.moves else None
    if saga.status.moving and step.name == first:
        return ("active", "under way") if saga.owner is not None else ("waiting", "put aside")
    if "failed" in kinds and not saga.status.final and going is not Status.COMPENSATING:
        return "waiting", "tried again"
    never = going in {Status.COMPENSATING, Status.COMPENSATED}
    return "never", "not run" if never else "not yet"


def _told(found: Examination, step: StepFacts) -> str:
    history = found.saga.history
    done = [one for one in attempts_of(history, step.name) if kind_of(one) in {"done", "undone", "null"}]
    tried, undo = failures(history, step.name, "do"), failures(history, step.name, "undo")
    parts = []
    if any(one.phase == "do" for one in done):
        parts.append("done" + (f" after {words.counted(len(tried), 'failed attempt')}" if tried else ""))
    elif tried:
        parts.append(f"{tried[-1].outcome}, {words.counted(len(tried), 'attempt')}")
    if any(kind_of(one) == "undone" for one in done):
        parts.append("undone")
    elif any(kind_of(one) == "null" for one in done):
        parts.append("blocked")
    elif undo:
        parts.append(f"its undo failed {words.counted(len(undo), 'time')}")
    if parts == ["done"]:
        return ""
    if parts:
        return ", then ".join(parts)
    if found.saga.status.final or (found.saga.parked_from or found.saga.status) is Status.COMPENSATING:
        return "never ran" if not _has_row(found, step) else ""
    return f"after {words.joined(step.after)}" if step.after else ""


def _has_row(found: Examination, step: StepFacts) -> bool:
    return any(step.name in look.rows for look in found.looks)


def _look_of(found: Examination, step: StepFacts) -> LedgerLook | None:
    """Return what the database that keeps the record of *step* says."""
    homes = [look for look in found.looks if look.database == step.database]
    with_row = [look for look in found.looks if step.name in look.rows]
    journal = [look for look in found.looks if look.is_journal]
    return next(iter((*with_row, *homes, *journal)), None)


def ledgers(found: Examination) -> list[LedgerLine]:
    """Return what each database says of each step that it keeps the record of."""
    if not found.steps:
        return [
            LedgerLine(
                database=look.database, step=step, state=row.state.value, word=row.state.value, means=Markup()
            )
            for look in found.looks
            for step, row in look.rows.items()
        ]
    return [_ledger(found, step) for step in found.steps]


def _ledger(found: Examination, step: StepFacts) -> LedgerLine:
    look = _look_of(found, step)
    row = None if look is None else look.rows.get(step.name)
    database = step.database or (look.database if look is not None else "")
    if look is not None and look.problem is not None:
        means = Markup("Could not be asked: {}").format(words.first_line(look.problem))
        return LedgerLine(database=database, step=step.name, state="gone", word="no answer", means=means)
    if row is None:
        return LedgerLine(
            database=database, step=step.name, state="never", word="no row", means=_no_row(found, step)
        )
    word, going = row.state.value, found.saga.parked_from or found.saga.status
    shown = {"done": "done", "compensated": "compensated", "blocked": "blocked"}.get(word, "never")
    record = step.name in found.saga.results or (look is not None and look.is_journal and step.kind == "pivot")
    if word == "blocked":
        means = Markup("Never happened, and never can.")
    elif word == "compensated":
        means = Markup("Happened and is undone.")
    elif going in {Status.COMPENSATING, Status.COMPENSATED}:
        shown = "stuck"
        means = tag("b", "Happened and is not undone.") + Markup(" What it did still stands.")
    else:
        means = Markup("Happened.")
    if record and word == "done":
        means += Markup(" The journal itself is its record.")
    return LedgerLine(database=database, step=step.name, state=shown, word=word, means=means)


def _no_row(found: Examination, step: StepFacts) -> Markup:
    saga, going = found.saga, found.saga.parked_from or found.saga.status
    tried = bool(attempts_of(saga.history, step.name))
    if going in {Status.COMPENSATING, Status.COMPENSATED}:
        if step.kind == "pivot":
            return Markup("The pivot. The journal says {}, so it can no longer commit.").format(going.value)
        return Markup("Never ran.") if not tried else Markup("Not known to have happened.")
    if saga.status is Status.COMPLETED:
        return Markup("No record was kept apart from the journal's.")
    return Markup("Not known to have happened; the next attempt settles it.") if tried else Markup("Not begun.")


def agreement(found: Examination) -> tuple[tuple[str, str], list[str]]:
    """Return whether journal and ledgers agree, as a chip and its words, and what does not fit."""
    silent = [look.database for look in found.looks if look.problem is not None]
    wrong = [_contradiction(one.step, one.database, one.detail) for one in found.contradictions]
    if wrong:
        return ("needs_attention", words.counted(len(wrong), "contradiction")), wrong
    if silent:
        return ("gone", f"{words.joined(silent)} could not be asked"), []
    if found.saga.status.moving:
        return ("running", "it moves, so they are not compared"), []
    return ("ok", "journal and ledgers agree"), []


def _contradiction(step: str | None, database: str | None, detail: str) -> str:
    place = f"{step}{words.place(database)}: " if step else ""
    return f"{place}{detail}"
