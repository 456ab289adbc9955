"""One way of doing the work, in a process of its own, which does what the measuring process asks.

In its own process each side pays for its own memory, threads and garbage, and its processor time is its own. The
other half of the conversation is `process.py`: one line of JSON asks, one line answers.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from typing import Any, TextIO, TypeAlias

from benchmarks import packets
from orders.serving import calm_garbage_collection

Places: TypeAlias = dict[str, str]  # URLs by name


async def at_once() -> None:
    """Return: this side has nothing under way behind a reply, or nothing in the background."""


async def never_refused() -> None:
    """Raise: no step of these sagas refuses."""
    raise NotImplementedError("no step of these sagas refuses")


@dataclass(frozen=True, slots=True)
class Side:
    """What can be asked of a way of doing the work."""

    once: Callable[[], Awaitable[None]]  # runs one saga to its reply
    refused: Callable[[], Awaitable[None]] = never_refused  # runs one that a step refuses, to its reply
    rest: Callable[[], Awaitable[None]] = at_once  # returns when nothing is under way behind a reply
    quiet: Callable[[], Awaitable[None]] = at_once  # returns when the background work has just been done


Opening: TypeAlias = Callable[[Places], AbstractAsyncContextManager[Side]]


@dataclass(frozen=True, slots=True)
class Told:
    """What one burst came to, as seen by the process that ran it."""

    count: int  # sagas
    seconds: float  # until everything behind the replies was written
    p50: float  # seconds until the reply
    p99: float
    cpu: float  # seconds of this process's processor time


def serve(kinds: Mapping[str, Opening]) -> None:
    """Open the side that the command line names, and answer until standard input ends."""
    kind, places = sys.argv[1], json.loads(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print shall not stand among the answers
    asyncio.run(_serve(kinds[kind], places, answers))


async def _serve(opening: Opening, places: Places, answers: TextIO) -> None:
    async with opening(places) as side:
        calm_garbage_collection()  # every side, as `orders serve` does
        _answer(answers, {"open": True})
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            _answer(answers, await _done(side, asked.pop("do"), asked))


async def _done(side: Side, verb: str, asked: dict[str, Any]) -> Any:
    if verb == "burst":
        return asdict(await burst(side, **asked))
    if verb == "quiet":
        await side.rest()
        await side.quiet()
        return {}
    assert verb == "count"
    return await _count(side, **asked)


async def burst(side: Side, concurrency: int, seconds: float, refuse_every: int = 0) -> Told:
    """Run sagas for *seconds*, *concurrency* callers one after the other; every *refuse_every*-th is refused."""
    latencies: list[float] = []
    begun = 0
    began, cpu = time.perf_counter(), time.process_time()

    async def caller() -> None:
        nonlocal begun
        while (asked := time.perf_counter()) < began + seconds:
            begun += 1
            await (side.refused() if refuse_every > 0 and begun % refuse_every == 0 else side.once())
            latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    await side.rest()
    took, used = time.perf_counter() - began, time.process_time() - cpu
    latencies.sort()
    return Told(len(latencies), took, quantile(latencies, 0.5), quantile(latencies, 0.99), used)


def quantile(ordered: list[float], share: float) -> float:
    """Return the smallest of the *ordered* values that at least *share* of them do not exceed."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


async def _count(side: Side, count: int) -> dict[str, int]:
    before = packets.sent()
    for _ in range(count):
        await side.once()
        await side.rest()
    return {"packets": packets.between(before, packets.sent())}


def _answer(answers: TextIO, value: Any) -> None:
    print(json.dumps(value), file=answers, flush=True)
