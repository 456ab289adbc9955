"""Growth: orders on databases with no, 100 thousand and 1 million finished sagas behind them.

One real order is placed, and its rows are copied by SQL (`copies.py`): the journal's, the ledgers' and the shop's
own, with ids and times spread over the last four weeks. Each size has databases of its own on the same servers,
and they take turns.
"""

import asyncio
import time
from typing import Any

from benchmarks import shop
from benchmarks.comparing import timed
from benchmarks.copies import Copies, size
from benchmarks.parts import Scale, alone, tell
from benchmarks.process import Process
from benchmarks.servers import running
from benchmarks.side import Places

_CONCURRENCY = 16


def measure(scale: Scale) -> dict[str, Any]:
    """Fill the databases of each size, let them take turns, and return sizes and ratios."""
    sizes = (0, *scale.finished)
    places = {f"{name}_{count}": product for count in sizes for name, product in shop.ON_SQL.items()}
    with running(places) as databases:
        urls = {count: {name: databases.urls[f"{name}_{count}"] for name in shop.ON_SQL} for count in sizes}
        filled = {str(count): asyncio.run(_filled(urls[count], count)) for count in sizes}
        sides = {f"ours {count}": Process(shop.recipe("ours", urls[count]), databases.pids) for count in sizes}
        pairs = [(f"ours {count}", "ours 0") for count in scale.finished]
        return {
            "servers": databases.versions,
            "filled": filled,
            "turns": timed(sides, pairs, scale, concurrencies=(_CONCURRENCY,)),
        }


async def _filled(urls: Places, count: int) -> dict[str, Any]:
    """Leave *count* finished sagas behind; return the bytes of each database and how long it took."""
    await shop.fill(urls)
    began = time.monotonic()
    if count:
        tell(f"  leaving {count} finished sagas behind")
        async with shop.ours(urls) as side:
            await side.once()
            await side.rest()
        for url in urls.values():
            await Copies(count).write(url)
    return {
        "bytes": {name: await size(url) for name, url in urls.items()},
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    alone("growth", measure)
