"""The options of `polysaga sagas`, each declared once, and the code that all its commands share."""

import asyncio
import json
import re
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer
from pydantic_core import to_json
from rich.console import Console

from polysaga.cli.files import require_files
from polysaga.cli.programs import load_sagas, settings_for
from polysaga.clock import Clock
from polysaga.sagas import SagaFilter, Sagas, Status

T = TypeVar("T")

_LONGEST = 36500 * 86400.0  # seconds, which the filters of the library take too


def seconds(text: str) -> float:
    """Return a duration such as "90", "90s", "15m", "2h" or "3d" in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None:
        raise typer.BadParameter(f"'{text}' is no duration: write e.g. 90s, 15m, 2h or 3d")
    duration = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
    if duration > _LONGEST:
        raise typer.BadParameter(f"'{text}' is too long: write at most 100 years, 36500d")
    return duration


def moment(text: str) -> datetime:
    """Return a time such as "2026-11-29 14:00", UTC if it has no zone, or a duration such as "2h": so long ago."""
    if re.fullmatch(r"\d+(?:\.\d+)?[smhd]", text):
        return Clock().now() - timedelta(seconds=seconds(text))
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no time: write e.g. '2026-11-29 14:00', in UTC, or 2h") from None
    except OverflowError:
        raise typer.BadParameter(f"'{text}' is in UTC not within the years 1 to 9999") from None


def saga_id(text: str) -> UUID:
    """Return the id of a saga, in any form of a UUID."""
    try:
        return UUID(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no id of a saga: copy one from `polysaga sagas list`") from None


def status(text: str) -> Status:
    """Return a status by its name."""
    try:
        return Status(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no status: write one of {', '.join(Status)}") from None


SagaId = Annotated[UUID, typer.Argument(metavar="ID", parser=saga_id, help="The saga's id.", show_default=False)]
SagaIds = Annotated[
    list[UUID] | None,
    typer.Argument(
        metavar="ID", parser=saga_id, help="The sagas; none if a filter names them.", show_default=False
    ),
]
Statuses = Annotated[
    list[Status] | None,
    typer.Option(
        "--status",
        metavar="STATUS",
        parser=status,
        help="Only with this status, e.g. needs_attention.",
        show_default=False,
    ),
]
Name = Annotated[
    str | None, typer.Option("--name", metavar="SAGA", help="Only sagas of this name.", show_default=False)
]
Key = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Only what this key started.", show_default=False)
]
Error = Annotated[
    str | None, typer.Option("--error", metavar="TEXT", help="Only with this in the reason.", show_default=False)
]
Age = Annotated[
    float | None,
    typer.Option(
        "--older-than", metavar="AGE", parser=seconds, help="Only begun so long ago, e.g. 15m.", show_default=False
    ),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        metavar="TIME",
        parser=moment,
        help="Only begun at this time (UTC) or later; 2h: 2 hours ago.",
        show_default=False,
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(metavar="TIME", parser=moment, help="Only begun before this time.", show_default=False),
]
_FAILING_STEP = "Only those in which this step failed last."
Step = Annotated[
    str | None,
    typer.Option("--step", "--failing-step", metavar="STEP", help=_FAILING_STEP, show_default=False),
]
FailingStep = Annotated[str | None, typer.Option(metavar="STEP", help=_FAILING_STEP, show_default=False)]
FailingDatabase = Annotated[
    str | None,
    typer.Option(
        "--database", metavar="NAME", help="Only those in which a step there failed last.", show_default=False
    ),
]
Retrying = Annotated[bool, typer.Option("--retrying", help="Only those whose last attempt failed.")]
Late = Annotated[bool, typer.Option("--late", help="Only those that no process has taken over in time.")]
Waiting = Annotated[bool, typer.Option("--waiting", help="Only those that are put aside until they wake.")]
Crashing = Annotated[
    bool, typer.Option("--crashing", help="Only those that three processes in a row ended or hung on.")
]
OldestFirst = Annotated[bool, typer.Option("--oldest-first", help="Begin with the oldest.")]
Unknown = Annotated[bool, typer.Option("--unknown", help="Only those that this program has no definition of.")]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="NAME",
        help="Who does it, for the audit trail; your login name by default.",
        show_default=False,
    ),
]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for the audit trail.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; tell what would happen.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it to all sagas that the filter finds.")]
Most = Annotated[int, typer.Option("--limit", metavar="NUMBER", min=1, max=1000, help="At most so many sagas.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def saga_filter(
    *,
    status: Statuses = None,
    name: Name = None,
    error: Error = None,
    older_than: Age = None,
    database: FailingDatabase = None,
    since: Since = None,
    until: Until = None,
    retrying: Retrying = False,
    late: Late = False,
    waiting: Waiting = False,
    crashing: Crashing = False,
    oldest_first: OldestFirst = False,
) -> SagaFilter:
    """Return the filter that these options of lists and repairs describe."""
    return SagaFilter(
        status=tuple(status or ()),
        name=name,
        error=error,
        older_than=older_than,
        database=database,
        since=since,
        until=until,
        retrying=retrying,
        late=late,
        waiting=waiting,
        crashing=crashing,
        oldest_first=oldest_first,
    )


def run_on(target: str, work: Callable[[Sagas], Coroutine[Any, Any, T]]) -> T:
    """Return what *work* returns for the program that *target* names, with its databases open.

    The journal must answer. People look for sagas just when another database does not.
    """
    program = load_sagas(target)

    async def run() -> T:
        settings = require_files(settings_for(program))
        async with program.databases.open(settings, needed=[program.journal]):
            return await work(program)

    return asyncio.run(run())


def print_json(value: dict[str, Any]) -> None:
    """Print *value* on one line, with JSON's own escapes if the encoding of the output lacks a sign."""
    text = to_json(value).decode()
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text), separators=(",", ":"))
    typer.echo(text)


def console() -> Console:
    """Return a console that does not colour numbers."""
    return Console(highlight=False)
