"""Which node answers: every rule of the policy, on topologies made by hand."""

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysaga.databases.positions import Epoch, Lsn, parse_gtids, parse_maria_gtid
from polysaga.databases.samples import NodeRole, Sample
from polysaga.routing.breakers import Breaker
from polysaga.routing.policy import Choice, Limits, RouteReason, clamped, hopeless, least_stale, pick
from polysaga.routing.topology import Seat, Topology, answered, failed, rivals, settled, unknown

LIMITS = Limits(max_lag=2.0, silence=1.0)
NOW = 10.0


def at(value: int, *, timeline: int = 1, cluster: str = "a") -> Lsn:
    return Lsn(value, Epoch(cluster, timeline))


def topology(*replicas: int, primary: int | None = 100, seats: list[Seat] | None = None) -> Topology:
    """Return a primary at *primary* and replicas at the given places, all asked just now."""
    found = unknown(seats or [Seat(str(index)) for index in range(len(replicas) + 1)])
    if primary is not None:
        found = answered(found, 0, Sample(NodeRole.PRIMARY, at(primary)), NOW)
    for index, place in enumerate(replicas, start=1):
        found = answered(found, index, Sample(NodeRole.REPLICA, at(place)), NOW)
    return found


def chosen(
    known: Topology,
    required: Lsn | None = None,
    *,
    limits: Limits = LIMITS,
    now: float = NOW,
    pinned: int | None = None,
    shut: frozenset[int] = frozenset(),
) -> Choice | None:
    return pick(known, required, limits, now, score=float, random=Random(0), pinned=pinned, shut=shut)


def test_a_replica_that_has_reached_the_bookmark_answers() -> None:
    assert chosen(topology(100, 90), at(95)) == Choice(1, RouteReason.CAUGHT_UP)


def test_none_answers_if_none_has_reached_it() -> None:
    assert chosen(topology(90, 90), at(95)) is None


def test_an_unknown_position_is_not_eligible() -> None:
    known = answered(topology(100), 1, Sample(NodeRole.REPLICA, None, lag=0.0), NOW)
    assert chosen(known, at(1)) is None
    assert chosen(known) == Choice(1, RouteReason.FRESH)


def test_a_replica_of_another_epoch_or_cluster_has_not_reached_it() -> None:
    assert chosen(topology(100), at(95, timeline=2)) is None
    assert chosen(topology(100), at(95, cluster="b")) is None


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=4), st.integers(0, 100), st.floats(0, 5), st.integers(0, 3)
)
def test_whoever_is_chosen_has_reached_it(places: list[int], required: int, age: float, pinned: int) -> None:
    found = chosen(topology(*places), at(required), now=NOW + age, pinned=pinned % (len(places) + 1))
    if found is not None:
        assert places[found.index - 1] >= required
        assert age <= LIMITS.silence


def test_silence_counts_against_a_replica() -> None:
    assert chosen(topology(100), now=NOW + LIMITS.silence + 0.01) is None


def test_a_replica_too_far_behind_is_left_out_and_its_silence_is_added() -> None:
    known = topology(100)
    for moment in (10.5, 11.0, 11.5):
        known = answered(known, 0, Sample(NodeRole.PRIMARY, at(int(moment * 100))), moment)
    known = answered(known, 1, Sample(NodeRole.REPLICA, at(100)), 11.5)
    assert known.nodes[1].lag == pytest.approx(1.5)
    assert chosen(known, now=11.9) == Choice(1, RouteReason.FRESH)
    assert chosen(known, now=12.1) is None
    assert hopeless(known, 1.0, 11.6)
    assert not hopeless(known, 2.0, 11.6)


def test_an_idle_primary_lets_nobody_fall_behind() -> None:
    known = topology(100)
    for moment in (20.0, 30.0):
        known = answered(known, 0, Sample(NodeRole.PRIMARY, at(100)), moment)
        known = answered(known, 1, Sample(NodeRole.REPLICA, at(100)), moment)
    assert known.nodes[1].lag == 0.0


def test_without_a_primary_lag_does_not_matter() -> None:
    known = answered(topology(50, primary=200), 0, Sample(NodeRole.PRIMARY, at(300)), 19.0)
    known = answered(known, 1, Sample(NodeRole.REPLICA, at(50)), 20.0)
    assert chosen(known, now=20.0) is None
    assert chosen(failed(known, 0, "gone"), now=20.0) == Choice(1, RouteReason.FRESH)


