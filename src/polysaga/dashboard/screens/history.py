"""What happened when: the attempts of a saga's steps as a timeline, and as tables.

Times are ms since the saga was started. Rows of version 0.1 count from the beginning of each owner instead, which
nothing in the row corrects; they are drawn as they are.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, pairwise

from markupsafe import Markup

from polysaga.dashboard import words
from polysaga.dashboard.drawing.timeline import Bar, Juncture, Lane, Track, gantt
from polysaga.sagas import Attempt, Examination, Mark, SagaState, Status, StepFacts

_FEW = 4  # failures of one kind in a row that are drawn one by one
_WAIT = 1.0  # ms between two attempts that is drawn as a wait
_ASIDE = 20_000.0  # ms between two attempts that mean that the saga was put aside
_HAPPENED = {"done", "found"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptLine:
    """One attempt in the table of a step, or several that are folded."""

    phase: str = ""
    number: int = 0
    at: str = ""
    took: str = ""
    kind: str = "failed"  # failed done blocked compensated
    icon: str = "gone"
    outcome: str = ""
    said: str = ""
    skipped: str = ""


def timeline(found: Examination, engines: dict[str, str]) -> tuple[Markup, frozenset[str]]:
    """Return the drawing, and the kinds of bars in it; *engines* name the products by database."""
    saga, span = found.saga, _Span.of(found)
    plan: Mapping[tuple[str, str], int] = (
        {(move.step, move.phase): place for place, move in enumerate(found.moves)} if span.moving else {}
    )
    nowhere = "no database" if found.steps else "not known here"
    lanes = [
        Lane(database or nowhere, engines.get(database or "", ""), list(rows))
        for database, rows in _by_database(found, span, plan)
    ]
    lines = _lines(found, span)
    owner = Track("driven by", _driven(found), _owners(found, span), "own")
    bars = [*owner.bars, *(bar for lane in lanes for row in lane.rows for bar in row.bars)]
    end = max([span.now, *(bar.t1 for bar in bars)])
    marks = sorted({bar.t0 for bar in bars} | {bar.t1 for bar in bars} | {line.t for line in lines})
    ticks = [(0.0, "0"), *((line.t, _length(line.t)) for line in lines if line.t > 0)]
    ticks += [(t, _length(t)) for t in marks if 0 < t <= span.now]
    drawing = gantt(owner, lanes, lines, ticks, end, _summary(saga, found.steps))
    return drawing, frozenset(bar.kind for bar in bars)


def steps_of(found: Examination) -> tuple[StepFacts, ...]:
    """Return the steps of a saga; of a version that is not known here, those that the journal and ledgers name."""
    if found.steps:
        return found.steps
    places = {step: look.database for look in found.looks for step in look.rows}
    names = dict.fromkeys([*(one.step for one in found.saga.history), *places])
    return tuple(
        StepFacts(
            name=name,
            kind="compensatable",
            database=places.get(name),
            after=(),
            does=None,
            undoes=None,
            undoable=True,
        )
        for name in names
    )


def attempts_of(history: Sequence[Attempt], step: str) -> list[Attempt]:
    """Return the attempts of *step* and of its compensation."""
    return [one for one in history if one.step == step]


def lasted(saga: SagaState, finished_at: datetime) -> float:
    """Return the seconds that a saga at rest took.

    Its row is born with the commit of the first step, and the times of its attempts count from when that began.
    """
    last = max((one.at_ms + one.ms for one in saga.history), default=0.0)
    return max(last / 1000, words.since(saga.created_at, finished_at))


def failures(history: Sequence[Attempt], step: str, phase: str) -> list[Attempt]:
    """Return the failed attempts of *step* in *phase*."""
    return [one for one in history if one.step == step and one.phase == phase and kind_of(one) == "failed"]


def attempt_lines(history: Sequence[Attempt], step: str) -> list[AttemptLine]:
    """Return the table of the attempts of *step*: equal failures in a row are folded."""
    lines: list[AttemptLine] = []
    for _, run in _runs(attempts_of(history, step)):
        if len(run) <= _FEW:
            lines += [_line(one) for one in run]
            continue
        hidden = run[2:-1]
        kinds = Counter(one.outcome for one in hidden)
        told = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
        until = _length(hidden[-1].at_ms + hidden[-1].ms)
        skipped = f"{run[2].phase} {hidden[0].attempt} to {hidden[-1].attempt}: {told}, until {until}"
        lines += [_line(run[0]), _line(run[1]), AttemptLine(skipped=skipped), _line(run[-1])]
    return lines


def kind_of(attempt: Attempt) -> str:
    """Return how an attempt is drawn: done, undone, null or failed."""
    if attempt.outcome == "null":
        return "null"
    if attempt.outcome in _HAPPENED:
        return "done" if attempt.phase == "do" else "undone"
    return "failed"


def spent(history: Sequence[Attempt], step: str) -> float | None:
    """Return the seconds from the first attempt of *step* to the end of its last one."""
    found = attempts_of(history, step)
    if not found:
        return None
    return (max(one.at_ms + one.ms for one in found) - min(one.at_ms for one in found)) / 1000


@dataclass(frozen=True, slots=True)
class _Span:
    now: float  # ms, or the end of a saga at rest
    moving: bool  # it is neither at rest nor parked

    @classmethod
    def of(cls, found: Examination) -> "_Span":
        saga = found.saga
        last = max((one.at_ms + one.ms for one in saga.history), default=0.0)
        if saga.finished_at is not None:
            return cls(max(last, _ms(saga.created_at, saga.finished_at)), moving=False)
        return cls(max(last, _ms(saga.created_at, found.at)), saga.status.moving)


def _ms(begin: datetime, end: datetime) -> float:
    return max(0.0, (end - begin).total_seconds() * 1000)


def _length(ms: float) -> str:
    return words.duration(ms / 1000)


def _runs(attempts: Sequence[Attempt]) -> Iterator[tuple[tuple[str, str], list[Attempt]]]:
    """Yield stretches of attempts of one phase that all failed; every other attempt is a stretch of its own."""
    keyed = [
        (one, (one.phase, "failed" if kind_of(one) == "failed" else str(place)))
        for place, one in enumerate(attempts)
    ]
    for key, run in groupby(keyed, key=lambda pair: pair[1]):
        yield key, [one for one, _ in run]


def _by_database(
    found: Examination, span: _Span, plan: Mapping[tuple[str, str], int]
) -> Iterator[tuple[str | None, list[Track]]]:
    steps = steps_of(found)
    for database in dict.fromkeys(step.database for step in steps):
        yield database, [_row(found, step, span, plan) for step in steps if step.database == database]


def _row(found: Examination, step: StepFacts, span: _Span, plan: Mapping[tuple[str, str], int]) -> Track:
    attempts = attempts_of(found.saga.history, step.name)
    bars = [bar for key, run in _runs(attempts) for bar in _bars(run, undo=key[0] == "undo")]
    bars += _waits(attempts)
    for phase in ("do", "undo"):
        if (step.name, phase) in plan:
            begin = span.now + 60 + 160 * plan[step.name, phase]
            active = plan[step.name, phase] == 0 and found.saga.owner is not None
            if active:
                last = max((one.at_ms + one.ms for one in attempts), default=_last_end(found.saga))
                bars.append(Bar(min(last, span.now), span.now, "active", phase == "undo", "under way"))
            else:
                bars.append(Bar(begin, begin + 100, "plan", phase == "undo", "comes next"))
    return Track(step.name, told(found, step), bars)


def _last_end(saga: SagaState) -> float:
    return max((one.at_ms + one.ms for one in saga.history), default=0.0)


def _bars(run: Sequence[Attempt], *, undo: bool) -> Iterator[Bar]:
    folded = run[2:-1] if len(run) > _FEW else ()
    for one in run:
        if one in folded:
            continue
        yield Bar(one.at_ms, one.at_ms + one.ms, kind_of(one), undo, _told_of(one))
    if folded:
        kinds = joined_kinds(folded)
        text = f"{folded[0].phase} {folded[0].attempt} to {folded[-1].attempt}: {kinds}"
        yield Bar(folded[0].at_ms, folded[-1].at_ms + folded[-1].ms, "fold", undo, text, count=len(folded))


def _waits(attempts: Sequence[Attempt]) -> Iterator[Bar]:
    folded = {id(one) for _, run in _runs(attempts) if len(run) > _FEW for one in run[2:-1]}
    for one, other in pairwise(attempts):
        begin, end = one.at_ms + one.ms, other.at_ms
        if one.phase != other.phase or end - begin < _WAIT or (id(one) in folded and id(other) in folded):
            continue
        kind = "aside" if end - begin > _ASIDE else "wait"
        word = "put aside for" if kind == "aside" else "waited"
        yield Bar(begin, end, kind, one.phase == "undo", f"{word} {_length(end - begin)}")


def joined_kinds(attempts: Sequence[Attempt]) -> str:
    """Return the outcomes of *attempts*, the most frequent first."""
    return words.joined([kind for kind, _ in Counter(one.outcome for one in attempts).most_common()], "or")


def _told_of(one: Attempt) -> str:
    what = "undo" if one.phase == "undo" else "attempt"
    return f"{what} {one.attempt}: {one.outcome} after {_length(one.ms)}"


def _line(one: Attempt) -> AttemptLine:
    kind = kind_of(one)
    shown, icon = {
        "done": ("done", "done"),
        "undone": ("compensated", "compensated"),
        "null": ("blocked", "blocked"),
        "failed": ("failed", "gone"),
    }[kind]
    said = words.plainly(one.said or "").removeprefix(f"{one.outcome}: ")
    if kind == "null":
        said = said or "it had never happened, and now never can"
    if one.outcome == "found":
        said = said or "it had happened before"
    return AttemptLine(
        phase=one.phase,
        number=one.attempt,
        at=_length(one.at_ms),
        took=_length(one.ms),
        kind=shown,
        icon=icon,
        outcome="undone" if kind == "undone" else one.outcome,
        said=said,
    )


def told(found: Examination, step: StepFacts) -> str:
    """Return the line under a step's name in the timeline."""
    history = found.saga.history
    tried, undone = len(failures(history, step.name, "do")), len(failures(history, step.name, "undo"))
    kinds = {kind_of(one) for one in attempts_of(history, step.name)}
    parts = []
    if "done" in kinds:
        parts.append("done")
    elif tried:
        parts.append(f"failed {_times(tried)}")
    if "undone" in kinds:
        parts.append("undone")
    elif "null" in kinds:
        parts.append("blocked")
    elif undone:
        parts.append(f"undo failed {_times(undone)}")
    if not parts:
        return _not_begun(found, step)
    if step.kind == "pivot" and "done" in kinds:
        parts.append("the pivot")
    return ", then ".join(parts[:2]) if "blocked" in parts or "undone" in parts else ", ".join(parts)


