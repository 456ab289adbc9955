"""What a saga costs, counted by the servers, and that saving packets gives no promise away.

On asyncpg and on MariaDB the last writes of a step and COMMIT are one packet (`dialects/postgres_asyncpg.py`,
`dialects/mysql.py`). `docs/decisions/0002-statements-on-the-driver.md` tells why.
"""

import asyncio
import random
from asyncio.selector_events import _SelectorSocketTransport
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from devservers import LocalServer, Server
from devservers.counting import Count, Counter, counter
from polysaga import Databases, SqlDatabase
from polysaga.config import parse_settings
from polysaga.databases import Fault, SqlNode, sentinels, sql_node
from polysaga.events import SagaFinished, WorkerTicked
from polysaga.sagas.journal.tables import LEDGER, ledger
from polysaga.sagas.participants import Entry
from polysaga.sagas.participants.mysql import MySQLParticipant
from polysaga.sagas.participants.postgres import PostgresParticipant
from polysaga.sagas.participants.sql import SqlParticipant
from polysaga.sagas.process import pulse
from polysaga.sagas.process.drain import Drain
from polysaga.sagas.protocol.interrupts import Fenced
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark
from tests.fixtures.programs import LAST_AT_HOME, PLACE_ORDER, SINGLE, WITH_CALLS, Order, Program, Urls
from tests.fixtures.servers import DatabaseFactory
from tests.fixtures.waiting import forever

QUIET = 600.0  # seconds of a lease so long that the worker ticks once, at the beginning
HOSTILE = [
    "it's; COMMIT; DROP TABLE effects; --",
    "$1 $2 {} {0} %s %(x)s :result \\' \\x27 \\\\",
    "E'\\047' $$ $tag$ /* */ --\n; ROLLBACK",
    "🦊 \U0001d518 \u202e \ufeff \u2028",
    '{"nul": "\\u0000", "lone": "\\ud800"}',
    "x" * 100_000,
    "",
]


@pytest.fixture(autouse=True)
def no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count what sagas cost: what the sentinel, the pool, the pulse and the drains ask is not theirs.

    Each of them may come first, or again, in the middle of a test on a busy machine.
    """
    monkeypatch.setattr(sentinels, "_EVERY", 3600.0)
    monkeypatch.setattr(sql_node, "_TRUSTED", 3600.0)
    monkeypatch.setattr(pulse, "BEAT", 3600.0)
    monkeypatch.setattr(Drain, "run", lambda drain: forever())


@pytest.fixture
def servers(postgres_server: Server, mariadb_server: Server) -> tuple[LocalServer, LocalServer]:
    if not isinstance(postgres_server, LocalServer) or not isinstance(mariadb_server, LocalServer):
        pytest.skip("only servers started here can be asked to count")
    return postgres_server, mariadb_server


@pytest.fixture
def urls(postgres_database: DatabaseFactory, mariadb_database: DatabaseFactory) -> Urls:
    return {"orders": postgres_database(), "inventory": postgres_database(), "points": mariadb_database()}


class Counters:
    """Both servers' counts since the beginning."""

    def __init__(self, servers: tuple[LocalServer, LocalServer], urls: Urls) -> None:
        postgres, mariadb = servers
        names = [urls[name].rpartition("/")[2] for name in ("orders", "inventory")]
        self._counters: list[Counter] = [counter(postgres, *names), counter(mariadb)]

    def reset(self) -> None:
        for one in self._counters:
            one.reset()

    def postgres(self) -> Count:
        return self._counters[0].count()

    def mariadb(self) -> Count:
        return self._counters[1].count()


@asynccontextmanager
async def counted(
    servers: tuple[LocalServer, LocalServer], urls: Urls, shape: Any
) -> AsyncIterator[tuple[Program, Counters]]:
    counters = Counters(servers, urls)
    async with Program(urls, shape).open(lease=QUIET) as program:
        await program.recorder.wait_for(WorkerTicked)
        await run(program, 1)  # connects and prepares
        counters.reset()
        yield program, counters


