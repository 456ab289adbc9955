"""What the migrations build is what the code is written for, also if a crash cut them short."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Index, text
from sqlalchemy.exc import DBAPIError

from polysaga.databases import SqlNode
from polysaga.errors import SchemaMissing
from polysaga.migrations import migrate
from polysaga.sagas import Sagas
from polysaga.sagas.journal.tables import AUDIT, JOURNAL, LEDGER, PULSE, metadata
from tests.fixtures.servers import DatabaseFactory
from tests.integration.migrating import SQL_KINDS, fresh, journal_node, program


@pytest.fixture(params=SQL_KINDS, ids=str)
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    return lambda: fresh(request.param, request, tmp_path)


@pytest.fixture
def sql_url(fresh_url: Callable[[], str]) -> str:
    return fresh_url()


async def test_the_migrated_schema_is_the_one_the_code_is_written_for(sql_url: str) -> None:
    sagas, settings = program(shop=sql_url)
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with journal_node(sagas).reader.connect() as connection:
            assert await connection.run_sync(_differences) == []


async def test_the_server_describes_migrated_tables_and_the_codes_own_in_the_same_words(
    fresh_url: Callable[[], str],
) -> None:
    migrated, settings = program(shop=fresh_url())
    async with migrated.databases.open(settings):
        await migrate(migrated)
        ours = await _description(journal_node(migrated))
    created, settings = program(shop=fresh_url())
    async with created.databases.open(settings):
        async with journal_node(created).writer.begin() as connection:
            await connection.run_sync(metadata.create_all)
        assert ours == await _description(journal_node(created))


@pytest.mark.parametrize(("table", "key"), [(JOURNAL, "id"), (LEDGER, "saga_id, step")])
async def test_sagas_do_not_open_on_a_table_that_has_lost_its_key(sql_url: str, table: str, key: str) -> None:
    """As one that was restored from a copy of its rows: a step could happen twice, and no error would tell."""
    sagas, settings = program(shop=sql_url)
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with journal_node(sagas).writer.begin() as connection:
            for statement in (
                f"CREATE TABLE copied AS SELECT * FROM {table}",
                f"DROP TABLE {table}",
                f"ALTER TABLE copied RENAME TO {table}",
            ):
                await connection.execute(text(statement))
        with pytest.raises(SchemaMissing, match=f"have lost the key of {table}") as damaged:
            await opened(sagas)
        async with journal_node(sagas).writer.begin() as connection:
            await connection.execute(text(str(damaged.value).partition("add it: ")[2]))
        await opened(sagas)


async def opened(sagas: Sagas) -> None:
    async with sagas.open():
        pass


@pytest.mark.parametrize(
    ("status", "awake", "accepted"),
    [
        ("running", True, True),
        ("running", False, False),
        ("needs_attention", False, False),
        ("completed", True, False),
        ("completed", False, True),
        ("lost", True, False),
    ],
)
async def test_the_journal_refuses_a_saga_that_nobody_would_ever_look_at(
    sql_url: str, status: str, awake: bool, accepted: bool
) -> None:
    sagas, settings = program(shop=sql_url)
    async with sagas.databases.open(settings):
        await migrate(sagas)
        node = journal_node(sagas)
        insert = _journal_row(node, status, awake=awake)
        if accepted:
            await insert
            return
        with pytest.raises(DBAPIError, match=r"polysaga_journal_(wakes|status)"):
            await insert


async def test_on_postgres_the_journal_is_vacuumed_by_the_row_and_at_full_speed(
    postgres_database: DatabaseFactory,
) -> None:
    sagas, settings = program(shop=postgres_database())
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with journal_node(sagas).reader.connect() as connection:
            options = await connection.scalar(
                text("SELECT reloptions FROM pg_class WHERE oid = 'polysaga_journal'::regclass")
            )
    assert set(options) == {
        "autovacuum_vacuum_scale_factor=0",
        "autovacuum_vacuum_threshold=10000",
        "autovacuum_vacuum_cost_delay=0",
    }


@pytest.mark.parametrize("lost", ["index and version", "version", "version table"])
async def test_a_migration_that_a_crash_cut_short_is_finished_by_the_next(sql_url: str, lost: str) -> None:
    sagas, settings = program(shop=sql_url)
    async with sagas.databases.open(settings):
        node = journal_node(sagas)
        await migrate(sagas)
        async with node.writer.begin() as connection:
            if lost == "version table":
                await connection.execute(text("DROP TABLE polysaga_journal_version"))
                await connection.execute(text("DROP TABLE polysaga_ledger_version"))
            else:
                await connection.execute(text("DELETE FROM polysaga_journal_version"))
                await connection.execute(text("DELETE FROM polysaga_ledger_version"))
            if lost == "index and version":
                on_table = " ON polysaga_journal" if node.dialect.name == "mysql" else ""
                await connection.execute(text(f"DROP INDEX polysaga_journal_due{on_table}"))

        made = await migrate(sagas)

        assert [(one.line, one.current, one.head) for one in made] == [
            ("journal", None, "0003"),
            ("ledger", None, "0001"),
        ]
        async with node.reader.connect() as connection:
            assert await connection.run_sync(_differences) == []


def _differences(connection: Connection) -> Sequence[Any]:
    options = {
        "compare_type": True,
        "compare_server_default": True,
        "include_name": lambda name, kind, _: kind != "table" or not str(name).endswith("_version"),
        "include_object": lambda found, name, kind, *_: kind != "index" or _belongs(found, connection),
    }
    differences: Sequence[Any] = compare_metadata(
        MigrationContext.configure(connection=connection, opts=options), metadata
    )
    return differences


def _belongs(index: Index, connection: Connection) -> bool:
    """Return whether *index* of our tables is for the database of *connection*: Alembic does not ask."""
    condition = index._ddl_if
    return condition is None or connection.dialect.name in condition.dialect


_POSTGRES_WORDS = """
    SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid), collname
    FROM pg_attribute
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    LEFT JOIN pg_collation ON pg_collation.oid = attcollation
    WHERE attrelid = '{0}'::regclass AND attnum > 0
    UNION ALL
    SELECT conname, pg_get_constraintdef(oid), NULL, NULL, NULL FROM pg_constraint
    WHERE conrelid = '{0}'::regclass
    UNION ALL
    SELECT indexrelid::regclass::name, pg_get_indexdef(indexrelid), NULL, NULL, NULL FROM pg_index
    WHERE indrelid = '{0}'::regclass
    ORDER BY 1, 2
