"""`polysaga check`: would a program work on these servers, and what is to be done if not."""

import asyncio
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymongo
import pytest
from psycopg import sql
from sqlalchemy.ext.asyncio import create_async_engine

from devservers import Server
from polysaga.migrations.history import JOURNAL, LEDGER, History
from tests.fixtures.projects import Project
from tests.fixtures.servers import DatabaseFactory, MariaDBCluster, PostgresCluster
from tests.fixtures.tiers import Uses

ACCOUNTS = (Path(__file__).parents[2] / "docs" / "guides" / "database-accounts.md").read_text()
Rows = list[dict[str, Any]]


def checked(project: Project, *arguments: str) -> tuple[int, Rows]:
    ended = project.polysaga("check", "--json", *arguments)
    rows: Rows = json.loads(ended.out)
    return ended.code, rows


def problems(rows: Rows) -> list[str]:
    return [each["text"] for row in rows for each in row["findings"] if each["fatal"]]


def notes(rows: Rows) -> list[str]:
    return [each["text"] for row in rows for each in row["findings"] if not each["fatal"]]


def set_revision(project: Project, line: str, revision: str) -> None:
    with closing(sqlite3.connect(project.directory / "orders.sqlite")) as connection, connection:
        connection.execute(f"UPDATE polysaga_{line}_version SET version_num = ?", (revision,))


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


def test_a_file_that_is_missing_is_a_finding_and_stays_missing(project: Project) -> None:
    before = sorted(project.directory.iterdir())
    told = project.polysaga("check")
    assert told.code == 0
    assert "there is no such file yet; `polysaga migrate PROGRAM` creates it" in told.out

    told = project.polysaga("check", "shop:everything")
    assert told.code == 1
    assert "there is no such file yet; `polysaga migrate shop:everything` creates it" in told.err
    assert [path for path in sorted(project.directory.iterdir()) if path.name != "__pycache__"] == before
    assert project.polysaga("migrate", "shop:everything").code == 0
    assert project.polysaga("check", "shop:everything").code == 0


def test_files_are_fine_and_a_program_without_its_tables_is_told_the_remedy(project: Project) -> None:
    project.make_files()
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


def test_tables_of_another_version_are_told_with_the_remedy(project: Project) -> None:
    assert project.polysaga("migrate", "shop:everything").code == 0
    newest = History(JOURNAL).head
    code, rows = checked(project, "shop:everything")
    assert (code, problems(rows)) == (0, [])
    assert rows[0]["revisions"] == {"journal": newest, "ledger": History(LEDGER).head}

    set_revision(project, "journal", "0001")
    told = project.polysaga("check", "shop:everything")
    assert told.code == 1
    older = f"the tables of its journal are at revision 0001, and this version of Polysaga needs {newest}"
    assert f"{older}; run `polysaga migrate shop:everything`" in told.err
    assert checked(project)[0] == 0, "without a program it is not known which tables are needed"
    assert project.polysaga("migrate", "shop:everything", "--check").code == 1

    set_revision(project, "journal", newest)
    set_revision(project, "ledger", "9999")
    code, rows = checked(project, "shop:everything")
    assert (code, problems(rows)) == (0, [])
    (newer,) = notes(rows)
    assert newer.startswith("the tables of its ledger are at revision 9999, which this version")
    for arguments in (["migrate"], ["migrate", "--check"]):
        left = project.polysaga(*arguments, "shop:everything")
        assert left.code == 0
        assert "left alone: database orders: the tables of the ledger are at revision 9999" in left.err


@pytest.mark.parametrize(
    ("line", "table"),
    [("journal", "polysaga_journal"), ("journal", "polysaga_audit"), ("ledger", "polysaga_ledger")],
)
def test_a_table_that_is_gone_is_told_with_the_remedies_of_migrate(
    project: Project, line: str, table: str
) -> None:
    assert project.polysaga("migrate", "shop:everything").code == 0
    with closing(sqlite3.connect(project.directory / "orders.sqlite")) as connection, connection:
        connection.execute(f"DROP TABLE {table}")

    _, _, refused = project.refusal("migrate", "shop:everything").partition(" was migrated, ")
    code, rows = checked(project, "shop:everything")

    assert code == 1
    (found,) = [each for row in rows for each in row["findings"] if each["fatal"]]
    assert found["text"] == f"its {line} was migrated, but its login sees no {table}"
    assert f"but its login sees no {table}: {found['remedy']}" == refused


def test_a_collection_that_is_gone_is_told_with_the_remedies_of_migrate(
    project: Project, mongo_database: DatabaseFactory
) -> None:
    url = mongo_database()
    project.set_url(points=url)
    assert project.polysaga("migrate", "shop:everything").code == 0
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        client.get_default_database().drop_collection("polysaga_outbox")

    _, _, refused = project.refusal("migrate", "shop:everything").partition(" was migrated, ")
    code, rows = checked(project, "shop:everything")

    assert code == 1
    (found,) = [each for row in rows for each in row["findings"] if each["fatal"]]
    assert found["text"] == "its ledger was migrated, but its login sees no polysaga_outbox"
    assert f"but its login sees no polysaga_outbox: {found['remedy']}" == refused


