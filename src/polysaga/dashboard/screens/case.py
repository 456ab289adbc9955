"""The page of one saga: its story, timeline, steps, ledgers, payloads, facts, and what a person can do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from markupsafe import Markup

from polysaga.dashboard import words
from polysaga.dashboard.drawing.elements import tag
from polysaga.dashboard.filters import Search
from polysaga.dashboard.masking import Mask, decoded, shown, without
from polysaga.dashboard.screens.declared import DeclaredSaga, DeclaredStep, by_name
from polysaga.dashboard.screens.history import (
    AttemptLine,
    attempt_lines,
    attempts_of,
    failures,
    kind_of,
    last_driver,
    lasted,
    spent,
    steps_of,
    timeline,
)
from polysaga.dashboard.screens.listing import masked_in, may_end_processes
from polysaga.dashboard.screens.story import Story, story
from polysaga.sagas import Examination, LedgerLook, Option, Status, StepFacts

_TRACE = "{trace_id}"
_ORDER = {"retry": 0, "skip": 1, "compensate": 2, "resolve": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """JSON, with its masked values hidden; *more* lines are folded away."""

    text: Markup
    more: int
    none: str = ""  # why there is no payload


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What a person can order; *refused* says why it is impossible now."""

    action: str
    name: str
    step: str = ""
    outcome: str = ""
    short: str = ""
    will: tuple[str, ...] = ()
    button: str = ""
    cls: str = ""
    result_of: str = ""
    open: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """What a person did to this saga."""

    at: str
    iso: str
    by: str
    did: str
    why: str
    change: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaScreen:
    """The page."""

    id: UUID
    saga: str
    status: str
    epoch: int
    story: Story
    same: str
    same_go: str
    same_query: str
    timeline: Markup
    kinds: frozenset[str]
    steps: tuple[StepPart, ...]
    agree: tuple[str, str]
    contradictions: tuple[str, ...]
    ledgers: tuple[LedgerLine, ...]
    input: Payload
    result: Payload
    acts: tuple[Act, ...]
    rest: str
    facts: tuple[tuple[str, Markup], ...]
    audit: tuple[AuditEvent, ...]
    live: bool


def saga_screen(
    found: Examination,
    *,
    declared: DeclaredSaga | None,
    engines: Mapping[str, str],
    mask: Mask,
    trace: str | None,
    lease: float,
    drivers: Sequence[str] | None = None,
    whole: bool = False,
) -> SagaScreen:
    """Return the page; *trace* is the address of a trace, with `{trace_id}` in it.

    *drivers* are the processes that know the version of a saga that this one does not know; None: not looked.
    """
    saga = found.saga
    hidden = masked_in(found, mask)
    drawing, kinds = timeline(found, dict(engines))
    steps = _steps(found, declared, mask, hidden, whole=whole)
    agree, wrong = _agreement(found)
    acts = _acts(found, declared)
    return SagaScreen(
        id=saga.id,
        saga=saga.name,
        status=saga.status.value,
        epoch=saga.epoch,
        story=story(found, declared, lease=lease, hidden=hidden, drivers=drivers),
        same=_same(found),
        same_go=_same_go(found),
        same_query=_same_query(found, hidden),
        timeline=drawing,
        kinds=kinds,
        steps=tuple(sorted(steps, key=lambda step: not step.open)),
        agree=agree,
        contradictions=tuple(without(one, hidden) for one in wrong),
        ledgers=tuple(_ledgers(found)),
        input=_payload(saga.input, mask, whole=whole),
        result=_outcome(found, mask, whole=whole),
        acts=tuple(acts),
        rest="Nothing: it is at rest for good." if saga.status.final else "",
        facts=tuple(_facts(found, trace, hidden)),
        audit=tuple(_audit(found, hidden)),
        live=not saga.status.final,
    )


