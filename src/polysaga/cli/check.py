"""`polysaga check`: would a program work on these servers, and if not, what must be done.

This command asks every server over connections like those of the program. It writes nothing.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from polysaga.cli.files import MISSING
from polysaga.cli.listing import ServerLine, listing
from polysaga.cli.nodes import AskedServer, faults, look, servers_of
from polysaga.cli.nodes import Seen as Sampled
from polysaga.cli.privileges import lacking, server_words
from polysaga.cli.programs import PerhapsTarget, load_sagas, settings_for
from polysaga.clock import Clock
from polysaga.config import Settings, masked
from polysaga.databases import MongoNode, Node, SqlNode
from polysaga.databases.inspection import Facts, Finding
from polysaga.databases.registry import unmatched
from polysaga.databases.samples import NodeRole
from polysaga.errors import ConfigurationError, PolysagaError, SchemaMissing
from polysaga.migrations import history, mongo
from polysaga.migrations.history import History
from polysaga.sagas import Sagas
from polysaga.sagas.journal.tables import AUDIT, JOURNAL, LEDGER, OUTBOX, PULSE, journal, ledger
from polysaga.sagas.participants.fence import FENCE, LET_A_TIME_SERVICE_KEEP_BOTH
from polysaga.sagas.participants.reading import require_unique

_OURS = (JOURNAL, LEDGER, OUTBOX)
_VERSIONS = {f"polysaga_{line}_version": line for line in (history.JOURNAL, history.LEDGER)}
_ALSO_OURS = (AUDIT, PULSE, *_VERSIONS)
_APART = 1.0  # seconds; a larger difference between two clocks is a finding
_NO_SECRET = Finding(
    "it has replicas, so clients carry signed bookmarks, and there is no key to sign with",
    "set bookmarks.secret (POLYSAGA_BOOKMARKS__SECRET) to a long random text, the same in all processes",
)


@dataclass(frozen=True, slots=True)
class Checked:
    """The facts about one server, and its findings."""

    database: str
    node: str
    role: NodeRole | None = None
    facts: Facts | None = None
    apart: float = 0.0  # seconds by which its clock is ahead of ours
    tables: frozenset[str] = frozenset()
    revisions: Mapping[str, str | None] = field(default_factory=dict, hash=False)  # of our tables, by their line
    lost: Mapping[str, frozenset[str]] = field(default_factory=dict, hash=False)  # gone since the migration
    findings: tuple[Finding, ...] = ()

    @property
    def fatal(self) -> bool:
        """Return whether a program would not work on this server."""
        return any(finding.fatal for finding in self.findings)


def check(
    target: PerhapsTarget = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask every server whether a program would work on it.

    Exits with 1, and says what to do, if it would not.

    With a program, its settings are checked too, and whether its tables are there and as new as this version of
    Polysaga needs them. Without one, the settings come from polysaga.toml, or the file that POLYSAGA_CONFIG names,
    and from the POLYSAGA_* variables.
    """
    sagas = None if target is None else load_sagas(target)
    settings = settings_for(sagas)
    if sagas is None and not settings.databases:
        raise ConfigurationError(
            "the settings name no database, so there is nothing to check: set databases.NAME.url"
        )
    wanted = {} if sagas is None else _tables_of(sagas)
    checked = asyncio.run(_check(settings, wanted, f"polysaga migrate {target or 'PROGRAM'}"))
    if sagas is not None:
        checked += _unmatched(sagas, settings)
    if as_json:
        typer.echo(json.dumps([_row(one) for one in checked]))
    else:
        _print(checked, program=sagas is not None)
    if any(one.fatal for one in checked):
        raise typer.Exit(1)


@cache
def _history(line: str) -> History:
    """Return the revisions of *line*, whose files are read once."""
    return History(line)


def _unmatched(sagas: Sagas, settings: Settings) -> list[Checked]:
    """Return the databases that keep the program from starting, whatever the state of their servers."""
    remedy = "the names in the settings and in the program must be the same"
    return [
        Checked(name, "settings", findings=(Finding(reason, remedy),))
        for name, reason in unmatched([handle.name for handle in sagas.databases], settings).items()
    ]


def _tables_of(sagas: Sagas) -> dict[str, frozenset[str]]:
    """Return which of our tables each database of a program needs, by the database's name."""
    wanted = {handle.name: frozenset({LEDGER, OUTBOX}) for handle in (sagas.journal, *sagas.participants)}
    wanted[sagas.journal.name] |= {JOURNAL}
    return wanted


