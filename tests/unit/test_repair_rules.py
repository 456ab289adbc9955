"""Which steps a person can skip, by what their ledger says."""

import pytest

from polysaga.sagas.protocol.repair_rules import refusal_of_skip
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark, Status

RUNNING, COMPLETING, COMPENSATING = Status.RUNNING, Status.COMPLETING, Status.COMPENSATING
GIVEN = '{"given": 1}'  # the result that the person gives
SAME, OTHER = LedgerRow(Mark.DONE, GIVEN), LedgerRow(Mark.DONE, '{"other": 1}')
BLOCKED, COMPENSATED = LedgerRow(Mark.BLOCKED, None), LedgerRow(Mark.COMPENSATED, GIVEN)

DONE_ALREADY, UNDONE_ALREADY = "is done already", "is undone already"
TOO_LATE_HERE = "is undone already; compensate the saga"
TOO_LATE_DECIDED = "is undone already; resolve it as completed"


@pytest.mark.parametrize("is_call", [False, True], ids=["step", "call"])
@pytest.mark.parametrize(
    ("going", "found", "first", "repeated"),
    [
        (RUNNING, None, None, None),
        (RUNNING, SAME, DONE_ALREADY, None),
        (RUNNING, OTHER, DONE_ALREADY, DONE_ALREADY),
        (RUNNING, BLOCKED, TOO_LATE_HERE, TOO_LATE_HERE),
        (RUNNING, COMPENSATED, TOO_LATE_HERE, TOO_LATE_HERE),
        (COMPLETING, None, None, None),
        (COMPLETING, SAME, DONE_ALREADY, None),
        (COMPLETING, OTHER, DONE_ALREADY, DONE_ALREADY),
        (COMPLETING, BLOCKED, TOO_LATE_DECIDED, TOO_LATE_DECIDED),
        (COMPLETING, COMPENSATED, TOO_LATE_DECIDED, TOO_LATE_DECIDED),
        (COMPENSATING, None, None, None),
        (COMPENSATING, SAME, None, None),
        (COMPENSATING, COMPENSATED, UNDONE_ALREADY, None),
    ],
)
def test_a_skip_is_refused_by_what_the_ledger_has_and_once_broken_off_not_by_its_own_row(
    going: Status, found: LedgerRow | None, first: str | None, repeated: str | None, *, is_call: bool
) -> None:
    for is_repeated, expected in ((False, first), (True, repeated)):
        refusal = refusal_of_skip(found, going, is_call=is_call, is_repeated=is_repeated, result=lambda: GIVEN)
        assert refusal == expected


@pytest.mark.parametrize(
    ("is_call", "is_repeated", "expected"),
    [(False, False, UNDONE_ALREADY), (False, True, None), (True, False, None), (True, True, None)],
)
def test_going_back_a_blocked_step_never_happened_and_a_blocked_call_may_have(
    expected: str | None, *, is_call: bool, is_repeated: bool
) -> None:
    refusal = refusal_of_skip(
        BLOCKED, COMPENSATING, is_call=is_call, is_repeated=is_repeated, result=lambda: GIVEN
    )
    assert refusal == expected


@pytest.mark.parametrize(
    ("going", "found", "is_repeated"),
    [
        (RUNNING, None, True),
        (RUNNING, SAME, False),
        (RUNNING, BLOCKED, True),
        (COMPENSATING, SAME, True),
        (COMPENSATING, COMPENSATED, True),
    ],
)
def test_the_result_is_asked_for_only_if_it_decides(
    going: Status, found: LedgerRow | None, *, is_repeated: bool
) -> None:
    """The page of a saga looks which steps can be skipped before a person has given any result."""

    def missing() -> str:
        raise AssertionError("no result was given")

    refusal_of_skip(found, going, is_call=False, is_repeated=is_repeated, result=missing)
