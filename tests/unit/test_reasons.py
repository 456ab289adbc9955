"""Why a saga is undone or parked: what the journal keeps of it is read back as it was."""

import json
from datetime import UTC, datetime

import pytest

from polysaga.sagas import Attempt, Parking, Reason, Resolution, Status, Tenure
from polysaga.sagas.protocol.reasons import attempts_in, decoded_history, encoded_history, tenures_in

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


def test_a_history_is_read_back_with_its_owners_in_order() -> None:
    history = [
        Tenure(1, 0.0, "web-1:4121"),
        Attempt("book", "do", 1, 0.5, 2.0, "lock-timeout", "Lock wait timeout exceeded"),
        Tenure(2, 30_012.5, "web-2:77"),
        Attempt("book", "do", 1, 30_020.0, 2.0, "done"),
    ]

    text = encoded_history(history)

    assert decoded_history(text) == history
    assert tenures_in(decoded_history(text)) == (history[0], history[2])
    assert attempts_in(decoded_history(text)) == (history[1], history[3])
    assert text.count("said") == 1, "what is not there takes no room in the journal"


def test_since_when_a_saga_is_parked_is_read_back() -> None:
    at = datetime(2026, 11, 29, 14, 32, 7, 250_000, tzinfo=UTC)
    parked = Reason(kind="refused").parked_from(Status.COMPENSATING, Reason(kind="failed", message="no"), at)

    found = Reason.decoded(parked.encoded())

    assert found == parked
    assert found is not None
    assert found.parked is not None
    assert found.parked.at == at
