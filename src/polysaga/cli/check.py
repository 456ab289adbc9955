"""`polysaga check`: would a program work on these servers, and what is to be done if not.

Every server is asked over connections like those of the program itself, by this command alone. Nothing is written.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from polysaga.cli.nodes import Seen as Sampled
from polysaga.cli.nodes import Server, faults, look, servers_of
from polysaga.cli.programs import load_sagas
from polysaga.clock import Clock
from polysaga.config import Settings, load_settings, masked
from polysaga.databases import MongoNode, Node
from polysaga.databases.facts import Facts, Finding
from polysaga.databases.positions import Role
from polysaga.databases.registry import unmatched
from polysaga.errors import ConfigurationError, PolysagaError
from polysaga.sagas import Sagas
from polysaga.sagas.tables import JOURNAL, LEDGER, OUTBOX

_OURS = (JOURNAL, LEDGER, OUTBOX)
_APART = 1.0  # seconds between two clocks that are worth mentioning
_NO_SECRET = Finding(
    "it has replicas, so clients carry signed bookmarks, and there is no key to sign with",
    "set bookmarks.secret (POLYSAGA_BOOKMARKS__SECRET) to a long random text, the same in all processes",
)


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of one server and of what is wrong with it."""

    database: str
    node: str
    role: Role | None = None
    facts: Facts | None = None
    apart: float = 0.0  # seconds that its clock is ahead of ours
    tables: frozenset[str] = frozenset()
    findings: tuple[Finding, ...] = ()


