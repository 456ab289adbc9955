"""Every error Polysaga raises, in one tree. The branches are remedies, not modules.

    PolysagaError
    ├── TryAgain                        the same call can succeed later
    │   ├── Busy                        too many sagas in flight in this process
    │   ├── DatabaseUnavailable         a server cannot be reached
    │   ├── NoPrimary                   a database takes no writes at the moment
    │   ├── NoReplica                   no node is fresh enough for this read
    │   ├── PoolExhausted               no connection became free in time
    │   ├── StillLocked                 another saga holds the lock on the row; the step is retried
    │   ├── OutcomePending              the saga goes on, its outcome is not known yet
    │   └── SagaUndone                  undone because a database kept failing; a new key can succeed
    │       ├── SagaCancelled           undone because it was cancelled
    │       └── DeadlineExceeded        undone because it was not decided in time
    ├── FixTheProgram                   the code, the configuration or the call must change
    │   ├── ConfigurationError          settings, URLs, missing drivers, unsuitable servers
    │   ├── SchemaMissing               our tables are not there, too old, or damaged
    │   ├── DefinitionError             a saga that cannot work
    │   ├── PayloadError                input or result that does not survive JSON, or is too large
    │   ├── PayloadUnreadable           a stored payload no longer matches its type
    │   ├── KeyReused                   one key, two different inputs
    │   ├── ReadOnlyNode                a server refused a write because it only reads
    │   ├── WriteOnReader               a session that only reads was asked to write
    │   ├── SessionOver                 a session was used after the block it was lent for
    │   ├── SessionShared               a session ended while another task was inside a statement
    │   ├── TransactionLost             a block went on after an error that had ended its transaction
    │   ├── StepMisused                 a step tried to end the transaction it was lent
    │   ├── SagaFailed                  a step raised an undeclared error; everything was undone
    │   ├── TooLate                     the saga is decided and can only go forward
    │   ├── WrongStatus                 a repair that the saga's status does not allow
    │   ├── NotEnlisted                 a transaction that cannot carry the start of a saga
    │   ├── NotStarted                  the transaction that starts the saga is open, or was rolled back
    │   ├── UnknownSaga                 no saga has this id
    │   └── UnknownVersion              the saga was started by another version of the program
    ├── Refused                         the business said no; raised by steps, seen by callers
    │   └── RowLocked                   another saga has locked the row
    └── NeedsAttention                  a person must look

Every leaf carries its facts as attributes; the message says what to do.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING
from uuid import UUID


class PolysagaError(Exception):
    """The root; catch it to catch everything this library raises."""


class TryAgain(PolysagaError):
    """The same call can succeed later; nothing was left half-done."""

    retry_after: float = 1.0  # seconds


class Busy(TryAgain):
    """The process drives as many sagas as it may (`sagas.max_in_flight`), or is closing: then *limit* is 0."""

    def __init__(self, limit: int, waited: float) -> None:
        super().__init__(
            f"{limit} sagas are in flight in this process and none ended within {waited:g} s"
            if limit
            else "this process is closing: it starts and cancels no more sagas"
        )
        self.limit, self.waited = limit, waited


class DatabaseUnavailable(TryAgain):
    """A server of *database* could not be reached, or the connection was lost."""

    def __init__(self, database: str, node: str, reason: str) -> None:
        super().__init__(f"database '{database}' is not reachable at {node}: {reason}")
        self.database, self.node, self.reason = database, node, reason


class NoPrimary(TryAgain):
    """No node of *database* takes writes now; reads go on, and nothing queues."""

    def __init__(self, database: str) -> None:
        super().__init__(f"database '{database}' has no primary now; it can be read, and written again later")
        self.database = database


class NoReplica(TryAgain):
    """No node can answer this read now: none is fresh enough, or the fresh ones are busy."""

    def __init__(self, database: str, reason: str) -> None:
        super().__init__(
            f"no node of database '{database}' can answer now: {reason}; a reader that may see old data says so "
            "with allow_stale=True"
        )
        self.database, self.reason = database, reason


class PoolExhausted(TryAgain):
    """All connections of a pool stayed in use for longer than `pool.acquire_timeout`."""

    def __init__(self, database: str, size: int, waited: float, remedy: str = "") -> None:
        self.database, self.size, self.waited = database, size, waited
        self.remedy = remedy or f"raise databases.{database}.pool.size or hold sessions for a shorter time"
        which = f"all {size} connections" if size > 1 else "the one connection"
        super().__init__(f"{which} to database '{database}' stayed in use for {waited:g} s; {self.remedy}")


class StillLocked(TryAgain):
    """Another saga holds the lock that a step wants; raised in steps, which are then retried."""

    def __init__(self, rows: str, key: str, locked_by: UUID | None) -> None:
        super().__init__(f"'{key}' in {rows} is still locked by saga {locked_by}; try again when that has ended")
        self.rows, self.key, self.locked_by = rows, key, locked_by


class OutcomePending(TryAgain):
    """The caller's patience ended before the saga's decision; the saga itself goes on."""

    def __init__(self, saga_id: UUID, saga: str) -> None:
        super().__init__(f"saga '{saga}' {saga_id} has no outcome yet; ask for it again by its id or key")
        self.saga_id, self.saga = saga_id, saga


class SagaUndone(TryAgain):
    """A database kept failing until the step's retries were used up; every effect was undone.

    A key keeps this outcome: a new saga, with a new key or without one, can succeed.
    """

    step: str | None

    def __init__(self, saga_id: UUID, saga: str, step: str, reason: str) -> None:
        super().__init__(f"saga '{saga}' was undone: step '{step}' kept failing ({reason})")
        self.saga_id, self.saga, self.step, self.reason = saga_id, saga, step, reason


class SagaCancelled(SagaUndone):
    """The saga was cancelled before it was decided; every effect was undone."""

    def __init__(self, saga_id: UUID, saga: str, reason: str) -> None:
        PolysagaError.__init__(self, f"saga '{saga}' {saga_id} was cancelled and undone: {reason}")
        self.saga_id, self.saga, self.step, self.reason = saga_id, saga, None, reason


class DeadlineExceeded(SagaUndone):
    """The saga was not decided within its deadline; every effect was undone."""

    def __init__(self, saga_id: UUID, saga: str, reason: str) -> None:
        PolysagaError.__init__(self, f"saga '{saga}' {saga_id} was undone: {reason}")
        self.saga_id, self.saga, self.step, self.reason = saga_id, saga, None, reason


class FixTheProgram(PolysagaError):
    """Trying again changes nothing; the code, the configuration or the call must change."""


class ConfigurationError(FixTheProgram):
    """Settings, a URL, a driver or a server that cannot do the job; the message names the remedy."""


class SchemaMissing(FixTheProgram):
    """The tables of the journal or of a ledger are missing, too old, or without their unique key in *database*."""

    def __init__(
        self,
        database: str,
        line: str,
        reason: str = "are missing or out of date",
        remedy: str = "run `polysaga migrate`",
    ) -> None:
        super().__init__(f"the {line} tables of database '{database}' {reason}; {remedy}")
        self.database, self.line, self.reason, self.remedy = database, line, reason, remedy


class DefinitionError(FixTheProgram):
    """A saga whose definition cannot keep the promise; raised when it is built."""


class PayloadError(FixTheProgram):
    """A value that JSON cannot carry unchanged, or that is larger than allowed."""


class PayloadUnreadable(FixTheProgram):
    """A stored input or result does not match its type, which changed without a new version of the saga."""


class KeyReused(FixTheProgram):
    """The key already stands for a saga with another input."""

    def __init__(self, saga: str, key: str) -> None:
        super().__init__(
            f"key '{key}' was used for another input of saga '{saga}'; use a new key for a new request"
        )
        self.saga, self.key = saga, key


class ReadOnlyNode(FixTheProgram):
    """A write reached a node or a session that only reads."""

    def __init__(self, database: str, node: str) -> None:
        super().__init__(f"'{node}' of database '{database}' only reads; write through {database}.writer()")
        self.database, self.node = database, node


class WriteOnReader(FixTheProgram):
    """A reader session was asked for something other than a plain read; nothing was sent to the database.

    *what* names it, e.g. `INSERT`, `nextval()`, `SELECT ... FOR UPDATE or SHARE`. *endpoint* names the work that
    asked, e.g. `GET /orders/{id}`; the HTTP layer sets it.
    """

    def __init__(self, database: str, node: str, what: str, endpoint: str | None = None) -> None:
        super().__init__(database, node, what, endpoint)
        self.database, self.node, self.what, self.endpoint = database, node, what, endpoint

    def __str__(self) -> str:
        return (
            f"{self.endpoint or 'a reader session'} asked for {self.what} on a session of database "
            f"'{self.database}' that only reads ({self.node}); use {self.database}.writer() for work that writes, "
            "locks or changes its session"
        )


class SessionOver(FixTheProgram):
    """A session was used after the block, or the request, that it was lent for had ended.

    Nothing would commit such a write. Background tasks, streamed bodies and tasks that outlive their handler open
    their own sessions. A streamed result that is read on after the end of its transaction raises it, too.
    """

    def __init__(
        self,
        database: str,
        reason: str = "this session ended with the block or the request that it was lent for",
        remedy: str = "open another one where it is needed, with the handle's reader() or writer()",
    ) -> None:
        super().__init__(f"database '{database}': {reason}; {remedy}")
        self.database, self.reason, self.remedy = database, reason, remedy


class SessionShared(FixTheProgram):
    """A session was to commit while another task was inside a statement on it, or was used while it ended.

    Nothing of it is committed.
    """

    def __init__(self, database: str) -> None:
        super().__init__(
            f"two tasks used one session of database '{database}' at a time; await every task that uses a session "
            "before its block ends and before commit(), or let each task open a session of its own"
        )
        self.database = database


class TransactionLost(FixTheProgram):
    """A block went on although its transaction had ended: by an error, a time-out, or the loss of its connection.

    Nothing of it is committed.
    """

    def __init__(self, database: str) -> None:
        super().__init__(
            "a block went on after an error, or a time-out, that had ended its transaction in database "
            f"'{database}', so nothing of it is committed; let the error leave the block, or use begin_nested() "
            "for what may fail"
        )
        self.database = database


class StepMisused(FixTheProgram):
    """A step tried to end the transaction it was lent, or continued after an error inside it."""


class SagaFailed(FixTheProgram):
    """A step raised an undeclared error; every effect was undone and the traceback kept."""

    def __init__(self, saga_id: UUID, saga: str, step: str, reason: str) -> None:
        super().__init__(f"saga '{saga}' was undone: step '{step}' raised {reason}")
        self.saga_id, self.saga, self.step, self.reason = saga_id, saga, step, reason


class TooLate(FixTheProgram):
    """The saga is decided and can only go forward; only another saga can take its effects back."""

    def __init__(self, saga_id: UUID, saga: str, status: str) -> None:
        super().__init__(
            f"saga '{saga}' {saga_id} is decided ({status}) and can no longer be undone; "
            "start a saga of its own that takes the effects back"
        )
        self.saga_id, self.saga, self.status = saga_id, saga, status


class WrongStatus(FixTheProgram):
    """The saga's status does not allow the requested repair."""

    def __init__(self, saga_id: UUID, saga: str, action: str, status: str, remedy: str) -> None:
        super().__init__(f"'{action}' does not fit saga '{saga}' {saga_id}, which is {status}: {remedy}")
        self.saga_id, self.saga, self.action, self.status, self.remedy = saga_id, saga, action, status, remedy


