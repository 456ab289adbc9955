"""What can go wrong between us and a database, in one vocabulary for all drivers.

The codes are recognised in `dialects/`, once; everybody else speaks of faults.
"""

from enum import StrEnum


class Fault(StrEnum):
    """One kind of failure, as the dialect recognised it."""

    DISCONNECTED = "disconnected"
    UNREACHABLE = "unreachable"
    REJECTED = "rejected"  # wrong password, or an account that may not connect
    NO_DATABASE = "no-database"
    DENIED = "denied"  # a privilege is missing
    POOL_EXHAUSTED = "pool-exhausted"
    TOO_MANY_CONNECTIONS = "too-many-connections"
    DEADLOCK = "deadlock"
    SERIALIZATION = "serialization"
    LOCK_TIMEOUT = "lock-timeout"
    STATEMENT_TIMEOUT = "statement-timeout"
    UNKNOWN_COMMIT = "unknown-commit"
    OUT_OF_RESOURCES = "out-of-resources"  # disk, memory, locks, the server's own limits
    SERVER_TROUBLE = "server-trouble"  # an input/output or internal error of the server
    STALE_PLAN = "stale-plan"  # a statement prepared before the schema changed, or one that a pooler mixed up
    READ_ONLY = "read-only"
    DUPLICATE_KEY = "duplicate-key"
    SCHEMA_MISSING = "schema-missing"

    @property
    def transient(self) -> bool:
        """Tell whether the same transaction can succeed when it is run again from its start."""
        return self not in _LASTING


_LASTING = {Fault.REJECTED, Fault.NO_DATABASE, Fault.DENIED, Fault.DUPLICATE_KEY, Fault.SCHEMA_MISSING}
