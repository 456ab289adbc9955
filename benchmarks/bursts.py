"""Two ways of doing one thing, measured in turns: each burst of one stands between two of the other.

A machine's speed drifts by more than what is to be measured. A burst is therefore compared with the mean of
its two neighbours and nothing else, and the median of those ratios is the result.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass

from benchmarks.shop import Shop, some_order


@dataclass(frozen=True, slots=True)
class Burst:
    """What one burst came to."""

    throughput: float  # orders a second, everything behind the replies included
    p50: float  # seconds until the reply
    cpu: float  # seconds of this process's processor per order


@dataclass(frozen=True, slots=True)
class Comparison:
    """The medians of ours, of plain, and of the ratios of neighbours."""

    ours: Burst
    plain: Burst
    ratio: Burst


async def compare(ours: Shop, plain: Shop, *, concurrency: int, rounds: int, seconds: float) -> Comparison:
    """Measure bursts of *seconds* by turns, *rounds* of ours, after one of each that is not counted."""
    for shop in (ours, plain):
        await burst(shop, concurrency, seconds)
    before = await burst(plain, concurrency, seconds)
    mine, others, ratios = [], [before], []
    for _ in range(rounds):
        between = await burst(ours, concurrency, seconds)
        after = await burst(plain, concurrency, seconds)
        mine.append(between)
        others.append(after)
        ratios.append(_ratio(between, before, after))
        before = after
    return Comparison(_median(mine), _median(others), _median(ratios))


async def burst(shop: Shop, concurrency: int, seconds: float) -> Burst:
    """Place orders for *seconds*, each customer one after the other."""
    latencies: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()

    async def customer() -> None:
        while (asked := time.perf_counter()) < began + seconds:
            await shop.order(some_order())
            latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*(customer() for _ in range(concurrency)))
    await shop.rest()
    count = len(latencies)
    took, used = time.perf_counter() - began, time.process_time() - cpu
    return Burst(count / took, statistics.median(latencies), used / count)


def _ratio(one: Burst, before: Burst, after: Burst) -> Burst:
    return Burst(
        2 * one.throughput / (before.throughput + after.throughput),
        2 * one.p50 / (before.p50 + after.p50),
        2 * one.cpu / (before.cpu + after.cpu),
    )


def _median(bursts: list[Burst]) -> Burst:
    return Burst(
        statistics.median(burst.throughput for burst in bursts),
        statistics.median(burst.p50 for burst in bursts),
        statistics.median(burst.cpu for burst in bursts),
    )
