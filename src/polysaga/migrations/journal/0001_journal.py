"""The journal: one row per saga, and what people did to them.

A snapshot; `sagas/journal/tables.py` moves on, this file does not.
"""

from alembic.operations import Operations
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Integer,
    String,
    Text,
    inspect,
    text,
)
from sqlalchemy.dialects import mysql, postgresql

revision = "0001"
down_revision = None

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
    """Create what is missing: on MySQL a crash may have left the table without its index or its version."""
    _create_journal(op)
    _create_audit(op)
    awake = text("wake_at IS NOT NULL")
    if _lacks(op, "polysaga_journal", "polysaga_journal_due"):
        op.create_index(
            "polysaga_journal_due",
            "polysaga_journal",
            ["wake_at"],
            postgresql_where=awake,
            sqlite_where=awake,
        )
    if _lacks(op, "polysaga_journal", "polysaga_journal_age"):
        op.create_index("polysaga_journal_age", "polysaga_journal", ["created_at", "id"])
    if _lacks(op, "polysaga_audit", "polysaga_audit_saga"):
        op.create_index("polysaga_audit_saga", "polysaga_audit", ["saga_id"])
    if op.get_bind().dialect.name == "postgresql":
        # Every finished saga leaves a dead entry at the front of the index that claims read; by the default,
        # a fifth of the table, millions of them would be read past before a vacuum.
        op.execute(
            "ALTER TABLE polysaga_journal SET (autovacuum_vacuum_scale_factor = 0, "
            "autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0)"
        )


def _lacks(op: Operations, table: str, index: str) -> bool:
    return index not in {found["name"] for found in inspect(op.get_bind()).get_indexes(table)}


def _create_journal(op: Operations) -> None:
    op.create_table(
        "polysaga_journal",
        Column("id", _KEY, primary_key=True),
        Column("name", String(64), nullable=False),
        Column("version", Integer, nullable=False),
        Column("fingerprint", String(32), nullable=False),
        Column("saga_key", String(255)),
        Column("input", _PAYLOAD, nullable=False),
        Column("input_hash", String(64), nullable=False),
        Column("status", String(16), nullable=False),
        Column("epoch", _LONG, nullable=False),
        Column("owner", _KEY),
        Column("lease", Double()),
        Column("wake_at", _MOMENT),
        Column("deadline", _MOMENT),
        Column("expiries", Integer, nullable=False, server_default=text("0")),
        Column("progress", Integer, nullable=False, server_default=text("0")),
        Column("results", _PAYLOAD, nullable=False),
        Column("error", _PAYLOAD),
        Column("history", _PAYLOAD),
        Column("created_at", _MOMENT, nullable=False),
        Column("finished_at", _MOMENT),
        # Nothing can be stranded: a saga that is not at rest has a time at which a worker looks at it.
        CheckConstraint(
            "(status IN ('completed', 'compensated')) = (wake_at IS NULL)", name="polysaga_journal_wakes"
        ),
        CheckConstraint(
            "status IN ('running', 'completing', 'compensating', 'completed', 'compensated', 'needs_attention')",
            name="polysaga_journal_status",
        ),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
        if_not_exists=True,
    )


def _create_audit(op: Operations) -> None:
    op.create_table(
        "polysaga_audit",
        Column("id", _KEY, primary_key=True),
        Column("saga_id", _KEY, nullable=False),
        Column("recorded_at", _MOMENT, nullable=False),
        Column("actor", String(255), nullable=False),
        Column("action", String(16), nullable=False),
        Column("why", _PAYLOAD, nullable=False),
        Column("details", _PAYLOAD, nullable=False),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
        if_not_exists=True,
    )
