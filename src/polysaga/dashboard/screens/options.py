"""What a person can order for one saga, what it would do, and why it is impossible now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from polysaga.dashboard import words
from polysaga.dashboard.screens.declared import DeclaredSaga, DeclaredStep, by_name
from polysaga.dashboard.screens.listing import may_end_processes
from polysaga.sagas import Examination, Option, Status

_ORDER = {"retry": 0, "skip": 1, "compensate": 2, "resolve": 3}


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


def acts(found: Examination, declared: DeclaredSaga | None) -> list[Act]:
    """Return the acts, the best one first; none for a saga at rest."""
    if found.saga.status.final:
        return []
    chosen = [option for option in found.options if _fits(found, option)]
    offered = [_act(found, option, by_name(declared)) for option in chosen]
    offered.sort(key=lambda act: (bool(act.refused), _ORDER[act.action]))
    return _least_harmful_first(found, offered)


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