class NotEnlisted(FixTheProgram):
    """What was given as `tx=` cannot carry the start of a saga; the message says what it lacks."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"tx= cannot carry the start of a saga: {reason}")
        self.reason = reason


class NotStarted(FixTheProgram):
    """The saga does not exist: the transaction that starts it is still open, or did not commit."""

    def __init__(self, saga_id: UUID, saga: str, reason: str) -> None:
        super().__init__(f"saga '{saga}' {saga_id} has not started: {reason}")
        self.saga_id, self.saga, self.reason = saga_id, saga, reason


class UnknownSaga(FixTheProgram):
    """The journal has no saga with this id."""

    def __init__(self, saga_id: UUID) -> None:
        super().__init__(f"there is no saga {saga_id}")
        self.saga_id = saga_id


class UnknownVersion(FixTheProgram):
    """The saga was started with a definition that this process does not have; ask a process that has it."""

    def __init__(self, saga_id: UUID, saga: str) -> None:
        super().__init__(
            f"saga '{saga}' {saga_id} was started by another version of the program; ask a process that has it"
        )
        self.saga_id, self.saga = saga_id, saga


class Refused(PolysagaError):
    """The business says no: raise it (or a subclass) in a step and the saga is undone.

    *facts* are kept in the journal with the message, so a caller who joins later gets the same answer. Attributes
    that a subclass sets in its constructor are not kept: pass them on as facts.

    The subclass's name in kebab-case is its `code`, the stable name seen by clients.
    """

    code: str = "refused"
    facts: Mapping[str, object] = MappingProxyType({})  # for subclasses that do not call this constructor
    saga_id: UUID | None = None

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.facts = facts

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" not in cls.__dict__:
            words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*|[a-z0-9]+", cls.__name__)
            cls.code = "-".join(words).lower()

    if not TYPE_CHECKING:  # else type checkers would let every attribute pass

        def __getattr__(self, name: str) -> object:
            told = f"'{type(self).__name__}' object has no attribute '{name}'"
            if self.saga_id is not None and not name.startswith("__"):
                told += (
                    "; a caller who joins a saga gets its refusal from the journal, which keeps the message and "
                    f"the facts: call super().__init__(message, {name}=...) in the constructor, and read "
                    f"facts['{name}']"
                )
            raise AttributeError(told, name=name, obj=self)


class RowLocked(Refused):
    """Another saga has locked the row (`SemanticLock`); *facts* name the row and that saga."""


class NeedsAttention(PolysagaError):
    """The saga is parked: a person must look at it."""

    def __init__(self, saga_id: UUID, saga: str, reason: str) -> None:
        super().__init__(f"saga '{saga}' {saga_id} is parked and needs a person: {reason}")
        self.saga_id, self.saga, self.reason = saga_id, saga, reason
