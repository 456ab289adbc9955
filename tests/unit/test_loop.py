"""The rounds of a process: repeated after pauses that differ from those of other processes."""

import asyncio
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from polysaga.sagas.process.loop import repeat
from polysaga.testing.clock import HandClock
from tests.fixtures.waiting import reached

ROUNDS = 50


async def test_processes_that_start_together_drift_apart() -> None:
    clock = HandClock()
    engine: Any = SimpleNamespace(clock=clock, emit=lambda _: None)
    began: list[float] = []

    enough = asyncio.Event()

    async def work() -> float:
        began.append(clock.monotonic())
        if len(began) > ROUNDS:
            enough.set()
        return 10.0

    rounds = asyncio.create_task(repeat(engine, work, patience=60.0))
    await reached(enough, "there were enough rounds")
    rounds.cancel()
    await asyncio.wait([rounds], timeout=10)

    pauses = [later - earlier for earlier, later in pairwise(began)]
    assert all(9.0 <= pause <= 11.0 for pause in pauses)
    assert max(pauses) - min(pauses) > 0.1
