"""A program whose journal is suddenly in another database: it would not know what it has done."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga import Databases, Saga, Sagas, SqlDatabase, StepContext
from polysaga.errors import ConfigurationError
from polysaga.migrations import migrate
from tests.fixtures.tiers import Uses
from tests.integration.migrating import SQL_KINDS, fresh, settings_for, sqlite_url

LONG_AGO = {"sqlite": "'2020-01-01T00:00:00.000'", "postgresql": "'2020-01-01'", "mysql": "'2020-01-01'"}


@pytest.fixture(params=SQL_KINDS, ids=str)
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    kind: Uses = request.param
    return lambda: fresh(kind, request, tmp_path)


def program(*names: str, name: str = "buy") -> tuple[Sagas, Saga[int, int]]:
    """Return a program with its journal in the first of the databases *names*, and its saga."""
    handles = [SqlDatabase(one) for one in names]
    saga = Saga(name, input=int, output=int)

    @saga.step(handles[0], kind="pivot")
    async def pay(db: AsyncSession, value: int, ctx: StepContext) -> int:
        return value

    return Sagas(Databases(*handles), saga, journal=handles[0]), saga


async def test_sagas_do_not_open_beside_a_journal_that_knows_more(fresh_url: Callable[[], str]) -> None:
    settings = settings_for(shop=fresh_url(), stock=fresh_url())
    former, buy = program("shop", "stock")
    async with former.databases.open(settings):
        await migrate(former)
        async with former.open():
            assert await former.run(buy, 3, key="k-1", timeout=30) == 3
    moved, _ = program("stock", "shop")
    other, _ = program("stock", "shop", name="sell")
    async with moved.databases.open(settings), other.databases.open(settings):
        await migrate(moved)
        with pytest.raises(ConfigurationError, match="database 'shop' has a journal with sagas of this program"):
            async with moved.open():
                pass
        async with other.open():
            pass  # it knows none of these sagas: the journal is another program's
        shop = next(handle for handle in moved.databases if handle.name == "shop")
        async with shop.writer() as db:
            assert isinstance(db, AsyncSession)
            await db.execute(
                text(f"UPDATE polysaga_journal SET finished_at = {LONG_AGO[shop.primary.dialect.name]}")
            )
        async with moved.open():
            pass  # it has forgotten its keys, as retention would
    async with former.databases.open(settings), former.open():
        pass  # what the migration left in the other database is no reason


async def test_two_handles_on_one_database_have_one_journal(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    settings = settings_for(shop=url, reports=url)
    sagas, buy = program("shop", "reports")
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with sagas.open():
            await sagas.run(buy, 3, timeout=30)
        async with sagas.open():
            assert await sagas.run(buy, 4, timeout=30) == 4
