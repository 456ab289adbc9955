"""The databases that promise the same, and in what they differ. A database joins by one line in `KINDS`."""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Kind:
    """One database through one driver; the capabilities say which promises are kept in another way."""

    name: str
    fixture: str  # gives the address of its database
    scheme: str  # of the URL
    sql: bool = True
    waits: bool = True  # a write waits for another transaction's row; otherwise it fails at once, transient
    side_by_side: bool = True  # two transactions can write at the same time
    tells_transactions: bool = True  # the server can be asked which transactions are open, and who waits
    commits_implicitly: bool = False  # DDL commits what was done before it
    ends_at_errors: bool = False  # the server itself refuses to go on after an error in a transaction
    mysql: bool = False  # MySQL itself, where it differs from MariaDB
    bare: bool = False  # steps get a connection in place of a session
    errors_at_once: frozenset[str] = field(default=frozenset())  # transient faults that compensators may meet

    def __str__(self) -> str:
        return self.name

    @property
    def fixtures(self) -> tuple[str]:
        """What a test of this kind uses (`tests/fixtures/tiers.py`)."""
        return (self.fixture,)


ASYNCPG = Kind("postgres-asyncpg", "postgres_shop", "postgresql+asyncpg", ends_at_errors=True)
PSYCOPG = Kind("postgres-psycopg", "postgres_shop", "postgresql+psycopg", ends_at_errors=True)
MARIADB = Kind(
    "mariadb-asyncmy",
    "mariadb_shop",
    "mysql+asyncmy",
    commits_implicitly=True,
    # One per extra waiter when the action they wait for rolls back.
    errors_at_once=frozenset({"deadlock"}),
)
MYSQL = replace(MARIADB, name="mysql-asyncmy", fixture="mysql_shop", mysql=True)
SQLITE = Kind("sqlite-aiosqlite", "sqlite_shop", "sqlite+aiosqlite", side_by_side=False, tells_transactions=False)
MONGO = Kind(
    "mongodb-pymongo",
    "mongo_shop",
    "mongodb",
    sql=False,
    waits=False,
    tells_transactions=False,
    ends_at_errors=True,
    errors_at_once=frozenset({"serialization"}),
)

KINDS = (ASYNCPG, PSYCOPG, MARIADB, MYSQL, SQLITE, MONGO)
SQL_KINDS = tuple(kind for kind in KINDS if kind.sql)
BARE_KINDS = tuple(
    replace(kind, name=f"{kind}-connection", bare=True) for kind in (ASYNCPG, PSYCOPG, MARIADB, SQLITE)
)
SERVERS = tuple(kind for kind in SQL_KINDS if kind.tells_transactions)
