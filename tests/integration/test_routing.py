"""Reads from real replicas that are late, paused, frozen or gone: never stale to their writer, never stuck."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import make_url, text

from devservers import MySQLServer, Replica
from polysaga.errors import DatabaseUnavailable
from polysaga.events import NodeLeft, NodeReturned, PrimaryChanged, ReadWaited
from polysaga.routing.health import states_of
from tests.fixtures.notes import Browser, Notes, settings_of, until_replicas_are_known
from tests.fixtures.programs import EventT, Recorder
from tests.fixtures.servers import MariaDBCluster, MySQLCluster, PostgresCluster
from tests.fixtures.waiting import pause, until, within

WRITES = int(os.environ.get("POLYSAGA_TEST_WRITES", "1000"))  # the whole proof is 10,000
PEOPLE = 16  # at the same time
SLACK = 1.5  # seconds that a loaded machine may add
AnyCluster = PostgresCluster | MariaDBCluster | MySQLCluster


@pytest.fixture(params=["postgres_cluster", "mariadb_cluster", "mysql_cluster"])
def cluster(request: pytest.FixtureRequest) -> AnyCluster:
    found: AnyCluster = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def urls(cluster: AnyCluster) -> list[str]:
    return fresh(cluster)


def fresh(cluster: AnyCluster) -> list[str]:
    """Return the addresses of a new database that all servers have."""
    name = f"notes_{time.monotonic_ns()}"
    cluster.primary.create_database(name)
    cluster.catch_up()
    return cluster.urls(name)


@pytest.fixture
async def notes(urls: list[str], cluster: AnyCluster) -> AsyncIterator[Notes]:
    async with Notes().open(settings_of(urls)) as app:
        await asyncio.to_thread(cluster.catch_up)
        yield app


async def write_and_read(notes: Notes, *, keeps: bool, writes: int) -> tuple[int, Counter[str]]:
    """Let people write and read at once what they wrote; return how often it was stale, and who answered."""
    stale, went = 0, Counter[str]()

    async def person(note: int) -> None:
        nonlocal stale
        browser = notes.browser(keeps=keeps)
        for value in range(writes // PEOPLE):
            assert (await browser.put(note, value)).status_code == 204
            stale += await browser.get(note) != value
        went.update(answerers(browser))

    await asyncio.gather(*(person(note) for note in range(PEOPLE)))
    return stale, went


TROUBLES: dict[str, Callable[[Replica], None]] = {
    "natural": lambda _: None,
    "paused": lambda replica: replica.pause(),
    "delayed": lambda replica: replica.delay(0.5),
}


async def cause(trouble: str, cluster: AnyCluster) -> None:
    for replica in cluster.replicas:
        await asyncio.to_thread(TROUBLES[trouble], replica)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_nobody_misses_what_they_wrote(
    notes: Notes, cluster: AnyCluster, trouble: str, record_property: Callable[..., None]
) -> None:
    await cause(trouble, cluster)
    # The way of MySQL's and MariaDB's answers is the same: the second one proves the parts in which they differ.
    writes = WRITES // 4 if isinstance(cluster.primary, MySQLServer) else WRITES
    without, _ = await write_and_read(notes, keeps=False, writes=WRITES // 10)
    stale, went = await write_and_read(notes, keeps=True, writes=writes)
    record_property("stale_without_bookmarks", without)
    record_property("answered", dict(went))
    assert stale == 0
    assert without > 0 or trouble == "natural"  # a loaded machine can be slower than its replicas


async def test_most_reads_go_to_replicas_when_one_in_ten_requests_writes(
    urls: list[str], cluster: AnyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers wait long enough for a replica to catch up, and for answers; a busy machine exceeds the defaults."""
    monkeypatch.setattr("polysaga.routing.router._HOPELESS", 30.0)  # it may stop this process for a second
    went = Counter[str]()
    async with Notes().open(settings_of(urls, wait=5.0, probe_timeout=5.0)) as notes:
        await asyncio.to_thread(cluster.catch_up)
        await until_replicas_are_known(notes.router)

        async def person(note: int) -> None:
            browser = notes.browser()
            for value in range(WRITES // 10 // PEOPLE + 1):
                await browser.put(note, value)
                for _ in range(10):
                    assert await browser.get(note) == value
            went.update(answerers(browser))

        await asyncio.gather(*(person(note) for note in range(PEOPLE)))
    assert went["replica"] >= 0.9 * went.total(), went


async def test_a_read_that_waits_for_late_replicas_is_counted(notes: Notes, cluster: AnyCluster) -> None:
    history = notes.router.history
    for replica in cluster.replicas:
        await asyncio.to_thread(replica.pause)
    browser = notes.browser()
    await browser.put(1, 1)
    before = history.waits.count
    reading = asyncio.create_task(browser.get(1))
    await until(lambda: history.waits.waiting == 1 or reading.done(), "the reader waits")
    assert await reading == 1
    assert (history.waits.waiting, history.waits.count) == (0, before + 1)
    assert history.waits.seconds > 0
    assert (await notes.recorder.wait_for(ReadWaited)).database == "notes"
    names = [node.name for node in notes.router.nodes]
    assert list(history.lags) == names
    await until(lambda: all(history.lags[name] for name in names), "each node has a sample")
    assert history.lags[names[0]][-1].is_primary


async def test_a_frozen_replica_holds_nobody_up(notes: Notes, cluster: AnyCluster) -> None:
    browser = notes.browser()
    await browser.put(1, 1)
    # The connections of eight readers take more than a second to open if the machine has six busy loops. Those who
    # meet the frozen replica open others.
    usual = await slowest_read(notes, seconds=0.2)
    for replica in cluster.replicas[:1]:
        replica.freeze()
    reads = notes.router.reads
    longest = await slowest_read(notes, seconds=3 * reads.probe_timeout)
    left = await notes.recorder.wait_for(NodeLeft)
    assert left.node == notes.router.nodes[1].name
    assert longest <= reads.probe_timeout + reads.wait + usual + SLACK
    cluster.replicas[0].thaw()
    await notes.recorder.wait_for(NodeReturned)
    await until_read_from(notes, "replica-1")


@pytest.mark.parametrize("snapshot", [False, True])
async def test_a_reader_that_has_read_all_ends_well_although_its_node_is_gone(
    notes: Notes, cluster: AnyCluster, snapshot: bool
) -> None:
    """MySQL and MariaDB end its transaction with one more message, and so does PostgreSQL that of a snapshot."""
    for _ in range(3):
        async with notes.handle.reader(snapshot=snapshot) as db:
            assert await db.scalar(text("SELECT 1")) == 1
            for node in notes.router.nodes:
                node.cut()


async def slowest_read(notes: Notes, *, seconds: float) -> float:
    """Let eight people read a note that is 1; return how long the slowest of all reads took."""
    loop, slowest = asyncio.get_running_loop(), 0.0
    stop = loop.time() + seconds

    async def person() -> None:
        nonlocal slowest
        while (began := loop.time()) < stop:
            found = await notes.browser().get(1)
            assert found == 1, getattr(found, "text", found)
            slowest = max(slowest, loop.time() - began)

    await asyncio.gather(*(person() for _ in range(8)))
    return slowest


async def test_without_replicas_the_primary_answers_a_limited_number_at_a_time(
    urls: list[str], cluster: AnyCluster
) -> None:
    async with Notes().open(settings_of(urls, primary_read_limit=1, primary_wait=0.2)) as notes:
        # Killed within DDL, a MariaDB replica may never go on: its log has the GTID, its position lacks it.
        await asyncio.to_thread(cluster.catch_up)
        for replica in cluster.replicas:
            await asyncio.to_thread(replica.kill)
        for replica in notes.router.nodes[1:]:
            await notes.recorder.wait_for(NodeLeft, lambda event, name=replica.name: event.node == name)
        with notes.databases.scope():
            async with notes.handle.reader() as db:
                await db.execute(text("SELECT 1"))
                answer = await notes.browser().get(1)
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        browser = notes.browser()
        assert (await browser.put(1, 1)).status_code == 204
        assert await browser.get(1) == 1
        assert browser.went[-1].startswith("notes=primary;reason=no-replica")


async def test_without_a_primary_reads_go_on_and_writes_are_refused_at_once(
    notes: Notes, cluster: AnyCluster
) -> None:
    browser, reads = notes.browser(), notes.router.reads
    assert (await browser.put(1, 1)).status_code == 204
    await asyncio.to_thread(cluster.catch_up)
    await asyncio.to_thread(cluster.primary.kill)
    deadline = asyncio.get_running_loop().time() + 3 * notes.router.reads.max_lag
    while (began := asyncio.get_running_loop().time()) < deadline:
        refused = await browser.put(1, 2)
        assert asyncio.get_running_loop().time() - began <= 1.0 + SLACK
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        began = asyncio.get_running_loop().time()
        assert await answer_of(browser) == 1
        assert asyncio.get_running_loop().time() - began <= reads.probe_timeout + reads.wait + SLACK
    cluster.primary.start()  # in this thread: the server ends with the one that started it
    opened = first(notes.recorder, PrimaryChanged)
    back = await notes.recorder.wait_for(PrimaryChanged, lambda event: event is not opened)
    assert (opened.before, back.before) == (None, back.node)
    assert (await browser.put(1, 3)).status_code == 204
    assert await browser.get(1) == 3


@pytest.mark.parametrize("product", ["mariadb_cluster", "mysql_cluster"])
async def test_a_primary_that_only_reads_from_now_on_is_no_primary_to_anybody(
    request: pytest.FixtureRequest, product: str
) -> None:
    gtid: MariaDBCluster | MySQLCluster = request.getfixturevalue(product)
    async with Notes().open(settings_of(await asyncio.to_thread(fresh, gtid))) as notes:
        await asyncio.to_thread(gtid.catch_up)
        node = notes.handle.primary
        await node.ping()
        async with node.writer.connect() as connection:
            await connection.execute(text("SELECT 1"))
        gtid.primary.run("SET GLOBAL read_only = 1")
        try:
            await until(lambda: notes.router.topology.primary is None, "the primary has lost its role")
            assert await states_of([notes.handle]) == {"notes": "unreachable"}
            with pytest.raises(DatabaseUnavailable, match="not the primary any more"):
                async with node.writer.connect():
                    pass
        finally:
            gtid.primary.run("SET GLOBAL read_only = 0")
        await until(lambda: notes.router.topology.primary == 0, "the primary has its role again")
        assert await states_of([notes.handle]) == {"notes": "ok"}
        assert (await notes.browser().put(1, 1)).status_code == 204


async def test_writes_resume_on_the_promoted_replica_and_the_old_primary_is_never_believed(
    postgres_cluster_to_break: PostgresCluster,
) -> None:
    cluster = postgres_cluster_to_break
    async with Notes().open(settings_of(await asyncio.to_thread(fresh, cluster))) as notes:
        await asyncio.to_thread(cluster.catch_up)
        acknowledged: dict[int, int] = {}
        went = Counter[str]()
        over = asyncio.Event()

        async def person(note: int) -> None:
            browser, value = notes.browser(), 0
            while not over.is_set():
                value += 1
                answer = await browser.put(note, value)
                assert answer.status_code in {204, 503}
                if answer.status_code == 204:
                    acknowledged[note] = value
                    found = await browser.get(note)
                    assert found == value or getattr(found, "status_code", 0) == 503
                else:
                    await pause()
            went.update(answerers(browser))

        people = [asyncio.create_task(person(note)) for note in range(8)]
        await until(lambda: len(acknowledged) == 8, "each of the eight has written", watching=people)
        await asyncio.to_thread(cluster.primary.stop)  # a fast shutdown sends all there is to the replicas first
        before = dict(acknowledged)
        await asyncio.to_thread(cluster.replicas[0].promote)
        promoted = asyncio.get_running_loop().time()
        await until(
            lambda: all(acknowledged[note] > value for note, value in before.items()),
            "each of the eight has written to the promoted one",
            watching=people,
        )
        assert asyncio.get_running_loop().time() - promoted <= 5.0 + SLACK
        assert notes.router.topology.primary == 1

        # In this thread, whose end would be its own; it believes that it is the primary still.
        cluster.primary.start()
        await notes.recorder.wait_for(NodeReturned, lambda event: event.node == notes.router.nodes[0].name)
        seen = dict(acknowledged)
        await until(
            lambda: all(acknowledged[note] > value + 5 for note, value in seen.items()),
            "each of the eight has written five times more",
            watching=people,
        )
        over.set()
        await asyncio.gather(*people)
        assert notes.router.topology.primary == 1
        async with notes.handle.reader(consistency="strong") as db:
            kept: dict[int, int] = dict(
                [tuple(row) for row in await db.execute(text("SELECT id, value FROM notes"))]
            )
        assert all(kept[note] >= value for note, value in acknowledged.items())


@pytest.fixture(params=["mariadb_cluster_to_break", "mysql_cluster_to_break"])
def gtid_cluster_to_break(request: pytest.FixtureRequest) -> MariaDBCluster | MySQLCluster:
    found: MariaDBCluster | MySQLCluster = request.getfixturevalue(request.param)
    return found


async def test_writes_resume_on_the_promoted_gtid_replica_and_the_old_primary_is_never_believed(
    gtid_cluster_to_break: MariaDBCluster | MySQLCluster,
) -> None:
    cluster = gtid_cluster_to_break
    urls = await asyncio.to_thread(fresh, cluster)
    async with Notes().open(settings_of(urls)) as notes:
        await asyncio.to_thread(cluster.catch_up)
        browser = notes.browser()
        acknowledged = 0

        async def write() -> int:
            nonlocal acknowledged
            answer = await browser.put(1, acknowledged + 1)
            assert answer.status_code in {204, 503}
            acknowledged += answer.status_code == 204
            if answer.status_code == 503:
                assert answer.headers["Retry-After"] == "1"
                await pause()
            return acknowledged

        async def write_until(value: int) -> None:
            async def go_on() -> None:
                while await write() < value:
                    pass

            await within(go_on(), f"the number {value} is written")

        await write_until(5)
        await asyncio.to_thread(cluster.catch_up)
        old = notes.browser()
        old.bookmark = browser.bookmark  # of the time before the promotion
        await asyncio.to_thread(cluster.primary.kill)
        assert await answer_of(old) == 5
        await asyncio.to_thread(cluster.replicas[0].promote)
        promoted = asyncio.get_running_loop().time()
        await write_until(6)
        assert asyncio.get_running_loop().time() - promoted <= 5.0 + SLACK
        assert notes.router.topology.primary == 1
        assert await answer_of(browser) == 6
        assert await answer_of(old) == 6
        await write_until(10)

        # In this thread, whose end would be its own. It takes writes still: no operator fenced it.
        cluster.primary.start()
        await notes.recorder.wait_for(NodeReturned, lambda event: event.node == notes.router.nodes[0].name)
        for client in (browser, old, notes.browser()):
            for _ in range(5):
                assert await client.get(1) == 10
        await write_until(15)
        assert await browser.get(1) == 15
        assert notes.router.topology.primary == 1
        asked = text("SELECT value FROM notes WHERE id = 1")
        async with notes.handle.reader(consistency="strong") as db:
            assert (await db.execute(asked)).scalar() == 15

    # A program that starts now finds two that take writes, and goes to the one that has gone on.
    async with Notes().open(settings_of(urls)) as again:
        assert again.router.topology.primary == 1
        assert await again.browser().get(1) == 15
        assert (await again.browser().put(1, 16)).status_code == 204
    database = make_url(urls[1]).database
    assert cluster.replicas[0].run(f"SELECT value FROM {database}.notes") == [(16,)]


async def answer_of(browser: Browser) -> Any:
    """Return what is read, once a server may answer: for a moment after a death there may be none."""
    found: Any = None

    async def answers() -> bool:
        nonlocal found
        found = await browser.get(1)
        return getattr(found, "status_code", 200) != 503

    await until(answers, "a node answers the read")
    return found


async def until_read_from(notes: Notes, node: str) -> None:
    """Return when *node* answers a read."""

    async def answered() -> bool:
        browser = notes.browser()
        await browser.get(1)
        return browser.went[-1].startswith(f"notes={node};")

    await until(answered, f"{node} answers a read")


def answerers(browser: Browser) -> list[str]:
    return [told.split(";")[0].removeprefix("notes=").split("-")[0] for told in browser.went]


def first(recorder: Recorder, kind: type[EventT]) -> EventT:
    return recorder.of(kind)[0]
