"""Sagas on servers with the `sql_mode`s of hosters and old applications, also one that the driver cannot take."""

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from devservers import MariaDBServer, MySQLServer
from polysaga.config import SagaSettings, Settings, parse_settings
from polysaga.events import SagaFinished
from polysaga.migrations import migrate
from tests.fixtures.tiers import Uses
from tests.integration.test_mysql_charsets import TEXT, Shop

_BOTH = [
    "",  # not strict
    "ANSI,NO_BACKSLASH_ESCAPES",
    "TRADITIONAL,HIGH_NOT_PRECEDENCE,NO_UNSIGNED_SUBTRACTION,PAD_CHAR_TO_FULL_LENGTH,NO_AUTO_VALUE_ON_ZERO",
]
_MODES = {
    "mariadb": [
        *_BOTH,
        "ORACLE,NO_BACKSLASH_ESCAPES",
        "MSSQL,EMPTY_STRING_IS_NULL,SIMULTANEOUS_ASSIGNMENT,TIME_ROUND_FRACTIONAL",
    ],
    "mysql": [*_BOTH, "NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES,TIME_TRUNCATE_FRACTIONAL"],
}
_RUNS = 24  # ids are random bytes; a third of them has some that are escaped


@pytest.fixture(
    params=[
        Uses(f"{product} {mode or 'not strict'}", (f"{product}_server", f"{product}_database", mode))
        for product, modes in _MODES.items()
        for mode in modes
    ],
    ids=str,
)
def settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    server_name, database_name, mode = request.param.fixtures
    server, database = request.getfixturevalue(server_name), request.getfixturevalue(database_name)
    if not isinstance(server, MariaDBServer | MySQLServer):
        pytest.skip("needs a server that tests may set up")
    urls = {"home": database(), "other": database()}
    ((before,),) = server.run("SELECT @@global.sql_mode")
    server.run(f"SET GLOBAL sql_mode = '{mode}'")
    yield parse_settings({"databases": {name: {"url": url} for name, url in urls.items()}})
    server.run(f"SET GLOBAL sql_mode = '{before}'")


async def test_sagas_end_under_any_sql_mode(settings: Settings) -> None:
    first, later = Shop(), Shop()
    keys = [f"k{number}'\\{TEXT}" for number in range(_RUNS)]
    async with first.databases.open(settings):
        await migrate(first.sagas)
        async with first.sagas.open(SagaSettings(), emit=first.recorder):
            told = await asyncio.gather(*(first.sagas.run(first.saga, key, key=key) for key in keys))
            await first.recorder.wait_for(SagaFinished, lambda _: len(first.recorder.of(SagaFinished)) == _RUNS)
    async with later.databases.open(settings), later.sagas.open(SagaSettings(), emit=later.recorder):
        again = await asyncio.gather(*(later.sagas.run(later.saga, key, key=key) for key in keys))
        found = await later.sagas.verify()
    assert told == again == [2 * key for key in keys]
    assert found.clean


async def test_bytes_arrive_as_they_were_sent_under_any_sql_mode(settings: Settings) -> None:
    shop, sent = Shop(), b"it's \\ \x00 \n \r \x1a \" %"
    async with shop.databases.open(settings):
        for lend in (shop.home.writer, shop.home.reader):
            async with lend() as db:
                length, same = (
                    await db.execute(
                        text("SELECT length(:sent), :sent = unhex(:hex)"), {"sent": sent, "hex": sent.hex()}
                    )
                ).one()
                assert (length, same) == (len(sent), 1)