def _not_begun(found: Examination, step: StepFacts) -> str:
    pivot = "the pivot; " if step.kind == "pivot" else ""
    going = found.saga.parked_from or found.saga.status
    marks = {row.state for look in found.looks if (row := look.rows.get(step.name)) is not None}
    if found.saga.status is Status.COMPLETED or marks & {Mark.DONE, Mark.COMPENSATED}:
        undone = ", then undone" if Mark.COMPENSATED in marks else ""
        return f"{pivot}done{undone}; when was not written down"
    if going in {Status.COMPENSATING, Status.COMPENSATED}:
        return f"{pivot}never ran"
    return f"{pivot}after {words.joined(step.after)}" if step.after else f"{pivot}comes first"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def _owners(found: Examination, span: _Span) -> list[Bar]:
    saga = found.saga
    end = span.now
    if saga.parked_at is not None and saga.status is Status.NEEDS_ATTENTION:
        end = min(end, _parked(saga, saga.parked_at))
    elif saga.owner is None and not saga.status.final:
        end = min(end, _last_end(saga))
    elif _has_run_out(found) and saga.wake_at is not None:
        end = min(end, _ms(saga.created_at, saga.wake_at))
    begins = [(tenure.at_ms, tenure.epoch, tenure.process) for tenure in saga.owners]
    if not begins or begins[0][0] > _last_end(saga) > 0:
        begins = [(0.0, 1, ""), *begins]
    bars = []
    last = (max(end, begins[-1][0]), saga.epoch + 1, "")
    for (begin, epoch, process), (until, following, _) in pairwise([*begins, last]):
        who = f", {process}" if process else ""
        label = f"claim {epoch}{who}" if len(begins) < 4 else f"claim {epoch}"
        given_up = next((t for t in _parkings(saga) if begin <= t < until), until)
        silent = _silent_after(saga, epoch, following, begin, given_up)
        bars.append(Bar(begin, max(silent, begin), "own", text=f"claim {epoch}{who}", label=label))
        if silent < given_up:
            claims = f"claims {epoch + 1} to {following - 1}"
            text = f"{claims}: their processes ended, or hung, and have written nothing"
            bars.append(Bar(silent, given_up, "own", text=text, label=claims))
        if given_up < until:
            bars.append(Bar(given_up, until, "aside", text="parked until a person repaired it"))
    wake = saga.wake_at
    if saga.owner is None and saga.status is Status.NEEDS_ATTENTION:
        bars.append(Bar(end, span.now, "aside", text="parked: no process drives it"))
    elif saga.owner is None and not saga.status.final and wake is not None:
        bars.append(Bar(end, max(span.now, _ms(saga.created_at, wake)), "aside", text="put aside"))
    elif _has_run_out(found):
        bars.append(Bar(end, span.now, "wait", text="its claim has run out: no process drives it"))
    return bars


