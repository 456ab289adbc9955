"""What the options of a URL do on real servers: they count for every statement, beside Polysaga's own."""

import json
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

from devservers import Server
from polysaga import Databases, SqlDatabase
from polysaga.config import DatabaseSettings, parse_settings
from polysaga.databases import SqlNode
from polysaga.errors import ConfigurationError
from polysaga.migrations import migrate
from tests.fixtures.projects import Project
from tests.fixtures.servers import DatabaseFactory, PostgresCluster
from tests.integration.migrating import program, saga_of

DRIVERS = ["asyncpg", "psycopg"]
TENANTS = ["tenant_a", "tenant_b"]


@pytest.fixture(params=DRIVERS)
def postgres_url(request: pytest.FixtureRequest, postgres_database: DatabaseFactory) -> str:
    return postgres_database().replace("+asyncpg", f"+{request.param}")


def with_options(url: str, given: str, **more: str) -> str:
    rest = "".join(f"&{name}={quote(value)}" for name, value in more.items())
    return f"{url}?options={quote(given)}{rest}"


async def asked(url: str, question: str) -> list[list[Any]]:
    """Return what a reader and a writer on *url* answer to *question*."""
    handle = SqlDatabase("shop")
    async with Databases(handle).open(parse_settings({"databases": {"shop": {"url": url}}})):
        async with handle.reader() as db:
            read = (await db.execute(text(question))).one()
        async with handle.writer() as db:
            written = (await db.execute(text(question))).one()
    return [list(read), list(written)]


async def test_settings_of_the_url_and_ours_count_on_every_connection(postgres_url: str) -> None:
    url = with_options(
        postgres_url, "-csearch_path=tenant_a -c statement_timeout=1234", application_name="my shop"
    )
    question = (
        "SELECT current_setting('search_path'), current_setting('statement_timeout'), "
        "current_setting('application_name'), current_setting('lock_timeout'), "
        "current_setting('default_transaction_read_only')"
    )
    theirs = ["tenant_a", "1234ms", "my shop", "5s"]
    assert await asked(url, question) == [[*theirs, "on"], [*theirs, "off"]]


@pytest.fixture
def tenants(postgres_url: str) -> dict[str, str]:
    """The URLs of two schemas in one database; `public` is further down their search paths."""
    with psycopg.connect(f"postgresql://{postgres_url.partition('://')[2]}", autocommit=True) as connection:
        for tenant in TENANTS:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(tenant)))
    return {tenant: with_options(postgres_url, rf"-csearch_path={tenant},\ public") for tenant in TENANTS}


async def test_each_tenant_has_a_journal_and_a_ledger_in_its_own_schema(
    tenants: dict[str, str], postgres_url: str
) -> None:
    everywhere = {"public": postgres_url, **tenants}
    for url in everywhere.values():
        sagas, settings = program(shop=url)
        async with sagas.databases.open(settings):
            made = await migrate(sagas)
            assert [migration.line for migration in made] == ["journal", "ledger"]
            assert await migrate(sagas) == []
            async with sagas.open(settings.sagas):
                assert await sagas.run(saga_of(sagas), 20) == 21
                assert len((await sagas.find()).sagas) == 1
    counts = ", ".join(f"(SELECT count(*) FROM {schema}.polysaga_journal)" for schema in everywhere)
    assert (await asked(postgres_url, f"SELECT {counts}"))[0] == [1, 1, 1]


def test_the_check_looks_into_the_tenants_schema(
    project: Project, tenants: dict[str, str], postgres_url: str
) -> None:
    project.set_url(orders=postgres_url)
    assert project.polysaga("migrate", "shop:everything").code == 0
    project.set_url(orders=tenants["tenant_a"])
    told = project.polysaga("check", "shop:everything")
    assert "it has no polysaga_journal" in told.err
    assert project.polysaga("migrate", "shop:everything").code == 0
    ended = project.polysaga("check", "--json", "shop:everything")
    found = {row["database"]: row["tables"] for row in json.loads(ended.out)}
    assert "polysaga_journal" in found["orders"]


