"""The journal as people and tools see it: a saga's trace context, and what processes say of their work.

Processes of earlier versions run on the migrated tables: the new column may be NULL, and they name the columns
that they write. Each part may be repeated after a crash.
"""

from alembic.operations import Operations
from sqlalchemy import BigInteger, Column, DateTime, Integer, String, Text, inspect
from sqlalchemy.dialects import mysql, postgresql

revision = "0003"
down_revision = "0002"

_KEY = (
    String(36)
    .with_variant(postgresql.UUID(as_uuid=True), "postgresql")
    .with_variant(mysql.BINARY(16), "mysql", "mariadb")
)
_PAYLOAD = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_MOMENT = (
    Text()
    .with_variant(DateTime(timezone=True), "postgresql")
    .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
)
_LONG = BigInteger().with_variant(Integer(), "sqlite")


def upgrade(op: Operations) -> None:
    """Make what is missing."""
    op.create_table(
        "polysaga_pulse",
        Column("process", _KEY, primary_key=True),
        Column("minute", _LONG, primary_key=True, autoincrement=False),
        Column("seen_at", _MOMENT, nullable=False),
        Column("facts", _PAYLOAD, nullable=False),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
        if_not_exists=True,
    )
    inspected = inspect(op.get_bind())
    if "polysaga_pulse_seen" not in {found["name"] for found in inspected.get_indexes("polysaga_pulse")}:
        op.create_index("polysaga_pulse_seen", "polysaga_pulse", ["seen_at"])
    if op.get_bind().dialect.name == "postgresql":
        # SQLAlchemy does not recognise the types of columns if the server quotes all identifiers.
        op.execute("ALTER TABLE polysaga_journal ADD COLUMN IF NOT EXISTS trace VARCHAR(64)")
    elif "trace" not in {found["name"] for found in inspected.get_columns("polysaga_journal")}:
        op.add_column("polysaga_journal", Column("trace", String(64)))