def _same(found: Examination) -> str:
    if not found.alike:
        return ""
    others = words.counted(found.alike, f"other {found.saga.name} saga")
    are = words.verb(found.alike, "is", "are")
    if found.saga.status is not Status.NEEDS_ATTENTION:
        return f"{others} {are} still parked for the reason for which this one was."
    where = "at the same step " if found.saga.step is not None else ""
    return f"{others} {are} parked {where}with the same reason."


def _same_go(found: Examination) -> str:
    if not found.alike:
        return ""
    if found.saga.status is Status.NEEDS_ATTENTION:
        return f"Act on all {words.number(found.alike + 1)}"
    return f"Act on the other {words.number(found.alike)}"


def _same_query(found: Examination, hidden: frozenset[str]) -> str:
    saga, cause = found.saga, found.saga.parked_for
    told = cause and (cause.parked or cause)
    reason = words.first_line(told.message if told else "")
    # Values differ from saga to saga, and must not stand in an address: the search is by step alone then.
    plain = not any(letter.isdigit() for letter in reason) and without(reason, hidden) == reason
    error = reason[:80] if plain and len(reason) <= 200 else None
    step = told.step if told else None
    return Search(status=(Status.NEEDS_ATTENTION,), name=saga.name, step=step, error=error or None).query()


# ---------------------------------------------------------------- steps


def _steps(
    found: Examination, declared: DeclaredSaga | None, mask: Mask, hidden: frozenset[str], *, whole: bool
) -> list[StepPart]:
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
        result=None if result is None else _payload(result, mask, whole=whole),
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


# ---------------------------------------------------------------- ledgers


def _ledgers(found: Examination) -> list[LedgerLine]:
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


def _agreement(found: Examination) -> tuple[tuple[str, str], list[str]]:
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


# ---------------------------------------------------------------- payloads, facts, people


def _payload(text: str, mask: Mask, *, whole: bool) -> Payload:
    written, more = shown(decoded(text), mask, whole=whole)
    return Payload(text=written, more=more)


def _outcome(found: Examination, mask: Mask, *, whole: bool) -> Payload:
    saga = found.saga
    pivot = next((step.name for step in found.steps if step.kind == "pivot"), None)
    rows = {step: row.result for look in found.looks for step, row in look.rows.items()}
    result = saga.results.get(pivot or "") or rows.get(pivot or "")
    if result is not None:
        return _payload(result, mask, whole=whole)
    if saga.error is not None and saga.error.kind == "refused":
        written, more = shown({"code": saga.error.code, "facts": saga.error.facts}, mask, whole=whole)
        return Payload(text=written, more=more)
    if saga.status in {Status.RUNNING}:
        return Payload(text=Markup(), more=0, none="none yet: it is not decided")
    going = saga.parked_from or saga.status
    none = "none: it was not decided" if going in {Status.COMPENSATING, Status.COMPENSATED} else "none"
    return Payload(text=Markup(), more=0, none=none)


def _facts(found: Examination, trace: str | None, hidden: frozenset[str]) -> list[tuple[str, Markup]]:
    saga, now = found.saga, found.at
    none = tag("span", "none", class_="faint")
    key = without(saga.key or "", hidden)
    facts = [
        ("Id", tag("span", str(saga.id), class_="id")),
        ("Key", tag("span", key, class_="id") if key else none),
        ("Version", _plain(f"{saga.version}, {'known' if saga.known else 'not known'} here")),
        ("Started", _plain(f"{words.at(saga.created_at, now)} UTC, {words.ago(saga.created_at, now)}")),
    ]
    if saga.parked_at is not None and saga.status is Status.NEEDS_ATTENTION:
        facts.append(("Parked", _plain(f"{words.at(saga.parked_at, now)} UTC, {words.ago(saga.parked_at, now)}")))
    if saga.finished_at is not None:
        took = words.duration(lasted(saga, saga.finished_at))
        facts.append(("Ended", _plain(f"{words.at(saga.finished_at, now)} UTC, after {took}")))
    facts += [
        ("Driven by", _plain(_driver(found))),
        ("Claims", _plain(f"{saga.epoch}, {_lost(saga.expiries)}")),
        ("Deadline", none if saga.deadline is None else _plain(f"{words.at(saga.deadline, now)} UTC")),
    ]
    if trace is not None and saga.trace_id is not None:
        link = tag("a", f"{saga.trace_id[:12]}…", href=trace.replace(_TRACE, saga.trace_id), rel="noreferrer")
        facts.append(("Trace", link))
    return facts


