"""A saga over two databases that can be caught in the middle, and the programs that begin it and take it over.

`begin N`: start N sagas. Each commits its first two steps and then hangs in a call until the process is killed.
`take-over N`: open the sagas as a fresh process of the service does, with pools of N connections, and finish what
is overdue. There the call returns at once. One line of JSON says that the program is ready; `take-over` tells its
claims when its input ends.

The table of effects has no unique key: a step that happened twice would leave two rows.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import Column, MetaData, String, Table, insert
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.shop import POOL
from benchmarks.side import Places
from polysaga import Databases, Saga, Sagas, SqlDatabase, StepContext
from polysaga.config import Settings, parse_settings
from polysaga.databases import SqlNode
from polysaga.events import ClaimLost, Event, SagaClaimed, WorkerTicked
from polysaga.migrations import migrate

LEASE = 10.0  # seconds; the default
EFFECTS_OF_ONE = {"app": 2, "other": 2}  # rows that one finished saga leaves
_STARTS = 32  # at once
_HOURS = 3600.0  # seconds that the call may hang

effects = Table("effects", MetaData(), Column("id", String(36), index=True), Column("step", String(16)))
app, other = SqlDatabase("app"), SqlDatabase("other")


class Work(BaseModel):
    """The input."""

    number: int


class Hanging:
    """How many calls hang in this process; None: they do not."""

    def __init__(self) -> None:
        self.wanted: int | None = None
        self.reached = asyncio.Event()
        self._there = 0

    async def __call__(self) -> None:
        if self.wanted is None:
            return
        self._there += 1
        if self._there == self.wanted:
            self.reached.set()
        await asyncio.Event().wait()


hanging = Hanging()
saga = Saga("recovery", input=Work, output=Work)


@saga.step(app)
async def first(db: AsyncSession, work: Work, ctx: StepContext) -> None:
    """Leave a row in the journal's database."""
    await _leave(db, ctx)


@first.compensation
async def undo_first(db: AsyncSession, work: Work, done: None, ctx: StepContext) -> None:
    """Never happens here."""


@saga.step(other)
async def second(db: AsyncSession, work: Work, ctx: StepContext) -> None:
    """Leave a row in the other database."""
    await _leave(db, ctx)


@second.compensation
async def undo_second(db: AsyncSession, work: Work, done: None, ctx: StepContext) -> None:
    """Never happens here."""


@saga.step(None, timeout=_HOURS)
async def call(work: Work, ctx: StepContext) -> None:
    """Hang until the process is killed."""
    await hanging()


@call.compensation
async def undo_call(work: Work, done: None, ctx: StepContext) -> None:
    """Never happens here."""


@saga.step(app, kind="pivot")
async def third(db: AsyncSession, work: Work, ctx: StepContext) -> Work:
    """Leave a row, and decide."""
    await _leave(db, ctx)
    return work


@saga.step(other, kind="retriable")
async def fourth(db: AsyncSession, work: Work, ctx: StepContext) -> None:
    """Leave the last row."""
    await _leave(db, ctx)


async def _leave(db: AsyncSession, ctx: StepContext) -> None:
    await db.execute(insert(effects).values(id=str(ctx.saga_id), step=ctx.step))


databases = Databases(app, other)
sagas = Sagas(databases, saga, journal=app)


async def fill(urls: Places) -> None:
    """Create the tables in empty databases."""
    async with databases.open(_settings(urls, 1, POOL["size"])):
        await migrate(sagas)
        for node in (app.primary, other.primary):
            assert isinstance(node, SqlNode)
            async with node.writer.begin() as connection:
                await connection.run_sync(effects.metadata.create_all)


def _settings(urls: Places, in_flight: int, connections: int) -> Settings:
    pool = {"size": connections, "max_overflow": 0}
    places = {name: {"url": url, "pool": pool} for name, url in urls.items()}
    return parse_settings({"databases": places, "sagas": {"lease": LEASE, "max_in_flight": max(in_flight, 256)}})


async def _begin(urls: Places, count: int) -> None:
    hanging.wanted = count
    places = asyncio.Semaphore(_STARTS)

    async def start(number: int) -> None:
        async with places:
            await sagas.start(saga, Work(number=number))

    settings = _settings(urls, count, POOL["size"])
    async with databases.open(settings), sagas.open(settings.sagas):
        await asyncio.gather(*map(start, range(count)))
        await hanging.reached.wait()
        print(json.dumps({"in_flight": count}), flush=True)
        await asyncio.Event().wait()


async def _take_over(urls: Places, connections: int) -> None:
    claims, lost, ticked = Counter[UUID](), 0, asyncio.Event()

    def hear(event: Event) -> None:
        nonlocal lost
        if isinstance(event, SagaClaimed):
            claims[event.saga_id] += 1
        elif isinstance(event, ClaimLost):
            lost += 1
        elif isinstance(event, WorkerTicked):
            ticked.set()

    settings = _settings(urls, 1, connections)
    async with databases.open(settings), sagas.open(settings.sagas, emit=hear):
        await ticked.wait()
        print(json.dumps({"up": True}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        told = {"claims": [str(saga_id) for saga_id in claims.elements()], "lost": lost}
        print(json.dumps(told), flush=True)


def main() -> None:
    """Do what the command line asks; the URLs come as JSON in the variable PLACES."""
    urls, what, number = json.loads(os.environ["PLACES"]), sys.argv[1], int(sys.argv[2])
    asyncio.run(_begin(urls, number) if what == "begin" else _take_over(urls, number))


if __name__ == "__main__":
    main()
