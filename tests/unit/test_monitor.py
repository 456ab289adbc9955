"""The monitor, on scripted connections: who waits for a position is woken by a server that can tell."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from polysaga.clock import Clock
from polysaga.databases.dialects.postgres_asyncpg import PostgresAsyncpg
from polysaga.databases.dialects.postgres_psycopg import PostgresPsycopg
from polysaga.databases.positions import Epoch, Lsn, Position
from polysaga.databases.samples import NodeRole, Sample
from polysaga.events import NodeLeft, NodeReturned
from polysaga.routing.monitor import Monitor
from polysaga.routing.topology import Seat
from polysaga.testing.clock import HandClock
from tests.fixtures.programs import Recorder
from tests.fixtures.waiting import pause, reached, until, within

HERE, LATER = Epoch("1", 1), Epoch("1", 2)


class Scripted:
    """A connection to a server that stands where the test says."""

    def __init__(
        self, role: NodeRole, place: int, *, waits: bool = False, answer: bool | Exception = True
    ) -> None:
        self.role, self.place, self.waits, self._answer = role, place, waits, answer
        self.waited: asyncio.Queue[Position] = asyncio.Queue()
        self.reached = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = self.answered = 0

    async def sample(self) -> Sample:
        self.asked += 1
        await reached(self.answers, "the server answers")
        self.answered += 1
        return Sample(self.role, Lsn(self.place, HERE))

    async def wait_for(self, position: Position, seconds: float) -> bool:
        self.waited.put_nowait(position)
        if isinstance(self._answer, Exception):
            raise self._answer
        await reached(self.reached, "the position is reached")
        return self._answer

    def cut(self) -> None: ...

    async def close(self) -> None: ...


def silent(role: NodeRole) -> Scripted:
    """Return a connection to a server that does not answer until its `answers` is set."""
    line = Scripted(role, 100)
    line.answers.clear()
    return line


def monitor_of(
    primary: Scripted,
    replica: Scripted,
    *,
    timeout: float = 60.0,
    connect_timeout: float = 60.0,
    emit: Recorder | None = None,
    clock: Clock | None = None,
) -> Monitor:
    return Monitor(
        "orders",
        [Seat("primary"), Seat("replica")],
        [primary, replica],
        interval=3600.0,
        timeout=timeout,
        connect_timeout=connect_timeout,
        changed=lambda before, after: None,
        emit=emit or Recorder(),
        clock=clock or Clock(),
    )


@asynccontextmanager
async def watching(replica: Scripted) -> AsyncIterator[Monitor]:
    monitor = monitor_of(Scripted(NodeRole.PRIMARY, 100), replica)
    await monitor.start()
    try:
        yield monitor
    finally:
        await monitor.stop()


async def test_a_primary_may_take_as_long_for_its_first_answer_as_a_connection_may() -> None:
    """On a busy host that is longer than a node that has answered before is waited for."""
    primary = silent(NodeRole.PRIMARY)
    monitor = monitor_of(primary, Scripted(NodeRole.REPLICA, 100), timeout=0.05)
    starting = asyncio.create_task(monitor.start())
    await asyncio.wait([starting], timeout=0.5)
    assert not starting.done()
    primary.answers.set()
    await within(starting, "the monitor has started")
    assert monitor.topology.primary == 0
    await monitor.stop()


async def test_a_silent_replica_does_not_delay_the_start_and_joins_when_it_answers() -> None:
    replica, recorder = silent(NodeRole.REPLICA), Recorder()
    monitor = monitor_of(Scripted(NodeRole.PRIMARY, 100), replica, timeout=0.05, emit=recorder)
    await within(monitor.start(), "the monitor has started")
    assert monitor.topology.nodes[1].failure == "it has not answered in 0.05 s yet"
    assert recorder.of(NodeReturned) == []
    replica.answers.set()
    assert (await recorder.wait_for(NodeReturned)).node == "replica"
    assert monitor.topology.nodes[1].failure is None
    await monitor.stop()


async def test_a_primary_that_is_silent_for_good_is_waited_for_as_long_as_a_connection() -> None:
    monitor = monitor_of(silent(NodeRole.PRIMARY), silent(NodeRole.REPLICA), timeout=0.05, connect_timeout=0.2)
    await within(monitor.start(), "the monitor has started")
    assert monitor.topology.nodes[0].failure == "it has not answered in 0.2 s yet"
    assert monitor.topology.primary is None
    await monitor.stop()


async def test_a_start_that_is_cancelled_asks_no_more() -> None:
    before = asyncio.all_tasks()
    monitor = monitor_of(silent(NodeRole.PRIMARY), silent(NodeRole.REPLICA))
    starting = asyncio.create_task(monitor.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    await within(monitor.stop(), "the monitor has stopped")
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("role", [NodeRole.PRIMARY, NodeRole.REPLICA])
async def test_a_monitor_that_is_stopped_at_once_after_its_start_leaves_no_question_behind(role: NodeRole) -> None:
    before = asyncio.all_tasks()
    primary = Scripted(NodeRole.PRIMARY, 100) if role is NodeRole.REPLICA else silent(role)
    monitor = monitor_of(primary, silent(NodeRole.REPLICA), timeout=0.05, connect_timeout=0.1)
    await within(monitor.start(), "the monitor has started")
    await within(monitor.stop(), "the monitor has stopped")
    assert asyncio.all_tasks() == before


async def test_a_short_limit_for_connections_does_not_shorten_the_one_for_answers() -> None:
    primary = silent(NodeRole.PRIMARY)
    monitor = monitor_of(primary, Scripted(NodeRole.REPLICA, 100), timeout=60.0, connect_timeout=0.01)
    starting = asyncio.create_task(monitor.start())
    await asyncio.wait([starting], timeout=0.2)
    assert not starting.done()
    primary.answers.set()
    await within(starting, "the monitor has started")
    assert monitor.topology.primary == 0
    await monitor.stop()


async def test_a_node_that_answered_early_in_a_slow_start_is_not_late_with_its_next_answer() -> None:
    primary, replica, recorder = silent(NodeRole.PRIMARY), Scripted(NodeRole.REPLICA, 100), Recorder()
    monitor = monitor_of(primary, replica, timeout=0.4, emit=recorder)
    starting = asyncio.create_task(monitor.start())
    await asyncio.wait([starting], timeout=0.6)
    replica.answers.clear()
    primary.answers.set()
    await within(starting, "the monitor has started")
    await until(lambda: replica.asked > 1, "the replica is asked again")
    await asyncio.wait([starting, asyncio.create_task(pause())], timeout=0.2)
    replica.answers.set()
    await until(lambda: replica.answered > 1, "the replica answers again")
    assert recorder.of(NodeLeft) == []
    await monitor.stop()


async def until_there(monitor: Monitor, wanted: Lsn) -> None:
    async with asyncio.timeout(30):
        while not (place := monitor.topology.nodes[1].position) or not place.reached(wanted):
            await monitor.news(30.0, wanted)


async def test_a_server_that_can_tell_wakes_who_waits_for_a_position() -> None:
    replica = Scripted(NodeRole.REPLICA, 90, waits=True)
    async with watching(replica) as monitor:
        reader = asyncio.create_task(until_there(monitor, Lsn(100, HERE)))
        async with asyncio.timeout(30):
            assert await replica.waited.get() == Lsn(100, HERE)
        replica.place = 100
        replica.reached.set()
        await reader


@pytest.mark.parametrize("answer", [False, RuntimeError("not in recovery")])
async def test_who_cannot_tell_after_all_is_asked_every_few_milliseconds(answer: bool | Exception) -> None:
    replica = Scripted(NodeRole.REPLICA, 90, waits=True, answer=answer)
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
    replica = Scripted(NodeRole.REPLICA, 90, waits=waits)
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


class Freezing(Scripted):
    """A healthy server that answers while the process of the monitor stands still for six seconds."""

    def __init__(self, role: NodeRole, place: int, clock: HandClock, patch: pytest.MonkeyPatch) -> None:
        super().__init__(role, place)
        self.freezes, self._clock, self._patch = False, clock, patch

    async def sample(self) -> Sample:
        if self.freezes:
            self.freezes = False
            loop = asyncio.get_running_loop()
            time = loop.time
            self._patch.setattr(loop, "time", lambda: time() + 6.0)
            self._clock.move(6.0)
            for _ in range(8):  # the answer is there, but on its way through the event loop
                await asyncio.sleep(0)
        return await super().sample()


async def test_a_process_that_was_frozen_does_not_take_that_for_the_silence_of_its_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder, clock = Recorder(), HandClock()
    primary = Freezing(NodeRole.PRIMARY, 100, clock, monkeypatch)
    monitor = monitor_of(primary, Scripted(NodeRole.REPLICA, 100), timeout=5.0, emit=recorder, clock=clock)
    await monitor.start()
    await until(lambda: primary.answered >= 2, "the monitor watches")
    primary.freezes, answered = True, primary.answered
    monitor.suspect()
    await until(lambda: primary.answered > answered, "the server has answered")
    await pause()
    await monitor.stop()
    assert recorder.of(NodeLeft) == []
