"""A pooler between a node and its server, such as PgBouncer: recognised, then given our settings or refused.

A pooler may drop the settings that a client sends at login, or refuse the client for them. A drop would go
unnoticed: the server would no longer refuse writes of readers, nor end idle transactions. So the first connection
of a pool finds out whether a pooler stands between. If so, each connection makes its settings by a statement. They
last as long as the pooler keeps one server connection for each of ours. A pooler that lends server connections for
single transactions would give our settings to others, and theirs to us: it is refused.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from polysaga.databases.dialects import SqlDialect
from polysaga.limits import limited

T = TypeVar("T")


class Connect(Protocol):
    """Connects, *bare* of our settings if a pooler refuses them."""

    def __call__(self, *, bare: bool) -> Any: ...


class SharedSessions(Exception):
    """A pooler lends connections of the server for single transactions."""


class Pooler:
    """What is known of a pooler between one pool of connections and its server."""

    def __init__(
        self,
        dialect: SqlDialect,
        settings: Mapping[str, str],
        errors: tuple[type[Exception], ...],
        patience: float,
    ) -> None:
        self._dialect, self._settings = dialect, settings
        self._patience = patience  # seconds for each question to a server
        self._errors = errors  # what the driver raises while it connects
        # None: no connection has found out yet. Without settings nothing can get lost.
        self._stands_between: bool | None = None if settings else False
        self._refuses_settings = False
        self._finding_out = asyncio.Lock()

    def connect(self, make: Connect) -> Any:
        """Return a connection of *make*, with our settings.

        Raises `SharedSessions`, what *make* raises, and TimeoutError if the server connects but does not answer.
        """
        connection = self._make(make)
        try:
            if self._stands_between is None:
                self._find_out(connection, make)
            if self._stands_between:
                self._asked(connection, lambda driver: self._dialect.set_session(driver, self._settings))
        except BaseException as error:
            self._stands_between = None
            self._end(connection)
            if self._dialect.mixes_sessions(error):
                raise SharedSessions from error
            raise
        return connection

    def _find_out(self, connection: Any, make: Connect) -> None:
        """Ask *connection* whether it leads to a pooler, unless another one has found out meanwhile.

        One at a time: asking takes a second server connection, and a pooler may have too few if all connections of
        the first moment ask. They would wait for each other.
        """
        connection.run_async(lambda _: self._turn())
        try:
            if self._stands_between is None:
                found = self._asked(connection, self._dialect.behind_pooler)
                if found:
                    self._refuse_if_shared(connection, make)
                self._stands_between = found
        finally:
            self._finding_out.release()

    async def _turn(self) -> None:
        # Not `limited`: its separate task could get the lock just as the caller is cancelled.
        async with asyncio.timeout(self._patience):
            await self._finding_out.acquire()

    def _make(self, make: Connect) -> Any:
        bare = self._refuses_settings  # another connection may find out before this one is refused
        try:
            return make(bare=bare)
        except self._errors as error:
            if bare or not self._dialect.refuses_settings(error):
                raise
        connection = make(bare=True)
        self._refuses_settings = True
        return connection

    def _refuse_if_shared(self, first: Any, make: Connect) -> None:
        """Raise `SharedSessions` if *first* does not keep a server connection of its own.

        A pooler that shares gives *second* the connection of *first*; one that rotates gives *first* another.
        """
        second = make(bare=self._refuses_settings)
        try:
            found = [self._asked(one, self._dialect.session_of) for one in (first, first, second)]
        finally:
            self._end(second)
        if found[0] != found[1] or found[0] == found[2]:
            raise SharedSessions

    def _asked(self, connection: Any, question: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        answer: T = connection.run_async(lambda driver: limited(question(driver), self._patience))
        return answer

    def _end(self, connection: Any) -> None:
        self._dialect.discard(connection.driver_connection)
