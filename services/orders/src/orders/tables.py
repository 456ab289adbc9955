"""The tables of the shop, in types that PostgreSQL, MySQL, MariaDB and SQLite share.

Names are case-sensitive everywhere: 85123A and 85123a are two products, which MySQL's default collation would not
distinguish. Moments are UTC without a time zone, with microseconds. Money is whole cents. Users are numbers.

There are no migrations: the shop refuses tables of another shape before it reads or writes anything.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from pymongo.errors import CollectionInvalid
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    CursorResult,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Update,
    inspect,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import TypeDecorator

from orders.databases import inventory, orders, points
from polysaga.databases import MongoNode, SqlNode
from polysaga.errors import ConfigurationError

NAME = String(64).with_variant(mysql.VARCHAR(64, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
_WORD = String(16)  # a status, or the type of an event
_INNODB: dict[str, Any] = {
    f"{server}_{option}": value
    for server in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"))
}


class OrderId(TypeDecorator[UUID]):
    """An order's id, stored in the form that people and logs use."""

    impl = String(36)
    cache_ok = True

    def process_bind_param(self, value: UUID | None, dialect: Any) -> str | None:
        """Return what the driver stores."""
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Any) -> UUID | None:
        """Return what the program sees."""
        return None if value is None else UUID(value)


class Moment(TypeDecorator[datetime]):
    """A moment in UTC."""

    impl = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Return what the driver stores."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Return what the program sees."""
        return None if value is None else value.replace(tzinfo=UTC)


class Cents(TypeDecorator[Decimal]):
    """An amount of money with two places, stored as whole cents."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Any) -> int | None:
        """Return what the driver stores."""
        return None if value is None else to_cents(value)

    def process_result_value(self, value: int | None, dialect: Any) -> Decimal | None:
        """Return what the program sees."""
        return None if value is None else from_cents(value)


def to_cents(amount: Decimal) -> int:
    """Return *amount*, which has at most two places, in cents."""
    return int(amount.scaleb(2))


def from_cents(cents: int) -> Decimal:
    """Return *cents* as an amount with two places."""
    return Decimal(cents).scaleb(-2)


in_orders, in_points, in_inventory = MetaData(), MetaData(), MetaData()

order_table = Table(
    "orders",
    in_orders,
    Column("id", OrderId, primary_key=True),
    Column("user_id", BigInteger, nullable=False),
    Column("product_id", NAME, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("unit_price", Cents, nullable=False),
    Column("status", _WORD, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("locked_by", OrderId),  # the saga that is changing the order; see `order_book.at_work`
    # One index for each way to page through the orders, newest first.
    Index("orders_by_time", "created_at", "id"),
    Index("orders_by_user", "user_id", "created_at", "id"),
    Index("orders_by_status", "status", "created_at", "id"),
    **_INNODB,
)

point_table = Table(
    "point_entries",
    in_points,
    Column("order_id", OrderId, primary_key=True),
    Column("user_id", BigInteger, nullable=False, index=True),
    Column("amount", BigInteger, nullable=False),
    **_INNODB,
)

product_table = Table(
    "products",
    in_inventory,
    Column("id", NAME, primary_key=True),
    Column("stock", BigInteger, nullable=False),
    Column("stocked", BigInteger, nullable=False),  # all that was ever put on the shelf
    Column("price", Cents, nullable=False),
    **_INNODB,
)

event_table = Table(
    "user_events",
    in_inventory,
    Column("order_id", OrderId, primary_key=True),
    Column("event_type", _WORD, primary_key=True),
    Column("user_id", BigInteger, nullable=False),
    Column("product_id", NAME, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("timestamp", Moment, nullable=False),
    Index("user_events_by_user", "user_id", "timestamp"),
    **_INNODB,
)


async def changed_one(db: AsyncSession, statement: Update) -> bool:
    """Execute *statement*; return whether one row met its conditions."""
    result = cast("CursorResult[Any]", await db.execute(statement))
    return result.rowcount == 1


async def create_tables() -> None:
    """Create the missing tables and collections; the databases must be open.

    Raises `ConfigurationError` if a database holds the shop of another version.
    """
    await check_tables()
    for node, metadata in _places():
        if isinstance(node, MongoNode):
            await _create_collections(node)
        else:
            await _create_sql(node, metadata)


async def check_tables() -> None:
    """Raise `ConfigurationError` if an open database has tables of another shape; missing ones are fine."""
    for node, metadata in _places():
        if isinstance(node, MongoNode):
            unlike = await _unlike_collections(node)
        else:
            async with node.writer.connect() as connection:
                unlike = await connection.run_sync(_unlike, metadata)
        if unlike:
            raise ConfigurationError(
                f"database '{node.database}' has a shop of another version: {', '.join(unlike)}. Its data cannot "
                "be taken over: name empty databases in the settings (another --data for SQLite files), or drop "
                "the tables of the shop and of Polysaga in all databases of the shop"
            )


async def require_tables() -> None:
    """Raise `ConfigurationError` unless the open databases hold a shop of this version."""
    await check_tables()
    for node, metadata in _places():
        if isinstance(node, MongoNode):
            continue  # which makes a collection when something is stored in it
        async with node.writer.connect() as connection:
            there = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
        missing = sorted(set(metadata.tables) - there)
        if missing:
            raise ConfigurationError(
                f"database '{node.database}' has no table '{missing[0]}': no shop was opened on it yet. Name the "
                "databases of the shop in the settings (--data for SQLite files), or start `orders serve` on these"
            )


def _places() -> tuple[tuple[SqlNode | MongoNode, MetaData], ...]:
    return (
        (orders.primary, in_orders),
        (points.primary, in_points),
        (inventory.primary, in_inventory),
    )


def _unlike(connection: Connection, metadata: MetaData) -> list[str]:
    """Return what is wrong with the existing tables: missing columns, and columns that should be integers."""
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    wrong = []
    for table in metadata.tables.values():
        if table.name in there:
            found = {column["name"]: column["type"] for column in inspector.get_columns(table.name)}
            for column in table.columns:
                if column.name not in found:
                    wrong.append(f"table '{table.name}' has no column '{column.name}'")
                elif isinstance(column.type, Integer) and not isinstance(found[column.name], Integer):
                    wrong.append(f"column '{table.name}.{column.name}' is {found[column.name]}, not {column.type}")
    return wrong


async def _unlike_collections(node: MongoNode) -> list[str]:
    # One event represents all: no shop of this version adds events to those of another version.
    event = await node.documents[event_table.name].find_one()
    if event is None:
        return []
    wrong = [f"its events have no '{name}'" for name in ("event_type", "timestamp") if name not in event]
    if not isinstance(event.get("user_id"), int):
        wrong.append("the 'user_id' of its events is not a number")
    return wrong


async def _create_sql(node: SqlNode, metadata: MetaData) -> None:
    for last in (False, True):
        try:
            async with node.writer.begin() as connection:
                await connection.run_sync(metadata.create_all)
        except DBAPIError:
            # Another process may have created the same table just now; the second look finds it there.
            if last:
                raise
        else:
            return


async def _create_collections(node: MongoNode) -> None:
    # Before any transaction: older servers cannot create a collection inside one.
    for name in (product_table.name, event_table.name):
        try:
            await node.documents.create_collection(name)
        except CollectionInvalid:
            continue  # it is there already
    await node.documents[event_table.name].create_index([("user_id", 1), ("timestamp", -1)])
