"""Proves the two sagas of the order service on SQLite and on real servers; the last line is one JSON object.

python -m tests.crash_kit [--sample N] [--seed N] [--set-up embedded|servers]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from devservers import MARIADB, MONGO, POSTGRES
from orders.cancel_order import cancel_order
from orders.place_order import place_order
from orders.sagas import sagas
from orders.tables import create_tables
from polysaga.clock import Clock
from polysaga.config import parse_settings
from polysaga.testing import CrashKit, CrashReport
from tests.fixtures.order_books import a_cancellation, an_order, books_add_up

Urls = Mapping[str, str]


def main() -> int:
    """Return 0 if no run broke the promise."""
    parser = argparse.ArgumentParser(prog="make crash-kit")
    parser.add_argument("--sample", type=int, help="about so many cases of each saga instead of all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set-up", choices=sorted(SET_UPS), action="append", help="default: all of them")
    asked = parser.parse_args()
    clock, told = Clock(), dict[str, Any]()
    began = clock.monotonic()
    for name in asked.set_up or SET_UPS:
        with SET_UPS[name]() as urls:
            reports = list(_proofs(urls, asked.sample, asked.seed))
        told[name] = {
            "runs": sum(report.runs for report in reports),
            "violations": sum(len(report.violations) for report in reports),
            "seconds": round(sum(report.seconds for report in reports), 1),
            "sagas": {report.saga: dict(sorted(report.kinds.items())) for report in reports},
        }
    totals = {key: sum(one[key] for one in told.values()) for key in ("runs", "violations")}
    seconds = round(clock.monotonic() - began, 1)
    print(json.dumps({**totals, "seconds": seconds, "seed": asked.seed, "set_ups": told}))
    return 1 if totals["violations"] else 0


def _proofs(urls: Urls, sample: int | None, seed: int) -> Iterator[CrashReport]:
    settings = parse_settings({"databases": {name: {"url": url} for name, url in urls.items()}})
    found: list[CrashReport] = []
    kit = CrashKit(sagas, settings, setup=create_tables, sample=sample, seed=seed, report=found.append)
    for saga, given in ((place_order, an_order), (cancel_order, a_cancellation)):
        try:
            kit.prove(saga, given, invariant=books_add_up)  # type: ignore[arg-type]
        except AssertionError as broken:
            print(broken, flush=True)
        report = found[-1]
        print(
            f"{report.saga}: {report.runs} runs, {len(report.violations)} broken, {report.seconds:.0f} s",
            flush=True,
        )
        yield report


@contextmanager
def _embedded() -> Iterator[Urls]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield {name: f"sqlite+aiosqlite:///{directory}/{name}.db" for name in ("orders", "points", "inventory")}


@contextmanager
def _servers() -> Iterator[Urls]:
    products = {"orders": POSTGRES, "points": MARIADB, "inventory": MONGO}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        Path(directory).chmod(0o711)  # servers run under accounts of their own
        urls = {}
        for name, product in products.items():
            server = stack.enter_context(product.server(Path(directory) / product.key))
            database = f"crash_kit_{name}"
            server.create_database(database)
            stack.callback(server.drop_database, database)
            urls[name] = server.url(database)
        yield urls


SET_UPS: dict[str, Callable[[], Any]] = {"embedded": _embedded, "servers": _servers}

if __name__ == "__main__":
    sys.exit(main())
