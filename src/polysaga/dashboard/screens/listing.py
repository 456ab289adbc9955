"""One line for one saga: what is going on, and what comes next and when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from polysaga.dashboard import words
from polysaga.dashboard.masking import Mask, without
from polysaga.dashboard.screens.declared import DeclaredSaga, DeclaredStep, by_name, find
from polysaga.sagas import Examination, Reason, SagaSummary, Status

_AT_REST = "nothing: it is at rest"
_FOLD = 400  # characters of a reason that a list shows to a pointer


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaRow:
    """A saga in the table."""

    id: UUID
    kind: str
    saga: str
    version: str  # shown only if this process does not know it
    key: str | None
    step: str | None
    database: str | None
    why: str
    why_whole: str
    next: str
    next2: str
    age: str
    started: str


def rows(
    sagas: Sequence[SagaSummary],
    now: datetime,
    *,
    program: Sequence[DeclaredSaga],
    mask: Mask,
    lease: float,
) -> list[SagaRow]:
    """Return the lines of a list."""
    return [row(saga, now, program=program, mask=mask, lease=lease) for saga in sagas]


def row(
    saga: SagaSummary,
    now: datetime,
    *,
    program: Sequence[DeclaredSaga],
    mask: Mask,
    lease: float,
) -> SagaRow:
    """Return the line of one saga."""
    steps = by_name(find(program, saga.name, saga.version))
    name = saga.step or saga.retried
    step = steps.get(name or "")
    hidden = masked_values(saga.error, mask)
    text = without(going_on(saga, now), hidden)
    coming, then = comes_next(saga, now, lease, step)
    return SagaRow(
        id=saga.id,
        kind=saga.status.value,
        saga=saga.name,
        version="" if saga.known else f"v{saga.version}",
        key=None if saga.key is None else without(saga.key, hidden),
        step=name,
        database=None if step is None else step.database,
        why=words.plainly(words.first_line(text)),
        why_whole=text[:_FOLD],
        next=coming,
        next2=then,
        age=words.brief(words.since(saga.created_at, now)),
        started=words.clock(saga.created_at),
    )


def going_on(saga: SagaSummary, now: datetime) -> str:
    """Return what a saga does, or why it does not."""
    if saga.status is Status.COMPLETED:
        return "every step has happened" if not resolved_by(saga) else f"resolved by {resolved_by(saga)}"
    if saga.status is Status.COMPENSATED and resolved_by(saga):
        return f"resolved by {resolved_by(saga)}, not undone by its compensations"
    if not saga.known and not saga.status.final:
        return f"version {saga.version}, which this process does not know"
    if saga.reason:
        refused = saga.error is not None and saga.error.kind == "refused" and saga.error.parked is None
        told = f"refused: {saga.reason}" if refused else saga.reason
        return f"being undone, because: {told}" if saga.status is Status.COMPENSATING else told
    if saga.crashing:
        return f"{saga.expiries} processes in a row ended, or hung, while they drove it"
    if saga.owner is None and saga.wake_at is not None and saga.wake_at <= now:
        return "due now: the next free process goes on with it"
    if saga.owner is None and not saga.status.final:
        return f"put aside, because {saga.retried or 'a step'} keeps failing"
    if saga.retried is not None:
        undone = saga.status is Status.COMPENSATING
        return f"{'undoing ' * undone}{saga.retried} failed, and is retried"
    return {
        Status.RUNNING: "its steps are under way; it is not decided",
        Status.COMPLETING: "decided; the steps behind the decision are under way",
        Status.COMPENSATING: "being undone",
    }.get(saga.status, "no reason was kept")


def comes_next(
    saga: SagaSummary, now: datetime, lease: float, step: DeclaredStep | None = None
) -> tuple[str, str]:
    """Return what happens next and when, and a second line; *step* is the one that is retried."""
    if saga.status.final:
        return _AT_REST, ""
    if saga.status is Status.NEEDS_ATTENTION:
        was = "" if saga.parked_from is None else f", was {saga.parked_from.value}"
        when = "" if saga.parked_at is None else f"parked {_at(saga.parked_at, now)}"
        return "nothing until a person decides", f"{when or 'parked'}{was}"
    late = lateness(saga, now, lease)
    if not saga.known:
        return "waits for a process that knows it", late and f"late by {late}"
    if late:
        return "any process takes it over at its next tick", f"late by {late}"
    if saga.owner is None and saga.wake_at is not None:
        never = "for as long as it takes" if saga.status is Status.COMPLETING else ""
        if saga.wake_at <= now:
            return "goes on at the next tick", never
        return f"tried again {words.ahead(saga.wake_at, now)}", never
    retried = step if saga.retried is not None and step is not None and step.name == saga.retried else None
    if saga.status is Status.RUNNING and retried is not None and retried.within is not None:
        return f"undone if that fails for {words.brief(retried.within)}", _deadline(saga, now)
    if saga.status is Status.RUNNING:
        return "goes on until it is decided", _deadline(saga, now)
    if saga.status is Status.COMPLETING:
        return "goes on until every step has happened", "it is never undone"
    if retried is not None and retried.undo_within is not None:
        return "goes on until everything is undone", f"parked if that fails for {words.brief(retried.undo_within)}"
    return "goes on until everything is undone", "parked for a person if that keeps failing"


def lateness(saga: SagaSummary, now: datetime, lease: float) -> str:
    """Return by how much a saga is late; empty if it is not."""
    seconds = saga.late_by(now, lease)
    return "" if seconds is None else words.duration(seconds)


def resolved_by(saga: SagaSummary) -> str:
    """Return who resolved a saga; empty if no person did."""
    return "" if saga.error is None or saga.error.resolved is None else saga.error.resolved.by


def may_end_processes(saga: SagaSummary) -> bool:
    """Return whether process after process ended on a step of *saga*; with every step done it was another saga."""
    parked = None if saga.error is None else saga.error.parked
    return parked is not None and parked.is_deserted and parked.step is not None


def masked_values(reason: Reason | None, mask: Mask) -> frozenset[str]:
    """Return the masked values among the facts of a refusal, which its text may repeat."""
    if reason is None:
        return frozenset()
    found = mask.values_of(reason.facts)
    return found if reason.parked is None else found | mask.values_of(reason.parked.facts)


def masked_in(found: Examination, mask: Mask) -> frozenset[str]:
    """Return the masked values in the input, the results and the reasons of a saga, which its texts may repeat."""
    saga = found.saga
    results = [row.result for look in found.looks for row in look.rows.values()]
    reasons = [saga.error, *(act.error_before for act in saga.audit)]
    told = (masked_values(reason, mask) for reason in reasons)
    return mask.values(saga.input, *results, *saga.results.values()).union(*told)


def totals(unfinished: Mapping[Status, int]) -> tuple[int, int]:
    """Return how many sagas are parked, and how many move."""
    parked = unfinished.get(Status.NEEDS_ATTENTION, 0)
    return parked, sum(number for status, number in unfinished.items() if status is not Status.NEEDS_ATTENTION)


def _at(moment: datetime, now: datetime) -> str:
    text = words.at(moment, now)
    return f"at {text}" if text[0].isdigit() and ":" in text[:3] else f"on {text}"


def _deadline(saga: SagaSummary, now: datetime) -> str:
    return "" if saga.deadline is None else f"undone if it is not decided {words.ahead(saga.deadline, now)}"
