"""One connection to a server outside of its pools, for questions about the server itself."""

from typing import Any

from sqlalchemy.util import greenlet_spawn

from polysaga.databases.dialects.sending import Rendered
from polysaga.databases.driver_errors import driver_errors
from polysaga.databases.positions import Position
from polysaga.databases.samples import Sample
from polysaga.databases.sql_node import SqlNode
from polysaga.errors import DatabaseUnavailable

_ASK = Rendered("SELECT 1", (), answers=True)  # what every account may ask


class ProbeConnection:
    """One connection to a server outside of its pools; it reconnects by itself after `close`.

    It is the driver's own connection: SQLAlchemy would first ask a new server half a dozen questions.
    """

    def __init__(self, node: SqlNode) -> None:
        self.node = node
        self._driver: Any = None

    async def ask(self) -> None:
        """Return if the server answers; raises the driver's errors."""
        await self.node.dialect.send(await self._open(), _ASK, {})

    async def sample(self) -> Sample:
        """Ask the server for its role and position; raises the driver's errors."""
        return await self.node.dialect.sample(await self._open())

    async def capture(self) -> Position | None:
        """Ask the primary for its position; raises the driver's errors."""
        return await self.node.dialect.capture(await self._open())

    @property
    def waits(self) -> bool:
        """Whether the server can report when it has reached a position; False before the first question."""
        return self._driver is not None and self.node.dialect.waits(self._driver)

    async def wait_for(self, position: Position, seconds: float) -> bool:
        """See `SqlDialect.wait_for`; raises the driver's errors."""
        return await self.node.dialect.wait_for(await self._open(), position, seconds)

    def cut(self) -> None:
        """Break the connection; a question that waits for an answer fails."""
        if self._driver is not None:
            self.node.dialect.cut(self._driver)

    async def close(self) -> None:
        """Close the connection; the next question makes a new one."""
        driver, self._driver = self._driver, None
        if driver is not None:
            await self.node.dialect.hang_up(driver)

    async def _open(self) -> Any:
        if self._driver is None:
            node, address = self.node, self.node.followed
            kind: Any = address.get_dialect().get_async_dialect_cls(address)
            adapter = kind(dbapi=kind.import_dbapi())
            positional, named = adapter.create_connect_args(node.dialect.address(address))
            ours = node.dialect.line_arguments(address, node.settings)
            try:
                adapted: Any = await greenlet_spawn(adapter.connect, *positional, **{**named, **ours})
            except driver_errors(adapter) as error:
                if not node.dialect.refuses_settings(error):
                    raise
                ours = node.dialect.without_settings(ours)  # questions need none of them
                adapted = await greenlet_spawn(adapter.connect, *positional, **{**named, **ours})
            self._driver = adapted.driver_connection
            if node.followed is not address:
                self.cut()
                raise DatabaseUnavailable(node.database, node.name, "another server is the primary by now")
        return self._driver
