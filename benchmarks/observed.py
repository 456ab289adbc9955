"""`python -m benchmarks.observed`: what it costs to scrape metrics each second, and to trace every saga.

Every side is compared with the same program without either, in turns, at concurrency 16. Takes three minutes.
"""

import asyncio

from benchmarks import shop
from benchmarks.bursts import take_turns
from benchmarks.comparing import started
from benchmarks.parts import tell
from benchmarks.process import Process, Recipe
from benchmarks.quick import show
from benchmarks.servers import running

_OTHERS = ("measured", "traced", "sampled", "both")
_ROUNDS, _SECONDS = 12, 1.5


def main() -> None:
    """Measure and print."""
    with running(shop.ON_SQL) as databases:
        for version in databases.versions:
            tell(version)
        asyncio.run(shop.fill(databases.urls))
        for other in _OTHERS:
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
