"""Sagas whose steps take an `AsyncConnection`: the crash kit finds nothing wrong with them."""

from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from polysaga import Databases, Refused, Saga, Sagas, SqlDatabase, StepContext


class Purchase(BaseModel):
    buyer: str
    price: int


class Tickets:
    """A sale whose first step, pivot and last step are in the journal's database, or none of them."""

    def __init__(self, journal: str) -> None:
        self.seats, self.money = SqlDatabase("seats"), SqlDatabase("money")
        self.lent: set[bool] = set()
        self.saga: Saga[Purchase, None] = Saga("sell-ticket", input=Purchase)
        take = self.saga.step(self.seats)(self._take_seat())
        take.compensation(self._free_seat())
        self.saga.step(self.money, kind="pivot")(self._charge())
        self.saga.step(self.seats, kind="retriable")(self._print())
        databases = Databases(self.seats, self.money)
        self.sagas = Sagas(databases, self.saga, journal=self.seats if journal == "seats" else self.money)

    def _take_seat(self) -> Any:
        async def take_seat(db: AsyncConnection, purchase: Purchase, ctx: StepContext) -> None:
            self.lent.add(isinstance(db, AsyncConnection))
            await db.execute(text("UPDATE hall SET free = free - 1"))

        return take_seat

    def _free_seat(self) -> Any:
        async def free_seat(db: AsyncConnection, purchase: Purchase, done: None, ctx: StepContext) -> None:
            self.lent.add(isinstance(db, AsyncConnection))
            await db.execute(text("UPDATE hall SET free = free + 1"))

        return free_seat

    def _charge(self) -> Any:
        async def charge(db: AsyncConnection, purchase: Purchase, ctx: StepContext) -> None:
            charge = "UPDATE purses SET cents = cents - :price WHERE buyer = :buyer AND cents >= :price"
            if (await db.execute(text(charge), purchase.model_dump())).rowcount == 0:
                raise Refused("there is not enough money in the purse")

        return charge

    def _print(self) -> Any:
        async def print_ticket(db: AsyncConnection, purchase: Purchase, ctx: StepContext) -> None:
            await db.execute(text("UPDATE hall SET printed = printed + 1"))

        return print_ticket

    async def create_tables(self) -> None:
        async with self.seats.writer() as db:
            await db.execute(text("CREATE TABLE hall (free int, printed int)"))
            await db.execute(text("INSERT INTO hall VALUES (0, 0)"))
        async with self.money.writer() as db:
            await db.execute(text("CREATE TABLE purses (buyer varchar(20), cents int)"))
            await db.execute(text("INSERT INTO purses VALUES ('ada', 0)"))

    async def purchase(self) -> Purchase:
        async with self.seats.writer() as db:
            await db.execute(text("UPDATE hall SET free = 10, printed = 0"))
        async with self.money.writer() as db:
            await db.execute(text("UPDATE purses SET cents = 500"))
        return Purchase(buyer="ada", price=200)

    async def all_or_nothing(self, run: object) -> None:
        async with self.seats.reader() as db, self.money.reader() as purses:
            free, printed = (await db.execute(text("SELECT free, printed FROM hall"))).one()
            paid = 500 - (await purses.execute(text("SELECT cents FROM purses"))).scalar_one()
        assert paid == 200 * (10 - free)
        assert printed == 10 - free


@pytest.mark.parametrize("journal", ["seats", "money"])
def test_a_saga_on_connections_is_whole_after_every_crash(journal: str, crash_kit: Any) -> None:
    tickets = Tickets(journal)
    kit = crash_kit(tickets.sagas, setup=tickets.create_tables)
    kit.prove(tickets.saga, tickets.purchase, invariant=tickets.all_or_nothing)
    assert tickets.lent == {True}