"""
_WORDS = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE tbl_name = '{0}' ORDER BY name",
    "postgresql": _POSTGRES_WORDS,
    "mysql": "SHOW CREATE TABLE {0}",
}


async def _description(node: SqlNode) -> list[list[str]]:
    words = _WORDS[node.dialect.name]
    async with node.reader.connect() as connection:
        tables = (JOURNAL, AUDIT, PULSE, LEDGER)
        rows = [row for table in tables for row in await connection.execute(text(words.format(table)))]
    return [[_plain(str(value)) for value in row] for row in rows]


def _plain(told: str) -> str:
    """Return *told* on one line: a server may break the lines of CREATE TABLE and order the indexes at will."""
    lines = told.splitlines()
    # MariaDB tells indexes in the order of their creation; SQLAlchemy keeps them in a set.
    keys = sorted(line.rstrip(",") for line in lines if line.lstrip().startswith("KEY "))
    others = [line for line in lines if not line.lstrip().startswith("KEY ")]
    return " ".join(" ".join([*others, *keys]).split()).replace("IF NOT EXISTS ", "")


async def _journal_row(node: SqlNode, status: str, *, awake: bool) -> None:
    values = {"id": node.dialect.key(uuid4()), "status": status}
    moment = node.dialect.clock if awake else "NULL"
    async with node.writer.begin() as connection:
        statement = node.dialect.render(
            f"INSERT INTO {JOURNAL} (id, name, version, fingerprint, input, input_hash, status, epoch, results, "
            f"wake_at, created_at) VALUES (:id, 'buy', 1, '', '', '', :status, 1, '', {moment}, "
            f"{node.dialect.clock})"
        )
        await connection.exec_driver_sql(statement.sql, statement.bind(values))
