"""`polysaga sagas retry | skip | compensate | resolve`: repair what needs a person.

Repairs act on named sagas at once. They act on the sagas that a filter finds only with --yes; without it they only
show what would happen. Each saga is repaired by itself and has its line, whatever becomes of the others.

Exit codes: 0 done; 1 some saga was refused; 2 a database is at fault, or the call, which fits no saga.
"""

import getpass
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal, TypeAlias, TypedDict
from uuid import UUID

import typer

from polysaga.cli.failures import EXPECTED, reason_of
from polysaga.cli.programs import Target
from polysaga.cli.saga_options import (
    By,
    DryRun,
    FailingStep,
    Json,
    Most,
    SagaIds,
    Why,
    Yes,
    console,
    print_json,
    run_on,
    saga_filter,
)
from polysaga.cli.saga_tables import RepairLine, print_repairs
from polysaga.cli.shared_options import with_options_of
from polysaga.errors import DefinitionError, PayloadError, TooLate, UnknownSaga, UnknownVersion, WrongStatus
from polysaga.sagas import Repair, SagaFilter, Sagas, SagaSummary
from polysaga.sagas.operations.repairs import newest


class How(TypedDict):
    """The arguments of every repair."""

    by: str
    why: str
    dry_run: bool


Work: TypeAlias = Callable[[Sagas, UUID, How], Awaitable[Sequence[Repair]]]
_REFUSALS = (TooLate, WrongStatus, UnknownVersion)
# Of one saga among others a refusal, as for a step that only the others have; of all, the call is wrong.
_MISFITS = (UnknownSaga, DefinitionError, PayloadError)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Selection:
    """Which sagas a repair acts on, and how."""

    target: str
    ids: Sequence[UUID]
    wanted: SagaFilter
    how: How
    limit: int
    unsure: bool  # a filter selects the sagas, and --yes was not given
    as_json: bool

    @property
    def many(self) -> bool:
        return not self.ids


def repair(own: Callable[..., Work]) -> Callable[..., None]:
    """Make *own* a command: it has the options of this repair only, and gets those that all repairs share."""

    def command(
        target: Target,
        ids: SagaIds = None,
        *,
        work: Work,
        why: Why,
        by: By = None,
        wanted: SagaFilter,
        failing_step: FailingStep = None,
        limit: Most = 100,
        dry_run: DryRun = False,
        yes: Yes = False,
        as_json: Json = False,
    ) -> None:
        unsure = not ids and not yes and not dry_run
        selection = _Selection(
            target=target,
            ids=ids or (),
            wanted=replace(wanted, step=failing_step),
            how=How(by=_who(by), why=why, dry_run=dry_run or unsure),
            limit=limit,
            unsure=unsure,
            as_json=as_json,
        )
        _require_one_way(selection)
        _carry_out(own.__name__, work, selection)

    command.__name__, command.__doc__ = own.__name__, own.__doc__
    return with_options_of(work=own, wanted=saga_filter)(command)


def _require_one_way(selection: _Selection) -> None:
    filtered = replace(selection.wanted, oldest_first=False) != SagaFilter()
    if selection.many == filtered:
        return
    raise typer.BadParameter(
        "name the sagas: by their ids, or by a filter such as --status needs_attention"
        if selection.many
        else "name the sagas by their ids, or by a filter such as --status needs_attention, not by both"
    )


@repair
def retry() -> Work:
    """Let parked sagas go on, when the cause is gone.

    They keep the direction they had.
    """
    return lambda program, which, how: program.retry(which, **how)


@repair
def skip(
    *,
    step: Annotated[str, typer.Option(metavar="STEP", help="The step that was done by hand.", show_default=False)],
    result: Annotated[
        str | None, typer.Option(metavar="JSON", help="What the step would have returned.", show_default=False)
    ] = None,
) -> Work:
    """Take a step as done by hand, and let the sagas go on.

    If a saga is being undone, the step counts as undone by hand.
    """
    value = _from_json(result)
    return lambda program, which, how: program.skip(which, step, value, **how)


