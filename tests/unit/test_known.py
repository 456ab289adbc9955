"""What each fact changes of what is known of a saga, and what is certain then."""

from dataclasses import fields

import pytest

from polysaga.sagas.protocol.certainty import Answer, answer, is_too_late, is_undone_for_certain
from polysaga.sagas.protocol.known import (
    Begun,
    Born,
    Claimed,
    Did,
    Fact,
    Failed,
    FoundDecided,
    Interrupted,
    Known,
    Stuck,
    Surveyed,
    Undid,
    Written,
    apply,
)
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark, Status
from tests.unit.shapes import FAILURE, HOME, OUTSIDE, Planned, definition_of

RUNNING, COMPLETING, COMPENSATING = Status.RUNNING, Status.COMPLETING, Status.COMPENSATING
ACTIVE, DONE, BLOCKED, COMPENSATED, STUCK = (
    Mark.ACTIVE,
    Mark.DONE,
    Mark.BLOCKED,
    Mark.COMPENSATED,
    Mark.STUCK,
)
ORDER = definition_of(
    Planned("open"),
    Planned("charge", OUTSIDE),
    Planned("ship", "parcels", kind="pivot"),
    Planned("mail", "mails", kind="retriable"),
)
WHY = Reason(kind="failed", step="pay", message="it failed")
OPEN = {"open": DONE}


def after(known: Known, *facts: Fact) -> Known:
    for fact in facts:
        known = apply(ORDER, known, fact)
    return known


CASES: list[tuple[Known, Fact, Known]] = [
    (Known(RUNNING, OPEN), Begun(("charge",)), Known(RUNNING, {**OPEN, "charge": ACTIVE})),
    (Known(RUNNING, {}), Did("open", "1", RUNNING), Known(RUNNING, OPEN)),
    (Known(RUNNING, OPEN), Did("charge", "1"), Known(RUNNING, {**OPEN, "charge": DONE})),
    (Known(RUNNING, OPEN), Did("ship", "1", COMPLETING), Known(COMPLETING, {**OPEN, "ship": DONE})),
    (Known(COMPENSATING, {}), Undid("charge", BLOCKED), Known(COMPENSATING, {"charge": BLOCKED})),
    (
        Known(COMPENSATING, {"charge": BLOCKED}),
        Undid("open", COMPENSATED, Status.COMPENSATED),
        Known(Status.COMPENSATED, {"charge": BLOCKED, "open": COMPENSATED}),
    ),
    (Known(RUNNING, {**OPEN, "charge": ACTIVE}), Failed(FAILURE, "charge"), Known(RUNNING, OPEN, FAILURE)),
    (Known(RUNNING, {"open": ACTIVE}), Failed(FAILURE), Known(RUNNING, {"open": ACTIVE}, FAILURE)),
    (
        Known(COMPENSATING, {"open": ACTIVE}),
        Stuck("open", WHY),
        Known(COMPENSATING, {"open": STUCK}, trouble=WHY),
    ),
    (
        Known(RUNNING, {**OPEN, "charge": ACTIVE, "ship": STUCK}, FAILURE),
        Interrupted(),
        Known(RUNNING, OPEN, FAILURE),
    ),
    (Known(RUNNING, OPEN, FAILURE), Written(COMPENSATING, WHY), Known(COMPENSATING, {}, FAILURE, reason=WHY)),
    (
        Known(COMPENSATING, {"ship": DONE, "open": ACTIVE}, FAILURE, reason=WHY),
        Written(RUNNING),
        Known(RUNNING, {"ship": DONE}),
    ),
    (Known(COMPLETING, OPEN), Written(Status.COMPLETED), Known(Status.COMPLETED, OPEN)),
    (
        Known(COMPENSATING, {"open": STUCK}, FAILURE, reason=WHY),
        Written(Status.NEEDS_ATTENTION, WHY.parked_from(COMPENSATING, WHY)),
        Known(
            Status.NEEDS_ATTENTION,
            {"open": STUCK},
            FAILURE,
            reason=WHY.parked_from(COMPENSATING, WHY),
        ),
    ),
    (Known(RUNNING, {}), Born(RUNNING), Known(RUNNING, {})),
    (
        Known(RUNNING, {}, FAILURE),
        Born(Status.COMPENSATED, WHY),
        Known(Status.COMPENSATED, {}, FAILURE, reason=WHY),
    ),
    (Known(RUNNING, {}, FAILURE), Born(RUNNING, results={"open": "1"}), Known(RUNNING, OPEN)),
    (
        Known(RUNNING, OPEN, FAILURE, reason=WHY),
        FoundDecided(COMPLETING, {"ship": "1"}),
        Known(COMPLETING, {**OPEN, "ship": DONE}),
    ),
    (Known(RUNNING, OPEN), Claimed(COMPENSATING, WHY, True), Known(COMPENSATING, {}, None, True, WHY)),
]


@pytest.mark.parametrize(
    ("before", "fact", "expected"), CASES, ids=lambda one: None if isinstance(one, Known) else type(one).__name__
)
def test_a_fact_changes_this_and_nothing_else(before: Known, fact: Fact, expected: Known) -> None:
    marks = dict(before.marks)
    assert apply(ORDER, before, fact) == expected
    assert before.marks == marks, "what was known before is left as it was"


