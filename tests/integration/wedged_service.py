"""A service whose saga, or start, hangs so that no cancellation ends it, served by uvicorn as users serve it.

python -m tests.integration.wedged_service HOW PORT DIRECTORY
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga import Databases, Saga, Sagas, SqlDatabase, StepContext
from polysaga.config import parse_settings
from polysaga.fastapi import install
from tests.fixtures.waiting import forever, stubborn

DRAIN = 1.0  # seconds
_ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


class Nothing(BaseModel):
    """No input."""


async def hang_in_python(db: AsyncSession) -> None:
    """Hang as a driver that takes a cancellation for an answer."""
    await stubborn(asyncio.Event())


async def hang_in_a_task_of_the_driver(db: AsyncSession) -> None:
    """Hang as `asyncio.wait_for` of Python 3.11 does: the inner task does not end."""
    await asyncio.wait_for(stubborn(asyncio.Event()), 3600)


async def hang_in_the_database(db: AsyncSession) -> None:
    """Hang in a thread that no cancellation reaches."""
    await db.execute(text(_ENDLESS))


WAYS: dict[str, Callable[[AsyncSession], Awaitable[None]]] = {
    one.__name__: one for one in (hang_in_python, hang_in_a_task_of_the_driver, hang_in_the_database)
}


def say_that_it_hangs() -> None:
    """Tell the test."""
    sys.stdout.write("inside\n")
    sys.stdout.flush()


shop, till = SqlDatabase("shop"), SqlDatabase("till")
databases = Databases(shop, till)
hang_up = Saga("hang", input=Nothing, output=None)


@hang_up.step(till)
async def prepare(db: AsyncSession, given: Nothing, ctx: StepContext) -> None:
    """Do nothing, in another database than the journal's."""


@prepare.compensation
async def unprepare(db: AsyncSession, given: Nothing, done: None, ctx: StepContext) -> None:
    """Undo nothing."""


@hang_up.step(shop)
async def hang(db: AsyncSession, given: Nothing, ctx: StepContext) -> None:
    """Say that it hangs now, and hang."""
    say_that_it_hangs()
    await WAYS[sys.argv[1]](db)


sagas = Sagas(databases, hang_up, journal=shop)
STARTS = ("in_ready", "in_the_lifespan")


async def be_ready() -> None:
    """Hang as a table that is to be changed while a server is silent."""
    if sys.argv[1] == "in_ready":
        say_that_it_hangs()
        await stubborn(asyncio.Event())


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hang as an application that waits for another service before it begins."""
    if sys.argv[1] == "in_the_lifespan":
        say_that_it_hangs()
        await forever()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/hang")
async def call() -> None:
    """Wait for the saga without a limit, as users do."""
    await sagas.run(hang_up, Nothing())


if __name__ == "__main__":
    _, _, port, directory = sys.argv
    urls = {name: {"url": f"sqlite+aiosqlite:///{Path(directory) / name}.db"} for name in ("shop", "till")}
    settings = parse_settings({"databases": urls, "sagas": {"drain": DRAIN}})
    install(app, databases, sagas=sagas, settings=settings, ready=be_ready)
    uvicorn.run(app, port=int(port), log_level="warning")
