"""The servers that all other tests stand on: they start, keep what they committed, and go."""

import asyncio
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pymongo
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from devservers import (
    MARIADB,
    ExistingServer,
    LocalServer,
    MariaDBServer,
    MySQLServer,
    NotOurServer,
    Server,
    ServerUnavailable,
    mysql,
)
from tests.fixtures.processes import begin, next_line

PROJECT = Path(__file__).parents[2]


@pytest.fixture(params=["postgres_server", "mariadb_server", "mysql_server"])
def sql_server(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    return server


def test_a_sql_server_keeps_a_commit_and_forgets_a_rollback_through_restart_and_kill(
    sql_server: Server,
) -> None:
    _must_be_ours(sql_server)
    sql_server.create_database("shop")
    url = sql_server.url("shop")
    asyncio.run(_commit_one_row_and_roll_back_another(url))

    sql_server.restart()
    assert asyncio.run(_rows(url)) == [1]

    sql_server.kill()
    sql_server.start()
    assert asyncio.run(_rows(url)) == [1]
    sql_server.drop_database("shop")


def test_a_mongo_server_keeps_a_transaction_of_two_documents_through_restart_and_kill(
    mongo_server: Server,
) -> None:
    _must_be_ours(mongo_server)
    mongo_server.create_database("shop")
    url = mongo_server.url("shop")

    with pymongo.MongoClient(url) as client:
        shop = client.get_default_database()
        with client.start_session() as session:
            with session.start_transaction():
                shop.stock.insert_one({"_id": "kept"}, session=session)
                shop.ledger.insert_one({"_id": "kept"}, session=session)
            session.start_transaction()
            shop.stock.insert_one({"_id": "rolled back"}, session=session)
            shop.ledger.insert_one({"_id": "rolled back"}, session=session)
            session.abort_transaction()

    mongo_server.restart()
    assert _documents(url) == {"stock": ["kept"], "ledger": ["kept"]}

    with pymongo.MongoClient(url) as client:
        client.get_default_database().stock.insert_one({"_id": "the last commit before the kill"})
    mongo_server.kill()
    mongo_server.start()
    assert _documents(url) == {"stock": ["kept", "the last commit before the kill"], "ledger": ["kept"]}
    mongo_server.drop_database("shop")


def test_a_database_can_be_made_anew_although_an_open_transaction_holds_it(sql_server: Server) -> None:
    async def hold_and_recreate(url: str) -> None:
        engine = create_async_engine(url)
        holder = await engine.connect()
        await holder.execute(text("CREATE TABLE t (id INT PRIMARY KEY)"))
        await holder.commit()
        await holder.execute(text("INSERT INTO t VALUES (1)"))
        sql_server.create_database("held")
        await holder.invalidate()
        await holder.close()
        await engine.dispose()

    sql_server.create_database("held")
    asyncio.run(hold_and_recreate(sql_server.url("held")))
    asyncio.run(_commit_one_row_and_roll_back_another(sql_server.url("held")))
    sql_server.drop_database("held")


def test_each_call_of_a_factory_gives_a_database_of_its_own(postgres_database: Callable[[], str]) -> None:
    first, second = postgres_database(), postgres_database()
    asyncio.run(_commit_one_row_and_roll_back_another(first))
    asyncio.run(_commit_one_row_and_roll_back_another(second))


@pytest.mark.usefixtures("server_programs")
def test_a_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import pathlib, signal, devservers\n"
        f"server = devservers.PostgresServer(pathlib.Path({str(tmp_path)!r}))\n"
        "server.start()\n"
        "print(server.pid, flush=True)\n"
        "signal.pause()\n"
    )
    with begin([sys.executable, "-c", script], cwd=PROJECT) as parent:
        server = os.pidfd_open(int(next_line(parent, "the server's process")))
        parent.kill()
    ended, _, _ = select.select([server], [], [], 30.0)
    os.close(server)
    assert ended