async def run(program: Program, count: int, *, side_by_side: bool = False) -> None:
    """Run *count* sagas and return when the last one is finished."""

    async def one() -> None:
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        await program.recorder.wait_for(SagaFinished, lambda event: event.saga_id == handle.id)

    if side_by_side:
        await asyncio.gather(*(one() for _ in range(count)))
    else:
        for _ in range(count):
            await one()


async def test_place_order_costs_its_own_commits_and_one_more(
    servers: tuple[LocalServer, LocalServer], urls: Urls
) -> None:
    async with counted(servers, urls, PLACE_ORDER) as (program, counters):
        await run(program, 10)
        # Four steps of BEGIN, the step's own statement, ours, COMMIT; and the finish, one statement.
        assert counters.postgres() == Count(statements=10 * (4 * 4 + 1), commits=10 * (4 + 1))
        # The step's own statement; a block with ours and COMMIT.
        assert counters.mariadb() == Count(statements=10 * 2, commits=10)


async def test_place_order_costs_two_packets_for_each_step_and_one_more(
    servers: tuple[LocalServer, LocalServer], urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    packets: list[bytes] = []
    write = _SelectorSocketTransport.write

    def count(transport: _SelectorSocketTransport, data: Any) -> None:
        packets.append(bytes(data))
        write(transport, data)

    monkeypatch.setattr(_SelectorSocketTransport, "write", count)  # both drivers write to it
    async with counted(servers, urls, PLACE_ORDER) as (program, _):
        packets.clear()
        await run(program, 10)
        # Plain sessions send 15 for the same steps: BEGIN, the statement, COMMIT, and a ROLLBACK on MariaDB.
        assert len(packets) == 10 * (5 * 2 + 1)


async def test_a_step_without_a_database_costs_one_commit(
    servers: tuple[LocalServer, LocalServer], urls: Urls
) -> None:
    async with counted(servers, urls, WITH_CALLS) as (program, counters):
        await run(program, 10)
        # Three steps of BEGIN, the step's own statement, ours, COMMIT; two records of calls; and the finish.
        assert counters.postgres() == Count(statements=10 * (3 * 4 + 2 + 1), commits=10 * (3 + 2 + 1))


async def test_sagas_side_by_side_share_the_commits_of_their_finishes(
    servers: tuple[LocalServer, LocalServer], urls: Urls
) -> None:
    async with counted(servers, urls, PLACE_ORDER) as (program, counters):
        await run(program, 20, side_by_side=True)
        finishes = counters.postgres().commits - 20 * 4
        assert 1 <= finishes < 20


async def test_a_last_step_beside_the_journal_commits_with_the_finish(
    servers: tuple[LocalServer, LocalServer], urls: Urls
) -> None:
    async with counted(servers, urls, LAST_AT_HOME) as (program, counters):
        await run(program, 10)
        # The start, which is not fused; a step there; a step here together with its ledger row and the finish.
        assert counters.postgres().commits == 10 * 3


async def test_a_saga_of_one_step_beside_the_journal_is_one_commit(
    servers: tuple[LocalServer, LocalServer], urls: Urls
) -> None:
    async with counted(servers, urls, SINGLE) as (program, counters):
        await run(program, 10)
        assert counters.postgres() == Count(statements=10 * 4, commits=10)


@dataclass(frozen=True)
class Shop:
    """One database with a ledger, and one connection to it unless a test asks for more."""

    node: SqlNode
    participant: SqlParticipant

    async def sold(self) -> list[str]:
        async with self.node.reader.connect() as connection:
            return list(await connection.scalars(text("SELECT item FROM sales")))

    async def recorded(self) -> int:
        async with self.node.reader.connect() as connection:
            return await connection.scalar(text(f"SELECT count(*) FROM {LEDGER}")) or 0

    async def sell(self, entry: Entry, item: str, result: str = '"sold"') -> str:
        async def work(session: AsyncSession) -> str:
            await session.execute(text("INSERT INTO sales (item) VALUES (:item)"), {"item": item})
            return result

        return await self.participant.act(entry, work)


@pytest.fixture(params=["postgres_database", "mariadb_database", "mysql_database"])
def address(request: pytest.FixtureRequest) -> str:
    create: DatabaseFactory = request.getfixturevalue(request.param)
    return create()


@asynccontextmanager
async def shop(address: str, *, connections: int = 1) -> AsyncIterator[Shop]:
    database = SqlDatabase("shop")
    settings = {"url": address, "pool": {"size": connections, "max_overflow": 0}}
    async with Databases(database).open(parse_settings({"databases": {"shop": settings}})):
        node = database.primary
        async with node.writer.begin() as connection:
            await connection.run_sync(ledger.create)
            await connection.execute(text("CREATE TABLE sales (item varchar(64) NOT NULL)"))
        kind = PostgresParticipant if node.dialect.name == "postgresql" else MySQLParticipant
        yield Shop(node, kind(node))


def new_entry() -> Entry:
    return Entry(uuid4(), "sell", 1, datetime.now(UTC) + timedelta(hours=1))


async def test_a_last_write_that_fails_takes_the_step_with_it_and_leaves_the_connection_healthy(
    address: str,
) -> None:
    async with shop(address) as one:
        entry = new_entry()
        await one.sell(entry, "first")
        for _ in range(3):
            with pytest.raises(Exception) as raised:  # noqa: PT011 - each driver has its own
                await one.sell(entry, "again")
            assert one.participant.fault(raised.value) is Fault.DUPLICATE_KEY
        await one.sell(new_entry(), "second")
        assert sorted(await one.sold()) == ["first", "second"]


async def test_a_last_write_that_changes_no_row_raises_and_takes_the_step_with_it(address: str) -> None:
    async with shop(address) as one:
        late = replace(new_entry(), not_after=datetime.now(UTC) - timedelta(seconds=1))
        for _ in range(3):
            with pytest.raises(Fenced):
                await one.sell(late, "late")
        await one.sell(new_entry(), "in time")
        assert await one.sold() == ["in time"]
        assert await one.recorded() == 1


@pytest.mark.parametrize("result", HOSTILE, ids=range(len(HOSTILE)))
async def test_any_result_is_kept_as_it_is(address: str, result: str) -> None:
    async with shop(address) as one:
        entry = new_entry()
        await one.sell(entry, "lantern", result)
        found = await one.participant.look(entry.saga_id, [entry.step])
        assert found == {entry.step: LedgerRow(Mark.DONE, result)}
        assert await one.sold() == ["lantern"]


async def test_after_a_storm_of_cancellations_every_effect_has_its_row_and_every_row_its_effect(
    address: str,
) -> None:
    # Without TLS: asyncpg forgets an exception when it is cancelled while it asks whether the server knows TLS.
    address += "?ssl=disable" if address.startswith("postgresql") else ""
    async with shop(address, connections=4) as one:
        spread, loop = random.Random(7), asyncio.get_running_loop()
        entries: list[Entry] = []

        async def attempt(longest: float | None) -> float:
            """Sell, cancelled at most *longest* seconds after the statement; return how long the rest took."""
            entries.append(entry := new_entry())
            began = 0.0

            async def work(session: AsyncSession) -> str:
                nonlocal began
                await session.execute(text("INSERT INTO sales (item) VALUES (:item)"), {"item": entry.saga_id.hex})
                began = loop.time()
                if longest is not None:
                    loop.call_later(spread.uniform(0.0, longest), task.cancel)
                return "null"

            task = asyncio.create_task(one.participant.act(entry, work))
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert outcome == "null" or isinstance(outcome, asyncio.CancelledError), outcome
            return loop.time() - began

        usual = max([await attempt(None) for _ in range(5)])
        for _ in range(10):
            await asyncio.gather(*(attempt(2 * usual if number % 4 else None) for number in range(20)))
        # Only a write settles what happened to a COMMIT whose reply was not waited for.
        found = [(entry, await one.participant.undo(entry, None)) for entry in entries]
        done = [entry.saga_id.hex for entry, row in found if row.state is Mark.DONE]
        assert sorted(done) == sorted(await one.sold())
        assert len(done) >= 5 + 10 * 5
        await asyncio.gather(*(one.sell(new_entry(), "after the storm") for _ in range(8)))
