"""Tests that are not run for now, each group with the reason: what they prove is not promised yet.

A line is taken out together with its reason. Whoever works on one runs it with `pytest --unsettled`.
"""

import re

UNSETTLED: dict[str, tuple[str, ...]] = {
    "the guide's own saga takes the kit longer than it waits when a cancelled owner stands still": (
        r"test_crash_kit_guide\.py::test_the_example_holds",
    ),
    "once in two full runs its second owner waited in vain for a document of the first": (
        r"test_calls\.py::test_an_owner_that_lost_its_claim_while_it_called_undoes_its_own_call\[servers\]",
    ),
    "once in two full runs it did not end": (
        r"test_migrations\.py::test_sagas_open_and_run_on_migrated_tables\[mariadb\]",
    ),
}


def reason_for(test: str) -> str | None:
    """Return why *test* is not run."""
    for reason, patterns in UNSETTLED.items():
        if any(re.search(pattern, test) for pattern in patterns):
            return reason
    return None
