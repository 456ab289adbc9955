"""What servers tell about themselves: role, epoch and position, on primaries, replicas and after a promotion."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import text
from sqlglot import exp, parse_one

from devservers import Cluster, LocalServer
from polysaga.databases import SqlNode
from polysaga.databases.dialects.mysql import MySQL
from polysaga.databases.positions import ClusterTime, Gtids, Lsn, MariaGtid, Position, parse
from polysaga.databases.probe_connection import ProbeConnection
from polysaga.databases.samples import NodeRole
from tests.conformance.shops import MongoShop, SqlShop, settings
from tests.fixtures.servers import PostgresCluster
from tests.fixtures.tiers import Uses

AnyCluster = Cluster[Any, Any]
DATABASE = "probed"
SCHEMES = {
    "asyncpg": "postgresql+asyncpg",
    "psycopg": "postgresql+psycopg",
    "mariadb": "mysql+asyncmy",
    "mysql": "mysql+asyncmy",
}
KINDS: dict[str, type] = {"asyncpg": Lsn, "psycopg": Lsn, "mariadb": MariaGtid, "mysql": Gtids}

DRIVERS = [
    Uses("asyncpg", ("postgres_cluster",)),
    Uses("psycopg", ("postgres_cluster",)),
    Uses("mariadb", ("mariadb_cluster",)),
    Uses("mysql", ("mysql_cluster",)),
]


class Probed:
    """A cluster through one driver; what it lends is closed at the end."""

    def __init__(self, cluster: AnyCluster, driver: str, stack: AsyncExitStack) -> None:
        self.cluster, self.driver, self._stack = cluster, driver, stack

    @property
    def is_postgres(self) -> bool:
        return SCHEMES[self.driver].startswith("postgresql")

    def url(self, server: LocalServer) -> str:
        return f"{SCHEMES[self.driver]}://{server.url(DATABASE).partition('://')[2]}"

    def line(self, server: LocalServer, url: str | None = None) -> Any:
        address = url or self.url(server)
        line = ProbeConnection(SqlNode("shop", "any", address, settings(address)))
        self._stack.push_async_callback(line.close)
        return line

    async def write(self, server: LocalServer, *statements: str) -> None:
        address = self.url(server)
        node = SqlNode("shop", "primary", address, settings(address))
        async with node.writer.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))
        await node.close()

    async def rows(self, server: LocalServer) -> list[int]:
        address = self.url(server)
        node = SqlNode("shop", "any", address, settings(address))
        async with node.reader.connect() as connection:
            found = list(await connection.scalars(text("SELECT id FROM t ORDER BY id")))
        await node.close()
        return found


def furnish(cluster: AnyCluster) -> None:
    cluster.primary.create_database(DATABASE)
    cluster.catch_up()


@pytest.fixture(params=DRIVERS, ids=str)
async def probed(request: pytest.FixtureRequest) -> AsyncIterator[Probed]:
    cluster: AnyCluster = request.getfixturevalue(request.param.fixtures[0])
    await asyncio.to_thread(furnish, cluster)
    async with AsyncExitStack() as stack:
        one = Probed(cluster, request.param.name, stack)
        await one.write(cluster.primary, "CREATE TABLE t (id INT PRIMARY KEY)")
        await asyncio.to_thread(cluster.catch_up)
        yield one


async def test_a_primary_and_a_replica_say_what_they_are(probed: Probed) -> None:
    primary = await probed.line(probed.cluster.primary).sample()
    replica = await probed.line(probed.cluster.replicas[0]).sample()

    assert (primary.role, replica.role) == (NodeRole.PRIMARY, NodeRole.REPLICA)
    assert isinstance(primary.position, KINDS[probed.driver])
    assert isinstance(replica.position, KINDS[probed.driver])
    assert primary.position.comparable(replica.position)
    assert primary.epoch.number == replica.epoch.number


async def test_what_is_captured_after_a_commit_is_past_it_on_every_replica(probed: Probed) -> None:
    primary, replica = probed.cluster.primary, probed.cluster.replicas[0]
    source, follower = probed.line(primary), probed.line(replica)
    for number in range(10):
        await probed.write(primary, f"INSERT INTO t VALUES ({number})")
        captured = await source.capture()
        await reached(follower, captured)
        assert number in await probed.rows(replica)


async def test_an_asynchronous_commit_is_captured_too(probed: Probed) -> None:
    if not probed.is_postgres:
        pytest.skip("MariaDB and MySQL write their binary log before they answer")
    primary, replica = probed.cluster.primary, probed.cluster.replicas[0]
    source, follower = probed.line(primary), probed.line(replica)
    for number in range(10):
        insert = f"INSERT INTO t VALUES ({number})"
        await probed.write(primary, "SET LOCAL synchronous_commit = off", insert)
        await reached(follower, await source.capture())
        assert number in await probed.rows(replica)


async def test_a_paused_replica_has_not_reached_what_was_committed_since(probed: Probed) -> None:
    primary, replica = probed.cluster.primary, probed.cluster.replicas[0]
    source, follower = probed.line(primary), probed.line(replica)
    await asyncio.to_thread(replica.pause)
    await probed.write(primary, "INSERT INTO t VALUES (1)")
    captured = await source.capture()

    assert not (await follower.sample()).position.reached(captured)
    await asyncio.to_thread(replica.resume)
    await reached(follower, captured)
    assert await probed.rows(replica) == [1]


async def test_an_account_without_any_privilege_may_ask(probed: Probed) -> None:
    primary, replica = probed.cluster.primary, probed.cluster.replicas[0]
    if not probed.is_postgres:
        await probed.write(primary, "CREATE USER IF NOT EXISTS 'nobody'@'%' IDENTIFIED BY 'nobody'")
        who = "nobody:nobody"
    else:
        await probed.write(primary, "DROP ROLE IF EXISTS visitor", "CREATE ROLE visitor LOGIN")
        who = "visitor"
    await asyncio.to_thread(probed.cluster.catch_up)
    base = {server: re.sub(r"://[^@]*@", f"://{who}@", probed.url(server)) for server in (primary, replica)}
    if not probed.is_postgres:
        # Every account may enter this one.
        base = {server: url.replace(f"/{DATABASE}", "/information_schema") for server, url in base.items()}

    captured = await probed.line(primary, base[primary]).capture()
    sample = await probed.line(replica, base[replica]).sample()

    assert isinstance(captured, KINDS[probed.driver])
    assert sample.role is NodeRole.REPLICA
    assert sample.position.comparable(captured)


async def test_a_replica_captures_nothing(probed: Probed) -> None:
    line = probed.line(probed.cluster.replicas[0])
    if not probed.is_postgres:
        assert await line.capture() is None
        return
    with pytest.raises(Exception, match="recovery is in progress"):
        await line.capture()


async def test_a_position_survives_the_way_through_a_bookmark(probed: Probed) -> None:
    captured = await probed.line(probed.cluster.primary).capture()
    assert parse(captured.text) == captured


async def test_a_promoted_standby_is_a_primary_of_a_later_epoch(
    postgres_cluster_to_break: PostgresCluster,
) -> None:
    cluster = postgres_cluster_to_break
    chosen, other = cluster.replicas
    await asyncio.to_thread(furnish, cluster)
    async with AsyncExitStack() as stack:
        probed = Probed(cluster, "asyncpg", stack)
        before = await probed.line(cluster.primary).capture()
        await asyncio.to_thread(cluster.catch_up)
        line = probed.line(chosen)
        assert (await line.sample()).role is NodeRole.REPLICA

        await asyncio.to_thread(cluster.primary.kill)
        await asyncio.to_thread(chosen.promote)
        promoted = await line.sample()

        assert promoted.role is NodeRole.PRIMARY
        assert promoted.epoch.number == before.epoch.number + 1
        assert promoted.position.reached(before)
        # The other one stays in the old history until it follows.
        assert not (await probed.line(other).sample()).position.reached(promoted.position)
        await asyncio.to_thread(other.follow, chosen)
        await probed.write(chosen, "CREATE TABLE t (id INT PRIMARY KEY)")
        await reached(probed.line(other), await line.capture())


@pytest.fixture(params=[Uses(name, (f"{name}_cluster_to_break",)) for name in ("mariadb", "mysql")], ids=str)
def breakable(request: pytest.FixtureRequest) -> tuple[str, AnyCluster]:
    return request.param.name, request.getfixturevalue(request.param.fixtures[0])


async def test_a_promoted_gtid_replica_goes_on_where_the_primary_was(breakable: tuple[str, AnyCluster]) -> None:
    product, cluster = breakable
    (chosen,) = cluster.replicas
    await asyncio.to_thread(furnish, cluster)
    async with AsyncExitStack() as stack:
        probed = Probed(cluster, product, stack)
        await probed.write(cluster.primary, "CREATE TABLE t (id INT PRIMARY KEY)")
        before = await probed.line(cluster.primary).capture()
        await asyncio.to_thread(cluster.catch_up)
        await asyncio.to_thread(cluster.primary.kill)
        await asyncio.to_thread(chosen.promote)

        promoted = await probed.line(chosen).sample()
        assert promoted.role is NodeRole.PRIMARY
        assert promoted.position.reached(before)
        await probed.write(chosen, "INSERT INTO t VALUES (1)")
        after = await probed.line(chosen).capture()
        assert after.reached(promoted.position)
        assert not promoted.position.reached(after)


async def test_a_server_without_a_history_of_positions_says_so(sql_shop: SqlShop) -> None:
    """SQLite, and MariaDB without a binary log."""
    node = sql_shop.node()
    line = ProbeConnection(node)
    try:
        sample = await line.sample()
        assert sample.role is NodeRole.PRIMARY
        if node.dialect.name == "postgresql":
            assert isinstance(await line.capture(), Lsn)
        elif sql_shop.kind.mysql:
            assert isinstance(await line.capture(), Gtids)
        else:
            assert sample.position is await line.capture() is None
    finally:
        await line.close()


async def test_mongodb_captures_the_time_of_its_writes(mongo: MongoShop) -> None:
    node = mongo.node()
    sample = await node.dialect.sample(node.client)
    assert sample.role is NodeRole.PRIMARY
    for number in range(3):
        async with node.client.start_session() as session:
            await node.documents["sales"].insert_one({"number": number}, session=session)
            written = session.operation_time
        captured = await node.dialect.capture(node.client)
        assert written is not None
        assert captured is not None
        assert captured.reached(ClusterTime(written.time, written.inc))


async def test_a_server_that_gives_no_gtids_any_more_keeps_no_positions(mysql: SqlShop) -> None:
    """What it once executed by GTID says nothing about what it executes now."""
    line, kept = ProbeConnection(mysql.node()), {}
    modes = ["ON", "ON_PERMISSIVE", "OFF_PERMISSIVE", "OFF"]  # changed by one step only
    async with mysql.observer.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for mode in [*modes, *reversed(modes[:-1])]:
            await connection.exec_driver_sql(f"SET GLOBAL gtid_mode = {mode}")
            kept[mode] = ((await line.sample()).position is not None, await line.capture() is not None)
    await line.close()

    assert kept == {
        "ON": (True, True),
        "ON_PERMISSIVE": (True, True),
        "OFF_PERMISSIVE": (False, False),
        "OFF": (False, False),
    }


# ---- MySQL 8, as far as it can be told without a server

SOURCE = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


class Cursor:
    """Stands for MySQL 8's: remembers what it was sent and gives one row."""

    rowcount = 1

    def __init__(self, row: tuple[Any, ...]) -> None:
        self.row, self.sent = row, ""

    def cursor(self) -> "Cursor":
        return self

    async def execute(self, sql: str, values: object) -> None:
        self.sent = sql

    async def fetchall(self) -> list[tuple[Any, ...]]:
        return [self.row]

    async def close(self) -> None: ...


