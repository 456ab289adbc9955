"""The last writes of a step on asyncpg: prepared once on each connection, and in one packet with COMMIT.

Whatever happens to what the server has prepared, a step is committed once or not at all.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from polysaga import Databases, Saga, Sagas, SqlDatabase, StepContext
from polysaga.config import DatabaseSettings, PoolSettings, Settings
from polysaga.databases import Fault, SqlNode
from polysaga.databases.dialects import asyncpg_connection, postgres_packets
from polysaga.databases.dialects.asyncpg_connection import Luggage
from polysaga.databases.dialects.postgres_packets import PreparedWrites
from polysaga.databases.dialects.sending import Rendered, Write
from polysaga.errors import StepMisused
from polysaga.events import Event, StepDone, StepFailed
from polysaga.sagas.journal.statements import statements
from polysaga.sagas.journal.tables import JOURNAL, LEDGER, metadata
from polysaga.sagas.participants import Entry
from polysaga.sagas.participants.postgres import PostgresParticipant
from polysaga.sagas.protocol.states import Mark
from tests.fixtures.servers import DatabaseFactory
from tests.fixtures.waiting import until

SAGA = text(
    f"INSERT INTO {JOURNAL} (id, name, version, fingerprint, input, input_hash, status, epoch, owner, results, "
    "wake_at, created_at) VALUES (:id, 'sell', 1, '', '{}', '', 'running', 1, :owner, '{}', now(), now())"
)
SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
OURS = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'polysaga%'"


class Shop:
    """One database with a ledger, and one connection for steps."""

    def __init__(self, url: str) -> None:
        self.node = SqlNode("shop", "primary", url, settings(url))
        self.participant = PostgresParticipant(self.node)

    async def act(self, work: Callable[[AsyncSession], Awaitable[None]] | None = None, entry: Any = None) -> Entry:
        """Sell something as a step that does *work* as well."""
        entry = entry or new_entry()

        async def sell(session: AsyncSession) -> str:
            await session.execute(text("INSERT INTO sales (item) VALUES (:item)"), {"item": entry.saga_id.hex})
            if work is not None:
                await work(session)
            return '"sold"'

        await self.participant.act(entry, sell)
        return entry

    async def sold(self) -> list[str]:
        async with self.node.reader.connect() as connection:
            return list(await connection.scalars(text("SELECT item FROM sales")))

    async def recorded(self, ledger: str = LEDGER) -> list[str]:
        async with self.node.reader.connect() as connection:
            return [one.hex for one in await connection.scalars(text(f"SELECT saga_id FROM {ledger}"))]

    async def sleeps(self) -> bool:
        """Return whether the server is inside of `pg_sleep`."""
        async with self.node.reader.connect() as connection:
            return (await connection.execute(text(SLEEPING))).scalar_one() == 1

    async def whole(self, *entries: Entry) -> bool:
        """Return whether *entries* happened, each once with its row, and nothing else."""
        expected = sorted(entry.saga_id.hex for entry in entries)
        return sorted(await self.sold()) == expected == sorted(await self.recorded())


def settings(url: str) -> DatabaseSettings:
    return DatabaseSettings(url=url, pool=PoolSettings(size=1, max_overflow=0))


def new_entry() -> Entry:
    return Entry(uuid4(), "sell", 1, datetime.now(UTC) + timedelta(hours=1))


async def driver_of(session: AsyncSession | AsyncConnection) -> Any:
    connection = session if isinstance(session, AsyncConnection) else await session.connection()
    return (await connection.get_raw_connection()).driver_connection


def sending(statement: str) -> Callable[[AsyncSession], Awaitable[None]]:
    async def send(session: AsyncSession) -> None:
        await session.execute(text(statement))

    return send


@pytest.fixture
def url(postgres_database: DatabaseFactory) -> str:
    # Without TLS: asyncpg forgets an exception when it is cancelled while it asks whether the server knows TLS.
    return postgres_database() + "?ssl=disable"


class AtOnce(Luggage):
    """Luggage on a transport that takes no attributes, as uvloop's: it is written before its message."""

    def __init__(self, transport: Any) -> None:
        super().__init__(SlottedTransport(transport))


class SlottedTransport:
    """What `Luggage` uses of uvloop's transport."""

    __slots__ = ("_real",)

    def __init__(self, real: Any) -> None:
        self._real = real

    def write(self, data: Any) -> None:
        self._real.write(data)

    def writelines(self, data: Any) -> None:
        self._real.writelines(data)


on_both_loops = pytest.mark.parametrize("at_once", [False, True], ids=["asyncio", "uvloop"], indirect=True)