def _lost(expiries: int) -> str:
    # One may be the first after a person's retry.
    return "none lost in a row" if expiries <= 1 else f"{expiries} lost in a row without progress"


def _driver(found: Examination) -> str:
    saga, now = found.saga, found.at
    if saga.status.final:
        return "no process: it is at rest"
    if saga.status is Status.NEEDS_ATTENTION:
        return "no process: it waits for a person"
    if saga.owner is None:
        when = "" if saga.wake_at is None else f" until {words.at(saga.wake_at, now)}"
        return f"no process: put aside{when}"
    if saga.wake_at is not None and saga.wake_at < now and not saga.driven_here:
        return f"no process: claim {saga.epoch} ran out at {words.at(saga.wake_at, now)}"
    until = "" if saga.wake_at is None else f" until {words.at(saga.wake_at, now)}, renewed every few seconds"
    who = "this process" if saga.driven_here else last_driver(saga)
    return f"{who}, claim {saga.epoch}{until}"


def _audit(found: Examination, hidden: frozenset[str]) -> list[AuditEvent]:
    return [
        AuditEvent(
            at=words.at(entry.at, found.at),
            iso=entry.at.isoformat(),
            by=entry.by,
            did=did(entry.action, entry.details),
            why=without(entry.why, hidden),
            change=change(entry.details),
        )
        for entry in reversed(found.saga.audit)
    ]


def did(action: str, details: Mapping[str, object]) -> str:
    """Return what a person did, as a sentence about the saga."""
    asked = details.get("asked")
    given = asked if isinstance(asked, Mapping) else {}
    step, outcome = given.get("step"), given.get("outcome")
    return {
        "retry": "retried it",
        "skip": f"skipped {step}" if step else "skipped a step",
        "compensate": "had it undone",
        "resolve": f"resolved it as {outcome}" if outcome else "resolved it",
    }.get(action, action)


def change(details: Mapping[str, object]) -> str:
    """Return what an act changed: `completing to completed`."""
    before, after = states(details)
    return f"{words.STATUS[before]} to {words.STATUS[after]}" if before and after else ""


def states(details: Mapping[str, object]) -> tuple[str, str]:
    """Return the status before an act and after it, as the audit trail kept them; empty if it did not."""
    found = []
    for name in ("before", "after"):
        kept = details.get(name)
        status = kept.get("status") if isinstance(kept, Mapping) else kept
        found.append(status if isinstance(status, str) and status in words.STATUS else "")
    return found[0], found[1]


def _plain(text: str) -> Markup:
    return Markup("{}").format(text)


# ---------------------------------------------------------------- acts


def _acts(found: Examination, declared: DeclaredSaga | None) -> list[Act]:
    if found.saga.status.final:
        return []
    chosen = [option for option in found.options if _fits(found, option)]
    acts = [_act(found, option, by_name(declared)) for option in chosen]
    acts.sort(key=lambda act: (bool(act.refused), _ORDER[act.action]))
    return _least_harmful_first(found, acts)


def _least_harmful_first(found: Examination, acts: list[Act]) -> list[Act]:
    """Offer to undo a saga that ends its processes, if that can be done, before a retry that may end more."""
    undo = next((act for act in acts if act.action == "compensate" and not act.refused), None)
    if undo is None or not may_end_processes(found.saga):
        return acts
    rest = [replace(act, open=False, cls=act.cls.replace("btn-primary", "")) for act in acts if act is not undo]
    return [replace(undo, open=True, cls="btn-primary"), *rest]


