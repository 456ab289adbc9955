"""The order service with its inventory on MongoDB: Polysaga against the plain coordinator.

Without `mongod` on the PATH the server is SecantusDB, whose speed says nothing about MongoDB's. Then only the
packets mean something.
"""

import asyncio
from typing import Any

from benchmarks import shop
from benchmarks.comparing import timed
from benchmarks.parts import Scale, alone
from benchmarks.process import Process
from benchmarks.servers import running


def measure(scale: Scale) -> dict[str, Any]:
    """Time both sides at concurrency 1 and 16; count the packets of one order."""
    with running(shop.WITH_MONGO) as databases:
        asyncio.run(shop.fill(databases.urls))
        recipes = {side: shop.recipe(side, databases.urls) for side in ("plain", "ours")}
        sides = {side: Process(recipe, databases.pids) for side, recipe in recipes.items()}
        return {
            "servers": databases.versions,
            "turns": timed(sides, [("ours", "plain")], scale, concurrencies=(1, 16)),
            "counts": {side: databases.counted(recipe) for side, recipe in recipes.items()},
        }


if __name__ == "__main__":
    alone("mongo", measure)
