"""asyncpg's connection, without a round trip for BEGIN and with COMMIT sent along with the last statement.

BEGIN waits for the next message of the driver and leaves in the same packet, in the extended protocol and without
a Sync of its own. If BEGIN fails, the server skips the driver's message, and the driver gets the error as its own
(PostgreSQL documentation, "Message Flow", "Pipelining"). asyncpg passes over answers that it did not ask for:
"parse complete", "bind complete", and an earlier "command complete" (`CoreProtocol._process__bind_execute` and
`_process__prepare`; `tests/integration/test_begin_rides.py` holds it to that).

A transaction that ends before its first message is never begun on the server.
"""

from collections.abc import Awaitable, Iterable
from functools import cache
from typing import Any

_TERMINATE = ord("X")


class Luggage:
    """Bytes that leave together with the next message that the driver writes."""

    def __init__(self, transport: Any) -> None:
        self.waiting = b""
        self._write = transport.write
        try:
            transport.write, transport.writelines = self.write, self.writelines
        except AttributeError:
            self._holds = False  # uvloop's: it sends in one packet what is written until the loop's next round
        else:
            self._holds = True

    def add(self, message: bytes) -> None:
        """Send *message* with the next one."""
        if self._holds:
            self.waiting = message
        else:
            self._write(message)

    def drop(self) -> bool:
        """Return whether a message was waiting; it is not sent any more."""
        waiting, self.waiting = self.waiting, b""
        return waiting != b""

    def write(self, message: Any) -> None:
        """Write *message* for the driver, what waits before it."""
        if not self.waiting:
            self._write(message)
            return
        waiting, self.waiting = self.waiting, b""
        self._write(message if message[0] == _TERMINATE else b"".join((waiting, message)))

    def writelines(self, messages: Iterable[Any]) -> None:
        """Write all *messages* for the driver."""
        self.write(b"".join(messages))


@cache
def connection_class(driver: Any) -> type:
    """Return the connection of *driver*, the module asyncpg, that does as this module says."""

    class TransactionConnection(driver.Connection):  # type: ignore[misc]
        __slots__ = ("_begun", "_luggage")

        def __init__(self, protocol: Any, transport: Any, *rest: Any) -> None:
            super().__init__(protocol, transport, *rest)
            self._luggage = Luggage(transport)
            self._begun = False  # BEGIN is under way, and the protocol has not been told so yet

        def is_in_transaction(self) -> bool:
            """Return whether a transaction is open, or will be with the next statement."""
            if self._protocol.is_in_transaction():
                self._begun = False
                return True
            return self._begun

        def execute(self, query: str, *values: Any, timeout: float | None = None) -> Awaitable[str]:
            """Send *query*; a BEGIN only with the next message, and nothing to end what was never begun."""
            begin = _BEGINS.get(query)
            if begin is not None and not self.is_in_transaction():
                self._luggage.add(begin)
                self._begun = True
                return _status("BEGIN")
            self._begun = False  # the answer will tell
            if self._luggage.waiting:
                if query in _ENDS:
                    self._luggage.drop()
                    return _status(_ENDS[query])
                if not values:  # asyncpg sends it in the simple protocol, which skips no message after an error
                    return self._begin_and_execute(query, timeout)
            sent: Awaitable[str] = super().execute(query, *values, timeout=timeout)
            return sent

        async def _begin_and_execute(self, query: str, timeout: float | None) -> str:
            await self.fetch("SELECT 1")
            return str(await super().execute(query, timeout=timeout))

    return TransactionConnection


async def _status(status: str) -> str:
    return status


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def _extended(statement: str) -> bytes:
    """Return *statement* as Parse, Bind and Execute, without names, parameters and results."""
    parse = b"\0" + statement.encode() + b"\0" + bytes(2)
    return _message(b"P", parse) + _message(b"B", bytes(2 + 6)) + _message(b"E", bytes(1 + 4))


# asyncpg's own texts (`Transaction.start`, `commit` and `rollback`). Another text may be several statements.
_LEVELS = ("", *(f" ISOLATION LEVEL {one}" for one in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")))
_BEGINS = {
    f"{text};": _extended(text)
    for text in (f"BEGIN{level}{only}" for level in _LEVELS for only in ("", " READ ONLY"))
}
_ENDS = {"COMMIT;": "COMMIT", "ROLLBACK;": "ROLLBACK"}