EXECUTED = f"my{SOURCE.upper()}:1-7:9-11,\n{SOURCE}:20"


@pytest.mark.parametrize(
    ("read_only", "role"),
    [(0, NodeRole.PRIMARY), (1, NodeRole.REPLICA), ("OFF", NodeRole.PRIMARY), ("ON", NodeRole.REPLICA)],
)
async def test_mysql_8_tells_its_executed_set(read_only: Any, role: NodeRole) -> None:
    sample = await MySQL().sample(Cursor((read_only, 1, EXECUTED, EXECUTED)))
    assert sample.role is role
    assert isinstance(sample.position, Gtids)
    assert sample.position.sources == {SOURCE: ((1, 7), (9, 11), (20, 20))}


async def test_mysql_8_without_gtids_keeps_no_positions() -> None:
    assert await MySQL().capture(Cursor((0, 1, "my", "my"))) is None
    assert await MySQL().capture(Cursor((0, 0, f"my{SOURCE}:1", f"my{SOURCE}:1"))) is None


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ((0, 1, 1, "ON", 0), []),
        ((0, 0, 1, "ON", 0), ["keeps no GTIDs"]),
        ((0, 1, 1, "OFF_PERMISSIVE", 0), ["keeps no GTIDs"]),
        ((1, 1, 1, "ON", 1), []),
        ((1, 1, 1, "ON", 0), ["applied nothing by GTID"]),
        ((0, 1, "OFF", "ON", 0), ["does not refuse writes"]),
    ],
)
def test_what_mysql_and_mariadb_say_is_judged(row: tuple[Any, ...], said: list[str]) -> None:
    replica, logs, guarded, mode, replayed = row
    facts = MySQL().facts(("8.0.36", 1.0, replica, logs, 16 << 20, "ROW", guarded, mode, replayed), replicas=True)
    assert len(facts.findings) == len(said)
    assert all(part in finding.text for finding, part in zip(facts.findings, said, strict=True))


