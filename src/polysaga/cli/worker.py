"""`polysaga worker`: a process that serves no requests and only drives sagas."""

import asyncio
import json
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polysaga.cli.programs import Target, load_sagas, settings_for
from polysaga.errors import ConfigurationError
from polysaga.events import Events
from polysaga.limits import unless
from polysaga.loading import load_module
from polysaga.migrations import migrate as migrate_tables
from polysaga.routing import Databases
from polysaga.routing.health import states_of
from polysaga.sagas import Sagas
from polysaga.telemetry import LogSubscriber

if TYPE_CHECKING:
    from polysaga.telemetry.prometheus import Metrics

_LONGEST = 8192  # bytes of a request's head
_PATIENCE = 5.0  # seconds for a client to send it
_ASKING = (signal.SIGTERM, signal.SIGINT)
_LOOKING = {"GET", "HEAD"}


@dataclass(slots=True)
class _Life:
    """What the health of this process is asked of."""

    sagas: Sagas
    asked: asyncio.Event  # to end
    metrics: "Metrics | None"
    is_open: bool = False  # databases and sagas are


def worker(
    target: Target,
    migrate: Annotated[bool, typer.Option(help="Bring the tables up to date first.")] = True,
    health_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            min=0,
            max=65535,
            help="Serve /health/live, /health/ready and, with prometheus-client, /metrics; 0: any free port.",
            show_default=False,
        ),
    ] = None,
    health_host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address that --health-port is opened on.")
    ] = "127.0.0.1",
) -> None:
    """Drive sagas, and take over those that were left behind.

    It serves no requests. On SIGTERM or SIGINT it takes over nothing more, lets its sagas end for `sagas.drain`
    seconds, and hands the others back: another process goes on with them at once.
    """
    sagas = load_sagas(target)
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("alembic").setLevel(logging.WARNING)  # each migration has its own event
        logging.getLogger("sqlalchemy.pool").setLevel(logging.WARNING)  # it reports each pool that it closes
    health = None if health_port is None else (health_host, health_port)
    asyncio.run(_run(sagas, migrate=migrate, health=health))


async def _run(sagas: Sagas, *, migrate: bool, health: tuple[str, int] | None) -> None:
    settings, asked, loop = settings_for(sagas), asyncio.Event(), asyncio.get_running_loop()
    for number in _ASKING:
        loop.add_signal_handler(number, asked.set)
    metrics = None if health is None else _metrics(sagas)
    told = Events(LogSubscriber(), *([] if metrics is None else [metrics]))
    life = _Life(sagas, asked, metrics)
    async with AsyncExitStack() as stack:

        async def begin() -> str:
            # First, and so closed last: the process is alive while it migrates, and until its last saga has ended.
            address = None if health is None else await stack.enter_async_context(_served(life, *health))
            await stack.enter_async_context(sagas.databases.open(settings, emit=told))
            if migrate:
                await migrate_tables(sagas, emit=told, may_be_ahead=True)
            stack.callback(setattr, life, "is_open", False)  # when the sagas have ended
            await stack.enter_async_context(sagas.open(settings.sagas, emit=told))
            life.is_open = True
            if metrics is not None:
                await stack.enter_async_context(metrics.reading())
            return "" if address is None else f"; health at {address}"

        try:
            served = await unless(asked, begin())
        except asyncio.CancelledError:
            typer.echo("asked to end while it started", err=True)
            return
        names = ", ".join(f"{saga.name} {saga.version}" for saga in sagas.declared)
        typer.echo(f"drives {names}; the journal is in {sagas.journal.name}{served}")
        await asked.wait()
        sagas.wind_down()
        typer.echo(f"ends: its sagas have up to {settings.sagas.drain:g} s, the others are handed back")


def _metrics(sagas: Sagas) -> "Metrics | None":
    """Return the metrics of this process; None without prometheus-client, which is an extra."""
    if find_spec("prometheus_client") is None or not isinstance(sagas.databases, Databases):
        return None
    made: Metrics = load_module("polysaga.telemetry.prometheus").Metrics(sagas.databases, sagas)
    return made


@asynccontextmanager
async def _served(life: _Life, host: str, port: int) -> AsyncIterator[str]:
    """Answer questions about the health of this process while the block runs; the block gets the address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, *_ = head.decode("latin-1").split(" ")
                path = path.partition("?")[0]
                if path == "/metrics" and life.metrics is not None and method in _LOOKING and life.is_open:
                    content, kind = life.metrics.exposition()
                    status = HTTPStatus.OK
                else:
                    status, body = await _answered(life, method, path)
                    content, kind = json.dumps(body).encode(), "application/json"
                writer.write(_response(status, content, kind, with_body=method != "HEAD"))
                await writer.drain()
        except (TimeoutError, ValueError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # no request, or no client any more
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(answer, host, port, limit=_LONGEST)
    except OSError as error:
        raise ConfigurationError(f"port {port} of {host} cannot be opened: {error}; give another one") from error
    host, port, *_ = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}/health/ready"
    finally:
        server.close()


async def _answered(life: _Life, method: str, path: str) -> tuple[HTTPStatus, dict[str, Any]]:
    if path == "/metrics" and life.metrics is not None and method in _LOOKING:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"detail": "the databases are not open"}
    if path not in {"/health/live", "/health/ready"}:
        return HTTPStatus.NOT_FOUND, {"detail": "there are /health/live and /health/ready"}
    if method not in _LOOKING:
        return HTTPStatus.METHOD_NOT_ALLOWED, {"detail": "only GET and HEAD"}
    if path == "/health/live":
        return HTTPStatus.OK, {"status": "alive"}
    if life.asked.is_set():
        return HTTPStatus.SERVICE_UNAVAILABLE, {"status": "ending"}
    if not life.is_open:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"status": "starting"}
    found = await states_of(life.sagas.databases)
    if all(state == "ok" for state in found.values()):
        return HTTPStatus.OK, {"status": "ready", "databases": found}
    return HTTPStatus.SERVICE_UNAVAILABLE, {"status": "not-ready", "databases": found}


def _response(status: HTTPStatus, content: bytes, kind: str, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (content if with_body else b"")
