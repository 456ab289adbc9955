"""Why a saga is undone or parked: what the journal keeps of it is read back as it was."""

import json

import pytest

from polysaga.sagas import Attempt, Parking, Reason, Resolution, Status

TROUBLE = Reason(kind="failed", step="refund", message="no account", traceback="Traceback ...")
REFUSAL = Reason(kind="refused", step="reserve", message="no lantern left", code="sold-out", facts={"left": 0})
REASONS = [
    Reason(),
    REFUSAL,
    Reason(kind="cancelled", message="out of patience"),
    REFUSAL.parked_from(Status.COMPENSATING, TROUBLE),
    Reason().parked_from(Status.COMPLETING, Reason(message="10 owners in a row lost their claim")),
    Reason(resolved=Resolution("ada", "paid by hand"), undone_by_hand=("open_order",)),
    Reason(kind="failed", message="half of a pair: \ud800"),
]


@pytest.mark.parametrize("reason", REASONS)
def test_what_the_journal_keeps_is_read_back(reason: Reason) -> None:
    assert Reason.from_json(json.loads(json.dumps(reason.to_json()))) == reason


def test_what_is_missing_is_left_out() -> None:
    assert Reason().to_json() == {}
    assert REFUSAL.to_json() == {
        "kind": "refused",
        "step": "reserve",
        "message": "no lantern left",
        "code": "sold-out",
        "facts": {"left": 0},
    }


def test_a_parked_saga_keeps_what_it_is_undone_for_beside_what_it_is_parked_for() -> None:
    parked = REFUSAL.parked_from(Status.COMPENSATING, TROUBLE)
    assert (parked.message, parked.code) == ("no lantern left", "sold-out")
    assert parked.parked == Parking(
        status=Status.COMPENSATING,
        kind="failed",
        step="refund",
        message="no account",
        traceback="Traceback ...",
    )
    assert parked.to_json()["parked"]["from"] == "compensating"
    before = Reason(resolved=Resolution("ada", "paid by hand"), undone_by_hand=("open_order",))
    after = before.parked_from(Status.COMPLETING, TROUBLE)
    assert (after.resolved, after.undone_by_hand) == (before.resolved, before.undone_by_hand)


def test_words_of_another_version_are_left_alone() -> None:
    assert Reason.from_json({"message": "no", "mood": "bad"}) == Reason(message="no")


def test_an_attempt_is_read_back() -> None:
    kept = {"step": "book", "phase": "do", "attempt": 2, "at_ms": 0.5, "ms": 2.0, "outcome": "done"}
    assert Attempt.from_json(kept) == Attempt("book", "do", 2, 0.5, 2.0, "done")
    assert Attempt.from_json({"step": "book", "mood": "bad"}) == Attempt("book", "do", 1, 0.0, 0.0, "?")
