"""`make bench-quick`: what durability costs, against the plain way of doing the same.

Places the orders of `services/orders` over two PostgreSQL databases and one MariaDB database, on servers that
sync every commit to disk, by a durable saga and by the plain coordinator in turns. Takes under a minute once the
servers run. The last line of the output is one JSON object:

    plain_throughput, plain_p50          ours / plain at concurrency 16 (_c1: at concurrency 1)
    plain_cpu                            the same for the client's own processor time per order
    commits_per_saga                     ours, as the servers count them, one order after the other
    statements_per_saga                  the same for statements, transaction control included
    plain_commits_per_saga, plain_statements_per_saga

`POLYSAGA_TEST_POSTGRES_URL` and `POLYSAGA_TEST_MYSQL_URL` name servers to use; what they are sent is not counted.
"""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from benchmarks.bursts import Comparison, compare
from benchmarks.shop import Shop, fill, ours, plain, some_order
from devservers import MARIADB, POSTGRES, LocalServer, Server
from devservers.counting import Count, counter
from orders.serving import freeze_startup_objects

_ROUNDS = {1: 5, 16: 8}  # by concurrency
# Of one burst. Ours ends with a wait of some hundredths for the last shared commit, which only bursts have.
_SECONDS = {1: 1.0, 16: 2.0}
_COUNTED = 50  # orders whose statements are counted


def main() -> None:
    """Run everything and print it."""
    with _databases() as (servers, urls):
        for server in servers:
            print(f"{server.name_and_version} ({server.origin})")
        asyncio.run(fill(urls))
        compared = asyncio.run(_compare(urls))
        _print_table(compared)
        figures = _figures(compared)
        local = [server for server in servers if isinstance(server, LocalServer)]
        if len(local) == len(servers):  # others do not tell what they were sent
            figures |= _per_saga("", asyncio.run(_counted(local, urls, ours(urls))))
            figures |= _per_saga("plain_", asyncio.run(_counted(local, urls, plain(urls))))
    print(json.dumps(figures))


@contextmanager
def _databases() -> Iterator[tuple[list[Server], dict[str, str]]]:
    """Run both servers and give the URLs of three empty databases, which are dropped afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="polysaga-bench-"))
    directory.chmod(0o711)  # servers under another account must get in, too
    run = uuid4().hex[:8]
    try:
        with POSTGRES.server(directory / "postgres") as postgres, MARIADB.server(directory / "mysql") as mariadb:
            places = {"orders": postgres, "inventory": postgres, "points": mariadb}
            names = {handle: f"bench_{handle}_{run}" for handle in places}
            try:
                for handle, server in places.items():
                    server.create_database(names[handle])
                yield [postgres, mariadb], {handle: places[handle].url(names[handle]) for handle in places}
            finally:
                for handle, server in places.items():
                    server.drop_database(names[handle])
    finally:
        shutil.rmtree(directory)


async def _compare(urls: dict[str, str]) -> dict[int, Comparison]:
    async with ours(urls) as durable, plain(urls) as simple:
        freeze_startup_objects()  # both sides, as `orders serve` does
        return {
            concurrency: await compare(
                durable, simple, concurrency=concurrency, rounds=rounds, seconds=_SECONDS[concurrency]
            )
            for concurrency, rounds in _ROUNDS.items()
        }


async def _counted(
    servers: list[LocalServer], urls: dict[str, str], shop: AbstractAsyncContextManager[Shop]
) -> Count:
    """Return what one order after the other sends to the servers, all of them together."""
    on = [
        [url.rpartition("/")[2].partition("?")[0] for url in urls.values() if url.startswith(server.url(""))]
        for server in servers
    ]
    counters = [counter(server, *names) for server, names in zip(servers, on, strict=True)]
    async with AsyncExitStack() as stack:
        open_shop = await stack.enter_async_context(shop)
        await open_shop.order(some_order())  # connects, prepares statements
        await open_shop.rest()
        for one in counters:
            one.reset()
        for _ in range(_COUNTED):
            await open_shop.order(some_order())
            await open_shop.rest()
        return sum((one.count() for one in counters), Count(0, 0))


def _figures(compared: dict[int, Comparison]) -> dict[str, float]:
    figures = {}
    for concurrency, suffix in ((16, ""), (1, "_c1")):
        ratio = compared[concurrency].ratio
        figures[f"plain_throughput{suffix}"] = round(ratio.throughput, 3)
        figures[f"plain_p50{suffix}"] = round(ratio.p50, 3)
        figures[f"plain_cpu{suffix}"] = round(ratio.cpu, 3)
    return figures


def _per_saga(prefix: str, count: Count) -> dict[str, float]:
    return {
        f"{prefix}commits_per_saga": round(count.commits / _COUNTED, 2),
        f"{prefix}statements_per_saga": round(count.statements / _COUNTED, 2),
    }


def _print_table(compared: dict[int, Comparison]) -> None:
    print(f"\n{'concurrency':>11}  {'':10}  {'orders/s':>9}  {'p50 ms':>7}  {'client CPU ms':>13}")
    for concurrency, found in compared.items():
        for name, row in (("plain", found.plain), ("ours", found.ours)):
            figures = f"{row.throughput:9.0f}  {row.p50 * 1000:7.1f}  {row.cpu * 1000:13.2f}"
            print(f"{concurrency:>11}  {name:10}  {figures}")
        ratio = found.ratio
        print(f"{'':>11}  {'ours/plain':10}  {ratio.throughput:9.2f}  {ratio.p50:7.2f}  {ratio.cpu:13.2f}")
    print()


if __name__ == "__main__":
    main()
