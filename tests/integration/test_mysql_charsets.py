"""Sagas on databases whose default character set and collation are not ours, as hosters make them."""

from urllib.parse import urlsplit

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from devservers import MariaDBServer, MySQLServer
from polysaga import Databases, Saga, Sagas, SqlDatabase, StepContext
from polysaga.config import SagaSettings, Settings, parse_settings
from polysaga.events import SagaFinished
from polysaga.migrations import migrate
from tests.fixtures.programs import Recorder
from tests.fixtures.tiers import Uses

TEXT = "hello Żółć 価格 🏮"
DEFAULTS = [
    "CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
    "CHARACTER SET utf8mb4 COLLATE utf8mb4_turkish_ci",
    "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CHARACTER SET utf8mb3 COLLATE utf8mb3_unicode_ci",
    "CHARACTER SET latin1",
    "CHARACTER SET ucs2",
]


class Shop:
    """A saga whose last step runs outside of the journal's database, so that its end is written in a batch."""

    def __init__(self) -> None:
        self.home, self.other, self.recorder = SqlDatabase("home"), SqlDatabase("other"), Recorder()
        self.saga = Saga("greet", input=str, output=str)

        @self.saga.step(self.home)
        async def first(db: AsyncSession, given: str, ctx: StepContext) -> str:
            return given

        @first.compensation
        async def undo_first(db: AsyncSession, given: str, done: str, ctx: StepContext) -> None: ...

        @self.saga.step(self.other, kind="pivot")
        async def second(db: AsyncSession, given: str, ctx: StepContext) -> str:
            return 2 * given

        @self.saga.step(self.other, kind="retriable")
        async def third(db: AsyncSession, given: str, ctx: StepContext) -> str:
            return 3 * given

        self.databases = Databases(self.home, self.other)
        self.sagas = Sagas(self.databases, self.saga, journal=self.home)


@pytest.fixture(
    params=[
        Uses(f"{product} {default}", (f"{product}_server", f"{product}_database", default))
        for product in ("mariadb", "mysql")
        for default in DEFAULTS
    ],
    ids=str,
)
def settings(request: pytest.FixtureRequest) -> Settings:
    server_name, database_name, default = request.param.fixtures
    server, database = request.getfixturevalue(server_name), request.getfixturevalue(database_name)
    assert isinstance(server, MariaDBServer | MySQLServer)
    urls = {"home": database(), "other": database()}
    for url in urls.values():
        server.run(f"ALTER DATABASE `{urlsplit(url).path[1:]}` {default}")
    return parse_settings({"databases": {name: {"url": url} for name, url in urls.items()}})


async def test_sagas_end_and_keep_every_character(settings: Settings) -> None:
    first, later = Shop(), Shop()
    async with first.databases.open(settings):
        await migrate(first.sagas)
        async with first.sagas.open(SagaSettings(), emit=first.recorder):
            told = await first.sagas.run(first.saga, TEXT, key=f"k-{TEXT}")
            await first.recorder.wait_for(SagaFinished)
    async with later.databases.open(settings), later.sagas.open(SagaSettings(), emit=later.recorder):
        again = await later.sagas.run(later.saga, TEXT, key=f"k-{TEXT}")
        found = await later.sagas.verify()
    assert (told, again) == (2 * TEXT, 2 * TEXT)
    assert found.clean