# What else a fact may change, beside the status and the marks.
FORGETS: dict[type[Fact], set[str]] = {
    Born: {"failure", "reason", "trouble"},
    Claimed: {"failure", "born_alone", "reason", "trouble"},
    FoundDecided: {"failure", "reason", "trouble"},
    Stuck: {"trouble"},
    Written: {"failure", "reason", "trouble"},
}


@pytest.mark.parametrize(
    ("before", "fact"),
    [(before, fact) for before, fact, _ in CASES],
    ids=lambda one: None if isinstance(one, Known) else type(one).__name__,
)
def test_a_fact_forgets_nothing_of_what_was_known(before: Known, fact: Fact) -> None:
    full = Known(before.status, before.marks, FAILURE, True, WHY, Reason(message="it is stuck"))
    found = apply(ORDER, full, fact)
    for name in {field.name for field in fields(Known)} - {"status", "marks"} - FORGETS.get(type(fact), set()):
        assert getattr(found, name) == getattr(full, name), name


@pytest.mark.parametrize("status", [COMPENSATING, Status.COMPLETED, Status.NEEDS_ATTENTION])
def test_a_write_forgets_the_failure_only_if_the_saga_goes_forward(status: Status) -> None:
    full = Known(RUNNING, OPEN, FAILURE, True, WHY, Reason(message="it is stuck"))
    found = after(full, Written(status, WHY))
    assert (found.failure, found.born_alone, found.reason, found.trouble) == (FAILURE, True, WHY, full.trouble)


def test_a_step_stuck_without_trouble_leaves_the_trouble_of_another() -> None:
    full = Known(COMPENSATING, {}, trouble=WHY)
    assert after(full, Stuck("open")).trouble is WHY


def test_the_first_failure_stays_the_reason() -> None:
    later = Failed(type(FAILURE)(FAILURE.verdict, "ship", RuntimeError("later")), "ship")
    assert after(Known(RUNNING, {}), Failed(FAILURE, "charge"), later).failure is FAILURE


FOUND = {
    "open": LedgerRow(DONE, "1"),
    "charge": LedgerRow(BLOCKED, None),
    "ship": LedgerRow(BLOCKED, None),
    "mail": LedgerRow(COMPENSATED, "1"),
}


def test_a_survey_marks_what_it_found() -> None:
    going = after(Known(RUNNING, {}), Surveyed(FOUND))
    assert going.marks == {"open": DONE, "charge": BLOCKED, "ship": BLOCKED, "mail": COMPENSATED}


def test_a_survey_of_what_is_being_undone_leaves_what_is_still_to_be_undone() -> None:
    """A call whose record is blocked may have happened all the same."""
    undoing = after(Known(COMPENSATING, {}), Surveyed(FOUND))
    assert undoing.marks == {"ship": BLOCKED, "mail": COMPENSATED}


def test_a_step_that_a_person_undid_by_hand_is_not_undone_again() -> None:
    by_hand = Known(COMPENSATING, {}, reason=Reason(undone_by_hand=("open",)))
    assert after(by_hand, Surveyed({"open": LedgerRow(DONE, "1")})).marks == {"open": COMPENSATED}


@pytest.mark.parametrize(
    ("known", "expected", "late", "undone"),
    [
        (Known(RUNNING, OPEN), None, False, False),
        (Known(RUNNING, {"ship": DONE}), Answer.COMPLETED, True, False),
        (Known(COMPLETING, {"ship": DONE}), Answer.COMPLETED, True, False),
        (Known(COMPLETING, {}), None, True, False),
        (Known(Status.COMPLETED, {}), Answer.COMPLETED, True, False),
        (Known(COMPENSATING, {}), None, False, False),
        (Known(COMPENSATING, {"ship": ACTIVE}), None, False, False),
        (Known(COMPENSATING, {"ship": STUCK}), None, False, False),
        (Known(COMPENSATING, {"ship": BLOCKED}), None, False, True),
        (Known(COMPENSATING, {"ship": DONE}), None, True, False),
        (Known(Status.COMPENSATED, {}), Answer.UNDONE, False, True),
        (Known(Status.NEEDS_ATTENTION, {"ship": DONE}), Answer.PARKED, True, False),
    ],
)
def test_callers_are_told_what_cannot_change_any_more(
    known: Known, expected: Answer | None, late: bool, undone: bool
) -> None:
    assert answer(ORDER, known) is expected
    assert is_too_late(ORDER, known) is late
    assert is_undone_for_certain(ORDER, known, home=HOME) is undone


def test_a_pivot_beside_the_journal_cannot_commit_once_the_journal_says_so() -> None:
    at_home = definition_of(Planned("open"), Planned("pay", HOME, kind="pivot"))
    assert is_undone_for_certain(at_home, Known(COMPENSATING, {}), home=HOME)
    without = definition_of(Planned("reserve", "inventory", ()), Planned("credit", "points", ()))
    assert is_undone_for_certain(without, Known(COMPENSATING, {}), home=HOME)
