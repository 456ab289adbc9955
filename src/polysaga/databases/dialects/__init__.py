"""One file per kind of database: what it reports about itself, and what its errors mean."""

from polysaga.databases.dialects.errors import Dialect, fault_of, said_by_driver
from polysaga.databases.dialects.mysql import MySQL
from polysaga.databases.dialects.postgres_asyncpg import PostgresAsyncpg
from polysaga.databases.dialects.postgres_psycopg import PostgresPsycopg
from polysaga.databases.dialects.sending import Rendered, StatementResult, Write
from polysaga.databases.dialects.sql import SqlDialect
from polysaga.databases.dialects.sqlite import SQLite

__all__ = [
    "SQL_DIALECTS",
    "Dialect",
    "Rendered",
    "SqlDialect",
    "StatementResult",
    "Write",
    "fault_of",
    "said_by_driver",
]


SQL_DIALECTS: dict[str, type[SqlDialect]] = {
    "postgresql+asyncpg": PostgresAsyncpg,
    "postgresql+psycopg": PostgresPsycopg,
    "mysql+asyncmy": MySQL,
    "mariadb+asyncmy": MySQL,
    "sqlite+aiosqlite": SQLite,
}
