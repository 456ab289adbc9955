"""Several sides on one set of databases: timed by turns, then counted."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.bursts import take_turns
from benchmarks.parts import Scale, tell
from benchmarks.process import Process

CONCURRENCIES = (1, 16, 64)


@contextmanager
def started(sides: Mapping[str, Process]) -> Iterator[None]:
    """Start all *sides* at the same time; they end with the block."""
    with ExitStack() as stack:
        for side in sides.values():
            side.begin()
            stack.callback(side.end)
        for side in sides.values():
            side.opened()
        yield


def timed(
    sides: Mapping[str, Process],
    pairs: Sequence[tuple[str, str]],
    scale: Scale,
    *,
    concurrencies: Sequence[int] = CONCURRENCIES,
    refuse_every: int = 0,
) -> list[dict[str, Any]]:
    """Start *sides*, let them take turns at each concurrency, and return what is stored of it."""
    found = []
    with started(sides):
        for concurrency in concurrencies:
            tell(f"  {', '.join(sides)}: concurrency {concurrency}")
            turns = take_turns(
                sides,
                concurrency=concurrency,
                rounds=scale.rounds,
                seconds=scale.seconds,
                refuse_every=refuse_every,
            )
            found.append(turns.to_json(pairs))
    return found
