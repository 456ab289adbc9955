"""Positions: compared and merged by what they mean, written in one way, and read back strictly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysaga.databases.positions import (
    ClusterTime,
    Epoch,
    Gtids,
    Lsn,
    MariaGtid,
    Position,
    parse,
    parse_gtids,
    parse_lsn,
    parse_maria_gtid,
)

UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
OTHER = "4e11fa47-71ca-11e1-9e33-c80aa9429562"

epochs = st.builds(Epoch, st.sampled_from(["", "73", "abC"]), st.integers(0, 5))
numbers = st.integers(0, 2**64 - 1)
intervals = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=4).map(
    lambda found: parse_gtids(f"{UUID}:" + ":".join(f"{low}-{low + more}" for low, more in found)).sources[UUID]
)
positions: st.SearchStrategy[Position] = st.one_of(
    st.builds(Lsn, numbers, epochs),
    st.builds(
        Gtids, st.dictionaries(st.sampled_from([UUID, OTHER, f"{UUID}:a_tag_1"]), intervals, max_size=3), epochs
    ),
    st.builds(
        MariaGtid,
        st.dictionaries(st.integers(0, 3), st.tuples(st.integers(1, 9), numbers), max_size=3),
        epochs,
    ),
    st.builds(ClusterTime, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), epochs),
)


@given(positions)
def test_what_was_written_is_read_back(position: Position) -> None:
    assert parse(position.text) == position


@given(positions, positions)
def test_a_merged_position_is_past_both(one: Position, other: Position) -> None:
    if not one.comparable(other):
        with pytest.raises(ValueError, match="different clusters"):
            one.merged(other)  # type: ignore[arg-type,unused-ignore]
        return
    merged = one.merged(other)
    assert merged.reached(one)
    assert merged.reached(other)
    assert other.merged(one).text == merged.text or isinstance(one, MariaGtid)


@given(positions, positions, positions)
def test_reaching_is_transitive(low: Position, middle: Position, high: Position) -> None:
    if high.reached(middle) and middle.reached(low):
        assert high.reached(low)


@given(st.text(max_size=40))
def test_any_other_text_is_refused(text: str) -> None:
    try:
        found = parse(text)
    except ValueError:
        return
    assert found.text == text


@pytest.mark.parametrize(
    "text",
    [
        "pg:.0:16/b374d848",  # in lower case
        "pg:.0:016/B374D848",
        "pg:.0:1/2'; DROP TABLE orders; --",
        "pg:.0:1/2\n",
        "pg:.00:1/2",
        "pg:-.0:1/2",
        "pg:.0:\uff11/2",  # a digit, though not one of ours
        "my:.0:3e11fa47~1-5",
        f"my:.0:{UUID}~5-1",
        f"my:.0:{UUID}~0-1",
        "ma:.0:0-1",
        "ma:.0:0-1-18446744073709551616",
        "mg:.0:4294967296-1",
        "xx:.0:1",
        "",
        "pg:.0:" + "1" * 5000,
    ],
)
def test_a_forged_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_a_later_epoch_has_reached_an_earlier_position_and_never_the_other_way_round() -> None:
    before, after = Lsn(100, Epoch("a", 1)), Lsn(100, Epoch("a", 2))
    assert after.reached(before)
    assert not before.reached(after)
    assert not Lsn(10**6, Epoch("a", 1)).reached(after)


def test_another_cluster_has_reached_nothing() -> None:
    assert not Lsn(100, Epoch("b", 9)).reached(Lsn(1, Epoch("a", 1)))
    assert not MariaGtid({0: (1, 100)}).reached(Lsn(1))


def test_a_gap_in_a_set_of_transactions_is_not_reached() -> None:
    here = parse_gtids(f"{UUID}:1-5:7-9")
    assert here.reached(parse_gtids(f"{UUID}:2-4:8"))
    assert not here.reached(parse_gtids(f"{UUID}:5-7"))
    assert not here.reached(parse_gtids(f"{OTHER}:1"))
    assert here.merged(parse_gtids(f"{UUID}:6")).literal == f"{UUID}:1-9"


def test_a_set_is_read_as_servers_write_it() -> None:
    written = f"{UUID.upper()}:1-5:a_tag:1-3,\n{OTHER}:7"
    assert parse_gtids(written).sources == {
        UUID: ((1, 5),),
        f"{UUID}:a_tag": ((1, 3),),
        OTHER: ((7, 7),),
    }
    assert parse_gtids("").sources == {}


def test_each_domain_of_mariadb_counts_by_itself() -> None:
    here = parse_maria_gtid("0-1-88,1-2-3")
    assert here.reached(parse_maria_gtid("0-9-88"))
    assert not here.reached(parse_maria_gtid("0-1-89"))
    assert not here.reached(parse_maria_gtid("2-1-1"))
    assert here.merged(parse_maria_gtid("1-1-4")).literal == "0-1-88,1-1-4"


def test_a_place_in_the_log_is_one_number() -> None:
    assert parse_lsn("16/B374D848").value == 0x16B374D848
    assert parse_lsn("16/B374D848").literal == "16/B374D848"