@pytest.mark.usefixtures("server_programs")
def test_run_gives_a_command_its_databases_and_returns_its_code(tmp_path: Path) -> None:
    script = (
        "import json, os, sys\n"
        "print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('POLYSAGA_DATABASES__')}))\n"
        "sys.exit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "devservers", "run", "--", sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        check=False,
        timeout=120,
    )
    assert done.returncode == 7
    schemes = {name: url.split(":")[0] for name, url in json.loads(done.stdout).items()}
    assert schemes == {
        "POLYSAGA_DATABASES__ORDERS__URL": "postgresql+asyncpg",
        "POLYSAGA_DATABASES__POINTS__URL": "mysql+asyncmy",
        "POLYSAGA_DATABASES__INVENTORY__URL": "mongodb",
    }


@pytest.mark.usefixtures("server_programs")
def test_run_hands_sigterm_to_its_command_and_waits_for_it(tmp_path: Path) -> None:
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('closing time'))\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    run = begin(
        [sys.executable, "-m", "devservers", "run", "--", sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stderr=subprocess.PIPE,
    )
    with run:
        assert next_line(run, "the command is ready") == "ready\n"
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=60)
    assert (run.returncode, said) == (1, "closing time\n")


def test_a_server_that_exists_already_is_used_and_left_running(
    mariadb_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = mariadb_server.url("whatever")
    monkeypatch.setenv("POLYSAGA_TEST_MARIADB_URL", url)

    server = MARIADB.server(tmp_path)
    with server:
        assert isinstance(server, ExistingServer)
        assert server.url("whatever") == url
        assert server.name_and_version == mariadb_server.name_and_version
        with pytest.raises(NotOurServer, match="POLYSAGA_TEST_MARIADB_URL"):
            server.kill()
        with pytest.raises(NotOurServer, match="POLYSAGA_TEST_MARIADB_URL"):
            server.restart()

    mariadb_server.create_database("still_there")
    mariadb_server.drop_database("still_there")


def test_a_missing_server_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(ServerUnavailable, match="apt-get install mariadb-server") as missing:
        MariaDBServer(tmp_path)
    assert missing.value.product == "MariaDB"


def test_the_mysqld_of_mariadbs_packages_is_no_mysql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "mysqld"
    named.write_text("#!/bin/sh\necho mysqld  Ver 10.11.14-MariaDB-0+deb12u2 for debian-linux-gnu on x86_64\n")
    named.chmod(0o755)
    monkeypatch.setattr(mysql, "UNPACKED", tmp_path / "nowhere")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ServerUnavailable, match="scripts/setup servers") as missing:
        MySQLServer(tmp_path)
    assert missing.value.product == "MySQL"


@pytest.mark.usefixtures("server_programs")
def test_a_server_that_does_not_come_up_shows_its_last_words(tmp_path: Path) -> None:
    server = MariaDBServer(tmp_path)
    server.data.mkdir()
    (tmp_path / "complete").touch()  # but there is nothing in it
    with pytest.raises(ServerUnavailable, match=r"(?s)ended with code.*delete"):
        server.start()
    assert server.pid is None


def _must_be_ours(server: Server) -> None:
    if not isinstance(server, LocalServer):
        pytest.skip(f"{server.origin} names a server that tests may not kill")


async def _commit_one_row_and_roll_back_another(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE t (id INT PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO t VALUES (1)"))
    async with engine.connect() as connection:
        await connection.execute(text("INSERT INTO t VALUES (2)"))
        await connection.rollback()
    await engine.dispose()


async def _rows(url: str) -> list[int]:
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        found = list(await connection.scalars(text("SELECT id FROM t ORDER BY id")))
    await engine.dispose()
    return found


def _documents(url: str) -> dict[str, list[str]]:
    with pymongo.MongoClient(url) as client:
        shop = client.get_default_database()
        return {name: sorted(shop[name].distinct("_id")) for name in ("stock", "ledger")}
