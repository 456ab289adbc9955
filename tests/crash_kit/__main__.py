"""Proves the two sagas of the order service on SQLite and on real servers; the last line is one JSON object.

python -m tests.crash_kit [--sample N] [--seed N] [--set-up embedded|servers]

Two processes share the cases of each set-up, on databases of their own.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from devservers import MARIADB, MONGO, POSTGRES
from polysaga.clock import Clock
from tests.crash_kit.proofs import Urls, prove

_DATABASES = ("orders", "points", "inventory")
_PARTS = (1, 2)


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
        set_up_began = clock.monotonic()
        with SET_UPS[name]() as places, ProcessPoolExecutor(len(places), get_context("spawn")) as processes:
            work = [
                processes.submit(prove, urls, asked.sample, asked.seed, (number, len(places)))
                for number, urls in enumerate(places, 1)
            ]
            reports = [report for one in work for report in one.result()]
        kinds: dict[str, Counter[str]] = {}
        for report in reports:
            kinds.setdefault(report.saga, Counter()).update(report.kinds)
        told[name] = {
            "runs": sum(report.runs for report in reports),
            "violations": sum(len(report.violations) for report in reports),
            "seconds": round(clock.monotonic() - set_up_began, 1),
            "sagas": {saga: dict(sorted(found.items())) for saga, found in kinds.items()},
        }
    totals = {key: sum(one[key] for one in told.values()) for key in ("runs", "violations")}
    seconds = round(clock.monotonic() - began, 1)
    print(json.dumps({**totals, "seconds": seconds, "seed": asked.seed, "set_ups": told}))
    return 1 if totals["violations"] else 0


@contextmanager
def _embedded() -> Iterator[list[Urls]]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield [
            {name: f"sqlite+aiosqlite:///{directory}/{name}-{part}.db" for name in _DATABASES} for part in _PARTS
        ]


@contextmanager
def _servers() -> Iterator[list[Urls]]:
    products = {"orders": POSTGRES, "points": MARIADB, "inventory": MONGO}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        Path(directory).chmod(0o711)  # servers run under accounts of their own
        places: list[dict[str, str]] = [{} for _ in _PARTS]
        for name, product in products.items():
            server = stack.enter_context(product.server(Path(directory) / product.key))
            for part, urls in zip(_PARTS, places, strict=True):
                database = f"crash_kit_{name}_{part}"
                server.create_database(database)
                stack.callback(server.drop_database, database)
                urls[name] = server.url(database)
        yield places


SET_UPS: dict[str, Callable[[], Any]] = {"embedded": _embedded, "servers": _servers}

if __name__ == "__main__":
    sys.exit(main())
