"""Rows that a saga locks for as long as it lasts, on every kind of database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Column, MetaData, String, Table, Uuid, text

from polysaga import MongoSession, Refused, Retry, SemanticLock, StepContext
from polysaga.errors import RowLocked, SagaUndone
from polysaga.events import SagaFinished, StepFailed
from tests.fixtures.programs import Gate, Order, Program, Urls

PLACES = ["orders", "inventory", "points"]
SEAT = "1A"
lock = SemanticLock("seats")


@asynccontextmanager
async def booking(urls: Urls, place: str, *, wait: bool = False) -> AsyncIterator[Program]:
    """A program whose saga locks a seat in its first step and frees it in its last, or when it is undone."""
    elsewhere = "points" if place == "inventory" else "inventory"
    program = Program(
        urls,
        [
            ("hold", place, "compensatable", []),
            ("pay", elsewhere, "pivot", ["hold"]),
            ("tell", place, "retriable", ["pay"]),
        ],
    )

    async def acquire(db: Any, ctx: StepContext) -> None:
        assert await lock.acquire(db, SEAT, ctx, wait=wait)
        assert await lock.acquire(db, SEAT, ctx), "having it already is no obstacle"
        assert await lock.acquire(db, "99Z", ctx) is False, "there is no such seat"

    async def release(db: Any, ctx: StepContext) -> None:
        await lock.release(db, SEAT, ctx)

    program.on("hold", acquire)
    program.on("undo:hold", release)
    program.on("tell", release)
    async with program.open():
        async with program.handles[place].writer() as db:
            if isinstance(db, MongoSession):
                await db["seats"].insert_one({"_id": SEAT})
            else:
                await db.execute(text("CREATE TABLE seats (id varchar(8) PRIMARY KEY, locked_by varchar(36))"))
                await db.execute(text("INSERT INTO seats (id) VALUES ('1A')"))
        yield program


async def holder(program: Program, place: str) -> UUID | None:
    async with program.handles[place].reader() as db:
        return await lock.holder(db, SEAT)


@pytest.mark.parametrize("place", PLACES)
async def test_who_meets_a_lock_is_refused_and_it_ends_with_the_saga(urls: Urls, place: str) -> None:
    async with booking(urls, place) as program:
        gate = Gate()
        program.on("pay", gate)
        first = await program.sagas.start(program.saga, Order())
        await gate.reached()
        assert await holder(program, place) == first.id
        with pytest.raises(RowLocked, match=f"'1A' in seats is locked by saga {first.id}") as refused:
            await program.sagas.run(program.saga, Order(), key="second", timeout=30)
        assert refused.value.facts == {"rows": "seats", "key": "1A", "locked_by": str(first.id)}
        with pytest.raises(RowLocked):  # and so does a caller who asks later with the same key
            await program.sagas.run(program.saga, Order(), key="second", timeout=30)
        assert await holder(program, place) == first.id, "being undone frees only what one holds"
        gate.open()
        await first.result(30)
        await program.recorder.wait_for(SagaFinished, lambda event: event.saga_id == first.id)
        assert await holder(program, place) is None
        await program.sagas.run(program.saga, Order(), timeout=30)


@pytest.mark.parametrize("place", PLACES)
async def test_a_saga_that_is_undone_frees_the_row(urls: Urls, place: str) -> None:
    async with booking(urls, place) as program:
        holders: list[UUID | None] = []

        async def refuse(db: Any, ctx: StepContext) -> None:
            holders.append(await holder(program, place))
            raise Refused("card expired")

        program.on("pay", refuse)
        with pytest.raises(Refused, match="card expired") as refused:
            await program.sagas.run(program.saga, Order(), timeout=30)
        assert holders == [refused.value.saga_id]
        assert await holder(program, place) is None


@pytest.mark.parametrize("place", PLACES)
async def test_a_saga_that_waits_goes_on_when_the_other_has_ended(urls: Urls, place: str) -> None:
    async with booking(urls, place, wait=True) as program:
        gate = Gate()
        program.on("pay", gate)
        first = await program.sagas.start(program.saga, Order())
        await gate.reached()
        second = asyncio.ensure_future(program.sagas.run(program.saga, Order(), timeout=60))
        await program.recorder.wait_for(StepFailed, lambda event: event.saga_id != first.id)
        gate.open()
        await asyncio.gather(first.result(30), second)


@pytest.mark.parametrize("place", ["inventory", "points"])
async def test_a_saga_that_has_waited_too_long_is_undone_and_may_be_asked_again(urls: Urls, place: str) -> None:
    async with booking(urls, place, wait=True) as program:
        gate = Gate()
        program.on("pay", gate)
        first = await program.sagas.start(program.saga, Order())
        await gate.reached()
        program.steps["hold"].retry = Retry(within=0.2, first=0.05)
        with pytest.raises(SagaUndone, match="still locked by saga"):
            await program.sagas.run(program.saga, Order(), timeout=30)
        gate.open()
        await first.result(30)


@pytest.mark.parametrize("place", PLACES)
async def test_of_several_at_once_exactly_one_gets_the_row(urls: Urls, place: str) -> None:
    async with booking(urls, place) as program:
        gate = Gate()
        program.on("pay", gate)
        runs = [asyncio.ensure_future(program.sagas.run(program.saga, Order(), timeout=60)) for _ in range(4)]
        for refusals, finished in enumerate(asyncio.as_completed(runs), start=1):
            with pytest.raises(RowLocked):
                await finished
            if refusals == len(runs) - 1:
                break
        gate.open()
        (winner,) = [run for run in runs if not run.done() or run.exception() is None]
        await winner


async def test_a_lock_on_a_table_uses_its_types(urls: Urls) -> None:
    seats = Table("tables", MetaData(), Column("id", String(8), primary_key=True), Column("mine", Uuid))
    typed = SemanticLock(seats, mark="mine")
    async with Program(urls, [("only", "orders", "compensatable", [])]).open() as program:
        async with program.handles["orders"].writer() as db:
            assert not isinstance(db, MongoSession)
            await (await db.connection()).run_sync(seats.metadata.create_all)
            await db.execute(seats.insert().values(id=SEAT))

        async def acquire(db: Any, ctx: StepContext) -> None:
            assert await typed.acquire(db, SEAT, ctx)

        program.on("only", acquire)
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        async with program.handles["orders"].reader() as db:
            assert await typed.holder(db, SEAT) == handle.id
