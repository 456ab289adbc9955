"""The ledger, one row per step, and the outbox.

A snapshot; `sagas/journal/tables.py` moves on, this file does not.
"""

from alembic.operations import Operations
from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Integer, String, Text
from sqlalchemy.dialects import mysql, postgresql

revision = "0001"
down_revision = None

_KEY = (
    String(36)
    .with_variant(postgresql.UUID(as_uuid=True), "postgresql")
    .with_variant(mysql.BINARY(16), "mysql", "mariadb")
)
_STEP = (
    String(64)
    .with_variant(postgresql.VARCHAR(64, collation="C"), "postgresql")
    .with_variant(mysql.VARCHAR(64, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
)
_PAYLOAD = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_MOMENT = (
    Text()
    .with_variant(DateTime(timezone=True), "postgresql")
    .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
)
_LONG = BigInteger().with_variant(Integer(), "sqlite")


def upgrade(op: Operations) -> None:
    """Create what is missing: on MySQL a crash may have left the tables without their version."""
    op.create_table(
        "polysaga_ledger",
        Column("saga_id", _KEY, primary_key=True),
        Column("step", _STEP, primary_key=True),
        Column("state", String(12), nullable=False),
        Column("epoch", _LONG, nullable=False),
        Column("result", _PAYLOAD),
        Column("recorded_at", _MOMENT, nullable=False),
        CheckConstraint("state IN ('done', 'compensated', 'blocked')", name="polysaga_ledger_state"),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
    op.create_table(
        "polysaga_outbox",
        Column("id", _KEY, primary_key=True),
        Column("name", String(64), nullable=False),
        Column("birth", _PAYLOAD, nullable=False),
        Column("error", _PAYLOAD),
        Column("created_at", _MOMENT, nullable=False),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
        if_not_exists=True,
    )