def _fits(found: Examination, option: Option) -> bool:
    """Return whether an option is worth a line: of the steps that could be skipped, the one in trouble is."""
    saga = found.saga
    if option.action == "skip":
        return option.step == _in_trouble(found)
    if option.action == "resolve" and option.problem is not None:
        wanted = (
            Status.COMPENSATED if (saga.parked_from or saga.status) is not Status.COMPLETING else Status.COMPLETED
        )
        return option.outcome is wanted
    return True


def _in_trouble(found: Examination) -> str | None:
    pivots = {step.name for step in found.steps if step.kind == "pivot"}
    coming = next((move.step for move in found.moves), None)
    name = found.saga.step or coming
    if found.saga.status is Status.COMPENSATING:
        name = coming  # its step is why it is undone
    return name if name not in pivots else next((m.step for m in found.moves if m.step not in pivots), None)


def _act(found: Examination, option: Option, steps: Mapping[str, DeclaredStep]) -> Act:
    saga, step = found.saga, option.step or ""
    parked = saga.status is Status.NEEDS_ATTENTION
    undoing = (saga.parked_from or saga.status) in {Status.COMPENSATING, Status.COMPENSATED}
    outcome = "" if option.outcome is None else option.outcome.value
    name = {
        "retry": "Retry" if parked else "Retry now",
        "skip": f"Skip {step}",
        "compensate": "Compensate",
        "resolve": f"Resolve as {outcome}",
    }[option.action]
    if option.action == "compensate" and undoing:
        told = "Not needed: it is being undone already. Retry goes on with that."
        return Act(action=option.action, name=name, refused=told)
    if option.problem is not None and saga.owner is not None and found.late and option.action != "compensate":
        which = "" if saga.known else f" that knows version {saga.version}"
        told = f"Not possible now: it waits for the next process{which} to take it over."
        return Act(action=option.action, name=name, refused=told)
    if option.problem is not None:
        return Act(action=option.action, name=name, refused=_sentence(option.problem, found))
    moves = [_move(move.step, move.phase, steps) for move in found.moves]
    match option.action:
        case "retry":
            short, will = _retry(found, moves, undoing=undoing)
            return Act(
                action="retry", name=name, short=short, will=will, button=name, cls="btn-primary", open=parked
            )
        case "skip":
            short, will = _skip(found, step, steps, moves, undoing=undoing)
            result_of = "" if undoing else step
            return Act(
                action="skip",
                name=name,
                step=step,
                short=short,
                will=will,
                button="Skip the step",
                result_of=result_of,
            )
        case "compensate":
            return Act(
                action="compensate",
                name=name,
                short="Has everything undone that it did.",
                will=_compensate(found),
                button="Compensate",
                cls="btn-danger",
            )
    return Act(
        action="resolve",
        name=name,
        outcome=outcome,
        short="Ends it by your word. No step of it runs any more.",
        will=_resolve(found, outcome),
        button=name,
        cls="btn-danger",
    )


def _sentence(problem: str, found: Examination) -> str:
    """Return why an act is impossible, for the page of its saga: the saga is not named again."""
    named = f"saga '{found.saga.name}' {found.saga.id}"
    text = words.first_line(problem).rpartition(f"{named}, which is {found.saga.status.value}: ")[2]
    text = text.replace(named, "it")
    return f"Not possible now: {text}" if text.endswith(".") else f"Not possible now: {text}."


def _move(step: str, phase: str, steps: Mapping[str, DeclaredStep]) -> str:
    known = steps.get(step)
    return known.undo if phase == "undo" and known is not None and known.undo else step


