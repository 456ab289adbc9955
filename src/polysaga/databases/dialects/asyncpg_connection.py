"""asyncpg's connection, without a round trip for BEGIN, and with the last writes and COMMIT in one packet.

BEGIN waits for the next message of the driver and leaves in the same packet, in the extended protocol and without
a Sync of its own. If BEGIN fails, the server skips the driver's message, and the driver gets the error as its own
(PostgreSQL documentation, "Message Flow", "Pipelining"). asyncpg passes over answers that it did not ask for:
"parse complete", "bind complete", and an earlier "command complete" (`CoreProtocol._process__bind_execute` and
`_process__prepare`; `tests/integration/test_begin_rides.py` holds it to that).

A transaction that ends before its first message is never begun on the server.

Only SQLAlchemy's transactions wait. asyncpg's own cursors would take the answer to BEGIN for theirs, and its COPY
would hang if BEGIN failed.

The last writes leave in the same way, with COMMIT behind them. The message that takes them along closes a portal
that does not exist, which the server just confirms. At the first write that fails the server skips the rest.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from polysaga.databases.dialects.postgres_packets import PreparedWrites, unnamed
from polysaga.databases.dialects.sending import Write

_TERMINATE = ord("X")
_SYNC = b"S\0\0\0\4"
_NO_PORTAL = ""  # the server confirms that it is closed


class Luggage:
    """Bytes that leave together with the next message that the driver writes."""

    def __init__(self, transport: Any) -> None:
        self.waiting = b""
        # They have left, and no message since has asked the server for the state of its transaction. On uvloop the
        # messages are not seen here: `is_unanswered` and `TransactionConnection` take this back.
        self.unanswered = False
        self._sent = 0  # statements of the driver, when messages were added last
        self._write = transport.write
        try:
            transport.write, transport.writelines = self.write, self.writelines
        except AttributeError:
            self._holds = False  # uvloop's: it sends in one packet what is written until the loop's next round
        else:
            self._holds = True

    def add(self, messages: bytes, sent: int = 0) -> None:
        """Send *messages* with the next one; the driver has *sent* so many statements before."""
        if self._holds:
            self.waiting += messages
        else:
            self.unanswered, self._sent = True, sent
            self._write(messages)

    def is_unanswered(self, sent: int) -> bool:
        """Return whether nothing has asked for the answer yet; the driver has *sent* so many statements."""
        if not self._holds and sent != self._sent:
            self.unanswered = False  # a statement has asked, and may have ended the transaction
        return self.unanswered

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
        __slots__ = ("_luggage", "_patient", "_prepared")
        _top_xact: Any  # asyncpg's: the outermost transaction

        def __init__(self, protocol: Any, transport: Any, loop: Any, addr: Any, config: Any, params: Any) -> None:
            super().__init__(protocol, transport, loop, addr, config, params)
            self._luggage = Luggage(transport)
            self._patient: Any = False  # the transaction whose BEGIN may wait, if there is one
            self._prepared = PreparedWrites(lasting=config.statement_cache_size > 0)

        def is_in_transaction(self) -> bool:
            """Return whether a transaction is open, or will be with the next statement."""
            luggage = self._luggage
            sent = getattr(self._protocol, "queries_count", 0)  # a connection that is closed has no protocol
            return bool(self.has_begun() or luggage.waiting or luggage.is_unanswered(sent))

        def has_begun(self) -> bool:
            """Return whether a transaction was open on the server when it answered last."""
            return not self.is_closed() and bool(self._protocol.is_in_transaction())

        def transaction(self, *, isolation: Any = None, readonly: bool = False, deferrable: Any = None) -> Any:
            """Return a transaction; its BEGIN may wait if all three options are given, as SQLAlchemy does."""
            transaction = super().transaction(isolation=isolation, readonly=readonly, deferrable=bool(deferrable))
            self._patient = deferrable is not None and transaction
            return transaction

        async def execute(self, query: str, *values: Any, timeout: float | None = None) -> str:
            """Send *query*; a BEGIN that may wait only with the next message, no end to what never began."""
            if query in _BEGINS and self._top_xact is self._patient:
                self._patient = False
                self._check_open()
                self._luggage.add(_BEGINS[query], self._protocol.queries_count)
                return "BEGIN"
            if query in _ENDS and self._luggage.drop():
                return _ENDS[query]
            if not values:  # asyncpg sends it in the simple protocol, which skips no message after an error
                await self._begin(timeout)
            try:
                status = str(await super().execute(query, *values, timeout=timeout))
            except driver.PostgresError:
                if query.startswith("BEGIN"):
                    self._top_xact = None  # or asyncpg would make savepoints from now on
                raise
            return _done(query, status, driver.InFailedSQLTransactionError)

        async def executemany(self, command: str, args: Any, *, timeout: float | None = None) -> None:
            """Execute *command* for each of *args*."""
            # If a row cannot be encoded, asyncpg rolls back unless it knows that a transaction is open.
            await self._begin(timeout)
            await super().executemany(command, args, timeout=timeout)

        async def write_and_commit(self, writes: Sequence[Write]) -> None:
            """Send *writes* and COMMIT as one packet; the server commits if each of them changes one row."""
            self._check_open()
            await self._protocol._wait_for_cancellation()  # noqa: SLF001
            # Nothing comes between this and the message that takes it along.
            self._luggage.add(self._prepared.messages(writes))
            self._luggage.unanswered = False  # it asks for the answer
            try:
                await self._protocol.close_portal(_NO_PORTAL, None)
            except driver.InterfaceError as error:
                if self._luggage.drop():
                    raise
                # Another task uses the connection, and uvloop's transport sends what it was given all the same.
                self.terminate()
                raise ConnectionAbortedError("another task used the connection while it committed") from error
            finally:
                self._luggage.drop()
            self._prepared.confirm()

        async def _begin(self, timeout: float | None) -> None:
            """Let the server begin, and asyncpg know, unless that is done or there is nothing to begin."""
            unknown = not self.has_begun() and self.is_in_transaction()
            self._luggage.unanswered = False
            if unknown:
                self._check_open()  # a connection that is closed has no protocol
                await self._protocol.close_portal(_NO_PORTAL, timeout)

    return TransactionConnection


def _done(query: str, status: str, failed: type[Exception]) -> str:
    """Return *status*, what the server has done; raise if it was to commit and has rolled back."""
    if query == _COMMIT and status == _ENDS[_ROLLBACK]:  # asyncpg does not look at it
        raise failed("the server has rolled back, because a statement of the transaction had failed")
    return status


# asyncpg's own texts (`Transaction.start`, `commit` and `rollback`). Another text may be several statements.
# SERIALIZABLE does not wait: a standby refuses it, and the statements behind it would go on without a transaction.
_LEVELS = ("", *(f" ISOLATION LEVEL {one}" for one in ("READ COMMITTED", "REPEATABLE READ")))
_BEGINS = {
    f"{text};": unnamed(text)
    for text in (f"BEGIN{level}{only}" for level in _LEVELS for only in ("", " READ ONLY"))
}
_COMMIT, _ROLLBACK = "COMMIT;", "ROLLBACK;"
_ENDS = {_COMMIT: "COMMIT", _ROLLBACK: "ROLLBACK"}
