"""The tables we own: the journal with its audit trail and pulse; a ledger and an outbox in every SQL participant.

`migrations/` creates them; a test compares the two. Keys are native UUIDs on PostgreSQL, BINARY(16) on MySQL
and MariaDB, text on SQLite. Step names have a binary collation: `ascii_bin` and the rule for names in
`definition/saga.py` together exclude pairs that MySQL's default collation treats as equal.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects import mysql, postgresql

JOURNAL = "polysaga_journal"
AUDIT = "polysaga_audit"
LEDGER = "polysaga_ledger"
OUTBOX = "polysaga_outbox"
PULSE = "polysaga_pulse"

# `wake_at` of a parked saga, as SQL: the end of the index that claims read, so that they need not read past it.
# Comparisons take the year before: PostgreSQL reads such a literal in the time zone of the session.
NEVER = "'9999-01-01T00:00:00.000'"
BEFORE_NEVER = "'9998-01-01T00:00:00.000'"

KEY = (
    String(36)
    .with_variant(postgresql.UUID(as_uuid=True), "postgresql")
    .with_variant(mysql.BINARY(16), "mysql", "mariadb")
)
STEP = (
    String(64)
    .with_variant(postgresql.VARCHAR(64, collation="C"), "postgresql")
    .with_variant(mysql.VARCHAR(64, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
)
# Text, not jsonb: jsonb refuses a NUL character in any string.
PAYLOAD = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
MOMENT = (
    Text()
    .with_variant(DateTime(timezone=True), "postgresql")
    .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
)
LONG = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

journal = Table(
    JOURNAL,
    metadata,
    Column("id", KEY, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("fingerprint", String(32), nullable=False),
    Column("saga_key", String(255)),
    Column("input", PAYLOAD, nullable=False),
    Column("input_hash", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("epoch", LONG, nullable=False),
    Column("owner", KEY),  # NULL: put aside, no process drives it until it wakes
    Column("lease", Double()),  # seconds; of the claim in `wake_at`
    Column("wake_at", MOMENT),
    Column("deadline", MOMENT),  # when a saga that is still running is undone
    Column("expiries", Integer, nullable=False, server_default=text("0")),
    Column("progress", Integer, nullable=False, server_default=text("0")),
    Column("results", PAYLOAD, nullable=False),
    Column("error", PAYLOAD),
    Column("history", PAYLOAD),
    Column("created_at", MOMENT, nullable=False),
    Column("finished_at", MOMENT),
    Column("trace", String(64)),  # the saga's W3C trace context, `traceparent`; NULL: it is not traced
    # No saga can be stranded: one that is not at rest has a time at which a worker looks at it.
    CheckConstraint("(status IN ('completed', 'compensated')) = (wake_at IS NULL)", name="polysaga_journal_wakes"),
    CheckConstraint(
        "status IN ('running', 'completing', 'compensating', 'completed', 'compensated', 'needs_attention')",
        name="polysaga_journal_status",
    ),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
    mariadb_engine="InnoDB",
    mariadb_charset="utf8mb4",
)
Index(
    "polysaga_journal_due",
    journal.c.wake_at,
    postgresql_where=journal.c.wake_at.is_not(None),
    sqlite_where=journal.c.wake_at.is_not(None),
)
# By age, for people and for retention.
Index("polysaga_journal_age", journal.c.created_at, journal.c.id)
# For people who look for what went wrong: what is undone or parked has a reason in `error`. On PostgreSQL no index
# mentions `status`, not even in its condition: so an update that changes only the status stays in its page (HOT).
Index(
    "polysaga_journal_trouble",
    journal.c.created_at,
    journal.c.id,
    postgresql_where=journal.c.error.is_not(None),
    sqlite_where=journal.c.error.is_not(None),
).ddl_if(dialect=("postgresql", "sqlite"))  # type: ignore[arg-type]  # its type lacks the tuples that it takes
Index("polysaga_journal_status", journal.c.status, journal.c.created_at, journal.c.id).ddl_if(
    dialect=("mysql", "mariadb")  # type: ignore[arg-type]
)

# What people did to sagas; written in the same transaction, kept when the saga is removed.
audit = Table(
    AUDIT,
    metadata,
    Column("id", KEY, primary_key=True),
    Column("saga_id", KEY, nullable=False),
    Column("recorded_at", MOMENT, nullable=False),
    Column("actor", String(255), nullable=False),
    Column("action", String(16), nullable=False),
    Column("why", PAYLOAD, nullable=False),
    Column("details", PAYLOAD, nullable=False),  # JSON: what was asked for, and the row before and after
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
    mariadb_engine="InnoDB",
    mariadb_charset="utf8mb4",
)
Index("polysaga_audit_saga", audit.c.saga_id)
Index("polysaga_audit_time", audit.c.recorded_at, audit.c.id)

# What each process did in each minute, for charts; kept for two hours (`process/pulse.py`).
pulse = Table(
    PULSE,
    metadata,
    Column("process", KEY, primary_key=True),
    Column("minute", LONG, primary_key=True, autoincrement=False),  # since 1970, by the clock of the process
    Column("seen_at", MOMENT, nullable=False),
    Column("facts", PAYLOAD, nullable=False),  # JSON
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
    mariadb_engine="InnoDB",
    mariadb_charset="utf8mb4",
)
Index("polysaga_pulse_seen", pulse.c.seen_at)

ledger = Table(
    LEDGER,
    metadata,
    Column("saga_id", KEY, primary_key=True),
    Column("step", STEP, primary_key=True),
    Column("state", String(12), nullable=False),
    Column("epoch", LONG, nullable=False),
    Column("result", PAYLOAD),
    Column("recorded_at", MOMENT, nullable=False),
    CheckConstraint("state IN ('done', 'compensated', 'blocked')", name="polysaga_ledger_state"),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
    mariadb_engine="InnoDB",
    mariadb_charset="utf8mb4",
    sqlite_with_rowid=False,
)

# Starts that were committed with a transaction of this database and are not yet in the journal.
outbox = Table(
    OUTBOX,
    metadata,
    Column("id", KEY, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("birth", PAYLOAD, nullable=False),
    Column("error", PAYLOAD),
    Column("created_at", MOMENT, nullable=False),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
    mariadb_engine="InnoDB",
    mariadb_charset="utf8mb4",
)

for _table in metadata.tables.values():
    _table.info["polysaga"] = True  # for programs that inspect reflected or merged metadata
