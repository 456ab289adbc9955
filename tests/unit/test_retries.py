"""Back-off as data: how long, how often, and when to stop."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysaga.errors import DefinitionError
from polysaga.sagas.definition.retries import COMPENSATION, RETRIABLE, STEP, Retry

CHANCE = st.floats(min_value=0, max_value=1, exclude_max=True)


def test_the_ceiling_doubles_until_the_cap() -> None:
    retry = Retry(first=0.1, factor=2.0, cap=1.0, within=None)
    most = [retry.delay(attempt, 0.0, 1.0) for attempt in range(1, 7)]
    assert most == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_chance_moves_the_wait_between_half_the_ceiling_and_all_of_it() -> None:
    retry = Retry(first=1.0, within=None)
    assert retry.delay(1, 0.0, 0.0) == pytest.approx(0.5)
    assert retry.delay(1, 0.0, 0.5) == pytest.approx(0.75)


def test_the_budget_is_time_and_counts_the_wait_that_would_come() -> None:
    retry = Retry(within=10.0, first=1.0, factor=1.0)
    assert retry.delay(1, 9.0, 0.99) is not None
    assert retry.delay(1, 9.6, 0.0) is None
    assert retry.delay(1000, 0.0, 0.0) is not None


def test_without_a_budget_it_never_stops() -> None:
    assert Retry(within=None).delay(10_000, 1e9, 0.5) is not None


def test_a_budget_of_nothing_means_one_attempt() -> None:
    assert Retry(within=0.0).delay(1, 0.0, 0.0) is None


@pytest.mark.parametrize("option", ["within", "first", "factor", "cap"])
@pytest.mark.parametrize(
    "given", ["5", -1, float("nan"), float("inf"), True, 10**400], ids=lambda one: f"{one!r:.9}"
)
def test_a_value_that_is_no_fitting_number_is_a_mistake(option: str, given: Any) -> None:
    with pytest.raises(DefinitionError, match=f"the option {option}= of a Retry is .*: give"):
        Retry(**{option: given})


@pytest.mark.parametrize(("option", "given"), [("first", 0), ("first", None), ("factor", 0.5), ("cap", 0.0)])
def test_a_pause_of_nothing_is_a_mistake(option: str, given: Any) -> None:
    with pytest.raises(DefinitionError, match=f"the option {option}= of a Retry is"):
        Retry(**{option: given})


@given(
    retry=st.builds(
        Retry,
        within=st.none() | st.floats(min_value=0, max_value=1e6),
        first=st.floats(min_value=0.001, max_value=100),
        factor=st.floats(min_value=1, max_value=1000),
        cap=st.floats(min_value=0.001, max_value=1000),
    ),
    attempt=st.integers(min_value=1, max_value=100_000),
    elapsed=st.floats(min_value=0, max_value=1e6),
    chance=CHANCE,
)
def test_a_wait_is_positive_at_most_the_cap_and_ends_within_the_budget(
    retry: Retry, attempt: int, elapsed: float, chance: float
) -> None:
    wait = retry.delay(attempt, elapsed, chance)
    if wait is None:
        assert retry.within is not None
        assert elapsed + min(retry.cap, retry.first * retry.factor ** min(attempt - 1, 62)) > retry.within
    else:
        assert 0 < wait <= retry.cap
        assert retry.within is None or elapsed + wait <= retry.within


@given(attempt=st.integers(min_value=1, max_value=60), chance=CHANCE)
def test_the_ceiling_never_falls_from_one_attempt_to_the_next(attempt: int, chance: float) -> None:
    retry = Retry(within=None)
    earlier, later = retry.delay(attempt, 0.0, chance), retry.delay(attempt + 1, 0.0, chance)
    assert earlier is not None
    assert later is not None
    assert later >= earlier


def test_compensations_are_more_patient_than_steps_and_all_budgets_are_finite() -> None:
    budgets = [retry.within for retry in (STEP, RETRIABLE, COMPENSATION)]
    assert None not in budgets
    assert budgets == sorted(budgets)  # type: ignore[type-var]
