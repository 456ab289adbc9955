"""`polysaga sagas`: find the sagas of a program, understand one, and repair what needs a person.

Repairs act on named sagas at once; on all that a filter finds only with --yes, and without it they tell what
would happen. Exit codes: 0 done; 1 some saga was refused; 2 the call is at fault, or a database.
"""

import asyncio
import getpass
import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypeAlias, TypeVar
from uuid import UUID

import typer
from pydantic_core import to_json
from rich.console import Console

from polysaga.cli.programs import Target, load_sagas
from polysaga.cli.saga_tables import print_page, print_repairs, print_saga
from polysaga.clock import Clock
from polysaga.config import load_settings
from polysaga.errors import TooLate, UnknownVersion, WrongStatus
from polysaga.sagas import Repair, SagaFilter, Sagas, SagaState, SagaSummary, Status

T = TypeVar("T")
Repairing: TypeAlias = Callable[[Sagas, UUID | SagaFilter, bool], Awaitable[Sequence[Repair]]]

sagas = typer.Typer(no_args_is_help=True, help="Find sagas, understand one, and repair what needs a person.")


def seconds(text: str) -> float:
    """Return how many seconds "90", "90s", "15m", "2h" or "3d" are."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None:
        raise typer.BadParameter(f"'{text}' is no duration: write e.g. 90s, 15m, 2h or 3d")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


SagaId = Annotated[UUID, typer.Argument(metavar="ID", help="The saga's id.", show_default=False)]
SagaIds = Annotated[
    list[UUID] | None,
    typer.Argument(metavar="[ID]...", help="The sagas; none if a filter names them.", show_default=False),
]
Statuses = Annotated[
    list[Status] | None,
    typer.Option(
        "--status", metavar="STATUS", help="Only with this status, e.g. needs_attention.", show_default=False
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="Only sagas of this name.", show_default=False)]
Key = Annotated[str | None, typer.Option("--key", help="Only the saga that this key started.", show_default=False)]
Error = Annotated[
    str | None, typer.Option("--error", metavar="TEXT", help="Only with this in the reason.", show_default=False)
]
Age = Annotated[
    float | None,
    typer.Option(
        "--older-than", metavar="AGE", parser=seconds, help="Only begun so long ago, e.g. 15m.", show_default=False
    ),
]
Unknown = Annotated[bool, typer.Option("--unknown", help="Only those that this program has no definition of.")]
By = Annotated[
    str | None,
    typer.Option("--by", help="Who does it, for the audit trail; your login name by default.", show_default=False),
]
Why = Annotated[str, typer.Option("--why", help="Why, for the audit trail.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; tell what would happen.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it to all sagas that the filter finds.")]
Most = Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many sagas, the newest first.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Selection:
    """Which sagas a repair is about, and how it is carried out."""

    ids: Sequence[UUID]
    wanted: SagaFilter
    dry_run: bool
    yes: bool
    limit: int
    as_json: bool

    @property
    def many(self) -> bool:
        return not self.ids


@sagas.command("list")
def list_sagas(
    target: Target,
    status: Statuses = None,
    name: Name = None,
    key: Key = None,
    error: Error = None,
    older_than: Age = None,
    unknown: Unknown = False,
    limit: Most = 50,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="The page behind this one.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List sagas, the newest first."""
    wanted = _filter(status, name, key, error, older_than, unknown=unknown)
    page = _run(target, lambda program: program.find(wanted, limit=limit, after=after))
    if as_json:
        _print_json({"sagas": [_summary(saga) for saga in page.sagas], "next": page.next})
    elif not page.sagas:
        typer.echo("No such saga.")
    else:
        print_page(page, Clock().now(), _console())
    if page.next is not None and not as_json:
        typer.echo(f"There are more: --after '{page.next}'")


@sagas.command()
def show(target: Target, saga_id: SagaId, as_json: Json = False) -> None:
    """Show one saga: where it stands and why, every attempt of every step, and what people did to it."""
    saga = _run(target, lambda program: program.get(saga_id))
    if as_json:
        _print_json(_state(saga))
    else:
        print_saga(saga, Clock().now(), _console())


