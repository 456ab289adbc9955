"""Orders over three databases: Polysaga against the coordinator that people write by hand.

`plain` runs the steps one after the other. `side-by-side` runs stock and points at the same time, as the saga
does. Neither is durable. Then the same steps run on an `AsyncConnection` instead of a session.
"""

import asyncio
from typing import Any

from benchmarks import shop
from benchmarks.comparing import timed
from benchmarks.parts import Scale, alone
from benchmarks.process import Process
from benchmarks.servers import running

_SIDES = ("plain", "ours", "side-by-side")
_PAIRS = [("ours", "plain"), ("ours", "side-by-side")]
_ON_CONNECTIONS = ("plain-on-connections", "ours-on-connections", "ours")
_PAIRS_ON_CONNECTIONS = [("ours-on-connections", "plain-on-connections"), ("ours-on-connections", "ours")]


def measure(scale: Scale) -> dict[str, Any]:
    """Time all sides at every concurrency; count what one order sends."""
    with running(shop.ON_SQL) as databases:
        asyncio.run(shop.fill(databases.urls))
        recipes = {side: shop.recipe(side, databases.urls) for side in (*_SIDES, *_ON_CONNECTIONS)}
        sides = {side: Process(recipe, databases.pids) for side, recipe in recipes.items()}
        # All of them at once would be more connections than the servers take.
        return {
            "servers": databases.versions,
            "turns": timed({side: sides[side] for side in _SIDES}, _PAIRS, scale),
            "on_connections": timed({side: sides[side] for side in _ON_CONNECTIONS}, _PAIRS_ON_CONNECTIONS, scale),
            "counts": {side: databases.counted(recipe) for side, recipe in recipes.items()},
        }


if __name__ == "__main__":
    alone("plain", measure)
