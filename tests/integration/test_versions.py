"""A key that an earlier version of a saga has started: callers of the newer one see what that one wrote."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga import Databases, Refused, Saga, Sagas, SqlDatabase, StepContext
from polysaga.config import parse_settings
from polysaga.databases import Database
from polysaga.errors import KeyReused, UnknownVersion
from polysaga.migrations import migrate
from polysaga.sagas import SagaFilter, Status
from tests.fixtures.waiting import reached


class Shop:
    """A saga whose first version takes from the stock; the second leaves the stock alone."""

    def __init__(self) -> None:
        self.orders, self.stock = SqlDatabase("orders"), SqlDatabase("stock")
        self.in_step, self.go_on = asyncio.Event(), asyncio.Event()
        self.former, self.latter = (Saga("buy", input=int, output=int, version=number) for number in (1, 2))
        self.former.step(self.stock, kind="pivot")(self.buy)
        self.latter.step(self.orders, kind="pivot")(self.buy)
        self.databases = Databases(self.orders, self.stock)
        self.sagas = Sagas(self.databases, self.former, self.latter, journal=self.orders)

    async def buy(self, db: Any, pieces: int, ctx: StepContext) -> int:
        self.in_step.set()
        await reached(self.go_on, "the step goes on")
        return pieces


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    shop = Shop()
    urls = {name: {"url": f"sqlite+aiosqlite:///{tmp_path}/{name}.db"} for name in ("orders", "stock")}
    async with shop.databases.open(parse_settings({"databases": urls})):
        await migrate(shop.sagas)
        yield shop


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The databases that later reads of the caller must include."""
    told = set[str]()
    monkeypatch.setattr(Database, "wrote", lambda database: told.add(database.name))
    return told


async def test_later_reads_include_what_is_written_under_way(shop: Shop, told: set[str]) -> None:
    async with shop.sagas.open():
        first = await shop.sagas.start(shop.former, 3, key="repeated")
        await reached(shop.in_step, "the former version is in its step")
        repeated = await shop.sagas.start(shop.latter, 3, key="repeated")
        told.clear()
        shop.go_on.set()
        assert await repeated.result(30) == 3
        assert (repeated.id, repeated.joined) == (first.id, True)
    assert told == {"orders", "stock"}


async def test_later_reads_include_what_was_written_before(shop: Shop, told: set[str]) -> None:
    shop.go_on.set()
    async with shop.sagas.open():
        first = await shop.sagas.start(shop.former, 3, key="repeated")
        await first.result(30)
    told.clear()
    async with shop.sagas.open():
        assert await shop.sagas.run(shop.latter, 3, key="repeated", timeout=30) == 3
    assert told == {"orders", "stock"}


async def test_a_saga_is_found_by_the_database_that_its_own_version_failed_in(shop: Shop) -> None:
    async def refuse(db: Any, pieces: int, ctx: StepContext) -> int:
        raise Refused("sold out")

    found = {}
    refuse.__name__ = "buy"
    former, latter = (Saga("buy", input=int, output=int, version=number) for number in (1, 2))
    former.step(shop.stock, kind="pivot")(refuse)
    latter.step(shop.orders, kind="pivot")(refuse)
    sagas = Sagas(shop.databases, former, latter, journal=shop.orders)
    async with sagas.open():
        handles = [await sagas.start(saga, 3) for saga in (former, latter)]
        for handle in handles:
            with pytest.raises(Refused):
                await handle.result(30)
        for database in ("stock", "orders"):
            page = await sagas.find(SagaFilter(database=database, status=Status.COMPENSATED))
            found[database] = [saga.id for saga in page.sagas]
    assert found == {"stock": [handles[0].id], "orders": [handles[1].id]}


class Former(BaseModel):
    item: str
    pieces: int = 1


class Latter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    item: str
    colour: str


def program_of(*inputs: type[BaseModel]) -> tuple[Sagas, Sequence[Saga[Any, str]]]:
    """Return a program with a saga that has a version for each of *inputs*."""
    shop = SqlDatabase("shop")

    async def buy(db: AsyncSession, wanted: Any, ctx: StepContext) -> str:
        return f"{wanted}"

    sagas = [Saga("buy", input=one, output=str, version=(Former, Latter).index(one) + 1) for one in inputs]
    for one in sagas:
        one.step(shop, kind="pivot")(buy)
    return Sagas(Databases(shop), *sagas, journal=shop), sagas


async def test_a_key_whose_input_only_its_own_version_can_read_is_left_to_it(tmp_path: Path) -> None:
    former, (buy_1,) = program_of(Former)
    latter, (buy_2,) = program_of(Latter)
    both, (buy, _) = program_of(Latter, Former)
    settings = parse_settings({"databases": {"shop": {"url": f"sqlite+aiosqlite:///{tmp_path}/shop.db"}}})
    async with former.databases.open(settings), latter.databases.open(settings), both.databases.open(settings):
        await migrate(both)
        async with former.open(), latter.open(), both.open():
            await former.run(buy_1, Former(item="lantern"), key="k-1", timeout=30)
            with pytest.raises(UnknownVersion):
                await latter.start(buy_2, Latter(item="lantern", colour="red"), key="k-1")
            with pytest.raises(UnknownVersion):
                async with latter.journal.writer() as db:
                    await latter.start(buy_2, Latter(item="lantern", colour="red"), key="k-1", tx=db)
            with pytest.raises(KeyReused):  # who knows both can tell
                await both.start(buy, Latter(item="lantern", colour="red"), key="k-1")
