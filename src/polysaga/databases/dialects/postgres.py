"""PostgreSQL 14 and later, by asyncpg or psycopg 3. The URL decides; SQLSTATEs make both look alike."""

from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import URL

from polysaga.config import DatabaseSettings
from polysaga.databases.dialects.sql import Answer, Rendered, SqlDialect
from polysaga.databases.faults import Fault

_FAULTS = {
    "40P01": Fault.DEADLOCK,
    "40001": Fault.SERIALIZATION,
    "55P03": Fault.LOCK_TIMEOUT,
    "57014": Fault.STATEMENT_TIMEOUT,
    "25006": Fault.READ_ONLY,
    "23505": Fault.DUPLICATE_KEY,
    "42P01": Fault.SCHEMA_MISSING,
    "42703": Fault.SCHEMA_MISSING,
    "28000": Fault.REJECTED,
    "28P01": Fault.REJECTED,
    "3D000": Fault.REJECTED,
    "53300": Fault.TOO_MANY_CONNECTIONS,
    "25P03": Fault.DISCONNECTED,
    "57P01": Fault.DISCONNECTED,
    "57P02": Fault.DISCONNECTED,
    "57P03": Fault.UNREACHABLE,
    "08000": Fault.DISCONNECTED,
    "08003": Fault.DISCONNECTED,
    "08006": Fault.DISCONNECTED,
}


class Postgres(SqlDialect):
    """What is the same for both drivers."""

    name = "postgresql"
    # statement_timestamp() is taken before lock waits, so it would shorten a lease; clock_timestamp() is
    # volatile, so it would not use an index. Hence one for setting and one for comparing.
    clock = "clock_timestamp()"
    statement_clock = "statement_timestamp()"

    def later(self, seconds: str) -> str:
        return f"clock_timestamp() + make_interval(secs => cast({seconds} AS double precision))"

    def rows_of(self, columns: Mapping[str, str]) -> str:
        # json, not jsonb: jsonb refuses a NUL character anywhere in the text.
        typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        return f"json_to_recordset(cast(:rows AS json)) AS given({typed})"

    def key(self, value: UUID) -> Any:
        return value

    def key_from(self, value: Any) -> UUID:
        return UUID(int=value.int)  # asyncpg has a class of its own

    def _limits(self, settings: DatabaseSettings) -> dict[str, str]:
        return {
            "idle_in_transaction_session_timeout": f"{settings.idle_transaction_timeout * 1000:.0f}",
            "lock_timeout": f"{settings.lock_timeout * 1000:.0f}",
            # A client frozen while the server sends it a big result is idle to none of the limits above.
            "tcp_user_timeout": f"{settings.idle_transaction_timeout * 1000:.0f}",
        }

    def _code_fault(self, error: BaseException) -> Fault | None:
        if not type(error).__module__.startswith(("asyncpg", "psycopg", "sqlalchemy")):
            return Fault.DISCONNECTED if isinstance(error, ConnectionError) else None
        code = getattr(error, "sqlstate", None)
        if code is None:
            # A woken zombie gets an asyncpg error without a code, of three different classes.
            said = str(error)
            gone = "clos" in said or "cannot switch to state" in said or "terminat" in said
            return Fault.DISCONNECTED if gone else None
        return _FAULTS.get(code)


class PostgresAsyncpg(Postgres):
    """asyncpg: about 30 % less client time per statement."""

    extra: ClassVar[str] = "asyncpg"

    def engine_arguments(self, url: URL, settings: DatabaseSettings) -> dict[str, Any]:
        return {
            "isolation_level": "READ COMMITTED",
            "connect_args": {
                "server_settings": {"application_name": "polysaga", **self._limits(settings)},
                "timeout": settings.pool.connect_timeout,
            },
        }

    def reader_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        connect = arguments["connect_args"]
        server = {**connect["server_settings"], "default_transaction_read_only": "on"}
        return {
            **arguments,
            "isolation_level": "AUTOCOMMIT",
            "connect_args": {**connect, "server_settings": server},
        }

    async def send(self, driver: Any, statement: Rendered, values: Mapping[str, Any]) -> Answer:
        if statement.answers:
            rows = await driver.fetch(statement.sql, *statement.bind(values))
            return Answer(rows, len(rows))
        status: str = await driver.execute(statement.sql, *statement.bind(values))
        return Answer((), int(status.rpartition(" ")[2]))

    def begun(self, driver: Any) -> bool:
        # SQLAlchemy's adapter sends BEGIN with its first own statement; before it, ours would commit alone.
        return bool(driver.is_in_transaction())

    def _placeholder(self, name: str, order: list[str]) -> str:
        if name not in order:
            order.append(name)
        return f"${order.index(name) + 1}"


class PostgresPsycopg(Postgres):
    """psycopg 3: everything libpq can do, and the same driver for synchronous tools."""

    extra: ClassVar[str] = "psycopg"

    def engine_arguments(self, url: URL, settings: DatabaseSettings) -> dict[str, Any]:
        limits = " ".join(f"-c {name}={value}" for name, value in self._limits(settings).items())
        return {
            "isolation_level": "READ COMMITTED",
            "connect_args": {
                "application_name": "polysaga",
                "options": limits,
                "connect_timeout": max(1, round(settings.pool.connect_timeout)),
            },
        }

    def reader_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        connect = arguments["connect_args"]
        options = f"{connect['options']} -c default_transaction_read_only=on"
        return {
            **arguments,
            "isolation_level": "AUTOCOMMIT",
            "connect_args": {**connect, "options": options},
        }

    async def send(self, driver: Any, statement: Rendered, values: Mapping[str, Any]) -> Answer:
        cursor = await driver.execute(statement.sql, statement.bind(values))
        rows = await cursor.fetchall() if statement.answers else ()
        # psycopg gives -1 as rowcount with RETURNING: decide by the rows.
        return Answer(rows, len(rows) if statement.answers else cursor.rowcount)

    def _placeholder(self, name: str, order: list[str]) -> str:
        order.append(name)
        return "%s"
