"""Many sagas with large results end at once, on a server whose limit for one statement is small."""

import asyncio
from collections.abc import Iterator, Sequence
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from devservers import MariaDBServer, Server
from polysaga import Databases, Saga, Sagas, SqlDatabase, StepContext
from polysaga.config import SagaSettings, parse_settings
from polysaga.events import SagaFinished
from polysaga.migrations import migrate
from polysaga.sagas.protocol.rows import Ending
from tests.fixtures.programs import Recorder
from tests.fixtures.runners import KeptRunner
from tests.fixtures.servers import DatabaseFactory
from tests.fixtures.waiting import reached, until

COUNT, BYTES = 40, 400_000


@pytest.fixture
def small_packets(mariadb_server: Server) -> Iterator[MariaDBServer]:
    """MariaDB as a hoster sets it up: one statement is a megabyte at most, for connections made meanwhile."""
    assert isinstance(mariadb_server, MariaDBServer)
    ((before,),) = mariadb_server.run("SELECT @@global.max_allowed_packet")
    mariadb_server.run("SET GLOBAL max_allowed_packet = 1048576")
    yield mariadb_server
    mariadb_server.run(f"SET GLOBAL max_allowed_packet = {before}")


def failures_of_endings(kept: KeptRunner) -> list[BaseException]:
    """Return a list to which each shared write of endings that fails is added."""
    journal, failures = kept.runner.engine.journal, list[BaseException]()
    finish = journal.finish

    async def noting(endings: Sequence[Ending]) -> set[UUID]:
        try:
            return await finish(endings)
        except BaseException as error:
            failures.append(error)
            raise

    journal.finish = noting  # type: ignore[method-assign]
    return failures


async def test_sagas_with_large_results_that_end_at_once_all_end(
    small_packets: MariaDBServer, mariadb_database: DatabaseFactory
) -> None:
    home, other, recorder = SqlDatabase("home"), SqlDatabase("other"), Recorder()
    saga = Saga("keep", input=int, output=str)
    gate, arrived = asyncio.Event(), 0

    @saga.step(home, kind="pivot")
    async def decide(db: AsyncSession, number: int, ctx: StepContext) -> str:
        return "x" * BYTES

    @saga.step(other, kind="retriable")
    async def tell(db: AsyncSession, number: int, ctx: StepContext) -> None:
        nonlocal arrived
        arrived += 1
        await reached(gate, "all sagas are about to end")

    databases = Databases(home, other)
    kept = KeptRunner()
    sagas = Sagas(databases, saga, journal=home, runner=kept)
    # All of them are inside the last step at once.
    urls = {name: {"url": mariadb_database(), "pool": {"size": 2 * COUNT}} for name in ("home", "other")}
    async with databases.open(parse_settings({"databases": urls})):
        await migrate(sagas)
        async with sagas.open(SagaSettings(lease=10.0, payload_limit=BYTES + 2), emit=recorder):
            failures = failures_of_endings(kept)
            await asyncio.gather(*(sagas.run(saga, number) for number in range(COUNT)))
            await until(lambda: arrived == COUNT, "all sagas are about to end")
            gate.set()
            await until(lambda: len(recorder.of(SagaFinished)) == COUNT, "all sagas end")
            assert failures == []
