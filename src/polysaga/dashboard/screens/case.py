"""The page of one saga, put together from its parts; the facts of the saga, and where others like it are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from markupsafe import Markup

from polysaga.dashboard import words
from polysaga.dashboard.drawing.elements import tag
from polysaga.dashboard.filters import Search
from polysaga.dashboard.masking import Mask, shown, without
from polysaga.dashboard.screens.declared import DeclaredSaga
from polysaga.dashboard.screens.history import last_driver, lasted, timeline
from polysaga.dashboard.screens.listing import masked_in
from polysaga.dashboard.screens.options import Act, acts
from polysaga.dashboard.screens.payloads import Payload, payload
from polysaga.dashboard.screens.people import AuditEvent, people
from polysaga.dashboard.screens.records import LedgerLine, StepPart, agreement, ledgers, steps
from polysaga.dashboard.screens.story import Story, story
from polysaga.sagas import Examination, Status

_TRACE = "{trace_id}"


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
    parts = steps(found, declared, mask, hidden, whole=whole)
    agree, wrong = agreement(found)
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
        steps=tuple(sorted(parts, key=lambda step: not step.open)),
        agree=agree,
        contradictions=tuple(without(one, hidden) for one in wrong),
        ledgers=tuple(ledgers(found)),
        input=payload(saga.input, mask, whole=whole),
        result=_outcome(found, mask, whole=whole),
        acts=tuple(acts(found, declared)),
        rest="Nothing: it is at rest for good." if saga.status.final else "",
        facts=tuple(_facts(found, trace, hidden)),
        audit=tuple(people(found, hidden)),
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
    plain = not any(letter.isdigit() or letter == "\0" for letter in reason) and without(reason, hidden) == reason
    error = reason[:80] if plain and len(reason) <= 200 else None
    step = told.step if told else None
    return Search(status=(Status.NEEDS_ATTENTION,), name=saga.name, step=step, error=error or None).query()


def _outcome(found: Examination, mask: Mask, *, whole: bool) -> Payload:
    saga = found.saga
    pivot = next((step.name for step in found.steps if step.kind == "pivot"), None)
    rows = {step: row.result for look in found.looks for step, row in look.rows.items()}
    result = saga.results.get(pivot or "") or rows.get(pivot or "")
    if result is not None:
        return payload(result, mask, whole=whole)
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


def _plain(text: str) -> Markup:
    return Markup("{}").format(text)
