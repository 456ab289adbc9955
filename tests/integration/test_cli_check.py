"""`polysaga check`: would a program work on these servers, and what is to be done if not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from devservers import Server
from tests.fixtures.projects import Project
from tests.fixtures.servers import DatabaseFactory, MariaDBCluster, PostgresCluster

Rows = list[dict[str, Any]]


def checked(project: Project, *arguments: str) -> tuple[int, Rows]:
    ended = project.polysaga("check", "--json", *arguments)
    rows: Rows = json.loads(ended.out)
    return ended.code, rows


def problems(rows: Rows) -> list[str]:
    return [each["text"] for row in rows for each in row["findings"] if each["fatal"]]


def notes(rows: Rows) -> list[str]:
    return [each["text"] for row in rows for each in row["findings"] if not each["fatal"]]


@pytest.fixture
def replicated(project: Project, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the settings name one database with replicas, and no other."""

    def point(urls: list[str], *, secret: bool = True) -> None:
        primary, *replicas = urls
        monkeypatch.delenv("POLYSAGA_DATABASES__POINTS__URL")
        project.set_url(orders=primary)
        monkeypatch.setenv("POLYSAGA_DATABASES__ORDERS__REPLICAS", ", ".join(replicas))
        if secret:
            monkeypatch.setenv("POLYSAGA_BOOKMARKS__SECRET", "a secret of the tests")

    return point


def test_files_are_fine_and_a_program_without_its_tables_is_told_the_remedy(project: Project) -> None:
    code, rows = checked(project)
    assert (code, problems(rows)) == (0, [])
    assert [row["role"] for row in rows] == ["primary", "primary"]
    assert all(row["refuses_writes"] and row["version"] and abs(row["clock_ahead"]) < 1 for row in rows)

    told = project.polysaga("check", "shop:everything")
    assert told.code == 1
    assert "it has no polysaga_journal, polysaga_ledger, polysaga_outbox" in told.err
    assert "run `polysaga migrate shop:everything`" in told.err
    assert project.polysaga("migrate", "shop:everything").code == 0
    told = project.polysaga("check", "shop:everything")
    assert (told.code, told.err) == (0, "")
    assert "A program would work on these servers." in told.out
    assert "journal" in told.out


