"""SQLite's own connection to a file, whose end is the end of its transaction."""

import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

_ROLLED_BACK = "the transaction was rolled back at an earlier error"
_WITHOUT_TRANSACTION = ("BEGIN", "ROLLBACK", "RELEASE", "COMMIT", "END")
_TRIES = 20  # rollbacks that interrupts may meet, which come every 50 ms


class RolledBack(sqlite3.OperationalError):
    """A statement was refused, as its transaction was rolled back at an earlier error."""


class _Cursor(sqlite3.Cursor):
    """A cursor that executes nothing once its connection is given up, and waits for nothing when it is freed.

    Python resets a statement that has failed when its cursor is freed. The error keeps the cursor: that would be
    in the event loop, which would wait for the statement that the connection's thread is in by then.
    """

    connection: "SQLiteFile"

    def execute(self, sql: str, *given: Any) -> Any:
        return self._run(super().execute, sql, *given)

    def executemany(self, sql: str, rows: Iterable[Any]) -> Any:
        return self._run(super().executemany, sql, self._while_kept(rows))

    def executescript(self, script: str) -> Any:
        self.connection.refuse_if_lost()  # although it may begin with ROLLBACK
        self.connection.commit()  # as Python does before it executes a script
        return self._run(super().executescript, script)

    def _run(self, execute: Callable[..., Any], sql: str, *given: Any) -> Any:
        self.connection.refuse_if_lost(sql)
        try:
            executed = execute(sql, *given)
        except BaseException:
            self._reset()
            raise
        self.connection.note()
        return executed

    def _while_kept(self, rows: Iterable[Any]) -> Iterator[Any]:
        """Yield *rows* until the connection is given up: SQLite forgets an interrupt between two of them."""
        for row in rows:
            self.connection.refuse_if_given_up()
            yield row

    def _reset(self) -> None:
        with suppress(sqlite3.Error):
            super().execute("")  # does nothing, but resets first what was executed before


class SQLiteFile(sqlite3.Connection):
    """A connection whose end is the end of its transaction.

    A statement that has rows left keeps a closed connection alive, and its lock, until the garbage collector takes
    the cursor. And while it lives, an interrupt that came for it interrupts the rollback as well.

    SQLite rolls the whole transaction back if it interrupts a statement that writes, and at some other errors.
    Then what is executed on the connection is refused: each statement would be a transaction of its own.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()
        self._given_up = False  # set by any thread
        self._was_open = False  # whether the last statement that succeeded left a transaction open

    def cut(self) -> None:
        """Interrupt what is executed, and refuse every further statement; to be called from any thread."""
        self._given_up = True  # first: the interrupted task must find it
        self.interrupt()

    def refuse_if_given_up(self) -> None:
        """Raise what Python raises after `close`, from the moment when the connection is given up."""
        if self._given_up:
            raise sqlite3.ProgrammingError("Cannot operate on a closed database.")

    def cursor(self, *_: Any) -> Any:
        self.refuse_if_given_up()
        made = super().cursor(_Cursor)
        self._cursors.add(made)
        return made

    def execute(self, *given: Any) -> Any:
        return self.cursor().execute(*given)  # Python's own makes a cursor without asking `cursor`

    def executemany(self, *given: Any) -> Any:
        return self.cursor().executemany(*given)

    def executescript(self, *given: Any) -> Any:
        return self.cursor().executescript(*given)

    def note(self) -> None:
        """Note whether a transaction is open, after a statement that has succeeded."""
        self._was_open = self.in_transaction

    def has_lost(self) -> bool:
        """Return whether a transaction was rolled back at an error, with neither `rollback` nor BEGIN since."""
        return self._was_open and not self.in_transaction

    def refuse_if_lost(self, sql: str = "") -> None:
        """Raise if the connection is given up, or its transaction was rolled back at an error.

        SQLite would commit *sql* by itself then, unless it ends the lost transaction or begins the next.
        """
        self.refuse_if_given_up()
        if self.has_lost() and not sql.lstrip().upper().startswith(_WITHOUT_TRANSACTION):
            raise RolledBack(_ROLLED_BACK)

    def commit(self) -> None:
        self.refuse_if_given_up()
        super().commit()
        self.note()

    def rollback(self) -> None:
        super().rollback()
        self.note()

    def give_up(self) -> None:
        """Roll back, and refuse every further statement; to be called in the connection's thread."""
        self._given_up = True
        self._close_cursors()
        tries = _TRIES
        while self.in_transaction:
            tries -= 1
            try:
                self.rollback()
            except sqlite3.OperationalError as error:
                # The interrupt came for the statement before. SQLite keeps it as long as anything is read, such as
                # a blob that is not known here; then the transaction ends with the connection.
                if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT or not tries:
                    raise

    def close(self) -> None:
        self._close_cursors()
        super().close()

    def _close_cursors(self) -> None:
        cursors = tuple(self._cursors)
        self._cursors.clear()  # the driver may close twice
        for cursor in cursors:
            cursor.close()
