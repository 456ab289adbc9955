"""The sagas that are searched: every way in which steps lie in the journal's database, elsewhere or in none."""

from tests.unit.shapes import HOME, LEDGER_PIVOT, OUTSIDE, PLACE_ORDER, SEVERAL_LEAVES, Planned

HOME_PIVOT = (
    Planned("open"),
    Planned("reserve", "inventory"),
    Planned("confirm", kind="pivot"),
    Planned("note", "points", kind="retriable"),
)
PIVOT_ELSEWHERE = (
    Planned("reserve", "inventory"),
    Planned("ship", "inventory", kind="pivot"),
    Planned("announce", "points", kind="retriable"),
)
LAST_AT_HOME = (
    Planned("reserve", "inventory", ()),
    Planned("write", HOME, ()),
)
LAST_RETRIABLE_AT_HOME = (
    Planned("reserve", "inventory"),
    Planned("ship", "inventory", kind="pivot"),
    Planned("note", kind="retriable"),
)
TWO_ROOTS = (
    Planned("reserve", "inventory", ()),
    Planned("credit", "points", ()),
    Planned("ship", "parcels", ("reserve", "credit"), "pivot"),
    Planned("announce", HOME, kind="retriable"),
)
LAST_STEP_DECIDES = (Planned("open"), Planned("reserve", "inventory"), Planned("confirm"))
LAST_STEP_DECIDES_ELSEWHERE = (Planned("open"), Planned("reserve", "inventory"))
CALL_BEFORE_A_LEDGER_PIVOT = (Planned("charge", OUTSIDE), Planned("ship", "inventory", kind="pivot"))
CALLS_AROUND_A_PIVOT_AT_HOME = (
    Planned("open"),
    Planned("charge", OUTSIDE),
    Planned("confirm", kind="pivot"),
    Planned("mail", OUTSIDE, kind="retriable"),
)
CALL_BESIDE_A_STEP = (
    Planned("reserve", "inventory", ()),
    Planned("charge", OUTSIDE, ()),
    Planned("ship", "parcels", ("reserve", "charge"), "pivot"),
)
TWO_CALLS = (Planned("charge", OUTSIDE, ()), Planned("insure", OUTSIDE, ()))

SAGAS = {
    "first step and pivot at home, branches": PLACE_ORDER,
    "first step and pivot at home": HOME_PIVOT,
    "no step at home": LEDGER_PIVOT,
    "pivot elsewhere": PIVOT_ELSEWHERE,
    "several last steps": SEVERAL_LEAVES,
    "several last steps, one at home": LAST_AT_HOME,
    "retriable last step at home": LAST_RETRIABLE_AT_HOME,
    "two first steps": TWO_ROOTS,
    "last step decides, at home": LAST_STEP_DECIDES,
    "last step decides, elsewhere": LAST_STEP_DECIDES_ELSEWHERE,
    "call before a ledger pivot": CALL_BEFORE_A_LEDGER_PIVOT,
    "calls around a pivot at home": CALLS_AROUND_A_PIVOT_AT_HOME,
    "call beside a step": CALL_BESIDE_A_STEP,
    "two calls": TWO_CALLS,
}
# For the searches in which more may happen.
SMALL = (HOME_PIVOT, PIVOT_ELSEWHERE, LAST_RETRIABLE_AT_HOME, LAST_STEP_DECIDES, LAST_STEP_DECIDES_ELSEWHERE)
