"""All servers by hand, with data below `.servers/` that stay between runs.

    python -m devservers                    until Ctrl-C
    python -m devservers --json             the same, the URLs as one JSON object
    python -m devservers run -- CMD ARGS    around one command, which finds its databases in POLYSAGA_*
    python -m devservers --replicas ...     PostgreSQL, MariaDB and MySQL with a replica each

The command gets the databases of the reference application, and only the servers that those need. It runs in a
session of its own, so Ctrl-C reaches it once, through us, and the servers go only when it has ended.
"""

import argparse
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from devservers.accounts import launched
from devservers.local import LocalServer
from devservers.products import MARIADB, MONGO, POSTGRES, PRODUCTS, Product
from devservers.server import Server, ServerUnavailable

_HOME = Path(".servers")
_DATABASE = "app"
# A command on this machine is asked over HTTP, and may be curious where its reads go.
_BOOKMARKS = {
    "POLYSAGA_BOOKMARKS__SECRET": secrets.token_hex(32),
    "POLYSAGA_BOOKMARKS__SECURE": "false",
    "POLYSAGA_BOOKMARKS__EXPLAIN": "true",
}
_APPLICATION_DATABASES = {"orders": POSTGRES, "points": MARIADB, "inventory": MONGO}


def main(arguments: list[str]) -> int:
    """Return the exit code: of the command for `run`, else 0; 1 if a server cannot be had."""
    options = _parser().parse_args(arguments)
    # From here on both unwind and stop what has been started. A shell's background job ignores SIGINT.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    try:
        with _servers(_wanted(options.action), replicated=options.replicas) as servers:
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
        description="Run PostgreSQL, MariaDB, MySQL and MongoDB for development; data stay in .servers/.",
    )
    parser.add_argument("--json", action="store_true", help="print the URLs as one JSON object")
    parser.add_argument(
        "--replicas", action="store_true", help="with a replica of PostgreSQL, of MariaDB and of MySQL"
    )
    actions = parser.add_subparsers(dest="action", metavar="run")
    run = actions.add_parser("run", help="run one command against the servers, then stop them")
    run.add_argument("command", nargs="+", metavar="CMD", help="the command and its arguments, after --")
    return parser


def _wanted(action: str | None) -> Sequence[Product]:
    return tuple(_APPLICATION_DATABASES.values()) if action == "run" else PRODUCTS


@contextmanager
def _servers(products: Sequence[Product], *, replicated: bool) -> Iterator[dict[Product, list[Server]]]:
    """Yield the servers of each product, the primary first."""
    with ExitStack() as stack:
        _HOME.mkdir(exist_ok=True)
        lock = stack.enter_context((_HOME / "lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"the servers in {_HOME}/ are running in another terminal; stop them there"
            raise AlreadyRunning(message) from None
        servers: dict[Product, list[Server]] = {}
        for product in products:
            server = product.server(_HOME / product.key, port=product.hand_port, replicated=replicated)
            servers[product] = [stack.enter_context(server)]
            if replicated and product.replica is not None and isinstance(server, LocalServer):
                # Made anew: the primary may have been without it meanwhile.
                home = _HOME / f"{product.key}-replica"
                shutil.rmtree(home, ignore_errors=True)
                replica = product.replica(server, home, product.hand_port + 1)
                stack.callback(replica.leave)
                replica.start()
                servers[product].append(replica)
        yield servers


def _wait(servers: dict[Product, list[Server]], *, as_json: bool) -> int:
    urls, names = {}, {}
    for product, group in servers.items():
        group[0].ensure_database(_DATABASE)
        for key, server in zip((product.key, f"{product.key}_replica"), group, strict=False):
            urls[key] = server.url(_DATABASE)
            names[key] = server.name_and_version + (", replica" if server is not group[0] else "")
    if as_json:
        print(json.dumps(urls), flush=True)
    else:
        width = max(map(len, names.values()))
        for key, name in names.items():
            print(f"{name:<{width}}  {urls[key]}")
        print("Ctrl-C stops them.", flush=True)
    signal.pause()
    return 0


def _run(command: list[str], servers: dict[Product, list[Server]]) -> int:
    environment = dict(os.environ)
    for database, product in _APPLICATION_DATABASES.items():
        primary, *replicas = servers[product]
        primary.ensure_database(database)
        environment[f"POLYSAGA_DATABASES__{database.upper()}__URL"] = primary.url(database)
        if replicas:
            urls = ", ".join(replica.url(database) for replica in replicas)
            environment[f"POLYSAGA_DATABASES__{database.upper()}__REPLICAS"] = urls
            environment.update({name: value for name, value in _BOOKMARKS.items() if name not in os.environ})
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
