"""`orders`: serve the shop, show it, replay a trace through it, and check its books."""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from fastapi import FastAPI
from httpx2 import URL, InvalidURL
from sqlalchemy.exc import DBAPIError

from orders import screen
from orders import trouble as troubles
from orders.app import create_app
from orders.client import GaveUp, Shop
from orders.databases import databases
from orders.demo import Traffic
from orders.reconcile import PATIENCE, Reconciliation, reconcile
from orders.replay import Replay, Tally
from orders.serving import AddressUnusable, serve
from orders.settings import DATA, files, load, operator_token
from orders.tables import require_tables
from orders.trace import NotATrace, read
from polysaga.config import Settings
from polysaga.errors import PolysagaError
from polysaga.telemetry import LogSubscriber

T = TypeVar("T")

cli = typer.Typer(
    help="A shop's order service over three databases.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _address(given: str) -> str:
    """Return the URL *given* if a service can be there: a client would retry any other until its patience ends."""
    try:
        url = URL(given)
    except InvalidURL as error:
        raise typer.BadParameter(f"{given!r} is no URL: {error}") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise typer.BadParameter(f"{given!r} is no URL of a service; write http://HOST:PORT")
    return given


Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[
    int, typer.Option(metavar="PORT", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
]
Data = Annotated[
    Path, typer.Option(metavar="PATH", help="Directory of the SQLite files, unless settings name other databases.")
]
Wait = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, help="Seconds that orders under way get to find their outcome.")
]
Trouble = Annotated[bool, typer.Option(help="Let three orders come to trouble, for the dashboard.")]
Url = Annotated[str, typer.Option(metavar="URL", callback=_address, help="Where the service is.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def main() -> None:
    """Run the command line; report an expected error in one line."""
    try:
        cli()
    except (PolysagaError, NotATrace, GaveUp, AddressUnusable, OSError) as error:
        _fail(str(error))
    except DBAPIError as error:
        _fail(
            f"a database refused a statement: {error.orig}; ask `polysaga check orders.sagas:sagas` what is wrong"
        )


def _fail(why: str) -> NoReturn:
    print(f"orders: {why}", file=sys.stderr)
    sys.exit(2)


@cli.command("serve")
def serve_command(host: Host = "127.0.0.1", port: Port = 8000, data: Data = DATA) -> None:
    """Serve the shop until Ctrl-C or SIGTERM; orders under way are finished first."""

    async def up(url: str) -> None:
        screen.console.print(f"[bold]orders[/bold] is up at {url} [dim](API docs: {url}/docs)[/dim]")

    _run(serve(_app(data), host=host, port=port, up=up))


@cli.command()
def demo(host: Host = "127.0.0.1", port: Port = 8000, data: Data = DATA, trouble: Trouble = True) -> None:
    """Serve the shop with a small catalogue and about one order a second."""
    app = _app(data)
    if trouble:
        troubles.cause()

    async def up(url: str) -> None:
        async with Shop(url) as shop:
            traffic = Traffic(shop, *(troubles.PRODUCTS if trouble else ()))
            await traffic.open_shop()
            if trouble:
                await troubles.start()
            example = await traffic.first()
            screen.show_demo(url, [(handle.name, handle.primary.name) for handle in databases], example)
            with screen.counting() as watch:
                await traffic.go_on(watch)

    _run(serve(app, host=host, port=port, up=up))


@cli.command("replay")
def replay_command(
    file: Annotated[Path, typer.Argument(help="CSV with the columns of the UCI Online Retail data set.")],
    url: Url = "http://127.0.0.1:8000",
    concurrency: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, max=1000, help="Orders under way at once.")
    ] = 8,
    rate: Annotated[
        float | None, typer.Option(metavar="NUMBER", min=0.01, help="Orders per second, at most.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="NUMBER", min=1, help="Only the first rows of the file.")
    ] = None,
    data: Data = DATA,
    wait: Wait = PATIENCE,
    as_json: Json = False,
) -> None:
    """Post a trace of real orders, then compare the three databases.

    The exit code is 1 if they disagree, or if an order failed.

    Replaying the same file again repeats no order, whatever its name: the key of a row is made of the content of
    the whole file and the number of the line. A file in which anything was changed is another trace, and all its
    rows are new orders. The service may restart meanwhile.
    """
    trace = read(file, limit)

    async def work() -> tuple[Tally, Reconciliation]:
        async with Shop(url, connections=concurrency) as shop:
            replay = Replay(shop, trace, concurrency=concurrency, rate=rate)
            await replay.stock()
            settings = _existing(data)  # the service has answered, so its databases are there
            with screen.progress(len(trace.lines), quiet=as_json) as watch:
                tally = await replay.run(watch)
        async with databases.open(settings):
            await require_tables()
            return tally, await reconcile(confirmed=tally.confirmed, patience=wait)

    tally, found = _run(work())
    if as_json:
        screen.show_json(
            {"orders": tally.as_data(), "dirty": dict(trace.dirty), "reconciliation": found.as_data()}
        )
    else:
        screen.show_tally(tally, trace.dirty)
        screen.show_reconciliation(found)
    raise typer.Exit(1 if found.contradictions or tally.failed else 0)


@cli.command("reconcile")
def reconcile_command(data: Data = DATA, wait: Wait = PATIENCE, as_json: Json = False) -> None:
    """Compare the three databases; exit code 1 if they disagree. Works while the service runs."""
    settings = _existing(data)

    async def work() -> Reconciliation:
        async with databases.open(settings):
            await require_tables()
            return await reconcile(patience=wait)

    found = _run(work())
    if as_json:
        screen.show_json({"reconciliation": found.as_data()})
    else:
        screen.show_reconciliation(found)
    raise typer.Exit(1 if found.contradictions else 0)


def _app(data: Path) -> FastAPI:
    """Return the service; it logs warnings and errors to standard error, one line each."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    return create_app(load(data), emit=LogSubscriber(), operator_token=operator_token())


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _existing(data: Path) -> Settings:
    """Return the settings of an existing shop: new, empty files in a wrong directory would seem to agree."""
    settings = load(data)
    for file in files(settings):
        if not file.exists():
            raise FileNotFoundError(f"no database at {file}; --data must name the directory of the service")
    return settings
