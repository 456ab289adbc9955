"""What can go wrong between us and a database, in one vocabulary for all drivers.

Only `dialects/` knows the drivers' codes; all other modules use faults.
"""

from enum import StrEnum


class Fault(StrEnum):
    """One kind of failure, as the dialect classifies it."""

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
    STALE_PLAN = "stale-plan"  # a statement prepared before the schema changed, or confused by a pooler
    READ_ONLY = "read-only"
    DUPLICATE_KEY = "duplicate-key"
    SCHEMA_MISSING = "schema-missing"

    @property
    def transient(self) -> bool:
        """Return whether the same transaction can succeed if it is run again from its start."""
        return self not in _LASTING


_LASTING = {Fault.REJECTED, Fault.NO_DATABASE, Fault.DENIED, Fault.DUPLICATE_KEY, Fault.SCHEMA_MISSING}
