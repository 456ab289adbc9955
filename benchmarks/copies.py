"""Copies of the only saga in some databases, made inside the servers, as if it had run so many times.

Every copy has an id like ours, a UUID of version 7 whose time is the saga's own, so that indexes fill in order.
The same number gives the same id in every database. The rows of the journal, the ledgers and the shop are copied.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from sqlalchemy import Table, inspect
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from orders.tables import event_table, order_table, point_table
from polysaga.clock import Clock
from polysaga.sagas.journal.tables import journal, ledger

_AT_ONCE = 100_000  # rows of one statement
_SPAN = timedelta(days=27)  # younger than what retention removes
_USERS = 10_000

Values: TypeAlias = dict[str, str]  # columns of the copy that differ from the original's
_OURS: Values = dict.fromkeys(("created_at", "finished_at", "recorded_at"), "c.moment")
_SHOPS: Values = {"user_id": "c.user_id"} | dict.fromkeys(("created_at", "timestamp"), "c.plain_moment")
_TABLES: dict[Table, Values] = {
    journal: {"id": "c.id"} | _OURS,
    ledger: {"saga_id": "c.id"} | _OURS,
    order_table: {"id": "c.name"} | _SHOPS,
    point_table: {"order_id": "c.name"} | _SHOPS,
    event_table: {"order_id": "c.name"} | _SHOPS,
}

_HEX = "CONCAT(LPAD({hex}, 12, '0'), '7', SUBSTR({md5}, 1, 3), 'a', SUBSTR({md5}, 4, 15))"
_POSTGRES = f"""
CREATE TABLE bench_copies AS
SELECT n, CAST(hex AS uuid) AS id, CAST(CAST(hex AS uuid) AS text) AS name, MOD(n, {_USERS}) + 1 AS user_id,
       to_timestamp(ms / 1000.0) AS moment, to_timestamp(ms / 1000.0) AT TIME ZONE 'UTC' AS plain_moment
FROM (SELECT n, ms, {_HEX.format(hex="to_hex(ms)", md5="MD5(CAST(n AS text))")} AS hex
      FROM (SELECT n, {{begin}} + n * {{step}} AS ms
            FROM generate_series(CAST(1 AS bigint), {{count}}) AS n) AS moments) AS ids
"""
_MARIADB = f"""
CREATE TABLE bench_copies (PRIMARY KEY (n)) AS
SELECT n, UNHEX(hex) AS id, MOD(n, {_USERS}) + 1 AS user_id,
       LOWER(CONCAT_WS('-', SUBSTR(hex, 1, 8), SUBSTR(hex, 9, 4), SUBSTR(hex, 13, 4), SUBSTR(hex, 17, 4),
                       SUBSTR(hex, 21))) AS name,
       FROM_UNIXTIME(ms / 1000) AS moment, FROM_UNIXTIME(ms / 1000) AS plain_moment
FROM (SELECT n, ms, {_HEX.format(hex="HEX(ms)", md5="MD5(n)")} AS hex
      FROM (SELECT seq AS n, {{begin}} + seq * {{step}} AS ms FROM seq_1_to_{{count}}) AS moments) AS ids
"""


@dataclass(frozen=True, slots=True)
class Copies:
    """So many copies, spread over the last weeks."""

    count: int

    async def write(self, url: str) -> None:
        """Copy the rows of the only saga in the database at *url*, and let the server count its rows anew."""
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await self._number(connection)
            there = set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
            for table, values in _TABLES.items():
                if table.name in there:
                    await self._copy(connection, table, values)
            await connection.exec_driver_sql("DROP TABLE bench_copies")
        await engine.dispose()

    async def _number(self, connection: AsyncConnection) -> None:
        begin = round((Clock().now() - _SPAN).timestamp() * 1000)
        step = max(1, round(_SPAN.total_seconds() * 1000) // (self.count + 1))
        numbering = _POSTGRES if connection.dialect.name == "postgresql" else _MARIADB
        await connection.exec_driver_sql(numbering.format(begin=begin, step=step, count=self.count))
        if numbering is _POSTGRES:
            await connection.exec_driver_sql("ALTER TABLE bench_copies ADD PRIMARY KEY (n)")

    async def _copy(self, connection: AsyncConnection, table: Table, values: Values) -> None:
        names = [column.name for column in table.columns]
        found = ", ".join(values.get(name, f"o.{_quoted(connection, name)}") for name in names)
        into = ", ".join(_quoted(connection, name) for name in names)
        await connection.exec_driver_sql(f"CREATE TABLE bench_original AS SELECT * FROM {table.name}")
        for first in range(1, self.count + 1, _AT_ONCE):
            await connection.exec_driver_sql(
                f"INSERT INTO {table.name} ({into}) SELECT {found} FROM bench_original AS o, bench_copies AS c "
                f"WHERE c.n BETWEEN {first} AND {first + _AT_ONCE - 1}"
            )
        await connection.exec_driver_sql("DROP TABLE bench_original")
        on_postgres = connection.dialect.name == "postgresql"
        await connection.exec_driver_sql(f"{'VACUUM ANALYZE' if on_postgres else 'ANALYZE TABLE'} {table.name}")


async def size(url: str) -> int:
    """Return the bytes that the database at *url* takes."""
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            asked = "SELECT pg_database_size(current_database())"
        else:
            asked = (
                "SELECT SUM(data_length + index_length) FROM information_schema.tables "
                "WHERE table_schema = DATABASE()"
            )
        found = (await connection.exec_driver_sql(asked)).scalar_one()
    await engine.dispose()
    return int(found)


def _quoted(connection: AsyncConnection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)