@pytest.mark.parametrize(
    ("logs", "replica", "logged", "packet", "said"),
    [
        (1, 0, "ROW", 4 << 20, []),
        (1, 0, "MIXED", 4 << 20, []),
        (1, 0, "STATEMENT", 4 << 20, [("it logs statements", True)]),
        (0, 0, "STATEMENT", 4 << 20, []),
        (1, 1, "STATEMENT", 4 << 20, []),
        (1, 0, "ROW", 1 << 20, [("1,048,576 bytes at most", False)]),
    ],
)
def test_what_mysql_and_mariadb_log_and_take_is_judged(
    logs: int, replica: int, logged: str, packet: int, said: list[tuple[str, bool]]
) -> None:
    facts = MySQL().facts(("8.0.36", 1.0, replica, logs, packet, logged, 1, "ON", 1), replicas=False)
    assert [finding.fatal for finding in facts.findings] == [fatal for _, fatal in said]
    assert all(part in finding.text for finding, (part, _) in zip(facts.findings, said, strict=True))


@pytest.mark.parametrize(
    ("runs", "asked"),
    [
        (
            lambda mark, number: mark == "!" and number <= 80036,
            ["gtid_mode", "gtid_executed", "gtid_mode", "gtid_executed"],
        ),
        (lambda mark, number: mark == "M!" and number <= 101119, ["gtid_slave_pos", "gtid_current_pos"]),
    ],
    ids=["MySQL 8.0.36", "MariaDB 10.11.19"],
)
async def test_each_product_runs_its_own_half_of_the_question(
    runs: Callable[[str, int], bool], asked: list[str]
) -> None:
    cursor = Cursor((0, 1, "my", "my"))
    await MySQL().sample(cursor)
    sql = re.sub(
        r"/\*(M?!)(\d+)(.*?)\*/",
        lambda part: part[3] if runs(part[1], int(part[2])) else "",
        cursor.sent,
    )
    names = [str(one.this) for one in parse_one(sql, dialect="mysql").find_all(exp.SessionParameter)]
    assert sorted(name.lower() for name in names) == sorted(["read_only", "log_bin", *asked])


async def reached(line: Any, position: Position) -> None:
    """Ask until the server has reached *position*."""
    async with asyncio.timeout(60):
        while not (await line.sample()).position.reached(position):
            pass  # asking takes its time
