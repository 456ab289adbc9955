"""The journal with many sagas: parked ones out of the way of claims, and indexes for what people look for.

Processes of version 0.1 run on the migrated tables: no column changes. On PostgreSQL `prepare` makes the indexes
beside them: it blocks no writer and runs outside of a transaction. `upgrade` makes what is still missing. On MySQL
and MariaDB an index is made online. Each part may be repeated after a crash.
"""

from alembic.operations import Operations
from sqlalchemy import String, bindparam, column, inspect, literal_column, select, table, text, update
from sqlalchemy.dialects import mysql, postgresql

revision = "0002"
down_revision = "0001"

_KEY = (
    String(36)
    .with_variant(postgresql.UUID(as_uuid=True), "postgresql")
    .with_variant(mysql.BINARY(16), "mysql", "mariadb")
)
_JOURNAL = table("polysaga_journal", column("id", _KEY), column("status"), column("wake_at"))
_AGE = ["created_at", "id"]
_PARKED_AT_ONCE = 500  # rows per statement, so that no repair waits for long


def prepare(op: Operations) -> None:
    """On PostgreSQL: make the indexes of a journal in use; outside of a transaction."""
    for name, of, columns, where in _partial_indexes():
        if _is_invalid(op, name):
            # Left by a build that was interrupted.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        if _lacks(op, of, name):
            op.create_index(name, of, columns, postgresql_where=where, postgresql_concurrently=True)
    _move_parked(op)


def upgrade(op: Operations) -> None:
    """Make what is missing."""
    if op.get_bind().dialect.name in {"mysql", "mariadb"}:
        _create_online(op, "polysaga_journal_status", "polysaga_journal", "status, created_at, id")
        _create_online(op, "polysaga_audit_time", "polysaga_audit", "recorded_at, id")
    else:
        for name, of, columns, where in _partial_indexes():
            if _lacks(op, of, name):
                op.create_index(name, of, columns, postgresql_where=where, sqlite_where=where)
    _move_parked(op)


def _partial_indexes() -> list[tuple[str, str, list[str], object]]:
    troubled = text("error IS NOT NULL")
    return [
        ("polysaga_journal_trouble", "polysaga_journal", _AGE, troubled),
        ("polysaga_audit_time", "polysaga_audit", ["recorded_at", "id"], None),
    ]


def _create_online(op: Operations, name: str, of: str, columns: str) -> None:
    if _lacks(op, of, name):
        # Explicit: an error instead of a build that would lock the table.
        op.execute(f"CREATE INDEX {name} ON {of} ({columns}) ALGORITHM = INPLACE LOCK = NONE")


def _lacks(op: Operations, of: str, index: str) -> bool:
    return index not in {found["name"] for found in inspect(op.get_bind()).get_indexes(of)}


def _is_invalid(op: Operations, index: str) -> bool:
    found = text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    return bool(op.get_bind().scalar(found, {"name": index}))


def _move_parked(op: Operations) -> None:
    """Put the parked sagas at the end of the index that claims read; a process of 0.1 may park more meanwhile."""
    connection, journal = op.get_bind(), _JOURNAL.c
    parked = journal.status == "needs_attention"
    in_the_way = (
        select(journal.id)
        .where(parked, journal.wake_at < literal_column("'9998-01-01T00:00:00.000'"))
        .limit(_PARKED_AT_ONCE)
    )
    # The status again: a person may repair one of them in between.
    move = (
        update(_JOURNAL)
        .where(journal.id.in_(bindparam("found", expanding=True)), parked)
        .values(wake_at=literal_column("'9999-01-01T00:00:00.000'"))
    )
    while found := connection.scalars(in_the_way).all():
        connection.execute(move, {"found": found})
