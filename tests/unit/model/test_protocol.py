"""The protocol as built, searched exhaustively: several owners of one saga, driven by the real `decide`.

Every interleaving of: takeovers at any moment, also from an owner that lives; owners that stop for good or wake up
late; refusals; commits whose reply was lost and which land at any later time or never. `docs/explanation/model.md`
tells what else may befall a saga and what is left out, `world.py` what must hold in every state.
"""

from collections.abc import Sequence

import pytest

from tests.unit.model.sagas import (
    CALL_BEFORE_A_LEDGER_PIVOT,
    CALL_BESIDE_A_STEP,
    CALLS_AROUND_A_PIVOT_AT_HOME,
    HOME_PIVOT,
    LAST_AT_HOME,
    LAST_STEP_DECIDES,
    LAST_STEP_DECIDES_ELSEWHERE,
    PIVOT_ELSEWHERE,
    SAGAS,
    SMALL,
    TWO_CALLS,
)
from tests.unit.model.search import Found, search
from tests.unit.model.world import USURPER
from tests.unit.shapes import LEDGER_PIVOT, PLACE_ORDER, Planned

NAMES = {shape: name for name, shape in SAGAS.items()}
BEFALLS: Sequence[tuple[tuple[str, ...], tuple[tuple[Planned, ...], ...]]] = [
    (("cancel",), (*SMALL, CALL_BEFORE_A_LEDGER_PIVOT)),
    (("impatience",), (*SMALL, CALL_BEFORE_A_LEDGER_PIVOT)),
    (("lost replies",), (*SMALL, CALL_BEFORE_A_LEDGER_PIVOT)),
    (("impatience", "person"), (*SMALL, CALLS_AROUND_A_PIVOT_AT_HOME)),
    (("starts",), SMALL),
    (("born alone",), (LAST_STEP_DECIDES, LAST_AT_HOME, CALLS_AROUND_A_PIVOT_AT_HOME)),
    (("retention",), (*SMALL, LAST_AT_HOME)),
    (("failover",), (PIVOT_ELSEWHERE,)),
    (("cancel", "lost replies", "impatience"), (LAST_STEP_DECIDES_ELSEWHERE,)),
]


def searched(shape: tuple[Planned, ...], powers: tuple[str, ...] = ()) -> Found:
    """Search with three claims and one commit on its way, or less where that would be most of all states."""
    wide = shape in {TWO_CALLS, CALL_BESIDE_A_STEP} or "failover" in powers
    return search(shape, powers, claims=2 if shape == TWO_CALLS else 3, late=0 if wide else 1)


@pytest.mark.parametrize("shape", SAGAS.values(), ids=SAGAS)
def test_no_interleaving_of_three_owners_and_a_late_commit_breaks_a_promise(shape: tuple[Planned, ...]) -> None:
    found = searched(shape)
    assert (found.wrong, found.path) == (None, ())
    assert found.states > 400


@pytest.mark.parametrize(
    ("powers", "shape"),
    [(powers, shape) for powers, shapes in BEFALLS for shape in shapes],
    ids=[f"{' and '.join(powers)}: {NAMES[shape]}" for powers, shapes in BEFALLS for shape in shapes],
)
def test_nothing_that_may_befall_a_saga_breaks_a_promise(
    powers: tuple[str, ...], shape: tuple[Planned, ...]
) -> None:
    found = searched(shape, powers)
    assert (found.wrong, found.path) == (None, ())
    assert found.states > 400


@pytest.mark.parametrize("shape", [CALL_BEFORE_A_LEDGER_PIVOT, CALLS_AROUND_A_PIVOT_AT_HOME])
def test_no_call_stands_for_a_moment_after_its_saga_was_undone_if_the_outside_remembers_undone_keys(
    shape: tuple[Planned, ...],
) -> None:
    found = search(shape, forgetful=False)
    assert (found.wrong, found.path) == (None, ())


@pytest.mark.parametrize("shape", [LAST_STEP_DECIDES, LAST_STEP_DECIDES_ELSEWHERE])
def test_the_ledger_and_the_status_carry_the_effects_also_without_the_claim(shape: tuple[Planned, ...]) -> None:
    """The claim tells an old owner to stop; the effects are right without it, at the price of more work."""
    found = search(shape, planted="the claim is not checked", ignoring=USURPER)
    assert (found.wrong, found.path) == (None, ())


def test_the_search_is_not_empty() -> None:
    searches = [searched(shape) for shape in SAGAS.values()]
    searches += [searched(shape, powers) for powers, shapes in BEFALLS for shape in shapes]
    states = sum(found.states for found in searches)
    assert states > 100_000


def test_the_search_reaches_the_rare_moves() -> None:
    assert {
        "1 forward running",
        "2 blocks ship",
        "late do ship by 1 lands",
        "1 is too late for credit",
        "3 finish compensated",
        "3 finish completed",
    } <= searched(LEDGER_PIVOT).seen


def test_the_search_reaches_both_ends_of_the_fused_shapes() -> None:
    seen = searched(PLACE_ORDER).seen
    assert {"2 does confirm_order", "late pivot confirm_order by 1 lands", "1 finds confirm_order"} <= seen
    assert {"2 undo first compensated", "2 finish completed", "1 cancels"} <= seen
    assert {"1 does write", "late last write by 1 lands"} <= searched(LAST_AT_HOME).seen


def test_the_search_reaches_calls_in_vain() -> None:
    seen = searched(CALL_BEFORE_A_LEDGER_PIVOT).seen
    in_vain = {"1 undoes its own call of charge", "1 cannot record charge"}
    assert {*in_vain, "2 records charge", "1 finds charge", "1 gives up charge"} <= seen
    assert "2 undoes charge" in searched(CALL_BESIDE_A_STEP).seen


def test_the_search_reaches_what_may_befall_a_saga() -> None:
    assert "2 cancels for a stranger" in searched(HOME_PIVOT, ("cancel",)).seen
    assert {"1 postpone", "1 park", "1 cannot undo reserve"} <= searched(HOME_PIVOT, ("impatience",)).seen
    assert "late compensate of the journal by 1 lands" in searched(HOME_PIVOT, ("lost replies",)).seen
    assert {
        "a person retries",
        "a person compensates",
        "a person claims to skip note",
        "a person claims to skip reserve",
        "a person claims to undo",
        "a person claims to complete",
        "a person has it resolve completed",
        "a person has it resolve compensated",
    } <= searched(HOME_PIVOT, ("impatience", "person")).seen
    assert "a person is told that reserve has happened" in searched(HOME_PIVOT, ("impatience", "person")).seen
    assert "a person is too late: ship is done" in searched(PIVOT_ELSEWHERE, ("impatience", "person")).seen
    starts = searched(HOME_PIVOT, ("starts",)).seen
    assert {"2 joins", "1 finds its start", "1 is born refused", "2 gives up the start"} <= starts
    assert "1 does open" in searched(LAST_STEP_DECIDES, ("born alone",)).seen
    assert "1 finds that it has decided" in searched(HOME_PIVOT, ("cancel",)).seen
    assert "the journal row is removed" in searched(HOME_PIVOT, ("retention",)).seen
    assert "falls back to running" in searched(PIVOT_ELSEWHERE, ("failover",)).seen
