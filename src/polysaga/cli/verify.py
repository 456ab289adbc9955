"""`polysaga verify`: do the journal, all ledgers and all outboxes agree?"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import groupby
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from polysaga.cli.files import require_files
from polysaga.cli.programs import Target, load_sagas, settings_for
from polysaga.cli.saga_options import Since
from polysaga.clock import Clock
from polysaga.sagas import Contradiction, ContradictionKind, Sagas, Verification

_EVERY = 10.0  # seconds between two lines about the progress in a pipe
_KIND = max(map(len, ContradictionKind))


def verify(
    target: Target,
    limit: Annotated[int, typer.Option(metavar="NUMBER", min=1, help="Stop after so many contradictions.")] = 1000,
    since: Since = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the journal with all ledgers and outboxes.

    Exits with 1 if they disagree. It only reads, and works while the program runs: sagas in flight are no
    contradiction.
    """
    sagas = load_sagas(target)
    with comparing(Console(stderr=True), Clock()) as told:
        found = asyncio.run(_run(sagas, limit, since, told))
    if as_json:
        typer.echo(json.dumps(_as_data(found)))
    else:
        _print(found, Console())
    if not found.clean:
        raise typer.Exit(1)


class ComparisonShown:
    """Says how far the comparison is: by a bar on a terminal, else by a line from time to time."""

    def __init__(self, console: Console, clock: Clock, bar: Progress | None) -> None:
        self._console, self._clock, self._bar = console, clock, bar
        self._last, self._total = clock.monotonic(), 0
        self._task = None if bar is None else bar.add_task("comparing", total=None)

    def expect(self, total: int) -> None:
        """Note how many sagas there are."""
        self._total = total
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=total)

    def watch(self, count: int) -> None:
        """Say that *count* sagas are compared."""
        if self._bar is not None and self._task is not None:
            # Sagas may have begun since they were counted.
            self._bar.update(self._task, completed=count, total=max(count, self._total))
        elif self._clock.monotonic() - self._last >= _EVERY:
            self._last = self._clock.monotonic()
            self._console.print(f"compared {count:,} of {max(count, self._total):,} sagas ...", highlight=False)


@contextmanager
def comparing(console: Console, clock: Clock) -> Iterator[ComparisonShown]:
    """Show the progress while the block runs."""
    if not console.is_terminal:
        yield ComparisonShown(console, clock, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield ComparisonShown(console, clock, bar)


async def _run(sagas: Sagas, limit: int, since: datetime | None, told: ComparisonShown) -> Verification:
    settings = require_files(settings_for(sagas))
    async with sagas.databases.open(settings):
        return await sagas.verify(settings.sagas, limit=limit, watch=told.watch, expect=told.expect, since=since)


def _as_data(found: Verification) -> dict[str, Any]:
    return {
        "sagas": dict(found.sagas),
        "ledger_rows": dict(found.rows),
        "strangers": found.strangers,
        "contradictions": [_row(one) for one in found.contradictions],
        "complete": found.complete,
    }


def _row(one: Contradiction) -> dict[str, str | None]:
    return {
        "kind": one.kind.value,
        "saga_id": str(one.saga_id),
        "saga": one.saga,
        "status": one.status,
        "step": one.step,
        "database": one.database,
        "detail": one.detail,
    }


def _print(found: Verification, console: Console) -> None:
    for saga_id, group in groupby(found.contradictions, key=lambda one: one.saga_id):
        _print_saga(str(saga_id), list(group), console)
    for name, value in _counts(found):
        console.print(f"{name:<12} {value}", highlight=False)
    if found.clean:
        console.print("Journal and ledgers agree.", style="bold green")
    else:
        number = len(found.contradictions)
        said = f"{number:,} contradiction{'s' if number > 1 else ''}"
        rest = "." if found.complete else ", and more after them: raise --limit to see them."
        console.print(said + rest, style="bold red", highlight=False)


def _print_saga(saga_id: str, group: list[Contradiction], console: Console) -> None:
    first = group[0]
    known = f"{first.saga} ({first.status or 'not started'})" if first.saga else "not in the journal"
    console.print(Text.assemble((saga_id, "bold"), "  ", known), soft_wrap=True)
    table = Table.grid(padding=(0, 2), pad_edge=True)
    table.add_column(style="red", no_wrap=True, min_width=_KIND)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for one in group:
        table.add_row(one.kind.value, one.database or "-", one.detail)
    console.print(table)
    console.print()


def _counts(found: Verification) -> Iterator[tuple[str, str]]:
    by_status = ", ".join(f"{count:,} {status}" for status, count in found.sagas.items() if count)
    total = sum(found.sagas.values())
    yield "sagas", f"{total:,} ({by_status})" if total else "0"
    by_database = ", ".join(f"{count:,} in {name}" for name, count in found.rows.items())
    yield "ledger rows", f"{sum(found.rows.values()):,} ({by_database})"
    if found.strangers:
        yield "strangers", f"{found.strangers:,} of another version of the program, compared as far as possible"