def _has_run_out(found: Examination) -> bool:
    """Return whether a process has the last claim that ran out."""
    saga = found.saga
    is_over = saga.wake_at is not None and saga.wake_at < found.at
    return saga.status.moving and saga.owner is not None and is_over and not saga.driven_here


def _silent_after(saga: SagaState, epoch: int, following: int, begin: float, until: float) -> float:
    """Return when the owner with *epoch* was last heard of, if others came before the next one that is known."""
    if following - epoch <= 2:  # one of them may be a person's
        return until
    heard = (one.at_ms + one.ms for one in saga.history if begin <= one.at_ms < until)
    return max(heard, default=begin)


def _parkings(saga: SagaState) -> list[float]:
    """Return when a saga was parked that people have repaired since, in ms."""
    before = [act.error_before.parked for act in saga.audit if act.error_before is not None]
    return [_ms(saga.created_at, one.at) for one in before if one is not None and one.at is not None]


def _parked(saga: SagaState, at: datetime) -> float:
    """Return when a saga was parked, in ms: by the journal's clock, and not before the attempt that parked it."""
    return max(_ms(saga.created_at, at), _last_end(saga))


def _driven(found: Examination) -> str:
    saga = found.saga
    claims = words.counted(saga.epoch, "claim")
    if saga.status.final:
        return claims
    if saga.driven_here:
        return f"this process, claim {saga.epoch}"
    if saga.owner is None:
        return f"{claims}; no process now"
    return f"{last_driver(saga)}, claim {saga.epoch}"


