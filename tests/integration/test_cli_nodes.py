"""`polysaga nodes`: who is who among the servers, and what is wrong with them."""

import asyncio
import json
from pathlib import Path

import pytest

from devservers import Server
from polysaga.cli.nodes import Seen, behind, faults, look, servers_of
from polysaga.clock import Clock
from polysaga.config import parse_settings
from polysaga.databases.positions import Epoch, Lsn, Position, parse_gtids, parse_maria_gtid
from polysaga.databases.samples import NodeRole
from tests.fixtures.projects import Project
from tests.fixtures.servers import PostgresCluster

HERE, LATER = Epoch("73", 1), Epoch("73", 2)
UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


def test_people_and_machines_see_the_primary_and_its_replicas(
    project: Project, postgres_cluster: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, *replicas = postgres_cluster.urls("postgres")
    only(project, monkeypatch, orders=primary)
    monkeypatch.setenv("POLYSAGA_DATABASES__ORDERS__REPLICAS", ", ".join(replicas))
    postgres_cluster.catch_up()

    told = project.polysaga("nodes")
    assert (told.code, told.err) == (0, "")
    assert told.out.count("replica") >= 2

    listed = project.polysaga("nodes", "--json")
    rows = json.loads(listed.out)
    assert [row["role"] for row in rows] == ["primary", "replica", "replica"]
    assert all(row["position"] and row["failure"] is None for row in rows)


def test_a_server_that_does_not_answer_is_named_and_the_exit_code_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only(project, monkeypatch, orders="postgresql+asyncpg://app:hush-hush@127.0.0.1:1/orders")
    told = project.polysaga("nodes", "--json")

    assert told.code == 1
    assert "orders: there is no primary" in told.err
    assert "127.0.0.1:1" in told.err
    assert "hush-hush" not in told.out + told.err


def test_databases_of_every_kind_are_asked(
    project: Project, mariadb_server: Server, mongo_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mongo = mongo_server.url("inventory")
    only(project, monkeypatch, points=mariadb_server.url("mysql"), inventory=mongo)
    project.set_url(orders=f"sqlite+aiosqlite:///{tmp_path}/orders.sqlite")
    project.make_files()
    told = project.polysaga("nodes", "--json")

    assert (told.code, told.err) == (0, "")
    assert {row["database"]: row["role"] for row in json.loads(told.out)} == dict.fromkeys(
        ("orders", "points", "inventory"), "primary"
    )


def test_a_mongodb_that_does_not_answer_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    only(project, monkeypatch, inventory="mongodb://127.0.0.1:1/inventory?directConnection=true")
    monkeypatch.setenv("POLYSAGA_DATABASES__INVENTORY__POOL__CONNECT_TIMEOUT", "0.5")
    told = project.polysaga("nodes", "--json")
    assert told.code == 1
    assert "inventory: mongodb://127.0.0.1:1" in told.err


async def test_watching_survives_a_server_that_dies_and_comes_back(postgres_cluster: PostgresCluster) -> None:
    primary, *replicas = postgres_cluster.urls("postgres")
    settings = parse_settings({"databases": {"orders": {"url": primary, "replicas": replicas}}})
    clock = Clock()
    async with servers_of(settings) as servers:
        assert [one.failure for one in await look(servers, clock)] == ["", "", ""]
        await asyncio.to_thread(postgres_cluster.replicas[0].kill)
        silent = await look(servers, clock)
        assert [bool(one.failure) for one in silent] == [False, True, False]
        await asyncio.to_thread(postgres_cluster.heal)
        assert [one.failure for one in await look(servers, clock)] == ["", "", ""]


def test_a_paused_replica_is_behind(
    project: Project, postgres_cluster: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, *replicas = postgres_cluster.urls("postgres")
    only(project, monkeypatch, orders=primary)
    monkeypatch.setenv("POLYSAGA_DATABASES__ORDERS__REPLICAS", ", ".join(replicas))
    postgres_cluster.replicas[0].pause()
    postgres_cluster.primary.create_database("later")

    rows = json.loads(project.polysaga("nodes", "--json").out)
    assert rows[1]["behind"].endswith(" bytes")


@pytest.mark.parametrize(
    ("primary", "replica", "said"),
    [
        (Lsn(1500, HERE), Lsn(1500, HERE), "nothing"),
        (Lsn(2500, HERE), Lsn(1000, HERE), "1,500 bytes"),
        (Lsn(1000, LATER), Lsn(1500, HERE), "an epoch"),
        (parse_maria_gtid("0-1-88,1-1-5"), parse_maria_gtid("0-1-80"), "13 transactions"),
        (parse_gtids(f"{UUID}:1-20"), parse_gtids(f"{UUID}:1-7"), "13 transactions"),
        (Lsn(1, HERE), parse_maria_gtid("0-1-1"), ""),
        (None, Lsn(1, HERE), ""),
    ],
)
def test_how_far_a_replica_is_behind(primary: Position | None, replica: Position, said: str) -> None:
    assert behind(primary, replica) == said


def test_two_primaries_are_wrong() -> None:
    both = [Seen("orders", name, NodeRole.PRIMARY, Lsn(1, HERE)) for name in ("a", "b")]
    assert faults(both) == ["orders: a and b both take writes; stop the one that was demoted"]
    assert faults(both[:1]) == []


def only(project: Project, monkeypatch: pytest.MonkeyPatch, **urls: str) -> None:
    """Let the settings name these databases and no other."""
    for name in ("ORDERS", "POINTS"):
        monkeypatch.delenv(f"POLYSAGA_DATABASES__{name}__URL", raising=False)
    project.set_url(**urls)


def test_a_file_that_is_missing_is_told_and_stays_missing(project: Project) -> None:
    told = project.polysaga("nodes")
    assert told.code == 1
    assert "orders.sqlite does not answer: there is no such file yet; `polysaga migrate` creates it" in told.err
    assert list(project.directory.glob("*.sqlite*")) == []
    project.make_files()
    assert project.polysaga("nodes").code == 0


def test_settings_without_any_database_are_not_fine(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    only(project, monkeypatch)
    for arguments in ((), ("--json",), ("--watch",)):
        assert "the settings name no database" in project.refusal("nodes", *arguments)
