"""What is known of a connection while a step has it."""

import asyncio
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from polysaga.clock import Clock
from polysaga.databases import SqlNode
from polysaga.databases.dialects.sql import ANSWERED_AT, COMMITTED, ENDING, LOAN, SEALED, SqlDialect
from polysaga.databases.endings import held
from polysaga.errors import StepMisused
from polysaga.texts import said

AUTOCOMMIT = "a step asked for AUTOCOMMIT: its effect and its ledger row must be one transaction"
LEFT_BEHIND = "a task that a step left behind uses the step's connection: await it before the step returns"

_ENDED = "a step ended its transaction by itself; it must end with the step"


class Loan:
    """What happened on the connection while it was lent."""

    def __init__(self, dialect: SqlDialect) -> None:
        self.lent = True
        self.doom: BaseException | None = None
        self.nested: BaseException | None = None  # the last error inside a savepoint
        self.connection: Connection | None = None
        self.begins = 0  # seen while it was lent
        self.is_sealed = False  # the server has committed
        self.ends: list[Callable[[bool], None]] = []  # called once the transaction is over: did it commit?
        self._transaction: object | None = None
        self._ending: asyncio.Task[Any] | None = None
        self._dialect = dialect
        self._info: dict[Any, Any] = {}

    def adapted(self) -> Any:
        """Return the adapted driver connection, or None if there is none, or no longer."""
        connection = self.connection
        if connection is None or connection.closed or connection.invalidated:
            return None
        return connection.connection.dbapi_connection

    def begin(self, connection: Connection) -> None:
        # A task that outlives its step may get its connection after the loan has ended.
        if self.connection is None and self.lent:
            self.connection, self._transaction = connection, connection.get_transaction()
            self._info = connection.info
            self._info[LOAN] = self
            # After `invalidate` it would take another connection of the pool, with transactions that no loan sees.
            lent: Any = connection
            lent._Connection__can_reconnect = False  # noqa: SLF001 - SQLAlchemy sets it as well

    def shut(self) -> None:
        """Refuse every further statement of another task."""
        self._ending = asyncio.current_task()
        if self._is_noted():
            self._info[ENDING] = self._ending

    def shut_unused(self, adapted: Any) -> None:
        """Refuse every further statement of another task; raise if one is inside a statement."""
        self.shut()
        if held(self._dialect.statement_lock(adapted)):
            raise StepMisused(LEFT_BEHIND)

    def refuse_others(self) -> None:
        """Raise in a task that was left behind: the step is being ended by another."""
        if self._ending is not None and self._ending is not asyncio.current_task():
            raise StepMisused(LEFT_BEHIND)

    def end(self, *, committed: bool = False) -> None:
        """Lend no more; *committed*: the server has answered just now, and the effect stands."""
        self.lent = False
        if committed:
            self._info[COMMITTED] = True
            self._info[ANSWERED_AT] = Clock.monotonic()

    def tell_end(self, *, committed: bool) -> None:
        """Tell those that wait for it that the transaction is over."""
        for told in self.ends:
            told(committed)
        self.ends.clear()

    def refuse(self, what: str) -> None:
        """Raise while the connection is lent: a step called *what*."""
        if self.lent:
            raise StepMisused(
                f"a step called {what}: the transaction ends with the step; "
                "use begin_nested() for a part that may fail"
            )

    def is_lost_at(self, error: BaseException) -> bool:
        """Return whether the server rolled back the whole transaction at *error*, savepoints included."""
        return self._says(self._dialect.lost_at, error)

    def misses_savepoint(self, error: BaseException) -> bool:
        """Return whether *error* says that a savepoint has gone with its transaction."""
        return self._says(self._dialect.misses_savepoint, error)

    def _says(self, judge: Callable[[BaseException, Any], bool], error: BaseException) -> bool:
        adapted = self.adapted()
        return adapted is not None and judge(error, adapted.driver_connection)

    @property
    def needs_commit(self) -> bool:
        """Whether SQLAlchemy's commit sends more than COMMIT: it calls listeners, and releases savepoints."""
        connection = self.connection
        if connection is None:
            return False
        listened = connection._has_events or connection.engine._has_events  # noqa: SLF001
        return connection.in_nested_transaction() or (listened and bool(connection.dispatch.commit))

    def skip_commit(self) -> None:
        """Let the connection skip the COMMIT of its session: the server has committed already."""
        self._info[SEALED] = True

    def deactivate(self) -> None:
        """Let SQLAlchemy's close send no ROLLBACK: the server has committed."""
        ended: Any = None if self.connection is None else self.connection.get_transaction()
        if ended is not None:
            ended.is_active = False  # as SQLAlchemy's commit leaves it

    def drop(self) -> None:
        """Take the connection out of the pool: the server ends its open transaction."""
        if self.connection is not None and not self.connection.closed and not self.connection.invalidated:
            self.connection.invalidate()

    def settled(self, node: SqlNode) -> Any:
        """Return the adapted driver connection if the transaction is whole; else None."""
        connection = self.connection
        if connection is None or self.doom is not None or not self._is_ours(connection):
            return None
        adapted: Any = connection.connection.dbapi_connection
        return adapted if node.dialect.begun(adapted.driver_connection) else None

    def verify(self, node: SqlNode, connection: Connection) -> Any:
        """Return the adapted driver connection; raise unless the transaction is the one that was begun, whole."""
        if self.doom is not None:
            fault = node.dialect.fault(self.doom)
            if fault is not None and fault.transient:
                raise self.doom
            raise StepMisused(
                f"a step went on after an error inside its transaction ({said(self.doom)}); "
                "use begin_nested() for a part that may fail"
            ) from self.doom
        adapted: Any = connection.connection.dbapi_connection
        if self._transaction is None and self.begins == 0:
            connection.begin()  # a step without SQL, on a connection that has not begun
        if self._is_ours(connection):
            if node.dialect.begun(adapted.driver_connection):
                return adapted
            self._begin(node, adapted)
            if node.dialect.begun(adapted.driver_connection):
                return adapted
        raise StepMisused(_ENDED)

    def refuse_another_transaction(self) -> None:
        """Raise just before COMMIT if a listener to the commit has ended the step's transaction."""
        if self.connection is not None and not self._is_ours(self.connection):
            self.drop()
            raise StepMisused(_ENDED)

    def _begin(self, node: SqlNode, adapted: Any) -> None:
        """Begin for a step without SQL."""
        try:
            node.dialect.begin(adapted)
        except BaseException:
            self.drop()  # SQLAlchemy, which has executed nothing, would take it for healthy
            raise

    def _is_noted(self) -> bool:
        """Return whether the connection is still this loan's: one that left the pool has a next user."""
        return self._info.get(LOAN) is self

    def _is_ours(self, connection: Connection) -> bool:
        """Return whether the transaction is the only one of this loan."""
        found = connection.get_transaction()
        if self._transaction is not None:  # it had begun before
            return found is self._transaction
        return found is not None and found.is_active and self.begins == 1
