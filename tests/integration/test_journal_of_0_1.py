"""A journal of version 0.1, with sagas in it, is migrated while processes of that version go on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, inspect, text

from polysaga import Sagas
from polysaga.databases import SqlNode
from polysaga.errors import DatabaseUnavailable
from polysaga.migrations import migrate
from polysaga.sagas.journal.tables import AUDIT, JOURNAL, PULSE
from tests.fixtures.servers import DatabaseFactory
from tests.fixtures.waiting import until, within
from tests.integration.migrating import SQL_KINDS, fresh, journal_node, program

LONG_AGO = "'2026-01-01T00:00:00.000'"
MADE_FOR_0_2 = {
    "postgresql": {JOURNAL: "polysaga_journal_trouble", AUDIT: "polysaga_audit_time"},
    "sqlite": {JOURNAL: "polysaga_journal_trouble", AUDIT: "polysaga_audit_time"},
    "mysql": {JOURNAL: "polysaga_journal_status", AUDIT: "polysaga_audit_time"},
}
MAKES_AN_INDEX = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"
)
INVALID = text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")


@pytest.fixture(params=SQL_KINDS, ids=str)
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return fresh(request.param, request, tmp_path)


@pytest.fixture
async def old_postgres(postgres_database: DatabaseFactory) -> AsyncIterator[tuple[Sagas, Callable[..., Any]]]:
    """A journal of 0.1, and what makes one more program on it; all are closed with the test."""
    url = postgres_database()
    sagas, settings = program(shop=url, lock_timeout=20.0)
    async with sagas.databases.open(settings):
        await made_by_0_1(sagas)
        yield sagas, lambda **more: program(shop=url, **more)


async def test_its_indexes_are_made_and_parked_sagas_put_out_of_the_way(sql_url: str) -> None:
    sagas, settings = program(shop=sql_url)
    async with sagas.databases.open(settings):
        node = journal_node(sagas)
        await made_by_0_1(sagas)
        parked, running = [await put(node, status) for status in ("needs_attention", "running")]

        made = await migrate(sagas)

        assert [(one.line, one.current, one.head) for one in made] == [("journal", "0001", "0003")]
        assert await missing(node) == []
        assert (await wakes_at(node, parked)).startswith("9999-01-01")
        assert (await wakes_at(node, running)).startswith("2026-01-01")
        assert await migrate(sagas) == []


@pytest.mark.parametrize("table", [JOURNAL, AUDIT])
async def test_a_migration_cut_short_between_two_indexes_is_finished(sql_url: str, table: str) -> None:
    sagas, settings = program(shop=sql_url)
    async with sagas.databases.open(settings):
        await made_by_0_1(sagas, without=[table])

        await migrate(sagas)

        assert await missing(journal_node(sagas)) == []


async def test_on_postgres_sagas_start_while_the_indexes_are_made(
    old_postgres: tuple[Sagas, Callable[..., Any]],
) -> None:
    """The build waits for a transaction that writes; other writers do not wait for the build."""
    sagas, another = old_postgres
    node = journal_node(sagas)
    busy, impatient = another(lock_timeout=0.5)
    second, settings = another(lock_timeout=20.0)
    async with busy.databases.open(impatient), second.databases.open(settings):
        async with node.writer.connect() as writing:
            await writing.execute(text(f"UPDATE {JOURNAL} SET expiries = 0"))
            await put(node, "running", writing)
            first = asyncio.create_task(migrate(sagas))
            await until(lambda: is_not_zero(node, MAKES_AN_INDEX), "the build waits", watching=[first])
            begun = await put(journal_node(busy), "running")
            other = asyncio.create_task(migrate(second))
            await put(journal_node(busy), "needs_attention")
            await writing.commit()
        made = await within(asyncio.gather(first, other), "both migrations end")

    assert sorted(len(one) for one in made) == [0, 1]
    assert await missing(node) == []
    assert (await wakes_at(node, begun)).startswith("2026-01-01")


async def test_on_postgres_an_index_whose_build_failed_is_made_again(
    old_postgres: tuple[Sagas, Callable[..., Any]],
) -> None:
    sagas, another = old_postgres
    node = journal_node(sagas)
    hasty, impatient = another(lock_timeout=0.2)
    async with hasty.databases.open(impatient):
        async with node.writer.connect() as writing:
            await put(node, "running", writing)
            with pytest.raises(DatabaseUnavailable, match="the journal cannot be migrated now"):
                await migrate(hasty)
            assert await is_not_zero(node, INVALID)
            await writing.commit()

        assert len(await migrate(hasty)) == 1

    assert await missing(node) == []
    assert not await is_not_zero(node, INVALID)


@pytest.mark.parametrize("factory", ["mariadb_database", "mysql_database"])
async def test_on_mysql_a_migration_that_meets_an_open_transaction_gives_up(
    factory: str, request: pytest.FixtureRequest
) -> None:
    """While it waits for the table, so do all others: it must not wait for long."""
    sagas, settings = program(shop=request.getfixturevalue(factory)(), lock_timeout=1.0)
    async with sagas.databases.open(settings):
        node = journal_node(sagas)
        await made_by_0_1(sagas)
        async with node.writer.connect() as writing:
            await put(node, "running", writing)
            with pytest.raises(DatabaseUnavailable, match="the journal cannot be migrated now"):
                await within(migrate(sagas), "the migration gives up")
            await writing.commit()

        assert len(await migrate(sagas)) == 1
        assert await missing(node) == []


async def made_by_0_1(sagas: Sagas, without: list[str] | None = None) -> None:
    """Make the tables, and take back what 0.2 adds; only the index of the tables *without*, if given."""
    await migrate(sagas)
    node = journal_node(sagas)
    async with node.writer.begin() as connection:
        for table, index in MADE_FOR_0_2[node.dialect.name].items():
            if without is None or table in without:
                on_table = f" ON {table}" if node.dialect.name == "mysql" else ""
                await connection.execute(text(f"DROP INDEX {index}{on_table}"))
        if without is None:
            await connection.execute(text(f"DROP TABLE {PULSE}"))
            await connection.execute(text(f"ALTER TABLE {JOURNAL} DROP COLUMN trace"))
        await connection.execute(text(f"UPDATE {JOURNAL}_version SET version_num = '0001'"))


async def put(node: SqlNode, status: str, connection: Any = None) -> UUID:
    """Insert a saga that woke long ago, as 0.1 parked them; in the transaction of *connection*, if given."""
    if connection is None:
        async with node.writer.begin() as own:
            return await put(node, status, own)
    saga_id = uuid4()
    statement = node.dialect.render(
        f"INSERT INTO {JOURNAL} (id, name, version, fingerprint, input, input_hash, status, epoch, results, "
        f"wake_at, created_at) VALUES (:id, 'buy', 1, '', '', '', :status, 1, '', {LONG_AGO}, {LONG_AGO})"
    )
    await connection.exec_driver_sql(
        statement.sql, statement.bind({"id": node.dialect.key(saga_id), "status": status})
    )
    return saga_id


async def wakes_at(node: SqlNode, saga_id: UUID) -> str:
    statement = node.dialect.render(f"SELECT wake_at FROM {JOURNAL} WHERE id = :id")
    async with node.reader.connect() as connection:
        found = await connection.exec_driver_sql(statement.sql, statement.bind({"id": node.dialect.key(saga_id)}))
        return str(found.scalar_one())


async def missing(node: SqlNode) -> list[str]:
    """Return the indexes that are not there."""

    def look(connection: Connection) -> list[str]:
        there = {one["name"] for table in (JOURNAL, AUDIT) for one in inspect(connection).get_indexes(table)}
        return sorted(set(MADE_FOR_0_2[node.dialect.name].values()) - there)

    async with node.reader.connect() as connection:
        return await connection.run_sync(look)


async def is_not_zero(node: SqlNode, query: Any) -> bool:
    async with node.reader.connect() as connection:
        return bool(await connection.scalar(query))