async def _check(settings: Settings, wanted: Mapping[str, frozenset[str]], migrate: str) -> list[Checked]:
    async with servers_of(settings) as servers:
        asked = await asyncio.gather(*(_ask(server, settings, wanted, migrate) for server in servers))
        # A server that does not answer, or whose account lacks a privilege, cannot report its position either.
        able = [index for index, one in enumerate(asked) if one.facts is not None and not one.fatal]
        seen = dict(zip(able, await look([servers[index] for index in able], Clock()), strict=True))
        checked = [_sampled(one, seen.get(index)) for index, one in enumerate(asked)]
        checked = await asyncio.gather(
            *(_permitted(one, server, wanted) for one, server in zip(checked, servers, strict=True))
        )
    return _together(checked, [one for one in seen.values() if not one.failure], wanted, migrate, settings)


async def _ask(
    server: AskedServer, settings: Settings, wanted: Mapping[str, frozenset[str]], migrate: str
) -> Checked:
    node = server.node
    one = Checked(node.database, node.name)
    if server.missing_file is not None:
        # Without a program it is unknown whether its start, or a person, creates the file.
        missing = Finding(MISSING, f"`{migrate}` creates it", fatal=node.database in wanted)
        return replace(one, findings=(missing,))
    patience = node.settings.pool.connect_timeout
    try:
        async with asyncio.timeout(patience + 1.0):
            await node.ping()
            one = await _facts(one, node, replicas=bool(settings.databases[node.database].replicas))
    except TimeoutError:
        return replace(one, findings=(_silent(node, f"no answer in {patience:g} s"),))
    except Exception as error:  # border: what a driver raises has no common class
        if isinstance(error, PolysagaError | SQLAlchemyError | OSError) or _is_of_mongo(error):
            return replace(one, findings=(_refused(node, error),))
        raise
    found = (*one.findings, *(() if one.facts is None else one.facts.findings))
    if one.apart > FENCE.total_seconds():
        text = f"its clock is {one.apart / 3600:.0f} h ahead of the one here: it would refuse every step of a saga"
        found = (*found, Finding(text, LET_A_TIME_SERVICE_KEEP_BOTH))
    elif abs(one.apart) > _APART:
        text = f"its clock is {abs(one.apart):.1f} s {'ahead of' if one.apart > 0 else 'behind'} the one here"
        found = (*found, Finding(text, f"{LET_A_TIME_SERVICE_KEEP_BOTH}; nothing depends on it", fatal=False))
    return replace(one, findings=found)


def _refused(node: Node, error: Exception) -> Finding:
    text = masked(server_words(error))
    if isinstance(error, ConfigurationError):  # it names the remedy itself
        reason, _, remedy = text.rpartition("; ")
        return Finding(reason or text, remedy if reason else "correct the settings")
    if _is_of_mongo(error):
        return Finding(text, f"grant the account the role readWrite on its database in {node.name}")
    return _silent(node, text)


def _is_of_mongo(error: Exception) -> bool:
    return any(kind.__name__ == "PyMongoError" for kind in type(error).__mro__)


def _silent(node: Node, reason: str) -> Finding:
    if node.dialect.name == "sqlite":
        return Finding(reason, "let the process write the file and its directory, or correct the URL")
    return Finding(reason, "start the server, or correct its URL in the settings")


async def _facts(one: Checked, node: Node, *, replicas: bool) -> Checked:
    clock = Clock()
    if isinstance(node, MongoNode):
        facts = await node.dialect.facts(node.client)
        apart = facts.clock - clock.now().timestamp()
        known = {"name": {"$in": [*_OURS, *_ALSO_OURS]}}
        names = frozenset(await node.documents.list_collection_names(filter=known))
        lost = {history.LEDGER: await mongo.lost(node)} if mongo.VERSIONS in names else {}
        return replace(one, facts=facts, apart=apart, tables=names, lost=lost)
    async with node.reader.connect() as connection:
        row = (await connection.exec_driver_sql(node.dialect.facts_sql)).one()
        facts = node.dialect.facts(tuple(row), replicas=replicas)
        apart = facts.clock - clock.now().timestamp()
        found: dict[str, str | None] = {}
        for line in _VERSIONS.values():
            with suppress(SQLAlchemyError):  # the account may not read it: that is a finding of its own
                found[line] = await connection.run_sync(_history(line).current)
        # After the revisions: a process may migrate meanwhile, and has lost nothing.
        tables = frozenset(await connection.run_sync(history.visible_tables)) & {*_OURS, *_ALSO_OURS}
        revisions = {line: found[line] for table, line in _VERSIONS.items() if table in tables and line in found}
        lost = {line: _history(line).lost(revision, tables) for line, revision in revisions.items()}
        damage = tuple([found async for found in _damage(node, connection, tables)])
    return replace(one, facts=facts, apart=apart, tables=tables, revisions=revisions, lost=lost, findings=damage)


async def _damage(node: SqlNode, connection: AsyncConnection, tables: Collection[str]) -> AsyncIterator[Finding]:
    for table, line in ((journal, history.JOURNAL), (ledger, history.LEDGER)):
        if table.name in tables:
            try:
                await require_unique(node, connection, table, line)
            except SchemaMissing as error:
                yield Finding(f"the {line} tables {error.reason}", error.remedy)


