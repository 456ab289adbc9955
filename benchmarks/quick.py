"""`make bench-quick`: what durability costs, against the plain way of doing the same, and against DBOS.

Places the orders of `services/orders` over two PostgreSQL databases and one MariaDB database, on servers that
sync every commit to disk, by a durable saga and by the plain coordinator in turns. Takes under two minutes. The
last line of the output is one JSON object:

    plain_throughput, plain_p50, plain_cpu    ours / plain at concurrency 16; `_cpu` is the client's time per order
    ..._c1, ..._c64                           the same at these concurrencies
    commits_per_saga, statements_per_saga     ours, as the servers count them, one order after the other
    packets_per_saga                          packets with data that the client sends, as the kernel counts them
    plain_commits_per_saga, ...               the same three for plain
    dbos_throughput                           ours / DBOS at concurrency 16, three steps that do nothing
    dbos_datasource_throughput                the same for three steps that insert a row

`POLYSAGA_TEST_POSTGRES_URL` and `POLYSAGA_TEST_MARIADB_URL` name servers to use; what they are sent is not
counted. Without DBOS (`scripts/setup bench`) its two figures are missing.
"""

import asyncio
import json
from collections.abc import Mapping

from benchmarks import peers, shop
from benchmarks.bursts import Turns, take_turns
from benchmarks.comparing import started
from benchmarks.parts import tell
from benchmarks.peers import INSERTS, NO_OP
from benchmarks.process import Process
from benchmarks.servers import Databases, running

_ROUNDS = {1: 5, 16: 6, 64: 3}  # by concurrency
# Of one burst. Ours ends with a wait of some hundredths for the last shared commit, which only bursts have.
_SECONDS = {1: 1.0, 16: 1.5, 64: 1.5}
_PEER_ROUNDS, _PEER_SECONDS = 3, 1.0


def main() -> None:
    """Run everything and print it."""
    with running(shop.ON_SQL | peers.PLACES) as databases:
        for version in databases.versions:
            tell(version)
        figures = _against_plain(databases) | _against_dbos(databases)
        for prefix, side in (("", "ours"), ("plain_", "plain")):
            counts = databases.counted(shop.recipe(side, databases.some(*shop.ON_SQL)))
            figures |= {f"{prefix}{name}_per_saga": round(value, 2) for name, value in counts.items()}
    print(json.dumps(figures))


def _against_plain(databases: Databases) -> dict[str, float]:
    urls = databases.some(*shop.ON_SQL)
    asyncio.run(shop.fill(urls))
    sides = {side: Process(shop.recipe(side, urls), databases.pids) for side in ("plain", "ours")}
    figures: dict[str, float] = {}
    with started(sides):
        for concurrency, rounds in _ROUNDS.items():
            turns = take_turns(sides, concurrency=concurrency, rounds=rounds, seconds=_SECONDS[concurrency])
            show(turns, [("ours", "plain")])
            figures |= _ratios(turns)
    return figures


def _against_dbos(databases: Databases) -> dict[str, float]:
    recipes = peers.recipes(databases)
    if not peers.has_dbos():
        return {}
    asyncio.run(peers.fill(databases))
    sides = {side: Process(recipe, databases.pids) for side, recipe in recipes.items()}
    with started(sides):
        turns = take_turns(sides, concurrency=16, rounds=_PEER_ROUNDS, seconds=_PEER_SECONDS)
    pairs = {
        "dbos_throughput": (f"ours {NO_OP}", f"dbos {NO_OP}"),
        "dbos_datasource_throughput": (f"ours {INSERTS}", f"dbos {INSERTS}"),
    }
    show(turns, list(pairs.values()))
    return {name: round(turns.ratios(*pair)["throughput"].median, 3) for name, pair in pairs.items()}


def _ratios(turns: Turns) -> dict[str, float]:
    ratio = turns.ratios("ours", "plain")
    suffix = "" if turns.concurrency == 16 else f"_c{turns.concurrency}"
    names = {"plain_throughput": "throughput", "plain_p50": "p50_ms", "plain_cpu": "client_cpu_ms"}
    return {f"{name}{suffix}": round(ratio[figure].median, 3) for name, figure in names.items()}


def show(turns: Turns, pairs: list[tuple[str, str]]) -> None:
    """Print the medians of every side, and the ratios of *pairs*."""
    sides = list(dict.fromkeys(name for name, _ in turns.bursts))
    print(f"\nconcurrency {turns.concurrency:<14} {'/s':>8} {'p50 ms':>8} {'p99 ms':>8}  CPU ms: client, servers")
    for side in sides:
        _show_row(side, {name: spread.median for name, spread in turns.figures(side).items()}, 1)
    for one, other in pairs:
        ratios = {name: spread.median for name, spread in turns.ratios(one, other).items()}
        _show_row(f"{one} / {other}", ratios, 2)


def _show_row(name: str, row: Mapping[str, float], places: int) -> None:
    columns = ("throughput", "p50_ms", "p99_ms", "client_cpu_ms", "server_cpu_ms")
    # The servers' time is unknown if others run them.
    cells = [f"{row[column]:8.{places}f}" if column in row else f"{'?':>8}" for column in columns]
    print(f"{name:26} {' '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
