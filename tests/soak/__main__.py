"""`python -m tests.soak`: load, faults, and at the end a count of everything.

The last line is one JSON object; the exit code is 0 only if nothing was lost, doubled, stranded or contradictory.
The faults depend on the seed alone, which is printed: run the same ones again with --seed.
"""

import argparse
import heapq
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from devservers import MARIADB, MONGO, POSTGRES, Product, Server, ServerUnavailable
from tests.soak.audit import audit
from tests.soak.customers import Customers
from tests.soak.house import House, house
from tests.soak.plan import Fault, plan

_PRODUCTS: Mapping[str, Product] = {"orders": POSTGRES, "points": MARIADB, "inventory": MONGO}
_REST = 120.0  # seconds until everything must have come to rest after the last fault


def main() -> int:
    """Return the exit code."""
    options = _parser().parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"soak: {options.seconds:g} s, concurrency {options.concurrency}, seed {seed}", flush=True)
    try:
        with _servers() as (servers, urls, directory), house(servers, urls, directory) as home:
            report = _soak(home, seed, options.seconds, options.concurrency)
    except ServerUnavailable as missing:
        print(missing, file=sys.stderr)
        return 2
    print(json.dumps(report), flush=True)
    return 0 if report["clean"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Load and faults, then a count.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long things go wrong")
    parser.add_argument("--concurrency", type=int, default=16, help="customers at a time")
    parser.add_argument("--seed", type=int, help="of the plan of faults; a new one each time by default")
    return parser


def _soak(home: House, seed: int, seconds: float, concurrency: int) -> dict[str, object]:
    faults = list(
        plan(
            seed,
            seconds,
            services=list(home.services),
            databases=list(home.proxies),
            servers=home.restartable,
        )
    )
    urls = [one.service.url for one in home.services.values()]
    with Customers(urls, concurrency) as customers:
        _break_things(home, faults, seconds, lambda: customers.orders)
        home.recover()
        _say(f"no more faults; {customers.orders} orders so far, waiting for the last answers")
        customers.go_home()
        told = ", ".join(f"{count} {answer}" for answer, count in sorted(customers.answers.items()))
        _say(f"{told}; {customers.cancelled} cancelled afterwards")
        found = audit(home.urls, customers.confirmed, patience=_REST)
    details = [*home.deaths, *home.mistakes, *found.details]
    for detail in details[:50]:
        _say(detail)
    return {
        "orders": customers.orders,
        "faults": len(faults),
        **found.as_data(),
        "died": len(home.deaths),
        "mistakes": len(home.mistakes),
        "confirmed": len(customers.confirmed),
        "seed": seed,
        "seconds": seconds,
        "clean": not details and found.clean,
    }


def _break_things(home: House, faults: list[Fault], seconds: float, orders: Callable[[], int]) -> None:
    """Make every fault happen at its time, or as soon as the one before it lets us; leave nothing broken."""
    began = time.monotonic()
    order = count()
    agenda: list[tuple[float, int, Fault | Callable[[], None]]] = [(one.at, next(order), one) for one in faults]
    heapq.heapify(agenda)
    while agenda:
        at, _, what = heapq.heappop(agenda)
        time.sleep(max(0.0, began + at - time.monotonic()))
        if not isinstance(what, Fault):
            what()
            continue
        now = time.monotonic() - began
        _say(f"{now:6.1f} s  {orders():6d} orders  {what}")
        end = home.begin(what)
        if end is not None:
            heapq.heappush(agenda, (time.monotonic() - began + what.seconds, next(order), end))
    time.sleep(max(0.0, began + seconds - time.monotonic()))


@contextmanager
def _servers() -> Iterator[tuple[dict[str, Server], dict[str, str], Path]]:
    """Yield running servers by the names of the databases, the URLs of these, and a directory for logs."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="polysaga-soak-")))
        directory.chmod(0o711)  # the servers run under accounts of their own
        servers = {
            name: stack.enter_context(product.server(directory / product.key))
            for name, product in _PRODUCTS.items()
        }
        urls = {}
        for name, server in servers.items():
            database = f"soak_{name}"
            server.create_database(database)
            stack.callback(server.drop_database, database)
            urls[name] = server.url(database)
        yield servers, urls, directory


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
