"""Several ways of doing one thing, measured by turns.

A machine's speed drifts by more than what is to be measured. A burst is therefore compared with the mean of its
two neighbours of the other side and nothing else. The median of those ratios is the result, their quartiles are
its spread.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.side import Told


@dataclass(frozen=True, slots=True)
class Burst:
    """One burst of one side: what its process told, and the servers' processor time."""

    told: Told
    servers: dict[str, float]  # seconds of processor time of each server, while the burst lasted

    @property
    def figures(self) -> dict[str, float]:
        """What is compared; times of processors are milliseconds per saga."""
        told = self.told
        client, servers = told.cpu * 1000 / told.count, sum(self.servers.values()) * 1000 / told.count
        return {
            "throughput": told.count / told.seconds,
            "p50_ms": told.p50 * 1000,
            "p99_ms": told.p99 * 1000,
            "client_cpu_ms": client,
            "server_cpu_ms": servers,
            "cpu_ms": client + servers,
        }


class Bursting(Protocol):
    """A side that can be asked for a burst."""

    def burst(self, concurrency: int, seconds: float, refuse_every: int = 0) -> Burst: ...


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values between their quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)


@dataclass(frozen=True, slots=True)
class Turns:
    """All bursts of one comparison in the order in which they were run."""

    concurrency: int
    bursts: Sequence[tuple[str, Burst]]

    def figures(self, side: str) -> dict[str, Spread]:
        """Return every figure of *side*."""
        return _spreads([burst.figures for name, burst in self.bursts if name == side])

    def ratios(self, one: str, other: str) -> dict[str, Spread]:
        """Return every figure of *one* divided by the mean of the neighbours on the side *other*."""
        found = []
        for place, (name, burst) in enumerate(self.bursts):
            if name != one:
                continue
            before = [near.figures for name, near in self.bursts[:place] if name == other]
            after = [near.figures for name, near in self.bursts[place + 1 :] if name == other]
            if before and after:
                found.append(_ratio(burst.figures, before[-1], after[0]))
        return _spreads(found)

    def to_json(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the medians and spreads, the ratios of *pairs*, and every single burst."""
        sides = list(dict.fromkeys(name for name, _ in self.bursts))
        return {
            "concurrency": self.concurrency,
            "sides": {side: _plain(self.figures(side)) for side in sides},
            "ratios": {f"{one} / {other}": _plain(self.ratios(one, other)) for one, other in pairs},
            "bursts": [
                {"side": name, **burst.figures, "count": burst.told.count, "servers": burst.servers}
                for name, burst in self.bursts
            ],
        }


def take_turns(
    sides: Mapping[str, Bursting], *, concurrency: int, rounds: int, seconds: float, refuse_every: int = 0
) -> Turns:
    """Run bursts of *seconds* side after side; *rounds* of each have a neighbour on both sides.

    One burst of each comes before and is not counted: it opens connections and fills caches. The first side has
    one burst more than the others. With *refuse_every* every so-manieth saga is one that a step refuses.
    """

    def burst(name: str) -> Burst:
        return sides[name].burst(concurrency, seconds, refuse_every)

    names = list(sides)
    for name in names:
        burst(name)
    order = [*names * rounds, names[0]] if len(names) == 2 else names * (rounds + 1)
    return Turns(concurrency, [(name, burst(name)) for name in order])


def _ratio(one: dict[str, float], before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    means = {name: (before[name] + after[name]) / 2 for name in one}
    return {name: one[name] / mean for name, mean in means.items() if mean > 0}


def _spreads(found: Sequence[dict[str, float]]) -> dict[str, Spread]:
    common = [name for name in found[0] if all(name in one for one in found)]
    return {name: Spread.of([one[name] for one in found]) for name in common}


def _plain(spreads: dict[str, Spread]) -> dict[str, list[float]]:
    return {
        name: [round(value, 4) for value in (spread.low, spread.median, spread.high)]
        for name, spread in spreads.items()
    }
