"""`polysaga nodes`: every server of every database, its role and its position.

This command asks the servers itself, when it runs; their addresses come from the settings.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live

from polysaga.cli.files import MISSING
from polysaga.cli.listing import ServerLine, listing
from polysaga.cli.output import dropped
from polysaga.cli.programs import PerhapsTarget, load_sagas, settings_for
from polysaga.clock import Clock
from polysaga.config import DatabaseSettings, Settings, masked
from polysaga.databases import MongoNode, Node, SqlNode
from polysaga.databases.dialects import fault_of
from polysaga.databases.positions import Gtids, Lsn, MariaGtid, Position
from polysaga.databases.probe_connection import ProbeConnection
from polysaga.databases.samples import NodeRole, Sample
from polysaga.errors import ConfigurationError, PolysagaError

_PAUSE = 1.0  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Seen:
    """The answer of one server; *failure* says why there was none."""

    database: str
    node: str
    role: NodeRole | None = None
    position: Position | None = None
    behind: str = ""
    milliseconds: float | None = None
    failure: str = ""


def nodes(
    target: PerhapsTarget = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch one line per look.")] = False,
) -> None:
    """Ask every server for its role and its position.

    Exits with 1 if something is wrong: a server does not answer, or a database has no primary or two. The settings
    are those of the program, if one is named; else they come from polysaga.toml and the POLYSAGA_* variables.
    """
    settings = settings_for(None if target is None else load_sagas(target))
    if not settings.databases:
        raise ConfigurationError(
            "the settings name no database, so there is nothing to ask: set databases.NAME.url"
        )
    if watch:
        asyncio.run(_watch(settings, as_json=as_json))
        return
    seen = asyncio.run(_look_once(settings))
    if as_json:
        typer.echo(json.dumps([_row(one) for one in seen]))
    else:
        Console(highlight=False).print(_listing(seen), soft_wrap=True)
    wrong = faults(seen)
    for fault in wrong:
        typer.echo(fault, err=True)
    if wrong:
        raise typer.Exit(1)


def faults(seen: Sequence[Seen]) -> list[str]:
    """Return one sentence for each thing that is wrong."""
    found = [f"{one.database}: {one.node} does not answer: {one.failure}" for one in seen if one.failure]
    for database in dict.fromkeys(one.database for one in seen):
        primaries = [one.node for one in seen if one.database == database and one.role is NodeRole.PRIMARY]
        if not primaries:
            found.append(f"{database}: there is no primary; writes are refused until one is promoted")
        if len(primaries) > 1:
            found.append(f"{database}: {' and '.join(primaries)} both take writes; stop the one that was demoted")
    return found


def behind(primary: Position | None, replica: Position | None) -> str:
    """Return in words how far *replica* is behind the position that *primary* reported."""
    if primary is None or replica is None or not primary.comparable(replica):
        return ""
    if replica.reached(primary):
        return "nothing"
    if isinstance(primary, Lsn) and isinstance(replica, Lsn):
        missing = primary.value - replica.value
        return f"{missing:,} bytes" if missing > 0 else "an epoch"
    if isinstance(primary, MariaGtid) and isinstance(replica, MariaGtid):
        here = replica.domains
        return (
            f"{sum(n - here.get(domain, (0, 0))[1] for domain, (_, n) in primary.domains.items()):,} transactions"
        )
    if isinstance(primary, Gtids) and isinstance(replica, Gtids):
        return f"{_transactions(primary) - _transactions(replica):,} transactions"
    return "something"


def _transactions(position: Gtids) -> int:
    return sum(high - low + 1 for intervals in position.sources.values() for low, high in intervals)


async def _watch(settings: Settings, *, as_json: bool) -> None:
    clock, console = Clock(), Console(stderr=as_json)
    async with servers_of(settings) as servers:
        with Live(console=console, auto_refresh=False, transient=as_json) as live:
            while dropped() is None:
                seen = await look(servers, clock)
                if as_json:
                    typer.echo(json.dumps([_row(one) for one in seen]))
                else:
                    live.update(_listing(seen), refresh=True)
                await clock.sleep(_PAUSE)


async def _look_once(settings: Settings) -> list[Seen]:
    async with servers_of(settings) as servers:
        return await look(servers, Clock())


class AskedServer:
    """One address of the settings, and the connection to it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._line = ProbeConnection(node) if isinstance(node, SqlNode) else None

    @property
    def missing_file(self) -> str | None:
        """The path of a file that a connection would create."""
        return self.node.dialect.missing_file(self.node.url) if isinstance(self.node, SqlNode) else None

    async def sample(self) -> Sample:
        """Ask; raises the driver's errors and our own."""
        if self.missing_file is not None:
            raise ConfigurationError(f"{MISSING}; `polysaga migrate` creates it")
        if self._line is not None:
            return await self._line.sample()
        assert isinstance(self.node, MongoNode)
        await self.node.ping()  # raises our own errors, with a remedy
        return await self.node.dialect.sample(self.node.client)

    async def close(self) -> None:
        """Close every connection."""
        if self._line is not None:
            await self._line.close()
        await self.node.close()

    async def cut(self) -> None:
        """Drop the connection at once; the next question opens a new one."""
        if self._line is not None:
            self._line.cut()
            await self._line.close()


