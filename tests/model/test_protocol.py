"""The protocol as built, searched exhaustively: several owners of one saga, driven by the real `decide`.

Every interleaving of: takeovers at any moment, also from an owner that lives; owners that stop for good or wake up
late; refusals; commits whose reply was lost and which land at any later time or never. `docs/explanation/model.md`
tells what else may befall a saga and what is left out, `world.py` what must hold in every state.
"""

from collections.abc import Sequence

import pytest

from tests.model.sagas import (
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
from tests.model.search import Found, search
from tests.model.world import USURPER
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


# How many states each search visits at least: one that finds less has lost a part of the protocol.
STATES = {
    "first step and pivot at home, branches": 11_000,
    "first step and pivot at home": 1_100,
    "no step at home": 5_000,
    "pivot elsewhere": 2_200,
    "several last steps": 8_500,
    "several last steps, one at home": 9_500,
    "retriable last step at home": 2_000,
    "two first steps": 15_000,
    "last step decides, at home": 800,
    "last step decides, elsewhere": 450,
    "call before a ledger pivot": 1_900,
    "calls around a pivot at home": 1_600,
    "call beside a step": 14_000,
    "two calls": 1_700,
}
# Moves that are rare, and must be reached.
RARE: dict[tuple[tuple[str, ...], tuple[Planned, ...]], set[str]] = {
    ((), LEDGER_PIVOT): {
        "1 forward running",
        "2 blocks ship",
        "late do ship by 1 lands",
        "1 is too late for credit",
        "3 finish compensated",
        "3 finish completed",
    },
    ((), PLACE_ORDER): {
        "2 does confirm_order",
        "late pivot confirm_order by 1 lands",
        "1 finds confirm_order",
        "2 undo first compensated",
        "2 finish completed",
        "1 cancels",
    },
    ((), LAST_AT_HOME): {"1 does write", "late last write by 1 lands"},
    ((), CALL_BEFORE_A_LEDGER_PIVOT): {
        "1 undoes its own call of charge",
        "1 cannot record charge",
        "2 records charge",
        "1 finds charge",
        "1 gives up charge",
    },
    ((), CALL_BESIDE_A_STEP): {"2 undoes charge"},
    (("cancel",), HOME_PIVOT): {"2 cancels for a stranger", "1 finds that it has decided"},
    (("impatience",), HOME_PIVOT): {"1 postpone", "1 park", "1 cannot undo reserve"},
    (("lost replies",), HOME_PIVOT): {"late compensate of the journal by 1 lands"},
    (("impatience", "person"), HOME_PIVOT): {
        "a person retries",
        "a person compensates",
        "a person claims to skip note",
        "a person claims to skip reserve",
        "a person claims to undo",
        "a person claims to complete",
        "a person has it resolve completed",
        "a person has it resolve compensated",
        "a person learns that reserve has happened",
    },
    (("impatience", "person"), PIVOT_ELSEWHERE): {"a person is too late: ship is done"},
    (("starts",), HOME_PIVOT): {"2 joins", "1 finds its start", "1 is born refused", "2 gives up the start"},
    (("born alone",), LAST_STEP_DECIDES): {"1 does open"},
    (("retention",), HOME_PIVOT): {"the journal row is removed"},
    (("failover",), PIVOT_ELSEWHERE): {"falls back to running"},
}


def searched(shape: tuple[Planned, ...], powers: tuple[str, ...] = ()) -> Found:
    """Search with three claims and one commit on its way, or less where that would be most of all states."""
    wide = shape in {TWO_CALLS, CALL_BESIDE_A_STEP} or "failover" in powers
    return search(shape, powers, claims=2 if shape == TWO_CALLS else 3, late=0 if wide else 1)


@pytest.mark.parametrize("shape", SAGAS.values(), ids=SAGAS)
def test_no_interleaving_of_three_owners_and_a_late_commit_breaks_a_promise(shape: tuple[Planned, ...]) -> None:
    found = searched(shape)
    assert (found.wrong, found.path) == (None, ())
    assert found.states >= STATES[NAMES[shape]]
    assert RARE.get(((), shape), set()) - found.seen == set()


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
    assert found.states >= STATES[NAMES[shape]]
    assert RARE.get((powers, shape), set()) - found.seen == set()


def test_every_search_with_rare_moves_is_made() -> None:
    made = {((), shape) for shape in SAGAS.values()}
    made |= {(powers, shape) for powers, shapes in BEFALLS for shape in shapes}
    assert set(RARE) - made == set()


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