async def test_a_schema_that_does_not_exist_is_named_as_the_reason(postgres_url: str) -> None:
    sagas, settings = program(shop=with_options(postgres_url, "-csearch_path=nowhere"))
    async with sagas.databases.open(settings):
        with pytest.raises(ConfigurationError, match="schema"):
            await migrate(sagas)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_options_of_a_replica_count_on_the_replica(postgres_cluster: PostgresCluster, driver: str) -> None:
    postgres_cluster.primary.ensure_database("options")
    postgres_cluster.catch_up()
    urls = [
        with_options(
            server.url("options").replace("+asyncpg", f"+{driver}"), "-csearch_path=tenant", application_name=name
        )
        for name, server in (("first", postgres_cluster.primary), ("second", postgres_cluster.replicas[0]))
    ]
    handle = SqlDatabase("shop")
    shop = {"url": urls[0], "replicas": [urls[1]]}
    settings = parse_settings({"databases": {"shop": shop}, "bookmarks": {"secret": "a secret of the tests"}})
    question = text("SELECT current_setting('application_name'), current_setting('search_path')")
    databases = Databases(handle)
    async with databases.open(settings):
        async with handle.reader(consistency="eventual") as db:
            assert (await db.execute(question)).one() in [("second", "tenant"), ("first", "tenant")]
        async with handle.writer() as db:
            assert tuple((await db.execute(question)).one()) == ("first", "tenant")


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("wanted", "recovering"),
    [("read-write", False), ("primary", False), ("read-only", True), ("standby", True)],
)
async def test_of_several_servers_readers_and_writers_use_the_one_that_the_url_wants(
    postgres_cluster: PostgresCluster, driver: str, wanted: str, *, recovering: bool
) -> None:
    servers = [postgres_cluster.primary, postgres_cluster.replicas[0]]
    for first, second in (servers, reversed(servers)):
        hosts = f"host=127.0.0.1:{first.port}&host=127.0.0.1:{second.port}"
        url = f"postgresql+{driver}://polysaga@/postgres?{hosts}&target_session_attrs={wanted}"
        assert await asked(url, "SELECT pg_is_in_recovery()") == [[recovering], [recovering]]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
async def test_modes_of_tls_that_a_server_without_it_can_serve(
    postgres_server: Server, mode: str, driver: str
) -> None:
    url = postgres_server.url("postgres").replace("+asyncpg", f"+{driver}")
    assert await asked(f"{url}?sslmode={mode}", "SELECT 1") == [[1], [1]]


async def test_first_commands_of_the_url_and_ours_count_on_every_connection(
    mariadb_database: DatabaseFactory,
) -> None:
    commands = "SET @mine = 'it''s'; SET SESSION max_statement_time = 7 -- the end"
    url = f"{mariadb_database().partition('?')[0]}?sql_mode=ANSI&init_command={quote(commands)}&program_name=shop"
    question = (
        "SELECT @mine, @@session.max_statement_time, @@session.time_zone, @@session.innodb_lock_wait_timeout, "
        "@@session.tx_read_only, @@session.sql_mode LIKE '%ANSI_QUOTES%'"
    )
    theirs = ["it's", 7.0, "+00:00", 5]
    assert await asked(url, question) == [[*theirs, 1, 1], [*theirs, 0, 1]]


async def test_a_first_command_that_the_server_refuses_is_a_mistake_in_the_settings(
    mariadb_database: DatabaseFactory,
) -> None:
    url = f"{mariadb_database().partition('?')[0]}?init_command={quote('SET SESSION nothing = 1')}"
    with pytest.raises(ConfigurationError, match=r"databases\.shop\.url"):
        await asked(url, "SELECT 1")


@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_option_that_the_server_refuses_is_a_mistake_in_the_settings(
    postgres_server: Server, driver: str
) -> None:
    url = with_options(postgres_server.url("postgres").replace("+asyncpg", f"+{driver}"), "-c nothing_like_it=1")
    with pytest.raises(ConfigurationError, match=r"nothing_like_it.*databases\.shop\.url"):
        await asked(url, "SELECT 1")


@pytest.mark.parametrize("mode", ["require", "verify-full"])
@pytest.mark.parametrize("driver", DRIVERS)
async def test_tls_that_cannot_be_had_is_an_error_of_ours(postgres_server: Server, driver: str, mode: str) -> None:
    url = postgres_server.url("postgres").replace("+asyncpg", f"+{driver}")
    with pytest.raises(ConfigurationError, match=r"databases\.shop\.url"):
        await asked(f"{url}?sslmode={mode}", "SELECT 1")


@pytest.mark.parametrize("mode", ["REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"])
async def test_tls_that_mariadb_does_not_speak_is_an_error_of_ours(mariadb_server: Server, mode: str) -> None:
    url = f"{mariadb_server.url('mysql').partition('?')[0]}?ssl-mode={mode}"
    with pytest.raises(ConfigurationError, match=r"databases\.shop\.url"):
        await asked(url, "SELECT 1")


async def test_a_node_that_follows_another_connects_as_the_url_of_that_one_says(postgres_url: str) -> None:
    urls = [with_options(postgres_url, f"-csearch_path={name}", application_name=name) for name in TENANTS]
    first, second = (
        SqlNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url, "lock_timeout": 3.0}))
        for url in urls
    )
    first.watched = True
    question = (
        "SELECT current_setting('application_name'), current_setting('search_path'), "
        "current_setting('lock_timeout'), current_setting('default_transaction_read_only')"
    )
    for followed in (first, second):
        first.follow(followed)
        assert first.name == followed.name, "errors name the server that they are about"
        for engine, read_only in ((first.reader, "on"), (first.writer, "off"), (first.reserved, "off")):
            async with engine.connect() as connection:
                found = tuple((await connection.exec_driver_sql(question)).one())
            name = TENANTS[followed is second]
            assert found == (name, name, "3s", read_only)
    await first.close()
