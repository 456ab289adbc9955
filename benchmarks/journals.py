"""A journal with many rows: what a claim and a search cost there, on PostgreSQL and on MariaDB.

A worker looks for due sagas every few seconds. Measured are its looks that find none: in a journal of one finished
saga, beside parked ones, and beside a snapshot that is older than sagas which have finished since. The index keeps
an entry of each of those for as long as the snapshot is open. Then every search of an operator is timed.

All times are those of a client, medians. Rows are copies of one real saga (`copies.py`).
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.copies import Copies
from benchmarks.parts import Scale, alone, tell
from benchmarks.servers import running
from devservers import MARIADB, POSTGRES
from polysaga import Databases, Saga, SagaFilter, Sagas, SqlDatabase, Status, StepContext
from polysaga.clock import Clock
from polysaga.config import parse_settings
from polysaga.databases import SqlNode
from polysaga.migrations import migrate
from polysaga.sagas.journal.claims import Pick
from polysaga.sagas.journal.journal import Journal
from polysaga.sagas.journal.tables import JOURNAL, NEVER

T = TypeVar("T")

_PRODUCTS = {"postgres": POSTGRES, "mariadb": MARIADB}
_CLAIMS, _LOOKS, _SEARCHES = 200, 5, 5  # of which the medians are; a look has no lower bound
_WINDOW = 3.0  # seconds back that a claim looks
_BATCH = 64  # sagas that it would take
_HOUR = 3600  # seconds before which the snapshot began
_LEASE = 10.0

app = SqlDatabase("app")


class Errand(BaseModel):
    """The input, and the result."""

    number: int


saga = Saga("errand", input=Errand, output=Errand)


@saga.step(app, kind="pivot")
async def run_errand(db: AsyncSession, errand: Errand, ctx: StepContext) -> Errand:
    """Do nothing, durably."""
    return errand


databases = Databases(app)
sagas = Sagas(databases, saga, journal=app)

_DAY = timedelta(days=1)
_SEARCHED: dict[str, Callable[[], SagaFilter]] = {
    "all": SagaFilter,
    "by a name that none has": lambda: SagaFilter(name="nothing"),
    "by a key that none has": lambda: SagaFilter(name=saga.name, key="nothing"),
    "by a reason that none has": lambda: SagaFilter(error="nothing"),
    "parked": lambda: SagaFilter(status=Status.NEEDS_ATTENTION),
    "undone": lambda: SagaFilter(status=Status.COMPENSATED),
    "undone or parked": lambda: SagaFilter(status=(Status.COMPENSATED, Status.NEEDS_ATTENTION)),
    "of unknown programs": lambda: SagaFilter(known=False),
    "by a failing step": lambda: SagaFilter(step="run_errand"),
    "by a failing database": lambda: SagaFilter(database="app"),
    "of one day": lambda: SagaFilter(since=Clock().now() - 9 * _DAY, until=Clock().now() - 8 * _DAY),
    "older than 20 days": lambda: SagaFilter(older_than=20 * _DAY.total_seconds()),
    "the oldest first": lambda: SagaFilter(oldest_first=True),
    "late": lambda: SagaFilter(late=True),
    "retrying": lambda: SagaFilter(retrying=True),
    "waiting": lambda: SagaFilter(waiting=True),
    "crashing": lambda: SagaFilter(crashing=True),
}


def measure(scale: Scale) -> dict[str, Any]:
    """Fill a journal on each server, and time claims and searches in it."""
    whats = ("parked", "snapshot", "searches")
    places = {f"{what}_{name}": product for what in whats for name, product in _PRODUCTS.items()}
    with running(places) as there:

        def each(measured: Callable[[str, Scale], Coroutine[Any, Any, T]], what: str) -> dict[str, T]:
            return {name: asyncio.run(measured(there.urls[f"{what}_{name}"], scale)) for name in _PRODUCTS}

        parked, snapshot = each(_beside_parked, "parked"), each(_beside_a_snapshot, "snapshot")
        return {
            "servers": there.versions,
            "parked": scale.parked,
            "finished_since_the_snapshot": scale.since,
            "searched": scale.searched,
            "claims_ms": {name: parked[name] | snapshot[name] for name in _PRODUCTS},
            "searches_ms": each(_searches, "searches"),
        }


@asynccontextmanager
async def _journal(url: str) -> AsyncIterator[Journal]:
    """Leave one finished saga, and give its journal."""
    settings = parse_settings({"databases": {"app": {"url": url}}, "sagas": {"lease": _LEASE}})
    async with databases.open(settings):
        await migrate(sagas)
        async with sagas.open(settings.sagas):
            await sagas.run(saga, Errand(number=1))
        assert isinstance(app.primary, SqlNode)
        async with app.reader() as db:
            fingerprint: str = await db.scalar(text(f"SELECT fingerprint FROM {JOURNAL}"))
        yield Journal(app.primary, [fingerprint], lease=_LEASE)


async def _beside_parked(url: str, scale: Scale) -> dict[str, float]:
    async with _journal(url) as journal:
        found = {"one finished saga": await _bounded(journal)}
        tell(f"  {scale.parked} parked sagas")
        await Copies(scale.parked).write(url)
        await _change(url, f"status = 'needs_attention', wake_at = {NEVER}, finished_at = NULL")
        return found | {"parked sagas": await _bounded(journal)}


async def _beside_a_snapshot(url: str, scale: Scale) -> dict[str, float]:
    async with _journal(url) as journal, _snapshot(url):
        tell(f"  {scale.since} sagas that finish while a snapshot is open")
        await Copies(scale.since).write(url)
        await _change(url, f"status = 'completing', wake_at = {_within_the_hour(url)}, finished_at = NULL")
        await _change(url, "status = 'completed', wake_at = NULL, finished_at = created_at")
        return {
            "an old snapshot": await _bounded(journal),
            "an old snapshot, without a lower bound": await _median_ms(lambda: journal.claim(_BATCH), _LOOKS),
        }


@asynccontextmanager
async def _snapshot(url: str) -> AsyncIterator[None]:
    engine = create_async_engine(url, isolation_level="REPEATABLE READ")
    async with engine.connect() as connection:
        await connection.exec_driver_sql(f"SELECT count(*) FROM {JOURNAL}")
        yield
    await engine.dispose()


async def _bounded(journal: Journal) -> float:
    return await _median_ms(lambda: journal.claim(_BATCH, Pick.JUST_DUE, window=_WINDOW), _CLAIMS)


def _within_the_hour(url: str) -> str:
    """Return SQL for a moment of the hour before the last minute."""
    if url.startswith("postgresql"):
        return f"now() - make_interval(secs => 60 + random() * {_HOUR - 60})"
    return f"utc_timestamp(6) - INTERVAL 60 + rand() * {_HOUR - 60} SECOND"


async def _searches(url: str, scale: Scale) -> dict[str, list[float]]:
    async with _journal(url):
        before = await _each_search()
        tell(f"  {scale.searched} finished sagas to search")
        await Copies(scale.searched).write(url)
        after = await _each_search()
    return {name: [before[name], after[name]] for name in _SEARCHED}


async def _each_search() -> dict[str, float]:
    return {
        name: await _median_ms(lambda wanted=wanted: sagas.find(wanted()), _SEARCHES)  # type: ignore[misc]
        for name, wanted in _SEARCHED.items()
    }


async def _median_ms(call: Callable[[], Awaitable[Any]], times: int) -> float:
    await call()  # connects, prepares
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - began)
    return round(statistics.median(taken) * 1000, 3)


async def _change(url: str, values: str) -> None:
    await _run(url, f"UPDATE {JOURNAL} SET {values}")


async def _run(url: str, sql: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(sql)
    await engine.dispose()


if __name__ == "__main__":
    alone("journal", measure)
