"""Output for people in a terminal: one accent, numbers in columns, readable in a narrow window."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orders.reconcile import Reconciliation
from orders.replay import Tally
from polysaga.clock import Clock

_EVERY = 5.0  # seconds between two lines, if the output is no terminal
_SHOWN = 20  # contradictions that are listed one by one


class _OwnConsole(Console):
    """A console whose reader may go away, such as `head`: the command ends as it would, with the code it found."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console = _OwnConsole(highlight=False)
Watch = Callable[[Tally], None]


def show_json(value: Mapping[str, Any]) -> None:
    """Print *value* as one line of JSON."""
    console.out(json.dumps(value))


def facts(title: str, rows: Mapping[str, str]) -> None:
    """Print a titled block of names and values."""
    console.print(f"\n[bold]{title}[/bold]")
    width = max(map(len, rows))
    for name, value in rows.items():
        # Not wrapped: an address that spans two lines cannot be clicked.
        console.print(f"  [dim]{name:<{width}}[/dim]   {value}", soft_wrap=True)


def show_demo(url: str, nodes: Sequence[tuple[str, str]], order_id: UUID | None) -> None:
    """Print where to look while the demo runs."""
    facts("A shop over three databases", dict(nodes))
    pages = {
        "dashboard": "dashboard/",
        "first page": "",
        "API docs": "docs",
        "all orders": "orders",
        "health": "health/ready",
    }
    if order_id is not None:
        pages |= {"one order": f"orders/{order_id}", "its saga": f"sagas/{order_id}"}
    facts("Look at", {name: f"{url}/{path}" for name, path in pages.items()})
    console.print("\nAbout one order a second comes in. Ctrl-C ends it; the next start goes on from here.\n")


@contextmanager
def counting() -> Iterator[Callable[[Counter[str]], None]]:
    """Show one line with the outcomes of orders; show nothing if the output is no terminal."""
    if not console.is_terminal:
        yield lambda _: None
        return
    counts = ""

    def watch(seen: Counter[str]) -> None:
        nonlocal counts
        counts = " · ".join(f"{count:,} {what}" for what, count in seen.items())
        line.update(counts)

    with console.status("waiting for the next order") as line:
        try:
            yield watch
        finally:
            console.print(counts)


@contextmanager
def progress(total: int, *, quiet: bool) -> Iterator[Watch]:
    """Show the progress of a replay: a bar on a terminal, a line now and then elsewhere, or nothing."""
    if quiet:
        yield lambda _: None
        return
    if not console.is_terminal:
        yield _lines(Clock())
        return
    columns = (
        TextColumn("Replaying"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total, counts="")

        def watch(tally: Tally) -> None:
            bar.update(task, completed=tally.done, counts=_counts(tally))

        yield watch


def show_tally(tally: Tally, dirty: Counter[str]) -> None:
    """Print the outcomes of a replay, and how many rows of the file were no orders."""
    facts(
        f"{tally.total:,} orders in {tally.seconds:.1f} s, {tally.rate:.0f} per second",
        {
            "confirmed": f"{len(tally.confirmed):>7,}",
            **{f"refused: {reason}": f"{count:>7,}" for reason, count in tally.refused.most_common()},
            **{f"failed: {reason}": f"{count:>7,}" for reason, count in tally.failed.most_common()},
            "requests repeated": f"{tally.repeated:>7,}",
        },
    )
    if dirty:
        rows = {reason: f"{count:>7,}" for reason, count in dirty.most_common()}
        facts(f"{dirty.total():,} rows are not orders", rows)


def show_reconciliation(found: Reconciliation) -> None:
    """Print whether the databases agree, and where they do not."""
    compared = f"{found.orders:,} orders, {found.products:,} products, {found.users:,} users"
    if not found.contradictions:
        console.print(f"\n[bold green]✓ The three databases agree[/bold green] [dim]({compared})[/dim]")
        return
    count = len(found.contradictions)
    console.print(
        f"\n[bold red]✗ {count:,} contradiction{'s' * (count > 1)} between the databases[/bold red] "
        f"[dim]({compared})[/dim]"
    )
    for text in found.contradictions[:_SHOWN]:
        console.print(f"  {text}", markup=False)
    if count > _SHOWN:
        console.print(f"  [dim]and {count - _SHOWN:,} more; --json lists all[/dim]")


def _lines(clock: Clock) -> Watch:
    last = clock.monotonic()

    def watch(tally: Tally) -> None:
        nonlocal last
        if tally.done == tally.total or clock.monotonic() - last >= _EVERY:
            last = clock.monotonic()
            console.print(f"{tally.done:,} of {tally.total:,} orders, {_counts(tally)}")

    return watch


def _counts(tally: Tally) -> str:
    parts = [f"{tally.rate:.0f}/s", f"{len(tally.confirmed):,} confirmed", f"{tally.refused.total():,} refused"]
    if tally.failed:
        parts.append(f"{tally.failed.total():,} failed")
    if tally.repeated:
        parts.append(f"{tally.repeated:,} retried")
    return " · ".join(parts)
