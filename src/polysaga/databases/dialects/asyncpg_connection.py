"""asyncpg's connection, without a round trip for BEGIN, and with COMMIT sent along with the last statement.

BEGIN waits for the next message of the driver and leaves in the same packet, in the extended protocol and without
a Sync of its own. If BEGIN fails, the server skips the driver's message, and the driver gets the error as its own
(PostgreSQL documentation, "Message Flow", "Pipelining"). asyncpg passes over answers that it did not ask for:
"parse complete", "bind complete", and an earlier "command complete" (`CoreProtocol._process__bind_execute` and
`_process__prepare`; `tests/integration/test_begin_rides.py` holds it to that).

A transaction that ends before its first message is never begun on the server.

Only SQLAlchemy's transactions wait. asyncpg's own cursors would take the answer to BEGIN for theirs, and its COPY
would hang if BEGIN failed.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

_TERMINATE = ord("X")
_SYNC = b"S\0\0\0\4"


class Luggage:
    """Bytes that leave together with the next message that the driver writes."""

    def __init__(self, transport: Any) -> None:
        self.waiting = b""
        self.unanswered = False  # they have left, and the driver has not asked the server how its transaction is
        self._write = transport.write
        try:
            transport.write, transport.writelines = self.write, self.writelines
        except AttributeError:
            self._holds = False  # uvloop's: it sends in one packet what is written until the loop's next round
        else:
            self._holds = True

    def add(self, messages: bytes) -> None:
        """Send *messages* with the next one."""
        if self._holds:
            self.waiting += messages
        else:
            self.unanswered = True
            self._write(messages)

    def drop(self) -> bool:
        """Return whether messages were waiting; they are not sent any more."""
        waiting, self.waiting = self.waiting, b""
        return waiting != b""

    def write(self, message: Any) -> None:
        """Write *message* for the driver, what waits before it."""
        if self.waiting:
            waiting, self.waiting = self.waiting, b""
            self.unanswered = message[-5:] != _SYNC
            if message[0] != _TERMINATE:
                message = b"".join((waiting, message))
        elif self.unanswered:
            self.unanswered = message[-5:] != _SYNC
        self._write(message)

    def writelines(self, messages: Iterable[Any]) -> None:
        """Write all *messages* for the driver."""
        self.write(b"".join(messages))


@cache
def connection_class(driver: Any) -> type:
    """Return the connection of *driver*, the module asyncpg, that does as this module says."""

    class TransactionConnection(driver.Connection):  # type: ignore[misc]
        __slots__ = ("_luggage", "_patient")
        _top_xact: Any  # asyncpg's: the outermost transaction

        def __init__(self, protocol: Any, transport: Any, *rest: Any) -> None:
            super().__init__(protocol, transport, *rest)
            self._luggage = Luggage(transport)
            self._patient: Any = None  # the transaction whose BEGIN may wait

        def is_in_transaction(self) -> bool:
            """Return whether a transaction is open, or will be with the next statement."""
            return bool(self._protocol.is_in_transaction() or self._luggage.waiting or self._luggage.unanswered)

        def transaction(self, *, isolation: Any = None, readonly: bool = False, deferrable: Any = None) -> Any:
            """Return a transaction; its BEGIN may wait if all three options are given, as SQLAlchemy does."""
            transaction = super().transaction(isolation=isolation, readonly=readonly, deferrable=bool(deferrable))
            self._patient = None if deferrable is None else transaction
            return transaction

        async def execute(self, query: str, *values: Any, timeout: float | None = None) -> str:
            """Send *query*; a BEGIN that may wait only with the next message, no end to what never began."""
            if query in _BEGINS and self._top_xact is self._patient is not None:
                self._patient = None
                self._check_open()
                self._luggage.add(_BEGINS[query])
                return "BEGIN"
            if query in _ENDS and self._luggage.drop():
                return _ENDS[query]
            if not values:  # asyncpg sends it in the simple protocol, which skips no message after an error
                await self._begin(timeout)
            try:
                return str(await super().execute(query, *values, timeout=timeout))
            except driver.PostgresError:
                if query.startswith("BEGIN"):
                    self._top_xact = None  # or asyncpg would make savepoints from now on
                raise

        async def executemany(self, command: str, args: Any, *, timeout: float | None = None) -> None:
            """Execute *command* for each of *args*."""
            # If a row cannot be encoded, asyncpg rolls back unless it knows that a transaction is open.
            await self._begin(timeout)
            await super().executemany(command, args, timeout=timeout)

        async def _begin(self, timeout: float | None) -> None:
            """Let the server begin, and asyncpg know, unless that is done or there is nothing to begin."""
            if not self._protocol.is_in_transaction() and self.is_in_transaction():
                await self._ask(timeout)
            self._luggage.unanswered = False

        async def _ask(self, timeout: float | None) -> None:
            try:
                await self._protocol.close_portal("", timeout)
            finally:
                self._luggage.unanswered = False

    return TransactionConnection


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def _extended(statement: str) -> bytes:
    """Return *statement* as Parse, Bind and Execute, without names, parameters and results."""
    parse = b"\0" + statement.encode() + b"\0" + bytes(2)
    return _message(b"P", parse) + _message(b"B", bytes(2 + 6)) + _message(b"E", bytes(1 + 4))


# asyncpg's own texts (`Transaction.start`, `commit` and `rollback`). Another text may be several statements.
# SERIALIZABLE does not wait: a standby refuses it, and the statements behind it would go on without a transaction.
_LEVELS = ("", *(f" ISOLATION LEVEL {one}" for one in ("READ COMMITTED", "REPEATABLE READ")))
_BEGINS = {
    f"{text};": _extended(text)
    for text in (f"BEGIN{level}{only}" for level in _LEVELS for only in ("", " READ ONLY"))
}
_ENDS = {"COMMIT;": "COMMIT", "ROLLBACK;": "ROLLBACK"}
