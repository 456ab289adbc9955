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

    @property
    def is_of_the_connection(self) -> bool:
        """Return whether another connection to the same database may not meet it."""
        return self in _OF_THE_CONNECTION


_LASTING = {Fault.REJECTED, Fault.NO_DATABASE, Fault.DENIED, Fault.DUPLICATE_KEY, Fault.SCHEMA_MISSING}

_OF_THE_CONNECTION = {
    Fault.READ_ONLY,  # its host may stand for another server by now
    Fault.SCHEMA_MISSING,  # an earlier user may have left a search path on it, or another database (USE)
    Fault.DENIED,  # or another role (SET ROLE)
}
