"""Histograms of durations that can be added: how many fell into each bucket, the buckets by powers of two."""

import math
from collections.abc import Mapping

_SMALLEST, _PER_OCTAVE = 0.0001, 4  # seconds; buckets per doubling: each is 19 % wide


def bucket_of(seconds: float) -> int:
    """Return the number of the histogram's bucket that *seconds* fall into."""
    return int(_PER_OCTAVE * math.log2(seconds / _SMALLEST)) if seconds > _SMALLEST else 0


def middle_of(bucket: int) -> float:
    """Return the seconds in the middle of a bucket."""
    return float(_SMALLEST * 2 ** ((bucket + 0.5) / _PER_OCTAVE))


def quantile(times: Mapping[int, int], share: float) -> float | None:
    """Return the seconds below which a *share* of *times* lies, to a tenth; None without any."""
    total = sum(times.values())
    if not total:
        return None
    reached = 0
    for bucket in sorted(times):
        reached += times[bucket]
        if reached >= share * total:
            break
    return middle_of(bucket)
