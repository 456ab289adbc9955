"""Repairs of many sagas: what would happen to how many, and how far they are."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from markupsafe import Markup

from polysaga.dashboard import words
from polysaga.dashboard.drawing import charts
from polysaga.dashboard.filters import MOVING
from polysaga.dashboard.masking import Mask, without
from polysaga.dashboard.screens.listing import going_on, masked_values, may_end_processes
from polysaga.sagas import BatchProgress, Fates, Repair, SagaSummary, Status

_PACE = 200  # repairs in a second, about
_SOME = 3
_EXAMPLES = 5  # sagas of one status that the page of a batch names
_NAMED = re.compile(r"^'\w+' does not fit saga '[^']+' [0-9a-f-]{36}, which is (?=\w+: )")
_VERBS: Mapping[str, tuple[str, str]] = {  # the order, and what is under way
    "retry": ("Retry", "Retrying"),
    "skip": ("Skip a step of", "Skipping a step of"),
    "compensate": ("Compensate", "Compensating"),
    "resolve": ("Resolve", "Resolving"),
}
_DONE = {"retry": "retried", "skip": "skipped", "compensate": "ordered to be undone", "resolve": "resolved"}
ACTIONS = tuple(_VERBS)
_THEN = {
    "retry": "They are due at once; any process goes on with them. What keeps failing is parked again.",
    "skip": "The step counts as done by hand and is not run. They are due at once.",
    "compensate": "What they did is undone. What cannot be undone is parked.",
    "resolve": "No step and no compensation of them runs any more. In the lists they are resolved by you.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What would happen to some of the sagas."""

    number: str
    kind: str
    text: str
    then: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmScreen:
    """The question before a bulk repair."""

    title: str
    action: str
    number: int
    told_number: str
    chosen: str
    tried_at: str
    outcomes: tuple[Prospect, ...]
    tried_note: str
    warnings: tuple[str, ...]
    possible: bool
    some: tuple[UUID, ...]
    rest: int
    cause: str
    oldest: UUID | None
    button: str
    cls: str
    pace: str
    steps: tuple[str, ...]
    step: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FateLine:
    """What has become of some repaired sagas; *examples* are those that are not through, or all of a few."""

    number: str
    kind: str
    text: str
    examples: tuple[tuple[UUID, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressScreen:
    """How far a bulk repair is."""

    id: UUID
    title: str
    lede: str
    note: str
    bar: Markup | None
    outcomes: tuple[Prospect, ...]
    fates: tuple[FateLine, ...]
    fates_note: str
    over: bool
    moves: bool  # the batch, or one of its sagas
    may_stop: bool


def confirm_screen(
    action: str,
    ids: Sequence[UUID],
    tried: Sequence[Repair],
    *,
    complete: bool,
    now: datetime,
    found: Sequence[SagaSummary],
    mask: Mask,
    steps: Sequence[str] = (),
    step: str = "",
    outcome: str = "",
) -> ConfirmScreen:
    """Return the question; *found* are the newest of *ids*, and *tried* is a dry run on them."""
    number = len(ids)
    noun = words.verb(number, "saga", "sagas")
    what = f"{_VERBS[action][0]} {words.number(number)} {noun}"
    as_what = f" as {outcome}" if action == "resolve" and outcome else ""
    # Of those that lost their processes no step has failed.
    failed = [one for one in found if one.error is None or not (one.error.parked or one.error).is_deserted]
    causes = {without(one.reason or "", masked_values(one.error, mask)) for one in failed}
    cause = next(iter(causes)) if len(causes) == 1 and len(failed) == len(found) else ""
    note = "without changing anything"
    if len(tried) < number:
        note = f"on the newest {words.number(len(tried))}, without changing anything"
    if not complete:
        note += "; there are more than these, repair them afterwards"
    return ConfirmScreen(
        title=f"{what}{as_what}?",
        action=action,
        number=number,
        told_number=words.number(number),
        chosen=f"The saga …{words.tail(ids[0])}." if number == 1 else "The sagas that you chose.",
        tried_at=words.clock(now),
        tried_note=note,
        warnings=tuple(_warnings(action, found)),
        # Another step, or another outcome, may be.
        possible=action in {"skip", "resolve"} or len(tried) < number or any(map(_is_possible, tried)),
        outcomes=tuple(_prospects(action, tried)),
        some=tuple(ids[:_SOME]),
        rest=max(0, number - _SOME),
        cause=words.short(cause) if action == "retry" else "",
        oldest=ids[-1] if action == "retry" and number > 1 else None,
        button=f"{what}{as_what}",
        cls="btn-danger" if action in {"resolve", "compensate"} else "btn-primary",
        pace=f"About {words.brief(max(1.0, number / _PACE))}. You may leave the page that follows.",
        steps=tuple(steps),
        step=step,
        outcome=outcome,
    )


def _warnings(action: str, found: Sequence[SagaSummary]) -> Iterator[str]:
    """Yield what a person may not expect of *action* on these sagas."""
    deserted = sum(may_end_processes(one) for one in found)
    if action == "retry" and deserted:
        was = words.verb(deserted, "is parked because its processes", "are parked because their processes")
        yield (
            f"{_of_them(deserted, found)} {was} ended or hung, one after the other. A retry may end the next "
            "process too: read in the logs why they ended, and remove the cause first."
        )
    strange = sum(not one.known for one in found)
    if action == "compensate" and strange:
        yield (
            f"{_of_them(strange, found)} {words.verb(strange, 'is', 'are')} of a version that this process does "
            "not know. Deploy it again, and they go on by themselves. If you order this, they are undone then."
        )
    undone = sum((one.parked_from or one.status) is Status.COMPENSATING for one in found)
    if action == "compensate" and undone:
        yield (
            f"{_of_them(undone, found)} {words.verb(undone, 'is', 'are')} being undone already. Compensate "
            "only goes on with that, as retry does."
        )


def _of_them(number: int, found: Sequence[SagaSummary]) -> str:
    if number == len(found):
        return "It" if number == 1 else "All of them"
    return f"{words.number(number)} of them"


def _prospects(action: str, tried: Sequence[Repair]) -> list[Prospect]:
    good = Counter((one.before, one.after) for one in tried if one.after is not None and _is_possible(one))
    bad = Counter(_without_id(one) for one in tried if not _is_possible(one))
    found = [
        Prospect(
            number=words.number(number), kind=after.value, text=_change(before, after, number), then=_THEN[action]
        )
        for (before, after), number in good.most_common()
    ]
    found += [
        Prospect(number=words.number(number), kind="blocked", text="would be refused", then=problem)
        for problem, number in bad.most_common(5)
    ]
    if not bad:
        changes = "A saga that changes meanwhile stays as it is and says why."
        found.append(Prospect(number="0", kind="blocked", text="would be refused", then=changes))
    return found


def _is_possible(one: Repair) -> bool:
    return one.after is not None and one.problem is None


def _change(before: Status, after: Status, number: int) -> str:
    go = words.verb(number, "goes", "go")
    if before is after:
        return f"{go} on as {words.STATUS[after.value]}"
    return f"{go} from {words.STATUS[before.value]} to {words.STATUS[after.value]}"


def _without_id(one: Repair) -> str:
    told = _NAMED.sub("", words.first_line(one.problem or "it is refused"))
    return told.replace(f" {one.saga_id}", "").replace(str(one.saga_id), "…")


def progress_screen(batch: BatchProgress, fates: Fates, now: datetime, *, mask: Mask) -> ProgressScreen:
    """Return how far *batch* is, and how its sagas stand."""
    refused = sum(batch.refused.values())
    over, settled = batch.ended_at is not None, batch.done + refused
    total = batch.total if batch.total is not None else settled
    noun = words.verb(total, "saga", "sagas")
    verb = _VERBS.get(batch.action, (batch.action, batch.action))[1]
    title = f"{verb} {words.number(total)} {noun}: {words.number(settled)} so far."
    if batch.stopped_by is not None and settled < total:
        title = f"Stopped by {batch.stopped_by}: {words.number(settled)} of {words.number(total)} {noun} done."
    elif over and batch.problem is None:
        title = (
            f"{words.number(batch.done)} of {words.number(total)} {noun} {_DONE.get(batch.action, 'repaired')}."
        )
    lede = f"Begun at {words.at(batch.began_at, now)} by {batch.by}: “{batch.why}”. "
    if over:
        lede += "The audit trail has every saga."
    else:
        lede += "This page looks again every 2 seconds. You may leave it: the work goes on."
    rest = max(0, total - settled)
    outcomes = [
        Prospect(number=words.number(batch.done), kind="done", text=_DONE.get(batch.action, "repaired"), then=""),
        *(
            Prospect(number=words.number(number), kind="blocked", text="refused", then=problem)
            for problem, number in sorted(batch.refused.items(), key=lambda item: -item[1])
        ),
    ]
    if rest:
        word = "not done: they are as they were" if over else "not yet"
        outcomes.append(Prospect(number=words.number(rest), kind="waiting", text=word, then=""))
    return ProgressScreen(
        id=batch.id,
        title=title if batch.problem is None else f"Stopped: {words.first_line(batch.problem)}",
        lede=lede,
        note=_note(batch, rest, settled, now),
        bar=charts.level(settled, total, f"{words.number(settled)} of {words.number(total)} done"),
        outcomes=tuple(outcomes),
        fates=tuple(_fates(fates, now, mask)),
        fates_note="by the journal" if fates.complete else "the first 10,000, by the journal",
        over=over,
        moves=not over or any(status.moving for status in fates.numbers),
        may_stop=batch.here and not over and batch.stopped_by is None,
    )


def _fates(fates: Fates, now: datetime, mask: Mask) -> Iterator[FateLine]:
    for status in (Status.NEEDS_ATTENTION, *MOVING, Status.COMPENSATED, Status.COMPLETED):
        if not fates.numbers.get(status):
            continue
        shown = [saga for saga in fates.examples if saga.status is status]
        # Many that have ended well need no names.
        shown = shown[:_EXAMPLES] if not status.final or len(shown) <= _EXAMPLES else []
        yield FateLine(
            number=words.number(fates.numbers[status]),
            kind=status.value,
            text=words.STATUS[status.value],
            examples=tuple(
                (saga.id, words.first_line(without(going_on(saga, now), masked_values(saga.error, mask))))
                for saga in shown
            ),
        )
    if fates.removed:
        removed = words.number(fates.removed)
        yield FateLine(number=removed, kind="never", text="at rest, and removed since", examples=())


def _note(batch: BatchProgress, rest: int, settled: int, now: datetime) -> str:
    if batch.ended_at is not None:
        return f"ended at {words.at(batch.ended_at, now)}"
    if not batch.here:
        return "another process works on it; refusals are known there only"
    seconds = words.since(batch.began_at, now)
    return f"about {words.brief(seconds / settled * rest)} to go" if settled else "it has just begun"
