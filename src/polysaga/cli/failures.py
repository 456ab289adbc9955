"""What the command line prints when a command fails: one line on standard error."""

import sys

from sqlalchemy.exc import DBAPIError

from polysaga.config import masked
from polysaga.databases.dialects import fault_of
from polysaga.errors import PolysagaError
from polysaga.faults import Fault


def is_expected(error: Exception) -> bool:
    """Return whether the call, the configuration or a database caused *error*, not a bug in a program."""
    return isinstance(error, PolysagaError | DBAPIError)


def give_up(error: Exception) -> None:
    """Print the text of *error* and end the process with exit code 2."""
    reason = str(error)
    if isinstance(error, DBAPIError):
        missing = fault_of(error) is Fault.SCHEMA_MISSING
        reason = "our tables are missing or out of date; run `polysaga migrate`" if missing else str(error.orig)
    print(f"polysaga: {masked(' '.join(reason.split())) or type(error).__name__}", file=sys.stderr)
    sys.exit(2)