def test_the_node_that_was_read_from_is_kept_while_it_is_fit() -> None:
    assert chosen(topology(100, 100), at(95), pinned=2) == Choice(2, RouteReason.PINNED)
    assert chosen(topology(100, 90), at(95), pinned=2) == Choice(1, RouteReason.CAUGHT_UP)
    assert chosen(failed(topology(100, 100), 2, "gone"), pinned=2) == Choice(1, RouteReason.FRESH)


def test_an_open_breaker_shuts_a_node_out() -> None:
    assert chosen(topology(100, 100), shut=frozenset({1})) == Choice(2, RouteReason.FRESH)
    assert chosen(topology(100), pinned=1, shut=frozenset({1})) is None


def test_readers_prefer_their_own_zone_while_it_has_a_fit_replica() -> None:
    seats = [Seat("0"), Seat("1", zone="north"), Seat("2", zone="south")]
    known, south = topology(100, 100, seats=seats), Limits(2.0, 1.0, zone="south")
    assert {chosen(known, limits=south) for _ in range(9)} == {Choice(2, RouteReason.FRESH)}
    assert chosen(failed(known, 2, "gone"), limits=south) == Choice(1, RouteReason.FRESH)


def test_weights_share_the_reads() -> None:
    seats = [Seat("0"), Seat("1", weight=9), Seat("2", weight=1)]
    known, random = topology(100, 100, seats=seats), Random(7)
    went = Counter[int]()
    for _ in range(5000):
        found = pick(known, None, LIMITS, NOW, score=lambda _: 1.0, random=random)
        assert found is not None
        went[found.index] += 1
    assert went[1] / went.total() == pytest.approx(0.9, abs=0.02)


def test_of_two_the_less_busy_one_is_taken() -> None:
    known, random = topology(100, 100, 100), Random(7)
    busy = {1: 5.0, 2: 1.0, 3: 3.0}
    went = Counter[int]()
    for _ in range(3000):
        found = pick(known, None, LIMITS, NOW, score=busy.__getitem__, random=random)
        assert found is not None
        went[found.index] += 1
    assert went[1] == 0
    assert went[2] / went.total() == pytest.approx(2 / 3, abs=0.05)


def test_whoever_may_be_stale_gets_the_replica_that_is_the_least_behind() -> None:
    known = topology(40, 90)
    for moment, place in ((11.0, 90), (12.0, 300)):
        known = answered(known, 0, Sample(NodeRole.PRIMARY, at(place)), moment)
    known = answered(known, 1, Sample(NodeRole.REPLICA, at(95)), 12.0)
    known = answered(known, 2, Sample(NodeRole.REPLICA, at(90)), 12.0)
    assert least_stale(known) == 1
    assert least_stale(failed(known, 1, "gone")) == 2
    assert least_stale(unknown([Seat("0"), Seat("1")])) is None


def test_a_bookmark_that_no_server_reached_is_clamped_by_an_answer_younger_than_itself() -> None:
    known = topology(100)
    assert clamped(known, at(500), known_since=NOW - 1) == at(100)
    assert clamped(known, at(500), known_since=NOW + 1) == at(500)
    assert clamped(known, at(50), known_since=NOW - 1) == at(50)
    assert clamped(known, at(50, cluster="b"), known_since=NOW - 1) == at(100)
    assert clamped(failed(known, 0, "gone"), at(500), known_since=NOW - 1) == at(500)


def test_of_two_that_claim_to_be_the_primary_the_later_epoch_wins_for_good() -> None:
    known = unknown([Seat("0"), Seat("1")])
    known = answered(known, 0, Sample(NodeRole.PRIMARY, at(100)), 1.0)
    assert (known.primary, known.epoch) == (0, 1)
    known = answered(known, 1, Sample(NodeRole.PRIMARY, at(90, timeline=2)), 2.0)
    assert (known.primary, known.epoch) == (1, 2)
    known = failed(known, 1, "gone")
    known = answered(known, 0, Sample(NodeRole.PRIMARY, at(200)), 3.0)
    assert known.primary is None
    assert chosen(known, now=3.0) is None  # nor is it read from


