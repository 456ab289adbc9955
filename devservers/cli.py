"""All three servers by hand, with data below `.servers/` that stay between runs.

    python -m devservers                    until Ctrl-C
    python -m devservers --json             the same, the URLs as one JSON object
    python -m devservers run -- CMD ARGS    around one command, which finds its databases in POLYSAGA_*

The command gets the databases of the reference application and runs in a session of its own, so Ctrl-C
reaches it once, through us, and the servers go only when it has ended.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from devservers.accounts import launched
from devservers.products import MARIADB, MONGO, POSTGRES, PRODUCTS, Product
from devservers.server import Server, ServerUnavailable

_HOME = Path(".servers")
_DATABASE = "app"
_APPLICATION_DATABASES = {"orders": POSTGRES, "points": MARIADB, "inventory": MONGO}


def main(arguments: list[str]) -> int:
    """Return the exit code: of the command for `run`, else 0; 1 if a server cannot be had."""
    options = _parser().parse_args(arguments)
    # From here on both unwind and stop what has been started. A shell's background job ignores SIGINT.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    try:
        with _all_servers() as servers:
            if options.action == "run":
                return _run(options.command, servers)
            return _wait(servers, as_json=options.json)
    except KeyboardInterrupt:
        return 0
    except (ServerUnavailable, AlreadyRunning) as error:
        print(error, file=sys.stderr)
        return 1


class AlreadyRunning(RuntimeError):
    """The data below `.servers/` can be served by one process at a time."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m devservers",
        description="Run PostgreSQL, MariaDB and MongoDB for development; data stay in .servers/.",
    )
    parser.add_argument("--json", action="store_true", help="print the URLs as one JSON object")
    actions = parser.add_subparsers(dest="action", metavar="run")
    run = actions.add_parser("run", help="run one command against the servers, then stop them")
    run.add_argument("command", nargs="+", metavar="CMD", help="the command and its arguments, after --")
    return parser


@contextmanager
def _all_servers() -> Iterator[dict[Product, Server]]:
    with ExitStack() as stack:
        _HOME.mkdir(exist_ok=True)
        lock = stack.enter_context((_HOME / "lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"the servers in {_HOME}/ are running in another terminal; stop them there"
            raise AlreadyRunning(message) from None
        yield {
            product: stack.enter_context(product.server(_HOME / product.key, port=product.hand_port))
            for product in PRODUCTS
        }


def _wait(servers: dict[Product, Server], *, as_json: bool) -> int:
    urls = {}
    for product, server in servers.items():
        server.ensure_database(_DATABASE)
        urls[product.key] = server.url(_DATABASE)
    if as_json:
        print(json.dumps(urls), flush=True)
    else:
        names = {product.key: server.name_and_version for product, server in servers.items()}
        width = max(map(len, names.values()))
        for key, name in names.items():
            print(f"{name:<{width}}  {urls[key]}")
        print("Ctrl-C stops them.", flush=True)
    signal.pause()
    return 0


def _run(command: list[str], servers: dict[Product, Server]) -> int:
    environment = dict(os.environ)
    for database, product in _APPLICATION_DATABASES.items():
        servers[product].ensure_database(database)
        environment[f"POLYSAGA_DATABASES__{database.upper()}__URL"] = servers[product].url(database)
    process = subprocess.Popen(  # noqa: S603 - what the caller asked for
        launched(command, account=None, death_signal=signal.SIGTERM), env=environment, start_new_session=True
    )

    def forward(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    signal.signal(signal.SIGINT, forward)
    signal.signal(signal.SIGTERM, forward)
    code = process.wait()
    # As a shell reports a command that a signal ended.
    return code if code >= 0 else 128 - code