def test_a_ledger_that_has_lost_its_key_is_told_with_the_statement_that_adds_it(project: Project) -> None:
    assert project.polysaga("migrate", "shop:everything").code == 0
    with closing(sqlite3.connect(project.directory / "orders.sqlite")) as database, database:
        database.execute("CREATE TABLE copied AS SELECT * FROM polysaga_ledger")
        database.execute("DROP TABLE polysaga_ledger")
        database.execute("ALTER TABLE copied RENAME TO polysaga_ledger")
    told = project.polysaga("check", "shop:everything")
    assert told.code == 1
    assert "the ledger tables have lost the key of polysaga_ledger" in told.err
    assert "; add it: CREATE UNIQUE INDEX polysaga_ledger_key ON polysaga_ledger (saga_id, step)" in told.err


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

    # A server without a binary log takes writes, and follows no other.
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


def as_account(url: str, name: str) -> str:
    return re.sub(r"://[^@]*@", f"://{name}:change-me@", url)


def documented(kind: str) -> list[str]:
    """Return the statements that the guide has for *kind*."""
    (block,) = re.findall(rf"^## {kind}$.*?^```sql\n(.*?)^```$", ACCOUNTS, re.M | re.S)
    return [text.strip() for text in re.sub("--.*", "", block).split(";") if text.strip()]


class Owner:
    """Makes accounts on a server, as the owner of one of its databases."""

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, *statements: str) -> None:
        async def work() -> None:
            engine = create_async_engine(self.url, isolation_level="AUTOCOMMIT")
            async with engine.connect() as connection:
                for statement in statements:
                    await connection.exec_driver_sql(statement)
            await engine.dispose()

        asyncio.run(work())