def test_a_replica_left_writable_is_not_taken_for_the_primary_while_there_is_one() -> None:
    known = topology(100, primary=100)
    known = answered(known, 1, Sample(NodeRole.PRIMARY, at(100)), NOW)
    assert known.primary == 0
    assert failed(known, 0, "gone").primary == 1


@pytest.mark.parametrize(
    ("first", "second", "primary"),
    [
        ("0-1-90", "0-2-120", 1),  # the second was promoted, and the first came back
        ("0-2-120", "0-1-90", 0),
        ("0-1-90", "0-1-120", 0),  # the second was left writable, and was asked a little later
        ("0-1-90", "0-1-90", 0),
        ("0-1-125", "0-2-120", 0),  # the positions cannot tell
    ],
)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_who_starts_to_watch_two_that_take_writes_takes_the_one_that_has_gone_on(
    first: str, second: str, primary: int, order: tuple[int, int]
) -> None:
    places = [parse_maria_gtid(first), parse_maria_gtid(second)]
    known = unknown([Seat("0"), Seat("1")])
    for index in order:
        known = answered(known, index, Sample(NodeRole.PRIMARY, places[index]), NOW)
    assert known.primary == primary
    again = answered(known, 1 - primary, Sample(NodeRole.PRIMARY, parse_maria_gtid("0-7-999")), NOW + 1)
    assert again.primary == primary  # the one that was it before stays it


ONE, OTHER = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"


@pytest.mark.parametrize(
    ("first", "second", "primary"),
    [
        (f"{ONE}:1-90", f"{ONE}:1-90,{OTHER}:1-5", 1),  # the second was promoted, and the first came back
        (f"{ONE}:1-90", f"{ONE}:1-95", 1),  # the same in a group, which has one source for all
        (f"{ONE}:1-90,{OTHER}:1-5", f"{ONE}:1-90", 0),
        (f"{ONE}:1-90", f"{ONE}:1-90", 0),
        (f"{ONE}:1-91", f"{ONE}:1-90,{OTHER}:1-5", 0),  # both have gone on: the positions cannot tell
    ],
)
def test_of_two_mysql_servers_the_one_that_had_first_what_the_other_tells_later_has_taken_over(
    first: str, second: str, primary: int
) -> None:
    places = [parse_gtids(first), parse_gtids(second)]
    known = unknown([Seat("0"), Seat("1")])
    for index in (0, 1):
        known = answered(known, index, Sample(NodeRole.PRIMARY, places[index]), NOW, latency=0.1)
    assert (known.primary, rivals(known)) == (0, [0, 1])
    known = answered(known, 1, Sample(NodeRole.PRIMARY, places[1]), NOW + 1, latency=0.5)
    early = answered(known, 0, Sample(NodeRole.PRIMARY, places[0]), NOW + 1.4)
    late = answered(known, 0, Sample(NodeRole.PRIMARY, places[0]), NOW + 1.5)
    assert settled(early).primary == 0  # the first may have gone on since, and the second have it from there
    assert (settled(late).primary, late.primary) == (primary, 0)


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_session_try() -> None:
    breaker = Breaker()
    assert [breaker.failed(0.0), breaker.failed(0.0), breaker.failed(0.0)] == [False, False, True]
    assert not breaker.allows(0.9)
    assert breaker.allows(1.0)
    breaker.begin()
    assert not breaker.allows(1.0)
    assert breaker.failed(1.0)
    assert [breaker.allows(2.9), breaker.allows(3.0)] == [False, True]
    breaker.begin()
    breaker.succeeded()
    assert breaker.allows(3.0)
    assert not breaker.failed(3.0)


def test_a_success_between_failures_keeps_a_breaker_closed() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.allows(0.0)


def test_the_trail_reaches_far_back_without_growing() -> None:
    known = topology(0, primary=0)
    for moment in range(1, 2000):
        known = answered(known, 0, Sample(NodeRole.PRIMARY, at(moment)), NOW + moment)
    assert len(known.trail) <= 64
    known = answered(known, 1, Sample(NodeRole.REPLICA, at(1000)), NOW + 1999)
    assert 999 <= known.nodes[1].lag < math.inf