@repair
def compensate() -> Work:
    """Undo sagas that are not decided yet."""
    return lambda program, which, how: program.compensate(which, **how)


@repair
def resolve(
    *,
    outcome: Annotated[
        Literal["completed", "compensated"],
        typer.Option("--as", help="What the saga shall count as.", show_default=False),
    ],
) -> Work:
    """End parked sagas by a person's word.

    Nothing of them runs any more.
    """
    return lambda program, which, how: program.resolve(which, outcome, **how)


@dataclass(slots=True)
class _Repaired:
    """What became of the sagas so far."""

    lines: list[RepairLine] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def faults(self) -> list[str]:
        """Return what is wrong with the call or a database."""
        fits_none = len(self.lines) == len(self.errors) and all(isinstance(one, _MISFITS) for one in self.errors)
        refusals = _REFUSALS if fits_none else (*_REFUSALS, *_MISFITS)
        found = [error for error in self.errors if not isinstance(error, refusals)]
        return list(dict.fromkeys(map(reason_of, found)))


def _carry_out(action: str, work: Work, selection: _Selection) -> None:
    outcome = _Repaired()
    try:
        run_on(selection.target, lambda program: _repair_each(program, action, work, selection, outcome))
    finally:
        if outcome.lines:  # these sagas are repaired, whatever ends the command
            _tell(outcome.lines, selection)
    if not outcome.lines:
        _tell((), selection)
    unchanged = selection.unsure and bool(outcome.lines)
    if unchanged:
        typer.echo("Nothing was changed: add --yes to do it.", err=True)
    faults = outcome.faults()
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        typer.echo(f"polysaga: {faults[0]}{more}", err=True)
    if unchanged or faults:
        raise typer.Exit(2)
    if outcome.errors:
        raise typer.Exit(1)


async def _repair_each(program: Sagas, action: str, work: Work, selection: _Selection, outcome: _Repaired) -> None:
    found = await newest(program.find, selection.wanted.to_repair(), selection.limit) if selection.many else ()
    known = {saga.id: saga for saga in found}
    for saga_id in known or selection.ids:
        try:
            (repair,) = await work(program, saga_id, selection.how)
        except EXPECTED as error:
            saga = known.get(saga_id) or await _summary(program, saga_id)
            outcome.lines.append(_refused(saga_id, saga, action, reason_of(error)))
            outcome.errors.append(error)
        else:
            outcome.lines.append(RepairLine(**asdict(repair)))


async def _summary(program: Sagas, saga_id: UUID) -> SagaSummary | None:
    try:
        return await program.get(saga_id)
    except EXPECTED:  # the journal has no such saga, or does not answer; the refusal says which
        return None


def _refused(saga_id: UUID, saga: SagaSummary | None, action: str, problem: str) -> RepairLine:
    return RepairLine(
        saga_id=saga_id,
        saga=None if saga is None else saga.name,
        action=action,
        before=None if saga is None else saga.status,
        after=None,
        done=False,
        problem=problem,
    )


def _tell(repairs: Sequence[RepairLine], selection: _Selection) -> None:
    dry = selection.how["dry_run"]
    if selection.as_json:
        print_json({"dry_run": dry, "repairs": [asdict(repair) for repair in repairs]})
        return
    if not repairs:
        typer.echo("No such saga.")
        return
    print_repairs(repairs, console())
    done = sum(repair.problem is None for repair in repairs)
    verb = "would be changed" if dry else "changed"
    refused = f", {len(repairs) - done} refused" if done < len(repairs) else ""
    typer.echo(f"{done} {verb}{refused}")
    if selection.many and len(repairs) == selection.limit:
        typer.echo("There may be more: the filter found as many as --limit allows.")
    if done and not dry:
        typer.echo("Whichever process ticks first goes on with them.")


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
