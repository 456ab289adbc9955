"""What administrators set by ALTER DATABASE or ALTER ROLE changes nothing of what is read, by either driver."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

from polysaga import SqlDatabase
from polysaga.databases.handles import AnyHandle
from polysaga.migrations import migrate
from tests.fixtures.servers import DatabaseFactory
from tests.integration.migrating import program, saga_of

# Each of them alone made a driver fail, or could be thought to.
SETTINGS: dict[str, dict[str, str]] = {
    "German dates": {"DateStyle": "German", "TimeZone": "America/St_Johns", "IntervalStyle": "iso_8601"},
    "SQL dates": {"DateStyle": "SQL, DMY", "TimeZone": "<+0330>-03:30", "IntervalStyle": "sql_standard"},
    "Postgres dates": {"DateStyle": "Postgres, MDY", "TimeZone": "UTC", "IntervalStyle": "postgres_verbose"},
    "numbers, bytes and text": {
        "extra_float_digits": "-15",
        "bytea_output": "escape",
        "standard_conforming_strings": "off",
        "client_encoding": "LATIN1",
        "quote_all_identifiers": "on",
        "array_nulls": "off",
        "xmlbinary": "hex",
    },
    "transactions": {
        "default_transaction_isolation": "serializable",
        "default_transaction_deferrable": "on",
        "transform_null_equals": "on",
        "synchronous_commit": "off",
        "row_security": "off",
        "client_min_messages": "debug1",
        "plan_cache_mode": "force_generic_plan",
    },
}
SAID = "Żółć 🏮 it's a \\ 100%"
MOMENT = datetime(2024, 2, 29, 23, 59, 58, 123456, tzinfo=UTC)
READ = text(
    "SELECT cast(:day AS date), cast(:moment AS timestamptz), cast(:span AS interval), cast(:number AS float8), "
    "cast(:bytes AS bytea), cast(:said AS text), cast(:numbers AS int[])"
)
VALUES: dict[str, Any] = {
    "day": date(2024, 2, 3),
    "moment": MOMENT,
    "span": timedelta(days=3, hours=4, seconds=5),
    "number": 0.1 + 0.2,
    "bytes": b"\x00\\\xff'",
    "said": SAID,
    "numbers": [1, None],
}


@pytest.fixture(params=["asyncpg", "psycopg"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("settings", SETTINGS)
async def test_what_is_read_is_what_was_written(
    settings: str, driver: str, postgres_database: DatabaseFactory
) -> None:
    url = postgres_database().replace("+asyncpg", f"+{driver}")
    administer(url, SETTINGS[settings])
    sagas, known = program(shop=url)
    async with sagas.databases.open(known):
        await migrate(sagas)
        async with sagas.open(known.sagas):
            assert await sagas.run(saga_of(sagas), 20, key=SAID) == 21
            (found,) = (await sagas.find()).sagas
            assert abs(found.created_at - datetime.now(UTC)) < timedelta(minutes=5)
            assert (await sagas.get(found.id)).key == SAID
            assert (await sagas.verify()).contradictions == ()
        await assert_read(next(iter(sagas.databases)))


def administer(url: str, settings: dict[str, str]) -> None:
    parts = urlsplit(url)
    name = sql.Identifier(parts.path[1:])
    with psycopg.connect(f"postgresql://{url.partition('://')[2]}", autocommit=True) as connection:
        for setting, value in settings.items():
            alter = sql.SQL("ALTER DATABASE {} SET {} = {}")
            connection.execute(alter.format(name, sql.Identifier(setting.lower()), sql.Literal(value)))


async def assert_read(shop: AnyHandle) -> None:
    assert isinstance(shop, SqlDatabase)
    async with shop.reader() as db:
        row = (await db.execute(READ, VALUES)).one()
    assert (
        dict(zip(VALUES, [bytes(one) if isinstance(one, memoryview) else one for one in row], strict=True))
        == VALUES
    )
    async with shop.writer() as db:
        assert tuple((await db.execute(READ, VALUES)).one()) == tuple(row)