@sagas.command()
def retry(
    target: Target,
    ids: SagaIds = None,
    *,
    why: Why,
    by: By = None,
    status: Statuses = None,
    name: Name = None,
    error: Error = None,
    older_than: Age = None,
    limit: Most = 100,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Let parked sagas go on, in the direction they had: when the cause is gone."""
    who = _who(by)

    async def work(program: Sagas, which: UUID | SagaFilter, dry: bool) -> Sequence[Repair]:
        return await program.retry(which, by=who, why=why, dry_run=dry, limit=limit)

    _repair(target, "retry", work, _selection(ids, status, name, error, older_than, limit, dry_run, yes, as_json))


@sagas.command()
def skip(
    target: Target,
    ids: SagaIds = None,
    *,
    step: Annotated[str, typer.Option(help="The step that was done by hand.", show_default=False)],
    result: Annotated[
        str | None, typer.Option(metavar="JSON", help="What the step would have returned.", show_default=False)
    ] = None,
    why: Why,
    by: By = None,
    status: Statuses = None,
    name: Name = None,
    error: Error = None,
    older_than: Age = None,
    limit: Most = 100,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Take a step as done by hand (going back: as undone by hand), and let the sagas go on."""
    who, value = _who(by), _from_json(result)

    async def work(program: Sagas, which: UUID | SagaFilter, dry: bool) -> Sequence[Repair]:
        return await program.skip(which, step, value, by=who, why=why, dry_run=dry, limit=limit)

    _repair(target, "skip", work, _selection(ids, status, name, error, older_than, limit, dry_run, yes, as_json))


@sagas.command()
def compensate(
    target: Target,
    ids: SagaIds = None,
    *,
    why: Why,
    by: By = None,
    status: Statuses = None,
    name: Name = None,
    error: Error = None,
    older_than: Age = None,
    limit: Most = 100,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Undo sagas that are not decided yet."""
    who = _who(by)

    async def work(program: Sagas, which: UUID | SagaFilter, dry: bool) -> Sequence[Repair]:
        return await program.compensate(which, by=who, why=why, dry_run=dry, limit=limit)

    selection = _selection(ids, status, name, error, older_than, limit, dry_run, yes, as_json)
    _repair(target, "compensate", work, selection)


@sagas.command()
def resolve(
    target: Target,
    ids: SagaIds = None,
    *,
    outcome: Annotated[
        Literal["completed", "compensated"],
        typer.Option("--as", help="What the saga shall count as.", show_default=False),
    ],
    why: Why,
    by: By = None,
    status: Statuses = None,
    name: Name = None,
    error: Error = None,
    older_than: Age = None,
    limit: Most = 100,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """End parked sagas by a person's word: nothing of them runs any more."""
    who = _who(by)

    async def work(program: Sagas, which: UUID | SagaFilter, dry: bool) -> Sequence[Repair]:
        return await program.resolve(which, outcome, by=who, why=why, dry_run=dry, limit=limit)

    selection = _selection(ids, status, name, error, older_than, limit, dry_run, yes, as_json)
    _repair(target, "resolve", work, selection)


def _repair(target: str, action: str, work: Repairing, selection: _Selection) -> None:
    unsure = selection.many and not selection.yes and not selection.dry_run
    dry = selection.dry_run or unsure

    async def every(program: Sagas) -> list[Repair]:
        if selection.many:
            return list(await work(program, selection.wanted, dry))
        return [await _one(program, saga_id, action, work, dry=dry) for saga_id in selection.ids]

    repairs = _run(target, every)
    if selection.as_json:
        _print_json({"dry_run": dry, "repairs": [asdict(repair) for repair in repairs]})
    else:
        _tell(repairs, selection, dry=dry)
    if unsure and repairs:
        typer.echo("Nothing was changed: add --yes to do it.", err=True)
        raise typer.Exit(2)
    if any(repair.problem for repair in repairs):
        raise typer.Exit(1)


async def _one(program: Sagas, saga_id: UUID, action: str, work: Repairing, *, dry: bool) -> Repair:
    try:
        return (await work(program, saga_id, dry))[0]
    except (TooLate, WrongStatus, UnknownVersion) as refusal:
        saga = await program.get(saga_id)
        return Repair(
            saga_id=saga_id,
            saga=saga.name,
            action=action,
            before=saga.status,
            after=None,
            done=False,
            problem=str(refusal),
        )


def _tell(repairs: Sequence[Repair], selection: _Selection, *, dry: bool) -> None:
    if not repairs:
        typer.echo("No such saga.")
        return
    print_repairs(repairs, _console())
    done = sum(repair.problem is None for repair in repairs)
    verb = "would be changed" if dry else "changed"
    refused = f", {len(repairs) - done} refused" if done < len(repairs) else ""
    typer.echo(f"{done} {verb}{refused}")
    if selection.many and len(repairs) == selection.limit:
        typer.echo("There may be more: the filter found as many as --limit allows.")
    if done and not dry:
        typer.echo("Whichever process ticks first goes on with them.")


def _selection(
    ids: list[UUID] | None,
    status: list[Status] | None,
    name: str | None,
    error: str | None,
    older_than: float | None,
    limit: int,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> _Selection:
    filtered = bool(status or name or error) or older_than is not None
    if bool(ids) == filtered:
        raise typer.BadParameter(
            "name the sagas by their ids, or by a filter such as --status needs_attention, not by both"
            if ids
            else "name the sagas: by their ids, or by a filter such as --status needs_attention"
        )
    wanted = _filter(status, name, None, error, older_than, unknown=False)
    return _Selection(ids=ids or (), wanted=wanted, dry_run=dry_run, yes=yes, limit=limit, as_json=as_json)


def _filter(
    status: list[Status] | None,
    name: str | None,
    key: str | None,
    error: str | None,
    older_than: float | None,
    *,
    unknown: bool,
) -> SagaFilter:
    return SagaFilter(
        status=tuple(status or ()),
        name=name,
        key=key,
        error=error,
        older_than=older_than,
        known=False if unknown else None,
    )


def _run(target: str, work: Callable[[Sagas], Coroutine[Any, Any, T]]) -> T:
    program = load_sagas(target)

    async def run() -> T:
        async with program.databases.open(load_settings()):
            return await work(program)

    return asyncio.run(run())


def _who(by: str | None) -> str:
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        raise typer.BadParameter("say who does it: --by NAME") from None


def _from_json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"--result is not JSON: {error}") from None


def _summary(saga: SagaSummary) -> dict[str, Any]:
    return {**asdict(saga), "reason": saga.reason, "step": saga.step, "parked_from": saga.parked_from}


def _state(saga: SagaState) -> dict[str, Any]:
    given = {"input": json.loads(saga.input)}
    return {**_summary(saga), **given, "results": {step: json.loads(text) for step, text in saga.results.items()}}


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(to_json(value).decode())


def _console() -> Console:
    return Console(highlight=False)
