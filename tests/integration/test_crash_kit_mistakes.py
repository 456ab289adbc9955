"""Mistakes of users that the crash kit finds, on SQLite, and what it says about them."""

from typing import Any

import pytest

from polysaga.testing import PromiseBroken
from tests.fixtures.trips import agency


@pytest.fixture(autouse=True)
def one_story_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polysaga.testing.kit._MOST_TOLD", 1)


def broken(crash_kit: Any, mistake: str, **options: Any) -> PromiseBroken:
    found = agency(mistake)
    with pytest.raises(PromiseBroken) as told:
        crash_kit(found.sagas, setup=found.setup, **options).prove(
            found.book_trip, found.a_trip, invariant=found.books_add_up
        )
    return told.value


def test_a_session_of_the_steps_own_is_named_in_the_story(crash_kit: Any) -> None:
    told = str(broken(crash_kit, "own-session-in-step"))
    assert "reserve_hotel opens a session of its own on hotels, beside the one that it was given" in told
    assert "the invariant does not hold" in told


def test_a_session_of_a_compensations_own_waits_for_itself_on_sqlite(crash_kit: Any) -> None:
    told = str(broken(crash_kit, "own-session-in-undo"))
    assert "undo reserve_hotel opens a session of its own on hotels, beside the one that it was given" in told
    assert (
        "the saga is parked: sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database is locked"
        in told
    )
    assert "=> the saga does not come to rest: it is needs_attention" in told
