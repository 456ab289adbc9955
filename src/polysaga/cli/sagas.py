"""`polysaga sagas`: find the sagas of a program, understand one, and repair what needs a person."""

import json
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from polysaga.cli.configured import configured
from polysaga.cli.programs import Target, settings_for
from polysaga.cli.saga_options import (
    Json,
    Key,
    Most,
    SagaId,
    Step,
    Unknown,
    console,
    print_json,
    run_on,
    saga_filter,
)
from polysaga.cli.saga_repairs import compensate, resolve, retry, skip
from polysaga.cli.saga_tables import print_ledgers, print_page, print_saga, print_story, print_traceback
from polysaga.cli.shared_options import with_options_of
from polysaga.clock import Clock
from polysaga.dashboard.screens.declared import DeclaredSaga, declared, find
from polysaga.sagas import Examination, SagaFilter, Sagas, SagaState, SagaSummary

sagas = typer.Typer(
    no_args_is_help=True,
    help="Find sagas, understand one, and repair what needs a person.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@with_options_of(wanted=saga_filter)
def list_sagas(
    target: Target,
    wanted: SagaFilter,
    step: Step = None,
    key: Key = None,
    unknown: Unknown = False,
    limit: Most = 50,
    after: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="Go on behind this cursor: the next page.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """List sagas, the newest first unless --oldest-first is given."""
    wanted = replace(wanted, step=step, key=key, known=False if unknown else None)
    page = run_on(target, lambda program: program.find(wanted, limit=limit, after=after))
    if as_json:
        listed = [_summary(saga) for saga in page.sagas]
        print_json({"sagas": listed, "next": page.next, "searched_to": page.searched_to})
        return
    if page.sagas:
        print_page(page, Clock().now(), console())
    if page.searched_to is not None:
        way = "up to" if wanted.oldest_first else "back to"
        so_far = f"Searched {way}" if page.sagas else f"No such saga {way}"
        typer.echo(f"{so_far} {page.searched_to:%Y-%m-%d %H:%M:%S} UTC; search on: --after '{page.next}'")
    elif page.next is not None:
        typer.echo(f"There are more: --after '{page.next}'")
    elif not page.sagas:
        typer.echo("No such saga.")


def show(target: Target, saga_id: SagaId, as_json: Json = False) -> None:
    """Show one saga: where it stands and why.

    It says what comes next, what each database says, every attempt of every step, and what people did to it.
    """

    async def examined(program: Sagas) -> tuple[Examination, DeclaredSaga | None, float]:
        settings = settings_for(program).sagas
        found = await program.inspector(settings).examine(saga_id)
        return found, find(declared(program.declared), found.saga.name, found.saga.version), settings.lease

    found, known, lease = run_on(target, examined)
    if as_json:
        print_json({**_state(found.saga), **_examined(found)})
        return
    out = console()
    print_story(found, known, lease, out)
    print_saga(found.saga, Clock().now(), out)
    print_ledgers(found, out)
    print_traceback(found.saga, out)


sagas.command("list")(configured(list_sagas))
for command in (show, retry, skip, compensate, resolve):
    sagas.command()(configured(command))


def _examined(found: Examination) -> dict[str, Any]:
    return {
        "late": found.late,
        "next": [asdict(move) for move in found.moves],
        "ledgers": [asdict(look) for look in found.looks],
        "contradictions": [asdict(one) for one in found.contradictions],
        "repairs": [asdict(option) for option in found.options],
        "alike": found.alike,
    }


def _summary(saga: SagaSummary) -> dict[str, Any]:
    return {**saga.as_dict(), "parked_from": saga.parked_from}


def _state(saga: SagaState) -> dict[str, Any]:
    given = {"input": json.loads(saga.input)}
    return {**_summary(saga), **given, "results": {step: json.loads(text) for step, text in saga.results.items()}}