def _retry(found: Examination, moves: Sequence[str], *, undoing: bool) -> tuple[str, tuple[str, ...]]:
    saga = found.saga
    going = (saga.parked_from or saga.status).value
    end = "compensated" if undoing else "completed"
    first = moves[0] if moves else "the saga"
    order = ", then ".join(moves[:4])
    reached = all(look.problem is None for look in found.looks)
    left = "Nothing of it is left to do" if reached else "Next: what is left"
    follows = f"Next: {order}; then the saga is {end}." if moves else f"{left}; then the saga is {end}."
    if saga.status is Status.NEEDS_ATTENTION:
        deserted = saga.error is not None and (saga.error.parked or saga.error).is_deserted
        fails = "If it keeps failing, it is parked again with the new reason."
        if deserted and moves:
            fails = f"If {first} ends its process again, up to ten more processes end, with all that they drive."
        return (
            f"Runs {first} again. Do this when the cause is gone." if moves else "Lets it go on.",
            (
                f"It goes back to {going} and is due at once.",
                follows,
                fails,
            ),
        )
    when = "" if saga.wake_at is None else f" instead of at {words.at(saga.wake_at, found.at)}"
    return (
        f"Tries {first} at once{when}.",
        (
            "It is due at once; the first process that ticks goes on with it.",
            follows,
            "Nothing is lost if it fails again: it is put aside again.",
        ),
    )


def _skip(
    found: Examination, step: str, steps: Mapping[str, DeclaredStep], moves: Sequence[str], *, undoing: bool
) -> tuple[str, tuple[str, ...]]:
    database = next((one.database for one in found.steps if one.name == step), None)
    where = f"The ledger of {database}" if database else "The journal"
    rest = ", then ".join(move for move in moves if move not in {step, _move(step, "undo", steps)}) or "the end"
    if undoing:
        return (
            "You say that it was undone by hand; its compensation is not run.",
            (
                f"{where} says from then on that {step} is undone.",
                f"Next: {rest}; then the saga is compensated.",
                "If it was not undone, what it did stays, and no process looks at it again.",
            ),
        )
    return (
        "You say that it is done by hand; it is not run.",
        (
            f"{where} gets a row that says done, so a late run changes nothing.",
            f"Next: {rest}; then the saga is completed.",
            "What the step would have changed stays as it is now.",
        ),
    )


def _compensate(found: Examination) -> tuple[str, ...]:
    saga = found.saga
    if not saga.known:
        return (f"A process that knows version {saga.version} undoes what it did; until one is up, it waits.",)
    pivot = next((step.name for step in found.steps if step.kind == "pivot"), None)
    done = [step for look in found.looks for step, row in look.rows.items() if row.state.value == "done"]
    undone = [step.name for step in reversed(found.steps) if step.name in done and step.undoable]
    will = [
        f"Undone in order: {words.joined(undone)}."
        if undone
        else "Nothing of it has happened that must be undone."
    ]
    if saga.owner is not None and saga.wake_at is not None and saga.wake_at > found.at:
        will.insert(0, "The attempt that is under way is cancelled, and its end awaited.")
    if pivot is not None:
        will.append(f"If {pivot} commits first, this is refused: too late.")
    will.append("A caller that still waits learns that it was undone.")
    return tuple(will)


def _resolve(found: Examination, outcome: str) -> tuple[str, ...]:
    seen = {step: row.state.value for look in found.looks for step, row in look.rows.items()}
    done = [step.name for step in found.steps if seen.get(step.name) == "done"]
    not_done = [step.name for step in found.steps if seen.get(step.name) not in {"done", "compensated"}]
    will = []
    if outcome == "compensated" and done:
        what = words.joined(done)
        will.append(f"{what} {words.verb(len(done), 'stays', 'stay')} as done: set right by hand what it changed.")
    elif outcome == "compensated":
        will.append("No step of it is done, so nothing stays behind.")
    elif not_done:
        will.append(f"{words.joined(not_done)} never happens: do by hand what it would have done.")
    will += [
        "No step and no compensation of it runs any more.",
        "It is shown as resolved by you, never as cleanly ended.",
    ]
    return tuple(will)
