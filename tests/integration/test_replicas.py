"""Replicas can be made stale, deaf, dead and primary, and be healed again."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from devservers import Cluster, LocalServer, ServerUnavailable
from polysaga.databases.dialects import fault_of
from polysaga.faults import Fault
from tests.fixtures.processes import begin, next_line
from tests.fixtures.servers import PostgresCluster

PROJECT = Path(__file__).parents[2]
AnyCluster = Cluster[Any, Any]


@pytest.fixture(params=["postgres_cluster", "mariadb_cluster", "mysql_cluster"])
def cluster(request: pytest.FixtureRequest) -> AnyCluster:
    found: AnyCluster = request.getfixturevalue(request.param)
    found.primary.create_database("shop")
    run(found.primary, "CREATE TABLE t (id INT PRIMARY KEY)")
    found.catch_up()
    return found


def test_a_commit_is_seen_on_every_replica(cluster: AnyCluster) -> None:
    insert(cluster.primary, 1)
    cluster.catch_up()
    assert [rows(replica) for replica in cluster.replicas] == [[1]] * len(cluster.replicas)


def test_a_replica_refuses_writes_of_the_applications_account(cluster: AnyCluster) -> None:
    with pytest.raises(DBAPIError) as refused:
        insert(cluster.replicas[0], 1)
    assert fault_of(refused.value) is Fault.READ_ONLY


def test_a_paused_replica_shows_what_was_and_a_resumed_one_what_is(cluster: AnyCluster) -> None:
    replica, *others = cluster.replicas
    replica.pause()
    insert(cluster.primary, 1)
    for other in others:
        other.catch_up()
    assert rows(replica) == []

    replica.resume()
    replica.catch_up()
    assert rows(replica) == [1]


def test_a_replica_that_does_not_catch_up_is_waited_for_in_vain(
    cluster: AnyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = cluster.replicas[0]
    replica.pause()
    insert(cluster.primary, 1)
    monkeypatch.setattr("devservers.local._PATIENCE", 0.5)
    began = time.monotonic()
    with pytest.raises(ServerUnavailable, match=r"within 0 seconds that .* is (applied|replayed)"):
        cluster.catch_up()
    assert time.monotonic() - began < 30.0
    monkeypatch.undo()


def test_a_delayed_replica_shows_a_commit_no_sooner(cluster: AnyCluster) -> None:
    replica = cluster.replicas[0]
    replica.delay(0.5)
    began = time.monotonic()
    insert(cluster.primary, 1)
    while not rows(replica):
        assert time.monotonic() < began + 60
    assert time.monotonic() >= began + 0.5


def test_a_frozen_replica_answers_nobody_until_it_thaws(cluster: AnyCluster) -> None:
    replica = cluster.replicas[0]
    replica.freeze()
    with pytest.raises(TimeoutError):
        asyncio.run(told(replica, "SELECT 1", patience=0.5))
    insert(cluster.primary, 1)

    replica.heal()
    assert rows(replica) == [1]


def test_a_killed_replica_comes_back_and_catches_up(cluster: AnyCluster) -> None:
    replica = cluster.replicas[0]
    replica.kill()
    insert(cluster.primary, 1)

    cluster.heal()
    assert rows(replica) == [1]


def test_a_killed_primary_comes_back_and_is_followed_again(cluster: AnyCluster) -> None:
    cluster.primary.kill()
    cluster.heal()
    insert(cluster.primary, 1)
    cluster.catch_up()
    assert rows(cluster.replicas[0]) == [1]


def test_a_promoted_standby_takes_writes_and_is_followed(postgres_cluster_to_break: PostgresCluster) -> None:
    cluster = postgres_cluster_to_break
    cluster.primary.create_database("shop")
    run(cluster.primary, "CREATE TABLE t (id INT PRIMARY KEY)")
    cluster.catch_up()
    chosen, other = cluster.replicas

    cluster.primary.kill()
    chosen.promote()
    insert(chosen, 1)
    other.follow(chosen)
    other.catch_up()

    assert (rows(chosen), rows(other)) == ([1], [1])


@pytest.mark.parametrize("product", ["mariadb_cluster_to_break", "mysql_cluster_to_break"])
def test_a_promoted_gtid_replica_takes_writes_also_after_a_restart(
    request: pytest.FixtureRequest, product: str
) -> None:
    cluster: AnyCluster = request.getfixturevalue(product)
    cluster.primary.create_database("shop")
    run(cluster.primary, "CREATE TABLE t (id INT PRIMARY KEY)")
    cluster.catch_up()
    (chosen,) = cluster.replicas

    cluster.primary.kill()
    chosen.promote()
    insert(chosen, 1)
    chosen.restart()
    insert(chosen, 2)

    assert rows(chosen) == [1, 2]


@pytest.mark.usefixtures("server_programs")
def test_the_servers_for_hand_use_have_replicas_on_demand(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    command = [sys.executable, "-m", "devservers", "--replicas", "--json"]
    with begin(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PROJECT)}) as servers:
        urls = json.loads(next_line(servers, "the URLs"))
        assert {
            "postgres",
            "postgres_replica",
            "mariadb",
            "mariadb_replica",
            "mysql",
            "mysql_replica",
            "mongo",
        } == set(urls)
        servers.send_signal(signal.SIGINT)
        assert servers.wait(timeout=60) == 0


def run(server: LocalServer, statement: str) -> list[Any]:
    return asyncio.run(told(server, statement))


def insert(server: LocalServer, number: int) -> None:
    run(server, f"INSERT INTO t VALUES ({number})")


def rows(server: LocalServer) -> list[int]:
    return [one for (one,) in run(server, "SELECT id FROM t ORDER BY id")]


async def told(server: LocalServer, statement: str, patience: float = 60.0) -> list[Any]:
    engine = create_async_engine(server.url("shop"))
    try:
        async with asyncio.timeout(patience), engine.begin() as connection:
            answer = await connection.execute(text(statement))
            return list(answer) if answer.returns_rows else []
    finally:
        await engine.dispose()
