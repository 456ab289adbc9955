"""`python -m benchmarks.observed`: what it costs to be scraped each second, to be traced, and to be watched.

Every side is compared with the same program without any of it, in turns, at concurrency 16, in several pairs of
processes. *viewed* has ten viewers on the dashboard's overview. Takes fifteen minutes;
`python -m benchmarks.observed viewed` measures one side.
"""

import asyncio
import statistics
import sys

from benchmarks import shop
from benchmarks.bursts import Turns, take_turns
from benchmarks.comparing import started
from benchmarks.parts import tell
from benchmarks.process import Process, Recipe
from benchmarks.quick import show
from benchmarks.servers import Databases, running

_OTHERS = ("measured", "traced", "sampled", "both", "viewed")
_CONCURRENCY = 16
_PAIRS = 5  # two processes that do the same differ by some percent, for as long as they live
_ROUNDS, _SECONDS = 8, 1.5


def main() -> None:
    """Measure and print."""
    with running(shop.ON_SQL) as databases:
        for version in databases.versions:
            tell(version)
        asyncio.run(shop.fill(databases.urls))
        for other in sys.argv[1:] or _OTHERS:
            pairs = [_compared(other, databases) for _ in range(_PAIRS)]
            show(Turns(_CONCURRENCY, [burst for turns in pairs for burst in turns.bursts]), [(other, "alone")])
            for figure in ("throughput", "client_cpu_ms"):
                medians = sorted(turns.ratios(other, "alone")[figure].median for turns in pairs)
                middle, told = statistics.median(medians), ", ".join(f"{one:.3f}" for one in medians)
                print(f"  {other} / alone, {figure}: {middle:.3f} (pairs: {told})", flush=True)


def _compared(other: str, databases: Databases) -> Turns:
    recipes = {side: Recipe("benchmarks.observed_side", side, databases.urls) for side in ("alone", other)}
    sides = {side: Process(recipe, databases.pids) for side, recipe in recipes.items()}
    with started(sides):
        return take_turns(sides, concurrency=_CONCURRENCY, rounds=_ROUNDS, seconds=_SECONDS)


if __name__ == "__main__":
    main()
