"""How Polysaga sends its own statements: through SQLAlchemy, or straight to a driver."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from polysaga.frozen import frozen


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """A statement with the driver's own placeholders."""

    sql: str
    order: tuple[str, ...]
    answers: bool

    def bind(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return *values* in the order of the placeholders."""
        return tuple([values[name] for name in self.order])


@frozen
class StatementResult:
    """The result of a statement: its rows, or else how many rows it changed."""

    rows: Sequence[Sequence[Any]]
    count: int


class Sealed(Enum):
    """How the last statements of a transaction went."""

    FENCED = "one of them did not change exactly one row: roll back"
    WRITTEN = "COMMIT is left"
    COMMITTED = "COMMIT went along with them"


@frozen
class Write:
    """A statement that must change exactly one row."""

    statement: Rendered
    values: Mapping[str, Any]


Send: TypeAlias = Callable[[Rendered, Mapping[str, Any]], Awaitable[StatementResult]]
Seal: TypeAlias = Callable[[str], Sequence[Write]]  # takes the step's result as JSON


class Transaction:
    """A transaction that lends a `Send`, and commits at the end of the block."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._begin = engine.begin()

    async def __aenter__(self) -> Send:
        connection = await self._begin.__aenter__()
        return sender(connection)

    async def __aexit__(self, *failure: Any) -> None:
        await self._begin.__aexit__(*failure)


def sender(connection: AsyncConnection) -> Send:
    """Return a `Send` that goes through SQLAlchemy; it may also send the first statement of a transaction."""

    async def send(statement: Rendered, values: Mapping[str, Any]) -> StatementResult:
        result = await connection.exec_driver_sql(statement.sql, statement.bind(values))
        if not result.returns_rows:
            return StatementResult((), result.rowcount)
        rows = [tuple(row) for row in result]
        return StatementResult(rows, len(rows))

    return send
