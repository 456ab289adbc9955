"""`polysaga sagas`: find the sagas of a program, understand one, and repair what needs a person."""

import json
from typing import Annotated, Any

import typer

from polysaga.cli.configured import configured
from polysaga.cli.programs import Target
from polysaga.cli.saga_options import (
    Age,
    Error,
    FailingDatabase,
    FailingStep,
    Json,
    Key,
    Late,
    Most,
    Name,
    OldestFirst,
    Retrying,
    SagaId,
    Since,
    Statuses,
    Unknown,
    Until,
    Waiting,
    console,
    print_json,
    run_on,
    saga_filter,
)
from polysaga.cli.saga_repairs import compensate, resolve, retry, skip
from polysaga.cli.saga_tables import print_page, print_saga
from polysaga.clock import Clock
from polysaga.sagas import SagaState, SagaSummary

sagas = typer.Typer(
    no_args_is_help=True,
    help="Find sagas, understand one, and repair what needs a person.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def list_sagas(
    target: Target,
    status: Statuses = None,
    name: Name = None,
    key: Key = None,
    error: Error = None,
    older_than: Age = None,
    unknown: Unknown = False,
    step: FailingStep = None,
    database: FailingDatabase = None,
    since: Since = None,
    until: Until = None,
    retrying: Retrying = False,
    late: Late = False,
    waiting: Waiting = False,
    oldest_first: OldestFirst = False,
    limit: Most = 50,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="The page behind this one.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List sagas, the newest first."""
    wanted = saga_filter(
        status,
        name,
        key,
        error,
        older_than,
        unknown=unknown,
        step=step,
        database=database,
        since=since,
        until=until,
        retrying=retrying,
        late=late,
        waiting=waiting,
        oldest_first=oldest_first,
    )
    page = run_on(target, lambda program: program.find(wanted, limit=limit, after=after))
    if as_json:
        listed = [_summary(saga) for saga in page.sagas]
        print_json({"sagas": listed, "next": page.next, "searched_to": page.searched_to})
        return
    if page.sagas:
        print_page(page, Clock().now(), console())
    if page.searched_to is not None:
        so_far = "Searched back to" if page.sagas else "No such saga back to"
        typer.echo(f"{so_far} {page.searched_to:%Y-%m-%d %H:%M:%S} UTC; search on: --after '{page.next}'")
    elif page.next is not None:
        typer.echo(f"There are more: --after '{page.next}'")
    elif not page.sagas:
        typer.echo("No such saga.")


def show(target: Target, saga_id: SagaId, as_json: Json = False) -> None:
    """Show one saga: where it stands and why.

    Every attempt of every step is listed, and what people did to it.
    """
    saga = run_on(target, lambda program: program.get(saga_id))
    if as_json:
        print_json(_state(saga))
    else:
        print_saga(saga, Clock().now(), console())


sagas.command("list")(configured(list_sagas))
for command in (show, retry, skip, compensate, resolve):
    sagas.command()(configured(command))


def _summary(saga: SagaSummary) -> dict[str, Any]:
    return {**saga.as_dict(), "parked_from": saga.parked_from}


def _state(saga: SagaState) -> dict[str, Any]:
    given = {"input": json.loads(saga.input)}
    return {**_summary(saga), **given, "results": {step: json.loads(text) for step, text in saga.results.items()}}
