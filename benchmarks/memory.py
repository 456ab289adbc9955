"""Ten minutes of orders at concurrency 16: does the memory of the process stay flat?

After each burst the process' own memory is read (proportional set size), and the servers'. The slope is that of a
straight line through the second half, in bytes per saga: caches and pools are full by then.
"""

import asyncio
import statistics
import time
from typing import Any

from benchmarks import processors, shop
from benchmarks.parts import Scale, alone, tell
from benchmarks.process import Process
from benchmarks.servers import running

_CONCURRENCY = 16
_SAMPLES = 60


def measure(scale: Scale) -> dict[str, Any]:
    """Place orders for `scale.steady` seconds and return the memory after each sixtieth of them."""
    with running(shop.ON_SQL) as databases:
        asyncio.run(shop.fill(databases.urls))
        samples = []
        with Process(shop.recipe("ours", databases.urls), databases.pids) as side:
            began, sagas = time.monotonic(), 0
            while time.monotonic() < began + scale.steady:
                sagas += side.burst(_CONCURRENCY, scale.steady / _SAMPLES).told.count
                samples.append(
                    {
                        "seconds": round(time.monotonic() - began, 1),
                        "sagas": sagas,
                        "client_bytes": processors.resident(side.pid),
                        "server_bytes": sum(map(processors.resident, databases.pids().values())),
                    }
                )
                if len(samples) % 10 == 0:
                    tell(f"  {samples[-1]['seconds']:.0f} s: {samples[-1]['client_bytes'] / 2**20:.1f} MiB")
        later = samples[len(samples) // 2 :]
        slope, _ = statistics.linear_regression(
            [sample["sagas"] for sample in later], [sample["client_bytes"] for sample in later]
        )
        return {
            "servers": databases.versions,
            "concurrency": _CONCURRENCY,
            "samples": samples,
            "client_bytes_per_saga": round(slope, 1),
        }


if __name__ == "__main__":
    alone("memory", measure)