@pytest.fixture
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether messages are written before the one that takes them along, as on uvloop."""
    uvloops = bool(getattr(request, "param", False))
    if uvloops:
        monkeypatch.setattr(asyncpg_connection, "Luggage", AtOnce)
    return uvloops


@pytest.fixture
async def shop(url: str, at_once: bool) -> AsyncIterator[Shop]:
    one = Shop(url)
    async with one.node.writer.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(text("CREATE TABLE sales (item text NOT NULL)"))
    yield one
    await one.node.close()


@pytest.fixture
async def sent(shop: Shop) -> list[bytes]:
    """What the connection for steps sends from now on, packet by packet."""
    packets: list[bytes] = []
    async with shop.node.writer.connect() as connection:
        luggage = (await driver_of(connection))._luggage
        write = luggage._write

        def record(data: Any) -> None:
            packets.append(bytes(data))
            write(data)

        luggage._write = record
    return packets


async def test_the_writes_and_commit_are_one_packet_whose_text_is_sent_once(shop: Shop, sent: list[bytes]) -> None:
    entries = [await shop.act()]
    assert f"INSERT INTO {LEDGER}".encode() in sent[-1]
    assert b"COMMIT" in sent[-1]
    sent.clear()
    entries += [await shop.act(), await shop.act()]
    assert len(sent) == 2 * 2
    for packet in sent[1::2]:
        assert LEDGER.encode() not in packet
        assert b"COMMIT" not in packet
    assert await shop.whole(*entries)


@on_both_loops
@pytest.mark.parametrize("forgets", ["DEALLOCATE ALL", "DEALLOCATE PREPARE ALL"])
async def test_a_step_that_takes_what_is_prepared_away_can_be_run_again(shop: Shop, forgets: str) -> None:
    async def sell(session: AsyncSession) -> str:
        # Of another text each time, or SQLAlchemy would meet the loss first.
        sale = f"INSERT INTO sales (item) VALUES ('{entry.saga_id.hex}')"
        await session.execute(text(f"{sale} -- {uuid4().hex}"))
        if first:
            await session.execute(text(forgets))
        return "null"

    entries: list[Entry] = [await shop.act()]
    for _ in range(2):
        entry, first = new_entry(), True
        with pytest.raises(Exception) as raised:  # noqa: PT011 - the driver's own
            await shop.participant.act(entry, sell)
        assert shop.participant.fault(raised.value) is Fault.STALE_PLAN
        assert await shop.whole(*entries)
        first = False
        await shop.participant.act(entry, sell)
        entries.append(entry)
    assert await shop.whole(*entries)


async def test_a_saga_whose_step_says_deallocate_all_happens_once(shop: Shop, url: str) -> None:
    handle = SqlDatabase("shop")
    saga = Saga("sell-one", input=str, output=str)

    @saga.step(handle, kind="pivot")
    async def sell(db: AsyncSession, item: str, ctx: StepContext) -> str:
        driver = await driver_of(db)
        await db.execute(text("INSERT INTO sales (item) VALUES (:item)"), {"item": item})
        await driver.execute("DEALLOCATE ALL")
        return item

    events: list[Event] = []
    databases = Databases(handle)
    sagas = Sagas(databases, saga, journal=handle)
    async with databases.open(Settings(databases={"shop": settings(url)})), sagas.open(emit=events.append):
        assert [await sagas.run(saga, item) for item in "abc"] == ["a", "b", "c"]
    assert sorted(await shop.sold()) == ["a", "b", "c"]
    assert len([event for event in events if isinstance(event, StepDone)]) == 3
    assert [event for event in events if isinstance(event, StepFailed)]


@on_both_loops
async def test_a_first_packet_that_fails_leaves_a_connection_that_prepares_anew(shop: Shop) -> None:
    late = Entry(uuid4(), "sell", 1, datetime.now(UTC) - timedelta(seconds=1))
    for _ in range(2):
        with suppress(Exception):
            await shop.act(entry=late)
        entry = await shop.act()
        with pytest.raises(Exception) as raised:  # noqa: PT011 - the driver's own
            await shop.act(entry=entry)
        assert shop.participant.fault(raised.value) is Fault.DUPLICATE_KEY
    assert len(await shop.sold()) == len(await shop.recorded()) == 2


async def test_a_name_that_is_taken_on_the_server_is_taken_over(shop: Shop) -> None:
    async def take(session: AsyncSession) -> None:
        driver = await driver_of(session)
        for write in shop.participant.seal_done(new_entry())("null"):
            names = set(re.findall(rb"polysaga_[0-9a-f]{16}", PreparedWrites(lasting=True).messages([write])))
            assert len(names) == 2
            for name in names:
                await driver.execute(f"PREPARE {name.decode()} AS SELECT 1")

    assert await shop.whole(await shop.act(take), await shop.act())


async def test_the_ledger_of_the_search_path_is_the_one_that_is_written(shop: Shop) -> None:
    async with shop.node.writer.begin() as connection:
        await connection.execute(text("CREATE SCHEMA tenant"))
        await connection.execute(text(f"CREATE TABLE tenant.{LEDGER} (LIKE {LEDGER} INCLUDING ALL)"))
    ours = [await shop.act() for _ in range(8)]  # the server's plan is generic by now
    theirs = [await shop.act(sending("SET LOCAL search_path = tenant, public")) for _ in range(3)]
    ours.append(await shop.act())
    assert sorted(await shop.recorded()) == sorted(one.saga_id.hex for one in ours)
    assert sorted(await shop.recorded(f"tenant.{LEDGER}")) == sorted(one.saga_id.hex for one in theirs)


@pytest.mark.parametrize(
    "change",
    [
        f"ALTER TABLE {LEDGER} ADD COLUMN more int DEFAULT 7",
        f"ALTER TABLE {LEDGER} ALTER COLUMN step TYPE text",
        f"ALTER TABLE {LEDGER} ALTER COLUMN epoch TYPE int",
        f"CREATE INDEX more ON {LEDGER} (epoch)",
        f"DROP TABLE {LEDGER}",
    ],
)
async def test_a_changed_ledger_is_written_by_connections_that_knew_the_old_one(shop: Shop, change: str) -> None:
    before = [await shop.act() for _ in range(8)]
    async with shop.node.reserved.begin() as connection:
        await connection.execute(text(change))
        await connection.run_sync(metadata.create_all)
    after = [await shop.act() for _ in range(3)]
    expected = after if change.startswith("DROP") else before + after
    assert sorted(await shop.recorded()) == sorted(one.saga_id.hex for one in expected)


@on_both_loops
async def test_a_commit_that_the_server_refuses_is_an_error(shop: Shop) -> None:
    async with shop.node.writer.begin() as connection:
        await connection.execute(text("ALTER TABLE sales ADD UNIQUE (item) DEFERRABLE INITIALLY DEFERRED"))
    entry = await shop.act()
    again = sending(f"INSERT INTO sales VALUES ('{entry.saga_id.hex}')")  # checked at COMMIT
    for _ in range(2):
        with pytest.raises(Exception) as raised:  # noqa: PT011 - the driver's own
            await shop.act(again)
        assert shop.participant.fault(raised.value) is Fault.DUPLICATE_KEY
    assert await shop.whole(entry, await shop.act())


async def test_a_serializable_step_that_loses_is_an_error(shop: Shop) -> None:
    count = text("SELECT count(*) FROM sales")

    async def race(session: AsyncSession) -> None:
        await session.execute(count)
        async with shop.node.reserved.execution_options(isolation_level="SERIALIZABLE").begin() as other:
            await other.execute(count)
            await other.execute(text("INSERT INTO sales (item) VALUES ('other')"))

    async def work(session: AsyncSession) -> str:
        await session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        await session.execute(text("INSERT INTO sales (item) VALUES ('ours')"))
        await race(session)
        return "null"

    with pytest.raises(Exception) as raised:  # noqa: PT011 - the driver's own
        await shop.participant.act(new_entry(), work)
    assert shop.participant.fault(raised.value) is Fault.SERIALIZATION
    assert (await shop.sold(), await shop.recorded()) == (["other"], [])


@on_both_loops
async def test_a_step_whose_connection_another_task_uses_is_whole(shop: Shop, at_once: bool) -> None:
    known, entry = await shop.act(), new_entry()
    stragglers: list[asyncio.Task[Any]] = []

    async def leave_behind(session: AsyncSession) -> None:
        driver = await driver_of(session)
        stragglers.append(asyncio.create_task(driver.fetch("SELECT pg_sleep(60)")))
        await asyncio.sleep(0)  # it is sent

    with pytest.raises(Exception) as raised:  # noqa: PT011 - the driver's own
        await shop.act(leave_behind, entry)
    # On uvloop the messages have left, and whether the server got them is unknown.
    assert shop.participant.fault(raised.value) is (Fault.DISCONNECTED if at_once else None)
    stragglers[0].cancel()
    await asyncio.gather(*stragglers, return_exceptions=True)
    undone = await shop.participant.undo(entry, None)
    happened = [entry] if undone.state is Mark.DONE else []
    assert not happened or at_once
    sales = [one.saga_id.hex for one in (known, await shop.act(), *happened)]
    assert sorted(await shop.sold()) == sorted(sales)


@on_both_loops
async def test_nothing_is_committed_before_a_cancelled_statement_has_ended(shop: Shop) -> None:
    known = await shop.act()

    async def cancel_one(session: AsyncSession) -> None:
        driver = await driver_of(session)
        one = asyncio.create_task(driver.execute("SELECT pg_sleep(60)"))
        await until(shop.sleeps, "the server executes the statement")  # before, it passes over a cancellation
        one.cancel()
        await asyncio.gather(one, return_exceptions=True)  # the server has not answered yet

    with pytest.raises(Exception, match="aborted"):
        await shop.act(cancel_one)
    assert await shop.whole(known, await shop.act())


@on_both_loops
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_a_step_that_ends_its_transaction_on_the_driver_is_told(shop: Shop, end: str) -> None:
    async def end_it(session: AsyncSession) -> None:
        await (await driver_of(session)).fetch(end)

    with pytest.raises(StepMisused, match="ended its transaction"):
        await shop.act(end_it)
    assert await shop.recorded() == []


@pytest.mark.parametrize("size", ["0", "100"])
async def test_nothing_stays_prepared_if_the_url_turns_that_off(shop: Shop, url: str, size: str) -> None:
    other = Shop(f"{url}&statement_cache_size={size}")
    entries = [await other.act() for _ in range(3)]
    async with other.node.writer.connect() as connection:
        assert (await connection.execute(text(OURS))).scalar_one() == (0 if size == "0" else 2)  # and COMMIT
    await other.node.close()
    assert await shop.whole(*entries)


@on_both_loops
async def test_a_server_that_ends_the_session_with_the_writes_commits_nothing(shop: Shop) -> None:
    known = await shop.act()
    async with shop.node.reserved.begin() as connection:
        await connection.execute(
            text(
                "CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN new; END $$"
            )
        )
        await connection.execute(
            text(f"CREATE TRIGGER leave BEFORE INSERT ON {LEDGER} FOR EACH ROW EXECUTE FUNCTION leave()")
        )
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the driver's own
        await shop.act()
    assert shop.participant.fault(raised.value) is Fault.DISCONNECTED
    assert await shop.whole(known)


async def test_a_plan_for_an_empty_journal_does_not_outlive_its_uses(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses = 8  # the server keeps the plan of the sixth
    monkeypatch.setattr(postgres_packets, "_USES", uses)
    ids, owner = [uuid4() for _ in range(2 * uses)], uuid4()
    async with shop.node.single.connect() as connection:
        await connection.execute(text(f"ALTER TABLE {JOURNAL} SET (autovacuum_enabled = off)"))
        await connection.execute(SAGA, [{"id": one, "owner": owner} for one in ids])
        await connection.execute(text(f"VACUUM ANALYZE {JOURNAL}"))
    decide = statements(shop.node.dialect)["decide"]

    async def scans(driver: Any) -> tuple[int, int]:
        await driver.fetch("SELECT pg_stat_force_next_flush()")
        counted = f"SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = '{JOURNAL}'"
        found = await driver.fetchrow(counted)
        return found["seq_scan"], found["idx_scan"]

    async with shop.node.writer.connect() as connection:
        driver = await driver_of(connection)

        async def decide_some(some: list[UUID]) -> tuple[int, int]:
            before = await scans(driver)
            for one in some:
                values = {"id": one, "epoch": 1, "owner": owner, "results": "{}"}
                await driver.execute("BEGIN")
                await driver.write_and_commit([Write(decide, values)])
            after = await scans(driver)
            return after[0] - before[0], after[1] - before[1]

        assert await decide_some(ids[:uses]) == (uses, 0)
        async with shop.node.reserved.connect() as other:
            await other.execute(SAGA, [{"id": uuid4(), "owner": owner} for _ in range(10_000)])
        assert await decide_some(ids[uses:]) == (0, uses)


def test_a_write_is_prepared_again_after_two_hundred_uses_or_an_error() -> None:
    prepared = PreparedWrites(lasting=True)
    statement = Rendered("UPDATE journal SET status = $1 WHERE id = $2", ("status", "id"), answers=False)
    writes = [Write(statement, {"status": "running", "id": uuid4()})]
    packets: list[bytes] = []
    for _ in range(402):
        packets.append(prepared.messages(writes))
        prepared.confirm()
    assert [place for place, packet in enumerate(packets) if b"UPDATE" in packet] == [0, 200, 400]
    assert b"UPDATE" not in prepared.messages(writes)  # which is not confirmed
    assert b"UPDATE" in prepared.messages(writes)


def test_a_value_that_has_no_text_is_refused() -> None:
    statement = Rendered("INSERT INTO t (a) VALUES ($1)", ("a",), answers=False)
    with pytest.raises(TypeError, match="bytes cannot be sent as text"):
        PreparedWrites(lasting=True).messages([Write(statement, {"a": b"raw"})])
