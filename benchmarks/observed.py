"""`python -m benchmarks.observed`: what it costs to be scraped each second, to be traced, and to be watched.

Every side is compared with the same program without any of it, in turns, at concurrency 16. *viewed* has ten
viewers on the dashboard's overview. Takes four minutes; `python -m benchmarks.observed viewed` measures one side.
"""

import asyncio
import sys

from benchmarks import shop
from benchmarks.bursts import take_turns
from benchmarks.comparing import started
from benchmarks.parts import tell
from benchmarks.process import Process, Recipe
from benchmarks.quick import show
from benchmarks.servers import running

_OTHERS = ("measured", "traced", "sampled", "both", "viewed")
_ROUNDS, _SECONDS = 12, 1.5


def main() -> None:
    """Measure and print."""
    with running(shop.ON_SQL) as databases:
        for version in databases.versions:
            tell(version)
        asyncio.run(shop.fill(databases.urls))
        for other in sys.argv[1:] or _OTHERS:
            recipes = {side: Recipe("benchmarks.observed_side", side, databases.urls) for side in ("alone", other)}
            sides = {side: Process(recipe, databases.pids) for side, recipe in recipes.items()}
            with started(sides):
                turns = take_turns(sides, concurrency=16, rounds=_ROUNDS, seconds=_SECONDS)
            show(turns, [(other, "alone")])
            spread = turns.ratios(other, "alone")
            for figure in ("throughput", "client_cpu_ms"):
                one = spread[figure]
                print(
                    f"  {other} / alone, {figure}: {one.median:.3f} ({one.low:.3f} to {one.high:.3f})", flush=True
                )


if __name__ == "__main__":
    main()
