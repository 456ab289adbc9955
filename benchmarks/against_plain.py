"""Orders over three databases: Polysaga against the coordinator that people write by hand.

`plain` runs the steps one after the other. `side-by-side` runs stock and points at the same time, as the saga
does. Neither is durable. The sides on connections run the same steps on an `AsyncConnection` instead of a session.
"""

import asyncio
from typing import Any

from benchmarks import shop
from benchmarks.comparing import timed
from benchmarks.parts import Scale, alone
from benchmarks.process import Process
from benchmarks.servers import running

_SIDES = ("plain", "ours", "side-by-side", "ours-on-connections", "plain-on-connections")
_PAIRS = [
    ("ours", "plain"),
    ("ours", "side-by-side"),
    ("ours-on-connections", "plain"),
    ("ours-on-connections", "plain-on-connections"),
    ("ours-on-connections", "ours"),
]


def measure(scale: Scale) -> dict[str, Any]:
    """Time all sides at every concurrency; count what one order sends."""
    with running(shop.ON_SQL) as databases:
        asyncio.run(shop.fill(databases.urls))
        recipes = {side: shop.recipe(side, databases.urls) for side in _SIDES}
        sides = {side: Process(recipe, databases.pids) for side, recipe in recipes.items()}
        return {
            "servers": databases.versions,
            "turns": timed(sides, _PAIRS, scale),
            "counts": {side: databases.counted(recipe) for side, recipe in recipes.items()},
        }


if __name__ == "__main__":
    alone("plain", measure)
