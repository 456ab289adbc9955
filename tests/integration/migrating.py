"""A small program on fresh databases, for the tests of its migrations."""

from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga import Databases, MongoDatabase, MongoSession, Saga, Sagas, Settings, SqlDatabase, StepContext
from polysaga.config import parse_settings
from polysaga.databases import SqlNode
from tests.fixtures.tiers import Uses

POSTGRES = ("postgres_database",)
SQL_KINDS = [
    Uses("sqlite"),
    Uses("postgres-asyncpg", POSTGRES),
    Uses("postgres-psycopg", POSTGRES),
    Uses("mariadb", ("mariadb_database",)),
    Uses("mysql", ("mysql_database",)),
]


def fresh(kind: Uses, request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the URL of an empty database of *kind*."""
    if not kind.fixtures:
        return sqlite_url(folder)
    _, _, driver = kind.name.partition("-")
    url: str = request.getfixturevalue(kind.fixtures[0])()
    return f"postgresql+{driver}://{url.partition('://')[2]}" if driver else url


def sqlite_url(folder: Path) -> str:
    """Return the URL of a database that does not exist yet."""
    return f"sqlite+aiosqlite:///{folder / uuid4().hex}.sqlite"


def settings_for(lock_timeout: float = 5.0, **urls: str) -> Settings:
    databases = {name: {"url": url, "lock_timeout": lock_timeout} for name, url in urls.items()}
    return parse_settings({"databases": databases})


def program(
    *, shop: str, stock: str | None = None, journal: str | None = None, lock_timeout: float = 5.0
) -> tuple[Sagas, Settings]:
    """A program with one saga over the databases that are given an URL."""
    home = SqlDatabase("shop")
    saga = Saga("buy", input=int, output=int)

    @saga.step(home, kind="pivot")
    async def pay(db: AsyncSession, value: int, ctx: StepContext) -> int:
        return value + 1

    urls = {"shop": shop}
    handles: list[SqlDatabase | MongoDatabase] = [home]
    if stock is not None:
        shelf = MongoDatabase("stock")
        urls["stock"] = stock
        handles.append(shelf)

        @saga.step(shelf, kind="retriable")
        async def note(db: MongoSession, value: int, ctx: StepContext) -> None: ...

    journal_home = home
    if journal is not None:
        journal_home = SqlDatabase("journal")
        urls["journal"] = journal
        handles.append(journal_home)
    return Sagas(Databases(*handles), saga, journal=journal_home), settings_for(lock_timeout, **urls)


def saga_of(sagas: Sagas) -> Saga[int, int]:
    (saga,) = sagas._definitions
    return saga


def journal_node(sagas: Sagas) -> SqlNode:
    node = sagas.journal.primary
    assert isinstance(node, SqlNode)
    return node
