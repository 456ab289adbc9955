"""The failure path: every tenth order is for a product that is sold out, and its first step is undone."""

import asyncio
from typing import Any

from benchmarks import shop
from benchmarks.comparing import timed
from benchmarks.parts import Scale, alone
from benchmarks.process import Process
from benchmarks.servers import running

_REFUSE_EVERY = 10


def measure(scale: Scale) -> dict[str, Any]:
    """Time orders of which one in ten is refused. The figures are of all of them."""
    with running(shop.ON_SQL) as databases:
        asyncio.run(shop.fill(databases.urls))
        sides = {
            side: Process(shop.recipe(side, databases.urls), databases.pids)
            for side in ("plain", "ours", "side-by-side")
        }
        pairs = [("ours", "plain"), ("ours", "side-by-side")]
        turns = timed(sides, pairs, scale, concurrencies=(16,), refuse_every=_REFUSE_EVERY)
        return {"servers": databases.versions, "refuse_every": _REFUSE_EVERY, "turns": turns}


if __name__ == "__main__":
    alone("refusals", measure)