def check(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:ATTRIBUTE]",
            help="The program's Sagas object, to check its tables too, e.g. orders.sagas:sagas.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask every server whether a program would work on it; exit with 1, and say what to do, if it would not.

    Settings come from polysaga.toml, or the file that POLYSAGA_CONFIG names, and from POLYSAGA_* variables.
    """
    settings = load_settings()
    sagas = None if target is None else load_sagas(target)
    if sagas is None and not settings.databases:
        raise ConfigurationError(
            "the settings name no database, so there is nothing to check: set databases.NAME.url"
        )
    wanted = {} if sagas is None else _tables_of(sagas)
    checked = asyncio.run(_check(settings, wanted, f"polysaga migrate {target}"))
    if sagas is not None:
        checked += _unmatched(sagas, settings)
    if as_json:
        typer.echo(json.dumps([_row(one) for one in checked]))
    else:
        _print(checked)
    if any(finding.fatal for one in checked for finding in one.findings):
        raise typer.Exit(1)


def _unmatched(sagas: Sagas, settings: Settings) -> list[Checked]:
    """Return the databases for which the program would not start, whatever its servers are like."""
    remedy = "the names in the settings and in the program must be the same"
    return [
        Checked(name, "settings", findings=(Finding(reason, remedy),))
        for name, reason in unmatched([handle.name for handle in sagas.databases], settings).items()
    ]


def _tables_of(sagas: Sagas) -> dict[str, frozenset[str]]:
    """Return the tables of ours that the databases of a program need, by name."""
    wanted = {handle.name: frozenset({LEDGER, OUTBOX}) for handle in (sagas.journal, *sagas.participants)}
    wanted[sagas.journal.name] |= {JOURNAL}
    return wanted


async def _check(settings: Settings, wanted: Mapping[str, frozenset[str]], migrate: str) -> list[Checked]:
    servers, clock = servers_of(settings), Clock()
    try:
        asked = await asyncio.gather(*(_ask(server, settings) for server in servers))
        # Who lacks a privilege, or does not answer, cannot tell how far it has got either.
        able = [index for index, one in enumerate(asked) if not any(each.fatal for each in one.findings)]
        seen = dict(zip(able, await look([servers[index] for index in able], clock), strict=True))
    finally:
        await asyncio.gather(*(server.close() for server in servers))
    checked = [_sampled(one, seen.get(index)) for index, one in enumerate(asked)]
    return _together(checked, [one for one in seen.values() if not one.failure], wanted, migrate, settings)


async def _ask(server: Server, settings: Settings) -> Checked:
    node = server.node
    one = Checked(node.database, node.name)
    patience = node.settings.pool.connect_timeout
    try:
        async with asyncio.timeout(patience + 1.0):
            await node.ping()
            facts, apart, tables = await _facts(node, replicas=bool(settings.databases[node.database].replicas))
    except TimeoutError:
        return replace(one, findings=(_silent(f"no answer in {patience:g} s"),))
    except (PolysagaError, SQLAlchemyError, OSError) as error:
        return replace(one, findings=(_silent(masked(" ".join(str(error).split()))),))
    found = facts.findings
    if abs(apart) > _APART:
        text = f"its clock is {abs(apart):.1f} s {'ahead of' if apart > 0 else 'behind'} the one here"
        found = (*found, Finding(text, "let a time service keep both; nothing depends on it", fatal=False))
    return replace(one, facts=facts, apart=apart, tables=tables, findings=found)


def _silent(reason: str) -> Finding:
    return Finding(reason, "start the server, or correct its URL in the settings")


async def _facts(node: Node, *, replicas: bool) -> tuple[Facts, float, frozenset[str]]:
    clock = Clock()
    if isinstance(node, MongoNode):
        facts = await node.dialect.facts(node.client)
        apart = facts.clock - clock.now().timestamp()
        names = await node.documents.list_collection_names(filter={"name": {"$in": list(_OURS)}})
        return facts, apart, frozenset(names)
    async with node.reader.connect() as connection:
        row = (await connection.exec_driver_sql(node.dialect.facts_sql)).one()
        facts = node.dialect.facts(tuple(row), replicas=replicas)
        apart = facts.clock - clock.now().timestamp()
        tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    return facts, apart, frozenset(tables) & frozenset(_OURS)


def _sampled(one: Checked, seen: Sampled | None) -> Checked:
    if seen is None:
        return one
    if seen.failure:
        return replace(one, findings=(*one.findings, _silent(seen.failure)))
    return replace(one, role=seen.role)


def _together(
    checked: Sequence[Checked],
    seen: Sequence[Sampled],
    wanted: Mapping[str, frozenset[str]],
    migrate: str,
    settings: Settings,
) -> list[Checked]:
    """Return *checked* with what only all servers of a database together show."""
    known = list(checked)
    for database in dict.fromkeys(one.database for one in checked):
        places = [index for index, one in enumerate(known) if one.database == database]
        mine = [one for one in seen if one.database == database]
        first = places[0]
        found = [Finding(text, "see `polysaga nodes`") for text in faults(mine)]
        kinds = [one.position for one in mine if one.position is not None]
        if any(not kinds[0].comparable(other) for other in kinds[1:]):
            found.append(Finding("its servers belong to different clusters", "correct the URLs in the settings"))
        if settings.databases[database].replicas and settings.bookmarks.secret is None:
            found.append(_NO_SECRET)
        primary = next((index for index in places if known[index].role is Role.PRIMARY), None)
        if primary is not None:
            lacking = sorted(wanted.get(database, frozenset()) - known[primary].tables)
            if lacking:
                found.append(Finding(f"it has no {', '.join(lacking)}", f"run `{migrate}`"))
        known[first] = replace(known[first], findings=(*known[first].findings, *found))
    return known


def _row(one: Checked) -> dict[str, Any]:
    facts = one.facts
    return {
        "database": one.database,
        "node": one.node,
        "role": None if one.role is None else one.role.value,
        "version": None if facts is None else facts.version,
        "clock_ahead": None if facts is None else round(one.apart, 3),
        "refuses_writes": None if facts is None else facts.refuses_writes,
        "tables": sorted(one.tables),
        "findings": [
            {"fatal": finding.fatal, "text": finding.text, "remedy": finding.remedy} for finding in one.findings
        ],
    }


def _print(checked: Sequence[Checked]) -> None:
    table = Table()
    for column in ("database", "node", "role", "version", "readers may write", "tables"):
        table.add_column(column, overflow="fold")
    for one in checked:
        may = (
            "-" if one.facts is None or one.facts.refuses_writes is None else _YES_NO[not one.facts.refuses_writes]
        )
        role = "-" if one.role is None else one.role.value
        version = "-" if one.facts is None else one.facts.version
        ours = ", ".join(sorted(name.removeprefix("polysaga_") for name in one.tables)) or "-"
        wrong = any(finding.fatal for finding in one.findings)
        table.add_row(one.database, one.node, role, version, may, ours, style="red" if wrong else None)
    Console().print(table)
    for one in checked:
        for finding in one.findings:
            kind = "problem" if finding.fatal else "note"
            typer.echo(f"{kind}: {one.database} ({one.node}): {finding.text}; {finding.remedy}", err=finding.fatal)
    if not any(finding.fatal for one in checked for finding in one.findings):
        typer.echo("A program would work on these servers.")


_YES_NO = {True: "yes", False: "no"}