def test_servers_of_every_kind_are_checked(
    project: Project,
    postgres_database: DatabaseFactory,
    mariadb_database: DatabaseFactory,
    mongo_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project.set_url(orders=postgres_database(), points=mariadb_database(), stock=mongo_server.url("stock"))
    code, rows = checked(project)
    assert (code, problems(rows)) == (0, [])
    assert {row["database"]: row["refuses_writes"] for row in rows} == {
        "orders": True,
        "points": True,
        "stock": None,  # the guard of documents is ours alone
    }
    assert all(row["role"] == "primary" and row["version"] for row in rows)


def test_a_server_that_does_not_answer_is_named_without_its_password(project: Project) -> None:
    project.set_url(orders="postgresql+asyncpg://app:hush-hush@127.0.0.1:1/orders")
    told = project.polysaga("check")
    assert told.code == 1
    assert "problem: orders (postgresql+asyncpg://app:***@127.0.0.1:1/orders)" in told.err
    assert "start the server, or correct its URL" in told.err
    assert "hush-hush" not in told.out + told.err


def test_replicas_of_postgresql_are_fine_and_the_privilege_that_is_missing_is_named(
    project: Project, postgres_cluster: PostgresCluster, replicated: Any
) -> None:
    urls = postgres_cluster.urls("postgres")
    replicated(urls)
    code, rows = checked(project)
    assert (code, problems(rows)) == (0, [])
    assert [row["role"] for row in rows] == ["primary", "replica", "replica"]

    for statement in ("DROP ROLE IF EXISTS checker", "CREATE ROLE checker LOGIN"):
        postgres_cluster.primary.run(sql.SQL(statement))
    postgres_cluster.catch_up()
    replicated_as = [re.sub(r"://[^@]*@", "://checker@", url) for url in urls]
    project.set_url(orders=replicated_as[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYSAGA_DATABASES__ORDERS__REPLICAS", ", ".join(replicated_as[1:]))
        code, rows = checked(project)
        assert (code, problems(rows)) == (0, [])
        assert any("after a promotion" in note for note in notes(rows))

        function = "FUNCTION pg_control_system()"
        postgres_cluster.primary.run(sql.SQL(f"REVOKE EXECUTE ON {function} FROM PUBLIC"))
        try:
            postgres_cluster.catch_up()
            code, rows = checked(project)
            assert code == 1
            assert [text for text in problems(rows) if "pg_control_system()" in text]
            remedies = [each["remedy"] for row in rows for each in row["findings"]]
            assert any(remedy.startswith(f"GRANT EXECUTE ON {function}") for remedy in remedies)
        finally:
            postgres_cluster.primary.run(sql.SQL(f"GRANT EXECUTE ON {function} TO PUBLIC"))


def test_replicas_without_a_secret_and_a_journal_without_a_standby_are_told(
    project: Project, postgres_cluster: PostgresCluster, replicated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "checked_journal"
    postgres_cluster.primary.create_database(name)
    postgres_cluster.catch_up()
    urls = postgres_cluster.urls(name)
    points = f"sqlite+aiosqlite:///{project.directory}/points.sqlite"
    replicated(urls)
    project.set_url(points=points)
    assert project.polysaga("migrate", "shop:everything").code == 0
    postgres_cluster.catch_up()
    code, rows = checked(project, "shop:everything")
    assert (code, problems(rows)) == (0, [])
    assert any("a failover can lose sagas" in note for note in notes(rows))

    monkeypatch.delenv("POLYSAGA_BOOKMARKS__SECRET")
    code, rows = checked(project)
    assert (code, len(problems(rows))) == (1, 1)
    assert "no key to sign with" in problems(rows)[0]


def test_replicas_of_mariadb_are_fine_and_one_that_is_gone_or_of_another_kind_is_not(
    project: Project,
    mariadb_cluster: MariaDBCluster,
    mariadb_server: Server,
    replicated: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    primary, replica = mariadb_cluster.urls("mysql")
    mariadb_cluster.primary.create_database("checked")
    mariadb_cluster.catch_up()
    replicated([primary, replica])
    code, rows = checked(project)
    assert (code, problems(rows)) == (0, [])
    assert [row["role"] for row in rows] == ["primary", "replica"]

    # A server without a binary log takes writes, and follows nobody.
    monkeypatch.setenv("POLYSAGA_DATABASES__ORDERS__REPLICAS", mariadb_server.url("mysql"))
    code, rows = checked(project)
    assert code == 1
    assert any("keeps no GTIDs" in text for text in problems(rows))

    monkeypatch.setenv("POLYSAGA_DATABASES__ORDERS__REPLICAS", replica)
    mariadb_cluster.replicas[0].kill()
    code, rows = checked(project)
    assert code == 1
    assert [row["role"] for row in rows] == ["primary", None]


def test_two_servers_that_take_writes_are_told(
    project: Project, mariadb_cluster: MariaDBCluster, replicated: Any, tmp_path: Path
) -> None:
    primary, _ = mariadb_cluster.urls("mysql")
    replicated([primary, primary])
    code, rows = checked(project)
    assert code == 1
    assert any("both take writes" in text for text in problems(rows))


def test_a_program_whose_databases_have_no_settings_would_not_work(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project.polysaga("migrate", "shop:everything").code == 0
    monkeypatch.delenv("POLYSAGA_DATABASES__POINTS__URL")
    code, rows = checked(project, "shop:everything")
    assert (code, problems(rows)) == (1, ["database 'points' has no settings: set databases.points.url"])

    monkeypatch.delenv("POLYSAGA_DATABASES__ORDERS__URL")
    code, rows = checked(project, "shop:everything")
    assert (code, len(problems(rows))) == (1, 2)


def test_a_mistyped_name_is_told_with_the_nearest_one(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.polysaga("migrate", "shop:everything").code == 0
    monkeypatch.delenv("POLYSAGA_DATABASES__POINTS__URL")
    project.set_url(pionts=f"sqlite+aiosqlite:///{project.directory}/points.sqlite")
    code, rows = checked(project, "shop:everything")
    assert code == 1
    assert problems(rows) == [
        "database 'points' has no settings: set databases.points.url",
        "settings name a database 'pionts' that the program lacks, did you mean 'points'?",
    ]


def test_settings_without_any_database_are_not_fine(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORDERS", "POINTS"):
        monkeypatch.delenv(f"POLYSAGA_DATABASES__{name}__URL")
    assert "the settings name no database" in project.refusal("check")
