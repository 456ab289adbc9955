"""What the command line prints when a command fails: one line on standard error."""

import sys

from sqlalchemy.exc import DBAPIError

from polysaga.config import masked
from polysaga.databases.dialects import fault_of
from polysaga.errors import PolysagaError
from polysaga.faults import Fault

EXPECTED = (PolysagaError, DBAPIError)  # the call, the configuration or a database caused it, not a bug


def is_expected(error: Exception) -> bool:
    """Return whether the call, the configuration or a database caused *error*, not a bug in a program."""
    return isinstance(error, EXPECTED)


def reason_of(error: Exception) -> str:
    """Return the text of *error* on one line, without passwords; never empty."""
    reason = str(error)
    if isinstance(error, DBAPIError):
        missing = fault_of(error) is Fault.SCHEMA_MISSING
        reason = "our tables are missing or out of date; run `polysaga migrate`" if missing else str(error.orig)
    return masked(" ".join(reason.split())) or type(error).__name__


def give_up(error: Exception) -> None:
    """Print the text of *error* and end the process with exit code 2."""
    print(f"polysaga: {reason_of(error)}", file=sys.stderr)
    sys.exit(2)
