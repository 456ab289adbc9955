"""Three steps on one PostgreSQL server, run by Polysaga: what the peers are compared with.

`no-op`: steps that do nothing. Each still is a transaction with its ledger row, because Polysaga's steps are
transactions. `inserts`: each step inserts one row. Two steps have a compensation, the third is the pivot.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel
from sqlalchemy import BigInteger, Column, MetaData, String, Table, delete, insert
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.shop import UnderWay, settings
from benchmarks.side import Places, Side, serve
from polysaga import Databases, Saga, Sagas, SqlDatabase, StepContext
from polysaga.databases import SqlNode
from polysaga.migrations import migrate

STEPS = ("first", "second", "third")
rows = Table(
    "rows",
    MetaData(),
    Column("id", String(64), primary_key=True),
    Column("step", String(16), primary_key=True),
    Column("number", BigInteger, nullable=False),
)

app = SqlDatabase("app")


class Work(BaseModel):
    """The input of both sagas."""

    number: int


no_op = Saga("no-op", input=Work, output=Work)
inserts = Saga("inserts", input=Work, output=Work)


async def fill(urls: Places) -> None:
    """Create the tables in an empty database."""
    async with databases.open(settings({"app": urls["app"]})):
        await migrate(sagas)
        node = app.primary
        assert isinstance(node, SqlNode)
        async with node.writer.begin() as connection:
            await connection.run_sync(rows.metadata.create_all)


@no_op.step(app)
async def first(db: AsyncSession, work: Work, ctx: StepContext) -> None:
    """Do nothing."""


@first.compensation
async def undo_first(db: AsyncSession, work: Work, done: None, ctx: StepContext) -> None:
    """Undo nothing."""


@no_op.step(app)
async def second(db: AsyncSession, work: Work, ctx: StepContext) -> None:
    """Do nothing."""


@second.compensation
async def undo_second(db: AsyncSession, work: Work, done: None, ctx: StepContext) -> None:
    """Undo nothing."""


@no_op.step(app, kind="pivot")
async def third(db: AsyncSession, work: Work, ctx: StepContext) -> Work:
    """Decide."""
    return work


@inserts.step(app)
async def insert_first(db: AsyncSession, work: Work, ctx: StepContext) -> None:
    """Insert a row."""
    await _insert(db, work, ctx, STEPS[0])


@insert_first.compensation
async def delete_first(db: AsyncSession, work: Work, done: None, ctx: StepContext) -> None:
    """Delete it."""
    await _delete(db, ctx, STEPS[0])


@inserts.step(app)
async def insert_second(db: AsyncSession, work: Work, ctx: StepContext) -> None:
    """Insert a row."""
    await _insert(db, work, ctx, STEPS[1])


@insert_second.compensation
async def delete_second(db: AsyncSession, work: Work, done: None, ctx: StepContext) -> None:
    """Delete it."""
    await _delete(db, ctx, STEPS[1])


@inserts.step(app, kind="pivot")
async def insert_third(db: AsyncSession, work: Work, ctx: StepContext) -> Work:
    """Insert a row, and decide."""
    await _insert(db, work, ctx, STEPS[2])
    return work


async def _insert(db: AsyncSession, work: Work, ctx: StepContext, step: str) -> None:
    await db.execute(insert(rows).values(id=str(ctx.saga_id), step=step, number=work.number))


async def _delete(db: AsyncSession, ctx: StepContext, step: str) -> None:
    await db.execute(delete(rows).where(rows.c.id == str(ctx.saga_id), rows.c.step == step))


databases = Databases(app)
sagas = Sagas(databases, no_op, inserts, journal=app)


@asynccontextmanager
async def _side(saga: Saga[Any, Any], urls: Places) -> AsyncIterator[Side]:
    under_way = UnderWay()

    async def once() -> None:
        handle = await sagas.start(saga, Work(number=1))
        under_way.started.add(handle.id)
        await handle.result()

    async with databases.open(settings(urls)), sagas.open(emit=under_way):
        await under_way.tick()
        yield Side(once, rest=under_way.rest, quiet=under_way.tick)


if __name__ == "__main__":
    serve({"no-op": lambda urls: _side(no_op, urls), "inserts": lambda urls: _side(inserts, urls)})