@pytest.fixture
def on_postgres(postgres_database: DatabaseFactory) -> Iterator[Owner]:
    owner = Owner(postgres_database())
    owner.run("DROP ROLE IF EXISTS shop", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    yield owner
    owner.run("DROP OWNED BY shop", "DROP ROLE shop")


@pytest.fixture
def on_mariadb(mariadb_database: DatabaseFactory) -> Iterator[Owner]:
    owner = Owner(mariadb_database())
    yield owner
    owner.run("DROP USER IF EXISTS shop@'%%'")


def test_a_role_of_postgresql_lacks_all_that_it_was_not_granted(project: Project, on_postgres: Owner) -> None:
    account, *grants = documented("PostgreSQL")
    project.set_url(orders=on_postgres.url)
    on_postgres.run(account)
    assert project.polysaga("migrate", "shop:everything").code == 0
    project.set_url(orders=as_account(on_postgres.url, "shop"))

    for arguments in ((), ("shop:everything",)):
        told = project.polysaga("check", *arguments)
        assert told.code == 1
        for table in ("journal", "audit", "ledger", "outbox"):
            assert f"polysaga_{table}" in told.err
        assert "the account may not SELECT, INSERT, UPDATE, DELETE on" in told.err
        assert "GRANT SELECT, INSERT, UPDATE, DELETE ON" in told.err
        assert "would work" not in told.out
        assert "may not read polysaga_journal_version" in told.out

    on_postgres.run(*grants)
    told = project.polysaga("check", "shop:everything")
    assert (told.code, told.err) == (0, "")
    assert "note:" not in told.out

    on_postgres.run("REVOKE DELETE ON polysaga_ledger FROM shop")
    assert "the account may not DELETE on polysaga_ledger (" in project.polysaga("check", "shop:everything").err
    on_postgres.run("REVOKE USAGE ON SCHEMA public FROM PUBLIC, shop")
    assert project.polysaga("check", "shop:everything").code == 1


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_a_role_that_may_not_connect_is_told(project: Project, on_postgres: Owner, driver: str) -> None:
    database = on_postgres.url.rpartition("/")[2].partition("?")[0]
    on_postgres.run(documented("PostgreSQL")[0], f'REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC')
    project.set_url(orders=as_account(on_postgres.url, "shop").replace("asyncpg", driver))
    told = project.polysaga("check")
    assert told.code == 1
    assert "let the account connect to this database" in told.err
    assert "start the server" not in told.err


def test_a_role_that_may_not_create_the_tables_that_are_missing_is_told(
    project: Project, on_postgres: Owner
) -> None:
    on_postgres.run(documented("PostgreSQL")[0])
    project.set_url(orders=as_account(on_postgres.url, "shop"))
    told = project.polysaga("check", "shop:everything")
    assert told.code == 1
    assert "it has no polysaga_journal" in told.err
    assert "the account may not create tables" in told.out
    told = project.polysaga("check")
    assert told.code == 0
    assert "the account may not create tables" in told.out


def test_an_account_of_mariadb_lacks_all_that_it_was_not_granted(project: Project, on_mariadb: Owner) -> None:
    database = on_mariadb.url.rpartition("/")[2].partition("?")[0]
    shown = documented("MariaDB and MySQL")
    account, *grants = [text.replace("shop.*", f"{database}.*").replace("%", "%%") for text in shown]
    project.set_url(orders=on_mariadb.url)
    assert project.polysaga("migrate", "shop:everything").code == 0
    project.set_url(orders=as_account(on_mariadb.url, "shop"))

    on_mariadb.run(account)
    told = project.polysaga("check", "shop:everything")
    assert told.code == 1
    assert "let the account connect to this database" in told.err

    on_mariadb.run(f"GRANT SELECT ON {database}.* TO shop@'%%'")
    told = project.polysaga("check", "shop:everything")
    assert told.code == 1
    assert "the account may not INSERT, UPDATE, DELETE on polysaga_audit, polysaga_journal" in told.err

    on_mariadb.run(*grants)
    told = project.polysaga("check", "shop:everything")
    assert (told.code, told.err) == (0, "")

    on_mariadb.run(f"DROP TABLE {database}.polysaga_outbox")
    told = project.polysaga("check", "shop:everything")
    assert "its ledger was migrated, but its login sees no polysaga_outbox; grant the login" in told.err
    assert "the account may not create tables" in told.out


def test_a_file_that_only_reads_is_told(project: Project) -> None:
    assert project.polysaga("migrate", "shop:everything").code == 0
    for name in ("orders", "points"):
        project.set_url(**{name: f"sqlite+aiosqlite:///file:{project.directory}/{name}.sqlite?mode=ro&uri=true"})
    told = project.polysaga("check", "shop:everything")
    assert told.code == 1
    assert "the file cannot be written" in told.err
    assert "let the process write the file and its directory" in told.err


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_a_database_of_postgresql_that_does_not_exist_is_to_be_created(
    project: Project, postgres_server: Server, driver: str
) -> None:
    project.set_url(orders=postgres_server.url("nowhere").replace("asyncpg", driver))
    told = project.polysaga("check")
    assert told.code == 1
    assert "has no database of this name" in told.err
    assert "CREATE DATABASE nowhere, or correct databases.orders.url" in told.err
    assert "start the server" not in told.err


def test_a_database_of_mariadb_that_does_not_exist_is_to_be_created(
    project: Project, mariadb_server: Server
) -> None:
    project.set_url(orders=mariadb_server.url("nowhere"))
    assert "CREATE DATABASE nowhere, or correct databases.orders.url" in project.polysaga("check").err


def test_a_url_without_a_database_is_to_be_completed(
    project: Project, postgres_server: Server, mariadb_server: Server
) -> None:
    project.set_url(orders=postgres_server.url("nowhere").replace("/nowhere", "/"))
    assert "name it at the end of the URL, or correct databases.orders.url" in project.polysaga("check").err
    project.set_url(orders=mariadb_server.url("nowhere").replace("/nowhere", "/"))
    assert "databases.orders.url names no database on the server; write e.g. mysql+asyncmy://" in (
        project.polysaga("check").err
    )


@pytest.mark.parametrize("kind", [Uses("mariadb", ("mariadb_server",)), Uses("mysql", ("mysql_server",))], ids=str)
def test_a_server_that_takes_small_statements_is_told_of(
    project: Project, request: pytest.FixtureRequest, kind: Uses
) -> None:
    server = request.getfixturevalue(kind.fixtures[0])
    project.set_url(orders=server.url("mysql"))
    ((before,),) = server.run("SELECT @@global.max_allowed_packet")
    server.run("SET GLOBAL max_allowed_packet = 1048576")
    try:
        _, rows = checked(project)
    finally:
        server.run(f"SET GLOBAL max_allowed_packet = {before}")
    assert any("statements of 1,048,576 bytes at most" in note for note in notes(rows))
    assert not any("statements of" in note for note in notes(checked(project)[1]))


def test_a_mysql_that_logs_statements_is_told_of_and_does_not_warn_of_the_question(
    project: Project, mysql_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    project.set_url(orders=mysql_server.url("mysql"))
    mysql_server.run("SET GLOBAL binlog_format = STATEMENT")
    try:
        _, rows = checked(project)
    finally:
        mysql_server.run("SET GLOBAL binlog_format = ROW")
    assert any("it logs statements" in problem for problem in problems(rows))
    caplog.clear()  # setting it is warned of, too
    assert not any("it logs statements" in problem for problem in problems(checked(project)[1]))
    # The driver logs what the server warns of, and people would see that among the findings.
    assert [record.getMessage() for record in caplog.records if record.name.startswith("asyncmy")] == []


def test_a_wrong_password_is_to_be_corrected(project: Project, mariadb_server: Server) -> None:
    project.set_url(orders=re.sub(r"://([^:]*):[^@]*@", r"://\1:wrong@", mariadb_server.url("mysql")))
    told = project.polysaga("check")
    assert "correct the account or its password in databases.orders.url" in told.err
    assert "start the server" not in told.err


@pytest.mark.parametrize("command", ["check", "nodes"])
def test_a_url_is_never_broken(project: Project, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    directory = project.directory / ("deep" * 30)
    directory.mkdir()
    url = f"sqlite+aiosqlite:///{directory}/orders.sqlite"
    project.set_url(orders=url)
    assert url in project.polysaga(command).out.split()
