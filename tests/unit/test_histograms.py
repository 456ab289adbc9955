"""Durations in buckets: their sums are exact, their quantiles are right to a tenth."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysaga.sagas.protocol.histograms import bucket_of, middle_of, quantile


@given(st.floats(min_value=0.0002, max_value=1e6))
def test_the_middle_of_a_bucket_is_near_to_what_fell_into_it(seconds: float) -> None:
    assert middle_of(bucket_of(seconds)) == pytest.approx(seconds, rel=0.1)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.00005, 0.0001])
def test_what_is_too_short_to_matter_is_in_the_first_bucket(seconds: float) -> None:
    assert bucket_of(seconds) == 0


def test_a_quantile_is_that_of_the_durations_to_a_tenth() -> None:
    drawn = sorted(random.Random(7).lognormvariate(-4.5, 0.8) for _ in range(5_000))
    times = Counter(map(bucket_of, drawn))

    for share in (0.5, 0.95, 0.99):
        assert quantile(times, share) == pytest.approx(drawn[int(share * len(drawn))], rel=0.12)


def test_nothing_has_no_quantile() -> None:
    assert quantile({}, 0.5) is None