@asynccontextmanager
async def servers_of(settings: Settings) -> AsyncIterator[list[AskedServer]]:
    """Yield a server for every address in *settings*, and close all at the end of the block."""
    servers = [AskedServer(node) for name, one in settings.databases.items() for node in _nodes(name, one)]
    try:
        yield servers
    finally:
        await asyncio.gather(*(server.close() for server in servers))


def _nodes(name: str, settings: DatabaseSettings) -> list[Node]:
    urls = [secret.get_secret_value() for secret in (settings.url, *(one.url for one in settings.replicas))]
    kind = MongoNode if urls[0].startswith("mongodb") else SqlNode
    return [kind(name, "any", url, settings) for url in urls]


async def look(servers: Sequence[AskedServer], clock: Clock) -> list[Seen]:
    """Ask every server once."""
    seen = await asyncio.gather(*(_ask(server, clock) for server in servers))
    primaries = {one.database: one.position for one in seen if one.role is NodeRole.PRIMARY}
    return [
        replace(one, behind=behind(primaries.get(one.database), one.position))
        if one.role is NodeRole.REPLICA
        else one
        for one in seen
    ]


async def _ask(server: AskedServer, clock: Clock) -> Seen:
    node = server.node
    patience = node.settings.pool.connect_timeout
    try:
        async with asyncio.timeout(patience):
            await server.sample()  # connects
            asked_at = clock.monotonic()
            sample = await server.sample()
    except TimeoutError:
        await server.cut()
        return Seen(node.database, node.name, failure=f"no answer in {patience:g} s")
    except Exception as error:  # border: what a driver raises has no common class
        if isinstance(error, PolysagaError) or fault_of(error) is not None:
            await server.cut()
            return Seen(node.database, node.name, failure=masked(" ".join(str(error).split())))
        raise
    took = (clock.monotonic() - asked_at) * 1000
    return Seen(node.database, node.name, sample.role, sample.position, milliseconds=took)


def _row(one: Seen) -> dict[str, Any]:
    return {
        "database": one.database,
        "node": one.node,
        "role": one.role.value if one.role is not None else None,
        "position": one.position.literal if one.position is not None else None,
        "epoch": one.position.epoch.text if one.position is not None else None,
        "behind": one.behind or None,
        "milliseconds": None if one.milliseconds is None else round(one.milliseconds, 1),
        "failure": one.failure or None,
    }


def _listing(seen: Sequence[Seen]) -> Group:
    return listing(ServerLine(one.database, one.node, _facts(one), wrong=bool(one.failure)) for one in seen)


def _facts(one: Seen) -> str:
    if one.failure:
        return f"silent: {one.failure}"
    told = [one.role.value if one.role is not None else "-"]
    if one.position is not None:
        told.append(f"at {one.position.literal}")
    if one.behind:
        told.append(f"behind by {one.behind}")
    return ", ".join([*told, f"answered in {one.milliseconds or 0:.1f} ms"])