def last_driver(saga: SagaState) -> str:
    """Return the process that has the last claim on a saga."""
    last = saga.owners[-1] if saga.owners else None
    return "a process that has written nothing yet" if last is None or last.epoch != saga.epoch else last.process


def _lines(found: Examination, span: _Span) -> list[Juncture]:
    saga, lines = found.saga, []
    pivots = {step.name for step in found.steps if step.kind == "pivot"}
    decided = [one for one in saga.history if one.step in pivots and kind_of(one) == "done"]
    undone = [one for one in saga.history if one.phase == "undo"]
    if decided:
        lines.append(Juncture(decided[-1].at_ms + decided[-1].ms, "d-forward", "decided: goes forward"))
    elif undone:
        before = [one.at_ms + one.ms for one in saga.history if one.phase == "do"]
        first = min(one.at_ms for one in undone)
        turn = max((t for t in before if t <= first), default=first)
        lines.append(Juncture((turn + first) / 2, "d-undo", "undo begins"))
    if saga.status is Status.NEEDS_ATTENTION and saga.parked_at is not None:
        lines.append(Juncture(_parked(saga, saga.parked_at), "d-park", "parked"))
    if span.moving:
        lines.append(Juncture(span.now, "d-now", f"now {words.clock(found.at)}"))
    return lines


def _summary(saga: SagaState, steps: Sequence[StepFacts]) -> str:
    names = [step.name for step in steps] or list(dict.fromkeys(one.step for one in saga.history))
    parts = []
    for name in names:
        found = attempts_of(saga.history, name)
        if found:
            parts.append(f"{name} {found[-1].outcome} after {words.counted(len(found), 'attempt')}")
    return f"{saga.name}: {'; '.join(parts) or 'no attempt is known yet'}"
