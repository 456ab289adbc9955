"""How sagas look in a terminal: a list, one saga with its steps, and what a repair did.

Colours only repeat what the text says. Columns are as wide as their content, and only the last one may wrap.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from polysaga.dashboard.screens.declared import DeclaredSaga
from polysaga.dashboard.screens.story import story
from polysaga.sagas import (
    Attempt,
    AuditEntry,
    Examination,
    SagaPage,
    SagaState,
    SagaSummary,
    Status,
    Tenure,
)

STYLES = {
    Status.RUNNING: "cyan",
    Status.COMPLETING: "cyan",
    Status.COMPENSATING: "yellow",
    Status.COMPLETED: "green",
    Status.COMPENSATED: "yellow",
    Status.NEEDS_ATTENTION: "bold red",
}
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairLine:
    """What a repair did to one saga, or why it did nothing; the same fields as `Repair`.

    *saga* and *before* are None if the journal has no such saga, or could not be asked.
    """

    saga_id: UUID
    saga: str | None
    action: str
    before: Status | None
    after: Status | None  # None if it is refused
    done: bool
    problem: str | None = None


def print_page(page: SagaPage, now: datetime, console: Console) -> None:
    """Print one line per saga, and below it the reason why it is undone or parked."""
    names = max((len(saga.name) for saga in page.sagas), default=0)
    for saga in page.sagas:
        line = Text.assemble(
            f"{saga.id}  ",
            f"{saga.name:<{names}}  ",
            (f"{saga.status:<15}", STYLES[saga.status]),
            (f"  {ago(now - saga.created_at):>7}", "dim"),
        )
        console.print(line, soft_wrap=True)
        for note in _notes(saga):
            console.print(Padding(note, (0, 0, 0, 4), expand=False))


def print_saga(saga: SagaState, now: datetime, console: Console) -> None:
    """Print everything that is known of one saga."""
    console.print(Text.assemble((saga.name, "bold"), f" version {saga.version}  ", (str(saga.id), "bold")))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    for name, value in _facts(saga, now):
        facts.add_row(name, value)
    console.print(facts)
    if saga.history:
        console.print()
        console.print(_history(saga.history, saga.owners))
    if saga.audit:
        console.print()
        console.print(_audit(saga.audit))


def print_traceback(saga: SagaState, console: Console) -> None:
    """Print where the error was raised because of which the saga is parked or undone."""
    told = None if saga.error is None else saga.error.parked or saga.error
    traceback = None if told is None else told.traceback
    if traceback:
        console.print()
        console.print(Text(str(traceback).rstrip(), style="dim"), soft_wrap=True)


def print_story(found: Examination, declared: DeclaredSaga | None, lease: float, console: Console) -> None:
    """Print in sentences what is going on, why, what stands and what comes next."""
    told = story(found, declared, lease=lease, hidden=frozenset())
    console.print(Text(told.headline.striptags(), style="bold"))
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column()
    for name, line in told.lines:
        lines.add_row(name, Text(line.striptags()))
    console.print(lines)
    console.print()


def print_ledgers(found: Examination, console: Console) -> None:
    """Print what each database says of each step, and what does not fit."""
    table = _table(database={}, step={}, row={})
    table.add_column("result")
    for look in found.looks:
        if look.problem is not None:
            table.add_row(look.database, "-", Text("could not be asked", style="red"), Text(look.problem))
        for step, row in look.rows.items():
            table.add_row(look.database, step, row.state.value, Text(row.result or ""))
    console.print()
    console.print(table)
    for one in found.contradictions:
        console.print(Text(f"{one.kind.value}: {one.detail}", style="bold red"), soft_wrap=True)


def print_repairs(repairs: Sequence[RepairLine], console: Console) -> None:
    """Print what a repair did to each saga or would do, or why it was refused."""
    names = max((len(repair.saga or "-") for repair in repairs), default=0)
    for repair in repairs:
        head = Text(f"{repair.saga_id}  {repair.saga or '-':<{names}}  ")
        if repair.before is None or repair.after is None:
            console.print(head.append("refused", style="bold red"), soft_wrap=True)
            console.print(Padding(Text(repair.problem or ""), (0, 0, 0, 4), expand=False))
        else:
            arrow = Text.assemble(repair.before.value, " -> ", (repair.after.value, STYLES[repair.after]))
            console.print(head.append_text(arrow), soft_wrap=True)


def ago(age: timedelta) -> str:
    """Return *age* in its largest unit: 45 s, 12 min, 3 h, 8 d."""
    seconds = max(0, round(age.total_seconds()))
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), _UNITS[-1])
    return f"{seconds // size} {unit}"


def _notes(saga: SagaSummary) -> Iterator[Text]:
    if saga.reason is not None:
        yield Text(_because(saga), style="dim")
    if not saga.known:
        yield Text(f"version {saga.version} of it is not the one of this program", style="dim")


def _because(saga: SagaSummary) -> str:
    reason = " ".join((saga.reason or "").split())
    return reason if saga.step is None else f"{saga.step}: {reason}"


def _facts(saga: SagaState, now: datetime) -> Iterator[tuple[str, Text]]:
    status = Text(saga.status.value, style=STYLES[saga.status])
    if saga.parked_from is not None:
        status.append(f", was {saga.parked_from.value}", style="not bold default")
    yield "status", status
    if saga.reason is not None:
        yield "why", Text(_because(saga))
    if saga.error is not None and saga.error.parked is not None and saga.error.message:
        yield "undone for", Text(f"{saga.error.step or saga.name}: {saga.error.message}")
    if saga.key is not None:
        yield "key", Text(saga.key)
    yield "started", _moment(saga.created_at, now)
    if saga.finished_at is not None:
        yield "finished", _moment(saga.finished_at, now)
    if saga.deadline is not None and not saga.status.final:
        yield "deadline", _moment(saga.deadline, now)
    if not saga.status.final:
        yield "driven by", Text(_driver(saga, now))
    if not saga.known:
        yield "known", Text("no: this program has another version of the saga")
    yield "input", Text(saga.input)
    for step, result in saga.results.items():
        yield "result", Text(f"{step}: {result}")


def _driver(saga: SagaState, now: datetime) -> str:
    if saga.status is Status.NEEDS_ATTENTION:
        return "no process: it waits for a person"
    left = None if saga.wake_at is None or saga.wake_at <= now else ago(saga.wake_at - now)
    when = "now, by the first worker that looks" if left is None else f"in {left}"
    if saga.owner is None:
        return f"no process; tried again {when}"
    claim = f"owner {saga.owner}, claim number {saga.epoch}"
    return f"no process; {claim} ran out, taken over {when}" if left is None else f"{claim}, for {left}"


def _moment(moment: datetime, now: datetime) -> Text:
    away = f"{ago(now - moment)} ago" if moment <= now else f"in {ago(moment - now)}"
    return Text.assemble(f"{moment:%Y-%m-%d %H:%M:%S} UTC", (f"  {away}", "dim"))


def _history(history: Sequence[Attempt], owners: Sequence[Tenure]) -> Table:
    table = _table(step={}, phase={}, attempt={"justify": "right"}, at={"justify": "right"})
    table.add_column("took", justify="right", no_wrap=True)
    table.add_column("outcome")
    entries: list[Attempt | Tenure] = [*owners, *history]
    for entry in sorted(entries, key=lambda one: one.at_ms):
        if isinstance(entry, Tenure):
            verb = "started" if entry.epoch == 1 else "taken over"
            told = Text(f"{verb} by {entry.process}", style="dim")
            table.add_row("", "claim", str(entry.epoch), _milliseconds(entry.at_ms), "", told)
            continue
        fine = entry.outcome in {"done", "found", "null"}
        told = Text(entry.outcome, style="green" if fine else "red")
        if entry.said:
            said = " ".join(entry.said.split()).removeprefix(f"{entry.outcome}: ")
            told.append(f": {said}", style="not bold default")
        table.add_row(
            entry.step,
            entry.phase,
            str(entry.attempt),
            _milliseconds(entry.at_ms),
            _milliseconds(entry.ms),
            told,
        )
    return table


def _audit(audit: Sequence[AuditEntry]) -> Table:
    table = _table(when={}, who={}, did={})
    table.add_column("why")
    for entry in audit:
        asked = entry.details.get("asked") or {}
        told = " ".join(f"{name}={json.dumps(value)}" for name, value in asked.items() if value is not None)
        did = f"{entry.action} {told}".rstrip()
        table.add_row(f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.by, did, entry.why)
    return table


def _table(**columns: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name, options in columns.items():
        table.add_column(name, no_wrap=True, **options)
    return table


def _milliseconds(value: float) -> str:
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.1f} ms"
