"""Mistakes that the search must find, each with the promise that it breaks.

Every other pair of a mistake and a saga may be harmless, because something else carries the promise.
"""

from typing import NamedTuple

import pytest

from tests.model.sagas import (
    CALL_BEFORE_A_LEDGER_PIVOT,
    CALLS_AROUND_A_PIVOT_AT_HOME,
    HOME_PIVOT,
    LAST_AT_HOME,
    LAST_RETRIABLE_AT_HOME,
    LAST_STEP_DECIDES,
    LAST_STEP_DECIDES_ELSEWHERE,
    PIVOT_ELSEWHERE,
)
from tests.model.search import search
from tests.model.world import USURPER
from tests.unit.shapes import LEDGER_PIVOT, SEVERAL_LEAVES, Planned

TWICE = "an effect happened twice or was undone twice"
MISSING = "completed with a missing effect"
LEFT = "compensated with an effect left"
UNDONE = "a caller was told 'completed' and the saga was undone"
STRANDED = "no fresh owner can finish"
ORDER = "an effect stands without one that it follows"
KNOWN_STILL = "the saga is gone and a ledger still knows it"


class Mistake(NamedTuple):
    """What is planted where, and what comes of it."""

    planted: str
    shape: tuple[Planned, ...]
    broken: str
    powers: tuple[str, ...] = ()
    ignoring: str = ""


MISTAKES = [
    *(
        Mistake("the ledger row in a transaction of its own", shape, TWICE)
        for shape in (HOME_PIVOT, PIVOT_ELSEWHERE, LAST_STEP_DECIDES_ELSEWHERE)
    ),
    Mistake("the pivot is not blocked", PIVOT_ELSEWHERE, UNDONE),
    Mistake("the pivot is not blocked", LAST_STEP_DECIDES_ELSEWHERE, UNDONE),
    Mistake("pivot blocked last", PIVOT_ELSEWHERE, STRANDED),
    Mistake("pivot blocked last", LAST_RETRIABLE_AT_HOME, STRANDED),
    Mistake("the claim is not checked", HOME_PIVOT, USURPER),
    Mistake("the claim is not checked", PIVOT_ELSEWHERE, USURPER),
    Mistake("the owner is not checked", HOME_PIVOT, USURPER, ("starts",)),
    Mistake("the owner is not checked", PIVOT_ELSEWHERE, USURPER, ("failover",)),
    *(
        Mistake("finish before the last step", shape, MISSING)
        for shape in (
            PIVOT_ELSEWHERE,
            LAST_STEP_DECIDES,
            LAST_STEP_DECIDES_ELSEWHERE,
            SEVERAL_LEAVES,
            LAST_AT_HOME,
        )
    ),
    Mistake("cancel without a claim", HOME_PIVOT, USURPER, ("cancel",)),
    Mistake("cancel does not ask for the status", HOME_PIVOT, UNDONE, ("cancel",)),
    Mistake("cancel ends what has no row", HOME_PIVOT, LEFT, ("cancel",)),
    Mistake("cancel ends what has no row", PIVOT_ELSEWHERE, LEFT, ("cancel",)),
    Mistake("cancel is confirmed before the pivot is blocked", PIVOT_ELSEWHERE, UNDONE, ("cancel",)),
    Mistake("cancel is confirmed before the pivot is blocked", LAST_STEP_DECIDES_ELSEWHERE, UNDONE, ("cancel",)),
    Mistake("a skip writes no ledger row", HOME_PIVOT, TWICE, ("impatience", "person")),
    Mistake("a skip writes no ledger row", PIVOT_ELSEWHERE, TWICE, ("impatience", "person")),
    Mistake("a person's word covers what no person has seen", HOME_PIVOT, LEFT, ("impatience", "person")),
    Mistake("a person's word covers what no person has seen", PIVOT_ELSEWHERE, LEFT, ("impatience", "person")),
    Mistake("what is half resolved is put aside", HOME_PIVOT, STRANDED, ("impatience", "person")),
    Mistake("what is half resolved is put aside", PIVOT_ELSEWHERE, STRANDED, ("impatience", "person")),
    Mistake("a skip does not block the pivot", PIVOT_ELSEWHERE, STRANDED, ("impatience", "person")),
    *(
        Mistake("no row for what never ran", shape, LEFT)
        for shape in (HOME_PIVOT, PIVOT_ELSEWHERE, LAST_STEP_DECIDES)
    ),
    *(
        Mistake(
            "absence of the start is taken for not started",
            shape,
            "a caller was told that its saga was not started, and it was",
            ("starts",),
        )
        for shape in (HOME_PIVOT, PIVOT_ELSEWHERE)
    ),
    *(
        Mistake(
            "a result is used before it is recorded",
            shape,
            "a step has used the result of a call that is not recorded",
        )
        for shape in (CALLS_AROUND_A_PIVOT_AT_HOME, CALL_BEFORE_A_LEDGER_PIVOT)
    ),
    Mistake("undone in the order of doing", LEDGER_PIVOT, ORDER),
    Mistake("a late action reports success", PIVOT_ELSEWHERE, UNDONE),
    Mistake("a late action reports success", LAST_STEP_DECIDES_ELSEWHERE, UNDONE),
    Mistake("a late action overwrites what is there", HOME_PIVOT, LEFT),
    Mistake("a late action overwrites what is there", PIVOT_ELSEWHERE, UNDONE),
    Mistake("the first step is undone unconditionally", HOME_PIVOT, TWICE, ignoring=USURPER),
    Mistake("the pivot does not ask the journal", HOME_PIVOT, TWICE, ignoring=USURPER),
    Mistake("the pivot does not ask the journal", LAST_STEP_DECIDES, TWICE, ignoring=USURPER),
    Mistake("the status is not checked", HOME_PIVOT, TWICE),
    Mistake("the finish asks for nothing", SEVERAL_LEAVES, UNDONE, ignoring=USURPER),
    Mistake("actions have no fence", PIVOT_ELSEWHERE, TWICE, ("retention",)),
    Mistake("compensations have no fence", PIVOT_ELSEWHERE, KNOWN_STILL, ("retention",)),
    Mistake("compensations have no fence", HOME_PIVOT, KNOWN_STILL, ("retention",)),
    Mistake("retention does not wait for the fence", PIVOT_ELSEWHERE, TWICE, ("retention",)),
    Mistake("the journal row goes before the ledgers", HOME_PIVOT, KNOWN_STILL, ("retention",)),
    *(
        Mistake(planted, CALL_BEFORE_A_LEDGER_PIVOT, LEFT)
        for planted in (
            "a late call stays",
            "an unrecorded call is not undone",
            "a blocked call counts as undone",
            "a call is undone before it is blocked",
        )
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.planted)
def test_a_planted_mistake_is_found(mistake: Mistake) -> None:
    found = search(mistake.shape, mistake.powers, planted=mistake.planted, ignoring=mistake.ignoring)
    assert found.wrong == mistake.broken, f"{found.states} states; {found.path}"
