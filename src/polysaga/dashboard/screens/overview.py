"""The first page: does anything need a person, what is slow, old or late, and is a database in trouble?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from markupsafe import Markup

from polysaga.dashboard import words
from polysaga.dashboard.drawing import charts
from polysaga.dashboard.filters import MOVING, Search
from polysaga.dashboard.masking import Mask, without
from polysaga.dashboard.screens.declared import DeclaredSaga
from polysaga.dashboard.screens.listing import comes_next, going_on, masked_values, totals
from polysaga.sagas import (
    Activity,
    Cause,
    LateGroup,
    Overview,
    ProcessFacts,
    SagaActivity,
    SagaSummary,
    Status,
    StepActivity,
)

_NOW = (Status.NEEDS_ATTENTION, *MOVING)
_SHOWN = 8  # causes
_AT_LEAST = 1 / 6  # minutes; a shorter time has a number in place of a rate


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseLine:
    """Parked sagas with one reason."""

    number: str
    what: str
    why: str
    meta: str
    query: str
    go: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LateLine:
    """Sagas that no process has come for, or that wait."""

    number: str
    what: str
    kind: str
    word: str
    meta: str
    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OldLine:
    """One of the oldest unfinished sagas."""

    id: UUID
    age: str
    saga: str
    kind: str
    meta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPanel:
    """One step over the last hour."""

    name: str
    where: str
    p95: str
    failures: str
    bad: bool
    drawing: Markup
    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaPanel:
    """One saga over the last hour."""

    name: str
    anchor: str
    note: str
    query: str
    figures: tuple[tuple[str, str, str], ...]  # name, value, unit
    rate: Markup
    times: Markup
    p50: str
    p95: str
    top: str
    hours: tuple[str, str, str, str]
    steps: tuple[StepPanel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLine:
    """One process."""

    name: str
    note: str
    knows: str
    meter: Markup
    flight: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OverviewScreen:
    """The first page; *began*: any saga was ever seen."""

    headline: str
    lede: str
    parked: int
    counts_now: tuple[tuple[str, str, str], ...]  # status, number, query
    counts_hour: tuple[tuple[str, str, str], ...]
    causes: tuple[CauseLine, ...]
    causes_note: str
    late: tuple[LateLine, ...]
    late_title: str
    oldest: tuple[OldLine, ...]
    unfinished: int
    panels: tuple[SagaPanel, ...]
    hour: str
    processes: tuple[ProcessLine, ...]
    processes_note: str
    empty: bool


def overview_screen(
    found: Overview,
    activity: Activity,
    *,
    program: Sequence[DeclaredSaga],
    mask: Mask,
    lease: float,
    trouble: Sequence[str] = (),
    outages: Sequence[str] = (),
    absences: Sequence[str] = (),
) -> OverviewScreen:
    """Return the page; *trouble* are sentences about databases, *outages* those of it that stop sagas.

    *absences* tell of databases that were out of reach in the last hour.
    """
    parked, moving = totals(found.unfinished)
    lines = _late_lines(found, activity)
    started = sum(one.started for one in activity.sagas)
    hour, headline = Search(since="1h"), _headline(found, parked, outages)
    ended = {
        Status.COMPLETED: sum(one.completed for one in activity.sagas),
        Status.COMPENSATED: sum(one.compensated for one in activity.sagas),
    }
    return OverviewScreen(
        headline=headline,
        lede=_lede(found, moving, [*_told(trouble, outages, headline), *absences]),
        parked=parked,
        counts_now=tuple(
            (status.value, words.number(found.unfinished[status]), Search(status=(status,)).query())
            for status in _NOW
            if found.unfinished.get(status)
        ),
        counts_hour=tuple(
            (status.value, words.number(number), hour.query(status=(status,)))
            for status, number in ended.items()
            if started
        ),
        causes=tuple(_cause(one, found.at, mask) for one in found.causes[:_SHOWN]),
        causes_note=_causes_note(found),
        late=tuple(lines),
        late_title=words.joined(list(dict.fromkeys(line.word for line in lines))).capitalize(),
        oldest=tuple(_old(one, found.at, mask, lease) for one in found.oldest),
        unfinished=moving,
        panels=tuple(_panel(one, found.at, program) for one in sorted(activity.sagas, key=_order(program))),
        hour=f"{words.hour(found.at - timedelta(hours=1))} to {words.hour(found.at)} UTC, one column a minute",
        processes=tuple(_process(one, found.at) for one in activity.processes),
        processes_note=_processes_note(activity),
        empty=not (parked or moving or started),
    )


def _headline(found: Overview, parked: int, outages: Sequence[str]) -> str:
    strange = [group for group in found.late if not group.known]
    unknown = sum(group.count for group in strange)
    if not parked and found.crashing:
        return f"{words.number(found.crashing)} {_keep_losing(found.crashing)}."
    if not parked and unknown:
        wait = words.verb(unknown, "saga waits", "sagas wait")
        versions = {f"{group.name} version {group.version}" for group in strange}
        which = versions.pop() if len(versions) == 1 else "their versions"
        return f"{words.number(unknown)} {wait} for a process that knows {which}."
    if not parked and outages:
        return outages[0]
    if not parked:
        return "Nothing needs you."
    most = "5,000 or more" if not found.causes_complete else words.number(parked)
    noun = words.verb(parked, "saga needs", "sagas need")
    largest = max((cause.count for cause in found.causes), default=0)
    if len(found.causes) < 2 or largest < 2 or found.causes[0].count < largest:
        return f"{most} {noun} a person."
    return f"{most} {noun} a person, {words.number(largest)} of them for one reason."


def _told(trouble: Sequence[str], outages: Sequence[str], headline: str) -> list[str]:
    """Return what the lede says of the databases, without what the headline says."""
    if not trouble:
        return ["All databases answer."]
    remedy = "Steps there are retried until they give up. Once it is back, sagas go on by themselves."
    return [*(one for one in trouble if one != headline), *([remedy] if outages else [])]


def _processes_note(activity: Activity) -> str:
    if not activity.shared:
        return "this one only"
    former = f"; {activity.former:,} more in the last hour, which have ended" if activity.former else ""
    return f"that drive sagas of this journal{former}"


def _keep_losing(number: int) -> str:
    return words.verb(number, "saga keeps losing its process", "sagas keep losing their processes")


def _lede(found: Overview, moving: int, trouble: Sequence[str]) -> str:
    late = sum(group.count for group in found.late)
    under_way = max(0, moving - found.waiting - late)
    parts = []
    if under_way or not (found.waiting or late):
        parts.append(f"{words.number(under_way)} {words.verb(under_way, 'is', 'are')} under way")
    if found.waiting:
        parts.append(
            f"{words.number(found.waiting)} {words.verb(found.waiting, 'waits', 'wait')} to be tried again"
        )
    if late:
        parts.append(f"{words.number(late)} {words.verb(late, 'is', 'are')} late")
    if not moving:
        text = "Nothing else is under way." if any(found.unfinished.values()) else "No saga is under way."
    elif found.causes:
        text = f"Everything else moves: {words.joined(parts)}." if not late else f"{words.joined(parts)}."
    else:
        text = f"{words.joined(parts)}."
        if found.oldest:
            text = f"{text[:-1]}; the oldest began {words.ago(found.oldest[0].created_at, found.at)}."
    return " ".join([text, *trouble])


def _causes_note(found: Overview) -> str:
    if not found.causes_complete:
        return "the first 5,000, grouped by cause, the most first"
    if len(found.causes) > _SHOWN:
        return f"the largest {_SHOWN} of {len(found.causes)} causes"
    if found.causes and found.causes[0].count < max(cause.count for cause in found.causes):
        return "grouped by cause, what ended processes first"
    return "grouped by cause, the most first"


def _cause(cause: Cause, now: datetime, mask: Mask) -> CauseLine:
    undoing = cause.direction is Status.COMPENSATING
    if cause.step is None:
        what = f"{cause.name}: between two steps" if not cause.deserted else f"{cause.name}: every step is done"
    elif undoing:
        what = f"{cause.name}: {cause.step}{words.place(cause.database)} cannot be undone"
    else:
        what = f"{cause.name}: {cause.step}{words.place(cause.database)}"
    search = Search(status=(Status.NEEDS_ATTENTION,), name=cause.name, step=cause.step, error=cause.error or None)
    one = cause.count == 1
    # An example may contain a masked value; the message has its digits and ids removed.
    text = cause.example_message if cause.uniform and not mask.names else cause.message
    return CauseLine(
        number=words.number(cause.count),
        what=what,
        why=words.plainly(words.first_line(text)) or "no reason was kept",
        meta=_parked(cause, now),
        query=search.query(),
        go="Look" if one else f"Look at {words.number(cause.count)}",
    )


def _parked(cause: Cause, now: datetime) -> str:
    was = f"was {cause.direction.value}" if cause.count == 1 else f"were {cause.direction.value}"
    if cause.first_at is None or cause.last_at is None:
        return f"parked, {was}"
    first, last = words.at(cause.first_at, now), words.at(cause.last_at, now)
    when = first if first == last else f"{first} to {last}"
    last_one = "the last one " if cause.count > 1 else ""
    return f"parked {when}, {last_one}{words.brief(words.since(cause.last_at, now))} ago; {was}"


def _late_lines(found: Overview, activity: Activity) -> list[LateLine]:
    lines = [_late(group, found.at, activity) for group in found.late]
    if found.crashing:
        lines.insert(
            0,
            LateLine(
                number=words.number(found.crashing),
                what=_keep_losing(found.crashing),
                kind="late",
                word="crashing",
                meta="Three processes in a row, or more, ended or hung while they drove it: read their logs. "
                "One whose next step is not done is likely the cause, one with every step done is not. After "
                "eleven, the next process parks it.",
                query=Search(crashing=True).query(),
            ),
        )
    if found.waiting:
        soonest = min((one.wake_at for one in found.oldest if one.owner is None and one.wake_at), default=None)
        meta = "No process drives them until they are due: a step fails, or a person retries."
        if soonest is not None and soonest <= found.at:
            meta = "Some are due, after a person's retry too: they are taken up one after the other."
        elif soonest is not None:
            meta += f" The next one is tried {words.ahead(soonest, found.at)}."
        lines.append(
            LateLine(
                number=words.number(found.waiting),
                what=f"{words.verb(found.waiting, 'saga', 'sagas')} put aside",
                kind="waiting",
                word="waiting",
                meta=meta,
                query=Search(waiting=True).query(),
            )
        )
    return lines


def _late(group: LateGroup, now: datetime, activity: Activity) -> LateLine:
    due = f"Due since {words.at(group.since, now)}."
    if group.known:
        rest = "No process has taken them over; one that ticks does. Are the other processes up?"
    else:
        # This process may know another saga of that version, after a change without a new number.
        drivers = activity.others_that_know(group.name, group.version)
        rest = "No process that is up knows this version: deploy it again, beside the present one."
        if drivers:
            rest = f"This process does not know this version; {drivers[0]} does, and goes on with them."
    known = None if group.known else False
    search = Search(late=True, name=group.name, status=(group.status,), known=known)
    return LateLine(
        number=words.number(group.count),
        what=f"{group.name}, version {group.version}",
        kind="late",
        word="late",
        meta=f"{due} {rest}",
        query=search.query(),
    )


def _old(saga: SagaSummary, now: datetime, mask: Mask, lease: float) -> OldLine:
    why = words.plainly(words.first_line(without(going_on(saga, now), masked_values(saga.error, mask))))
    coming, then = comes_next(saga, now, lease)
    # Of a saga that is undone the step is why, and not where it is.
    step = f"{saga.step}: " if saga.step and saga.status is not Status.COMPENSATING else ""
    meta = f"{step}{why}. {coming[:1].upper()}{coming[1:]}{f'; {then}' if then else ''}."
    return OldLine(
        id=saga.id,
        age=words.duration(words.since(saga.created_at, now)),
        saga=saga.name,
        kind=saga.status.value,
        meta=meta,
    )


def _panel(one: SagaActivity, now: datetime, program: Sequence[DeclaredSaga]) -> SagaPanel:
    known = max((saga for saga in program if saga.name == one.name), key=lambda saga: saga.version, default=None)
    note, order = "not declared by this process", list[str]()
    if known is not None:
        order = [step.name for step in known.steps]
        steps, databases = words.counted(len(order), "step"), words.counted(len(known.databases), "database")
        note = f"version {known.version}, {steps} in {databases}"
    ended = one.completed + one.compensated + one.parked
    share = f"{one.completed / ended * 100:.1f}" if ended else "none"
    per_minute = _rate(one, now)
    p50s, p95s = [minute.p50 for minute in one.minutes], [minute.p95 for minute in one.minutes]
    top = max((value for value in p95s if value is not None), default=0.1) * 1.1
    series = [(minute.completed, minute.compensated, minute.parked) for minute in one.minutes]
    begins = now - timedelta(hours=1)
    thirds = tuple(words.hour(begins + timedelta(minutes=20 * place)) for place in range(4))
    told = f"{one.name} in the last hour: {words.counted(one.started, 'start')}, {one.completed:,} completed"
    return SagaPanel(
        name=one.name,
        anchor=f"h-{one.name}",
        note=note,
        query=Search(name=one.name).query(),
        figures=(
            ("Started", words.number(per_minute), "a minute"),
            ("Completed", share, "% of ended"),
            ("Compensated", words.number(one.compensated), "in the hour"),
            ("Parked", words.number(one.parked), "in the hour"),
            ("p95", *_split(one.p95)),
        ),
        rate=charts.bars(series, f"{told}, {one.compensated} compensated, {one.parked} parked"),
        times=charts.lines(p50s, p95s, f"{one.name}: p50 {_time(one.p50)}, p95 {_time(one.p95)}", top),
        p50=_time(one.p50),
        p95=_time(one.p95),
        top=words.duration(top),
        hours=(thirds[0], thirds[1], thirds[2], thirds[3]),
        steps=tuple(
            _step(step, one)
            for step in sorted(one.steps, key=lambda step: order.index(step.name) if step.name in order else 99)
        ),
    )


def _rate(one: SagaActivity, now: datetime) -> float:
    """Return the starts a minute, without the minute of the first one: it is no whole one."""
    first = next((place for place, minute in enumerate(one.minutes) if minute.started), None)
    if first is None:
        return 0.0
    since = one.minutes[first].at + timedelta(minutes=1)
    if words.since(since, now) / 60 < _AT_LEAST:
        return float(one.started)
    return sum(minute.started for minute in one.minutes[first + 1 :]) / (words.since(since, now) / 60)


def _order(program: Sequence[DeclaredSaga]) -> Callable[[SagaActivity], int]:
    """Return the place of a saga among those that the program declares; others come last."""
    names = list(dict.fromkeys(saga.name for saga in program))
    return lambda one: names.index(one.name) if one.name in names else len(names)


def _step(step: StepActivity, saga: SagaActivity) -> StepPanel:
    values = [minute.p95 for minute in step.minutes]
    failed = [place for place, minute in enumerate(step.minutes) if minute.failures]
    return StepPanel(
        name=step.name,
        where=step.database or "no database",
        p95=_time(step.p95),
        failures=_failures(step.failures),
        bad=any(kind != "refused" for kind in step.failures),
        drawing=charts.spark(values, f"p95 of {step.name} over the last hour, {_time(step.p95)}", failed=failed),
        query=Search(name=saga.name, step=step.name).query(),
    )


def _failures(failures: Mapping[str, int]) -> str:
    if not failures:
        return "no failures"
    kind, number = max(failures.items(), key=lambda item: item[1])
    rest = sum(failures.values()) - number
    told = words.counted(number, "error") if kind == "error" else f"{words.number(number)} {kind}"
    return told + (f", {words.counted(rest, 'other')}" if rest else "")


def _process(one: ProcessFacts, now: datetime) -> ProcessLine:
    up = f"up {words.duration(words.since(one.started_at, now))}"
    label = f"{one.in_flight} of at most {one.capacity} sagas in flight"
    return ProcessLine(
        name=one.name,
        note=f"this one, {up}" if one.here else up,
        knows=", ".join(one.knows),
        meter=charts.level(one.in_flight, one.capacity, label),
        flight=f"{words.number(one.in_flight)} of {words.number(one.capacity)} in flight",
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "none"
    return f"{seconds * 1000:.0f} ms" if 0.01 <= seconds < 1 else words.duration(seconds)


def _split(seconds: float | None) -> tuple[str, str]:
    text = _time(seconds) if seconds is None or seconds < 60 else words.brief(seconds)  # in one unit
    value, _, unit = text.partition(" ")
    return value, unit


def unfinished_query() -> str:
    """Return the search for all sagas that move."""
    return Search(status=MOVING).query()
