"""What a router has seen in the last quarter of an hour, for charts, and which readers wait for a replica.

The router's answers from its nodes bring the samples along: there is no timer. A node has at most one sample for
each second, the worst answer in it. If nothing was answered in a second, it has no sample.
"""

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from polysaga.clock import Clock
from polysaga.routing.policy import RouteReason
from polysaga.routing.topology import NodeState

_LENGTH = 900  # seconds
_ROUTED_EVERY = 10.0  # seconds

Routed = Mapping[tuple[str, RouteReason], int]  # sessions by node and reason


@dataclass(frozen=True, slots=True)
class LagSample:
    """The worst that one node reported in one second."""

    at: datetime
    lag: float | None  # seconds behind the primary, 0 on the primary; None if it did not answer, or it is unknown
    is_primary: bool


@dataclass(frozen=True, slots=True)
class RoutedSample:
    """Where the sessions of *seconds* went, up to *at*."""

    at: datetime
    seconds: float
    routed: Routed


class ReadWaits:
    """The readers that had to wait for a replica to catch up."""

    def __init__(self) -> None:
        self.waiting = 0  # now
        self.count = 0  # since the database was opened
        self.seconds = 0.0  # that they waited, all together


class RoutingHistory:
    """Lag and sessions of one router's nodes over time; `Router.history`."""

    def __init__(self, nodes: Sequence[str], routed: "Counter[tuple[str, RouteReason]]", clock: Clock) -> None:
        self.nodes = tuple(nodes)  # their names, in the order of the settings
        self.waits = ReadWaits()
        self._lags: list[deque[LagSample]] = [deque(maxlen=_LENGTH) for _ in nodes]
        self._seconds = [-1] * len(nodes)  # of the latest sample, on the monotonic clock
        self._now, self._before = routed, Counter(routed)
        self._counted_at = clock.monotonic()
        self._routed: deque[RoutedSample] = deque(maxlen=int(_LENGTH / _ROUTED_EVERY))
        self._clock = clock

    @property
    def lags(self) -> Mapping[str, Sequence[LagSample]]:
        """The samples of each node, the oldest first: at most one for each of the last 900 seconds."""
        return {name: tuple(samples) for name, samples in zip(self.nodes, self._lags, strict=True)}

    @property
    def routed(self) -> Sequence[RoutedSample]:
        """The sessions of every ten seconds, the oldest first: at most 90 samples."""
        return tuple(self._routed)

    def note(self, index: int, node: NodeState, *, is_primary: bool) -> None:
        """Note that node *index* answered, or did not."""
        now = self._clock.monotonic()
        lag = None if node.failure is not None else 0.0 if is_primary else node.lag
        if lag == math.inf:
            lag = None
        samples = self._lags[index]
        if self._seconds[index] != int(now):
            self._seconds[index] = int(now)
            samples.append(LagSample(self._clock.now(), lag, is_primary))
        elif _is_worse(lag, samples[-1].lag):
            samples[-1] = LagSample(samples[-1].at, lag, is_primary)
        if now - self._counted_at >= _ROUTED_EVERY:
            self._count(now)

    @contextmanager
    def reader_waits(self) -> Iterator[None]:
        """Count a reader that waits for the length of the block."""
        waits, began = self.waits, self._clock.monotonic()
        waits.waiting += 1
        try:
            yield
        finally:
            waits.waiting -= 1
            waits.count += 1
            waits.seconds += self._clock.monotonic() - began

    def _count(self, now: float) -> None:
        seconds, self._counted_at = now - self._counted_at, now
        after = Counter(self._now)
        self._routed.append(RoutedSample(self._clock.now(), seconds, after - self._before))
        self._before = after


def _is_worse(lag: float | None, known: float | None) -> bool:
    return known is not None and (lag is None or lag > known)
