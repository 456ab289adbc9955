"""Promises that are not kept yet: each test runs, is expected to fail, and fails the suite once it passes.

A line is taken out together with its hole.
"""

import re

_PG = "postgres-(asyncpg|psycopg)"

HOLES = {
    "a commit through the connection, the session's transaction or a block of the step's own is carried out": (
        r"ends_its_transaction_fails_and_leaves\w*\[.*-(connection|transaction)_commit\]",
        r"ends_its_transaction_and_hides\w*\[",
        r"begins_a_block_of_its_own",
    ),
    "COMMIT and ROLLBACK as text are looked for on MariaDB only": (
        rf"ends_its_transaction_fails_and_leaves\w*\[({_PG}|sqlite-aiosqlite)-statement_(commit|rollback)\]",
    ),
    "a step may ask for AUTOCOMMIT": (rf"turn_its_transaction_off\[({_PG}|mariadb-asyncmy)\]",),
    "a compensation is not doomed by an error that it swallows": (
        r"compensation_that_swallows_a_driver_error_is_doomed\[(mariadb-asyncmy|sqlite-aiosqlite)\]",
        r"swallowed_deadlock_does_not_commit_half_a_compensation",
    ),
    "a transaction that the step ended by hand on MongoDB is noticed too late, a new one not at all": (
        r"mongo_session_fails_and_leaves_nothing\[mongodb-pymongo-(abort_and_begin|commit_mongo|commit_and_begin)\]",
    ),
    "a bound session keeps the client's write concern": (r"operations_without_a_session_are_inside",),
    "implicit commits are looked for in the first word of a statement only": (
        r"commits_implicitly_is_refused\w*\[mariadb-asyncmy-(SET @@s|SET @p|SET STAT|IF 1|EXECUTE)",
        r"commit_inside_a_procedure_is_noticed",
        r"several_statements_in_one",
    ),
    "on MariaDB a batch tells whose row it is, not whether it was written": (
        r"claim_that_is_gone_changes_nothing\[mariadb-asyncmy-finish\]",
        r"expects_another_status_changes_nothing\[mariadb-asyncmy-finish\]",
        r"batch_of_finishes_returns_exactly\w*\[mariadb",
        r"renewing_prolongs\w*\[mariadb",
    ),
    "on MariaDB a batch scans a small journal and waits for the rows of others": (
        r"batches_do_not_wait\w*\[mariadb",
        r"start_does_not_wait_for_a_claim\w*\[mariadb",
    ),
    "a COMMIT that fails on SQLite leaves its transaction open in the pool": (r"commit_that_fails\w*\[sqlite",),
    "less than half a second of idle limit is none at all on MariaDB": (r"idle_limit_is_so_short\w*\[mariadb",),
    "psycopg has no SQLSTATE for a login that is rejected": (
        r"wrong_address\w*\[postgres-psycopg-.*no such (database|user)\]",
    ),
}


def open_hole(test: str) -> str | None:
    """Return why *test* fails for now."""
    for reason, patterns in HOLES.items():
        if any(re.search(pattern, test) for pattern in patterns):
            return reason
    return None