def _sampled(one: Checked, seen: Sampled | None) -> Checked:
    if seen is None:
        return one
    if seen.failure:
        remedy = "start the server, or correct its URL in the settings"
        return replace(one, findings=(*one.findings, Finding(seen.failure, remedy)))
    return replace(one, role=seen.role)


async def _permitted(one: Checked, server: AskedServer, wanted: Mapping[str, frozenset[str]]) -> Checked:
    """Return *one* with the privileges that its account lacks, if it is a primary."""
    if one.role is not NodeRole.PRIMARY:
        return one
    needed = wanted.get(one.database, frozenset())
    # Without a program it is unknown whether our tables are needed; if some exist, no more need be created.
    create = bool(needed - one.tables) or not (wanted or one.tables)
    try:
        async with asyncio.timeout(server.node.settings.pool.connect_timeout + server.node.settings.lock_timeout):
            found = await lacking(server.node, one.tables, create=create)
    except TimeoutError:
        found = (Finding("its privileges could not be checked in time", "call this again", fatal=False),)
    return replace(one, findings=(*one.findings, *found))


def _together(
    checked: Sequence[Checked],
    seen: Sequence[Sampled],
    wanted: Mapping[str, frozenset[str]],
    migrate: str,
    settings: Settings,
) -> list[Checked]:
    """Return *checked* with the findings that concern all servers of a database together."""
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
        primary = next((index for index in places if known[index].role is NodeRole.PRIMARY), None)
        if primary is not None:
            found += _of_tables(known[primary], wanted.get(database, frozenset()), migrate)
        known[first] = replace(known[first], findings=(*known[first].findings, *found))
    return known


def _of_tables(primary: Checked, needed: frozenset[str], migrate: str) -> Iterator[Finding]:
    lost = {line: names for line, names in primary.lost.items() if names and f"polysaga_{line}" in needed}
    for line, names in lost.items():
        reason, remedy = history.loss(line, names)
        yield Finding(f"its {line} {reason}", remedy)
    absent = sorted(needed.difference(primary.tables, *lost.values()))
    if absent:
        remedy = f"run `{migrate}`, or GRANT the account its privileges on them if they are there"
        yield Finding(f"it has no {', '.join(absent)} that the account may see", remedy)
    yield from _of_another_version(primary.revisions, needed, migrate)


def _of_another_version(
    revisions: Mapping[str, str | None], needed: Collection[str], migrate: str
) -> Iterator[Finding]:
    for line, revision in revisions.items():
        known = _history(line)
        if f"polysaga_{line}" not in needed or revision == known.head:
            continue
        found = f"the tables of its {line} are at revision {revision}"
        if revision is None or revision in known.revisions:
            yield Finding(f"{found}, and this version of Polysaga needs {known.head}", f"run `{migrate}`")
        else:
            told = f"{found}, which this version of Polysaga does not know (it knows up to {known.head})"
            remedy = "the version before the one that migrated them works on them; an older one may not"
            yield Finding(told, remedy, fatal=False)


def _row(one: Checked) -> dict[str, Any]:
    facts = one.facts
    return {
        "database": one.database,
        "node": one.node,
        "role": None if one.role is None else one.role.value,
        "version": None if facts is None else facts.version,
        "clock_ahead": None if facts is None else round(one.apart, 3),
        "refuses_writes": None if facts is None else facts.refuses_writes,
        "tables": sorted(one.tables & set(_OURS)),
        "revisions": dict(one.revisions),
        "findings": [
            {"fatal": finding.fatal, "text": finding.text, "remedy": finding.remedy} for finding in one.findings
        ],
    }


def _print(checked: Sequence[Checked], *, program: bool) -> None:
    lines = (ServerLine(one.database, one.node, _told(one), wrong=one.fatal) for one in checked)
    Console(highlight=False).print(listing(lines), soft_wrap=True)
    for one in checked:
        for finding in one.findings:
            kind = "problem" if finding.fatal else "note"
            typer.echo(f"{kind}: {one.database} ({one.node}): {finding.text}; {finding.remedy}", err=finding.fatal)
    if not any(one.fatal for one in checked):
        typer.echo(
            "A program would work on these servers."
            if program
            else "These servers are as they should be; name a program to check its tables too."
        )


def _told(one: Checked) -> str:
    if one.facts is None:
        return "not known"
    told = [] if one.role is None else [one.role.value]
    told.append(f"version {one.facts.version}")
    if one.facts.refuses_writes is not None:
        told.append("readers cannot write" if one.facts.refuses_writes else "readers may write")
    ours = [name.removeprefix("polysaga_") for name in _OURS if name in one.tables]
    return ", ".join([*told, f"tables: {', '.join(ours)}" if ours else "no tables of ours"])
