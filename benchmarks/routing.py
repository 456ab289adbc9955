"""What routing costs: choosing a node with a bookmark in hand, and a reader session against a pinged one.

The last line is one JSON object. `pick_us` is the best of many rounds; `reader_vs_preping` divides medians of
interleaved rounds: a routed reader session with one SELECT, by a plain `AsyncSession` with `pool_pre_ping=True`
on the same server.
"""

import asyncio
import json
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.parts import FULL, Scale
from devservers import postgres_cluster
from polysaga import Databases, SqlDatabase
from polysaga.clock import Clock
from polysaga.config import parse_settings
from polysaga.databases.handles import Wish
from polysaga.databases.positions import Epoch, Lsn, parse
from polysaga.databases.samples import NodeRole, Sample
from polysaga.routing.policy import Limits, pick
from polysaga.routing.topology import Seat, answered, unknown

ROUNDS = 30
PICKS, PICK_ROUNDS = 100, 600  # short rounds: on a shared machine some of them are not interrupted
SESSIONS = 40  # per round
_ONE = text("SELECT 1")


def pick_us(clock: Clock) -> float:
    """Return microseconds for choosing one of three replicas that have all reached the bookmark."""
    topology = unknown([Seat(name) for name in ("primary", "one", "two", "three")])
    place, epoch = 0x16_B374_D848, Epoch("7391884411223344556", 3)
    for index in range(4):
        role = NodeRole.PRIMARY if index == 0 else NodeRole.REPLICA
        topology = answered(topology, index, Sample(role, Lsn(place, epoch)), 1.0)
    required = parse(Lsn(place - 5, epoch).text)
    limits, random = Limits(2.0, 1.0), Random(1)
    rounds = []
    for _ in range(PICK_ROUNDS):
        began = clock.monotonic()
        for _ in range(PICKS):
            pick(topology, required, limits, 1.1, score=float, random=random)
        rounds.append((clock.monotonic() - began) / PICKS)
    return min(rounds) * 1e6  # what it costs; the rest of a round is other people's work


async def _timed(clock: Clock, work: Callable[[], Awaitable[None]]) -> float:
    began = clock.monotonic()
    for _ in range(SESSIONS):
        await work()
    return (clock.monotonic() - began) / SESSIONS


async def sessions(urls: list[str], clock: Clock) -> tuple[float, float]:
    """Return seconds of a routed reader session and of a plain pinged one, with one SELECT each."""
    orders = SqlDatabase("orders")
    databases = Databases(orders)
    settings = parse_settings({"databases": {"orders": {"url": urls[0], "replicas": urls[1:]}}})
    pinged = create_async_engine(urls[1], pool_pre_ping=True)

    async def routed() -> None:
        async with orders.reader() as session:
            await session.execute(_ONE)

    async def plain() -> None:
        async with AsyncSession(pinged) as session:
            await session.execute(_ONE)

    async with databases.open(settings):
        router = databases.routers["orders"]
        async with orders.writer() as session:
            await session.execute(_ONE)
        text_of = await router.capture.position()
        assert text_of is not None
        with databases.scope({"orders": text_of}) as scope:
            while router.choose(scope, Wish()) is None:
                await router.monitor.news(1.0)
            found: tuple[list[float], list[float]] = ([], [])
            for round_ in range(ROUNDS + 2):
                pair = await _timed(clock, routed), await _timed(clock, plain)
                if round_ >= 2:  # the first ones fill the pools
                    for times, one in zip(found, pair, strict=True):
                        times.append(one)
    await pinged.dispose()
    return statistics.median(found[0]), statistics.median(found[1])


def measure(scale: Scale) -> dict[str, Any]:
    """Return `pick_us`, `reader_us`, `preping_us` and `reader_vs_preping`; *scale* changes nothing."""
    clock = Clock()
    chosen = pick_us(clock)
    with tempfile.TemporaryDirectory(prefix="polysaga-bench-") as directory:
        Path(directory).chmod(0o711)
        with postgres_cluster(Path(directory) / "cluster") as cluster:
            cluster.primary.create_database("orders")
            cluster.catch_up()
            routed, plain = asyncio.run(sessions(cluster.urls("orders"), clock))
    return {
        "pick_us": round(chosen, 2),
        "reader_us": round(routed * 1e6, 1),
        "preping_us": round(plain * 1e6, 1),
        "reader_vs_preping": round(routed / plain, 3),
    }


def main() -> None:
    """Measure and tell."""
    found = measure(FULL)
    print(f"choosing a node                      {found['pick_us']:8.2f} µs")
    print(f"reader session, routed, one SELECT   {found['reader_us']:8.0f} µs")
    print(f"AsyncSession with pool_pre_ping      {found['preping_us']:8.0f} µs")
    print(json.dumps({name: found[name] for name in ("pick_us", "reader_vs_preping")}))


if __name__ == "__main__":
    main()
