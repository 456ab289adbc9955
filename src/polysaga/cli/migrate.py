"""`polysaga migrate`: our tables in every database of a program."""

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from polysaga.cli.files import stood_in_for
from polysaga.cli.programs import Target, load_sagas, settings_for
from polysaga.events import Event, TablesAhead
from polysaga.migrations import Migration, pending
from polysaga.migrations import migrate as migrate_all
from polysaga.sagas import Sagas
from polysaga.telemetry.logs import line


def migrate(
    target: Target,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if a database is behind.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Create or upgrade the journal and the ledgers of a program.

    The settings are the program's own. By default they come from polysaga.toml, or the file that POLYSAGA_CONFIG
    names, and from the POLYSAGA_* variables.
    """
    found = asyncio.run(_run(load_sagas(target), check=check))
    if as_json:
        typer.echo(json.dumps([_row(migration) for migration in found]))
    elif found:
        _print_table(found, "behind" if check else "migrated")
    else:
        typer.echo("Every database is up to date.")
    if check and found:
        raise typer.Exit(1)


async def _run(sagas: Sagas, *, check: bool) -> Sequence[Migration]:
    settings = settings_for(sagas)
    if not check:
        async with sagas.databases.open(settings):
            return await migrate_all(sagas, emit=_tell, may_be_ahead=True)
    with stood_in_for(settings) as known:
        async with sagas.databases.open(known):
            return await pending(sagas, emit=_tell, may_be_ahead=True)


def _tell(event: Event) -> None:
    if isinstance(event, TablesAhead):
        typer.echo(f"left alone: {line(event)[1]}", err=True)


def _row(migration: Migration) -> dict[str, str | None]:
    return {
        "database": migration.database,
        "line": migration.line,
        "from": migration.current,
        "to": migration.head,
    }


def _print_table(found: Sequence[Migration], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("database", "line", "from", "to"):
        table.add_column(column)
    for migration in found:
        table.add_row(*(value or "-" for value in _row(migration).values()))
    Console().print(table)
