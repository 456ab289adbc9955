"""The monitor, on scripted connections: who waits for a position is woken by a server that can tell."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from polysaga.clock import Clock
from polysaga.databases.dialects.postgres import PostgresAsyncpg, PostgresPsycopg
from polysaga.databases.positions import Epoch, Lsn, Position, Role, Sample
from polysaga.routing.monitor import Monitor
from polysaga.routing.topology import Seat
from tests.fixtures.programs import Recorder

HERE, LATER = Epoch("1", 1), Epoch("1", 2)


class Scripted:
    """A connection to a server that stands where the test says."""

    def __init__(self, role: Role, place: int, *, waits: bool = False, answer: bool | Exception = True) -> None:
        self.role, self.place, self.waits, self._answer = role, place, waits, answer
        self.waited: asyncio.Queue[Position] = asyncio.Queue()
        self.reached = asyncio.Event()

    async def sample(self) -> Sample:
        return Sample(self.role, Lsn(self.place, HERE))

    async def wait_for(self, position: Position, seconds: float) -> bool:
        self.waited.put_nowait(position)
        if isinstance(self._answer, Exception):
            raise self._answer
        await self.reached.wait()
        return self._answer

    def cut(self) -> None: ...

    async def close(self) -> None: ...


@asynccontextmanager
async def watching(replica: Scripted) -> AsyncIterator[Monitor]:
    monitor = Monitor(
        "orders",
        [Seat("primary"), Seat("replica")],
        [Scripted(Role.PRIMARY, 100), replica],
        interval=3600.0,
        timeout=60.0,
        changed=lambda before, after: None,
        emit=Recorder(),
        clock=Clock(),
    )
    await monitor.start()
    try:
        yield monitor
    finally:
        await monitor.stop()


async def until_there(monitor: Monitor, wanted: Lsn) -> None:
    async with asyncio.timeout(30):
        while not (place := monitor.topology.nodes[1].position) or not place.reached(wanted):
            await monitor.news(30.0, wanted)


async def test_a_server_that_can_tell_wakes_who_waits_for_a_position() -> None:
    replica = Scripted(Role.REPLICA, 90, waits=True)
    async with watching(replica) as monitor:
        reader = asyncio.create_task(until_there(monitor, Lsn(100, HERE)))
        async with asyncio.timeout(30):
            assert await replica.waited.get() == Lsn(100, HERE)
        replica.place = 100
        replica.reached.set()
        await reader


@pytest.mark.parametrize("answer", [False, RuntimeError("not in recovery")])
async def test_who_cannot_tell_after_all_is_asked_every_few_milliseconds(answer: bool | Exception) -> None:
    replica = Scripted(Role.REPLICA, 90, waits=True, answer=answer)
    replica.reached.set()
    async with watching(replica) as monitor:
        reader = asyncio.create_task(until_there(monitor, Lsn(100, HERE)))
        async with asyncio.timeout(30):
            await replica.waited.get()
        replica.place = 100
        await reader


@pytest.mark.parametrize(
    ("waits", "wanted"),
    [(False, Lsn(100, HERE)), (True, Lsn(80, LATER))],
    ids=["an older server", "another epoch"],
)
async def test_a_place_that_a_number_does_not_tell_is_asked_for(waits: bool, wanted: Lsn) -> None:
    replica = Scripted(Role.REPLICA, 90, waits=waits)
    async with watching(replica) as monitor:
        assert await monitor.news(30.0, wanted)
    assert replica.waited.empty()


# ---- the statement, which no server here knows yet


@dataclass
class Version:
    major: int


class Driver:
    """Stands for asyncpg's connection to PostgreSQL 19, and for psycopg's."""

    def __init__(self, version: int, status: str = "success") -> None:
        self.version, self.status, self.sent = version, status, ""
        self.info = self

    def get_server_version(self) -> Version:
        return Version(self.version)

    @property
    def server_version(self) -> int:
        return self.version * 10_000 + 1

    async def fetch(self, sql: str, *values: Any) -> list[tuple[str]]:
        self.sent = sql
        return [(self.status,)]

    async def execute(self, sql: str, values: object) -> "Driver":
        self.sent = sql
        return self

    async def fetchall(self) -> list[tuple[str]]:
        return [(self.status,)]


@pytest.mark.parametrize("dialect", [PostgresAsyncpg(), PostgresPsycopg()], ids=["asyncpg", "psycopg"])
async def test_postgresql_19_is_asked_to_wait_and_older_ones_are_not(dialect: Any) -> None:
    assert [dialect.waits(Driver(version)) for version in (14, 18, 19, 20)] == [False, False, True, True]
    for status, told in (("success", True), ("timeout", True), ("not in recovery", False)):
        driver = Driver(19, status)
        assert await dialect.wait_for(driver, Lsn(0x16B374D848, HERE), 0.016) is told
        assert driver.sent == "WAIT FOR LSN '16/B374D848' WITH (TIMEOUT '16ms', NO_THROW)"
