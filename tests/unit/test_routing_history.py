"""What a router keeps of the last quarter of an hour, by a clock that the test moves."""

import math
from collections import Counter

from polysaga.databases.positions import Epoch, Lsn
from polysaga.databases.samples import NodeRole
from polysaga.routing.history import RoutingHistory
from polysaga.routing.policy import RouteReason
from polysaga.routing.topology import NodeState, Seat
from polysaga.testing.clock import HandClock


def replica(lag: float, failure: str | None = None) -> NodeState:
    return NodeState(Seat("b"), NodeRole.REPLICA, Lsn(1, Epoch("a", 1)), lag=lag, failure=failure)


def history(clock: HandClock) -> tuple[RoutingHistory, Counter[tuple[str, RouteReason]]]:
    routed: Counter[tuple[str, RouteReason]] = Counter()
    return RoutingHistory(["a", "b"], routed, clock), routed


def test_a_second_has_one_sample_and_it_is_the_worst() -> None:
    clock = HandClock()
    known, _ = history(clock)
    for lag in (0.1, 0.7, 0.2):
        known.note(1, replica(lag), is_primary=False)
        clock.move(0.3)
    clock.move(0.2)
    known.note(1, replica(0.05), is_primary=False)
    assert [sample.lag for sample in known.lags["b"]] == [0.7, 0.05]
    assert known.lags["a"] == ()


def test_a_node_that_did_not_answer_has_no_lag_and_never_zero() -> None:
    clock = HandClock()
    known, _ = history(clock)
    known.note(1, replica(0.1, failure="it did not answer"), is_primary=False)
    known.note(1, replica(0.1), is_primary=False)  # the same second
    clock.move(1)
    known.note(1, replica(math.inf), is_primary=False)
    assert [sample.lag for sample in known.lags["b"]] == [None, None]


def test_the_primary_is_not_behind_itself() -> None:
    known, _ = history(HandClock())
    known.note(0, NodeState(Seat("a"), NodeRole.PRIMARY, failure=None), is_primary=True)
    (sample,) = known.lags["a"]
    assert (sample.lag, sample.is_primary) == (0.0, True)


def test_lag_is_kept_for_a_quarter_of_an_hour() -> None:
    clock = HandClock()
    known, _ = history(clock)
    for second in range(1000):
        known.note(1, replica(float(second)), is_primary=False)
        clock.move(1)
    samples = known.lags["b"]
    assert (len(samples), samples[0].lag, samples[-1].lag) == (900, 100.0, 999.0)
    assert (samples[-1].at - samples[0].at).total_seconds() == 899


def test_sessions_are_counted_for_every_ten_seconds() -> None:
    clock = HandClock()
    known, routed = history(clock)
    fresh, late = ("b", RouteReason.FRESH), ("a", RouteReason.NO_REPLICA)
    for second in range(25):
        routed[fresh] += 2
        routed[late] += second >= 10
        clock.move(1)
        known.note(1, replica(0.0), is_primary=False)
    first, second_ten = known.routed
    assert (first.seconds, first.routed) == (10, {fresh: 20})
    assert (second_ten.seconds, second_ten.routed) == (10, {fresh: 20, late: 10})
    assert (second_ten.at - first.at).total_seconds() == 10


def test_readers_that_wait_are_counted_while_and_after_they_do() -> None:
    clock = HandClock()
    known, _ = history(clock)
    with known.reader_waits():
        clock.move(0.25)
        with known.reader_waits():
            clock.move(0.25)
            assert known.waits.waiting == 2
    assert (known.waits.waiting, known.waits.count, known.waits.seconds) == (0, 2, 0.75)
