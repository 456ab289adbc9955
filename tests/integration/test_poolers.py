"""PgBouncer between a program and PostgreSQL: session pooling works as it is installed, the others are refused."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest
from sqlalchemy import text

from devservers import PgBouncer, Server, ServerUnavailable
from devservers.pgbouncer import PoolMode
from polysaga import Databases, SqlDatabase
from polysaga.config import parse_settings
from polysaga.errors import ConfigurationError
from polysaga.migrations import migrate
from tests.fixtures.projects import Project
from tests.fixtures.servers import DatabaseFactory, PostgresCluster
from tests.integration.migrating import program, saga_of

# What guides for PgBouncer tell people to ignore.
IGNORED = (
    *("extra_float_digits", "options", "default_transaction_isolation", "default_transaction_read_only"),
    *("idle_in_transaction_session_timeout", "lock_timeout", "tcp_user_timeout"),
)
SHOWN = (
    "SELECT current_setting('transaction_read_only'), current_setting('lock_timeout'), "
    "current_setting('idle_in_transaction_session_timeout'), current_setting('default_transaction_isolation'), "
    "current_setting('search_path'), current_setting('application_name')"
)
Bouncers = Callable[[PoolMode, tuple[str, ...]], PgBouncer]


@pytest.fixture(scope="module")
def bouncers(postgres_server: Server, server_directory: Path) -> Iterator[Bouncers]:
    """Return a function for a running PgBouncer; each kind is started once."""
    known: dict[tuple[PoolMode, tuple[str, ...]], PgBouncer] = {}
    with ExitStack() as stack:

        def bouncer(mode: PoolMode, ignored: tuple[str, ...]) -> PgBouncer:
            if (mode, ignored) not in known:
                known[mode, ignored] = running(server_directory, postgres_server, mode, stack, ignored)
            return known[mode, ignored]

        yield bouncer


def running(
    directory: Path, server: Server, mode: PoolMode, stack: ExitStack, ignored: tuple[str, ...] = ()
) -> PgBouncer:
    """Start a PgBouncer that ends with *stack*; skip the test where there is none, and fail it in CI."""
    try:
        return stack.enter_context(PgBouncer(directory / f"bouncer-{uuid4().hex[:8]}", server, mode, ignored))
    except ServerUnavailable as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(params=["asyncpg", "psycopg"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def through(bouncer: PgBouncer, direct: str, driver: str, query: str = "") -> str:
    url = bouncer.url(urlsplit(direct).path[1:])
    return f"{url.replace('+asyncpg', f'+{driver}')}{query}"


@pytest.mark.parametrize("ignored", [(), IGNORED], ids=["as installed", "as guides have it"])
async def test_session_pooling_keeps_every_setting(
    bouncers: Bouncers, postgres_database: DatabaseFactory, driver: str, ignored: tuple[str, ...]
) -> None:
    query = f"?options={quote('-csearch_path=tenant')}&application_name=shop"
    url = through(bouncers("session", ignored), postgres_database(), driver, query)
    handle = SqlDatabase("shop")
    shop = {"url": url, "lock_timeout": 3.0, "idle_transaction_timeout": 7.0}
    async with Databases(handle).open(parse_settings({"databases": {"shop": shop}})):
        async with handle.writer() as one, handle.writer() as other:
            for db in (one, other):
                found = tuple((await db.execute(text(SHOWN))).one())
                assert found == ("off", "3s", "7s", "read committed", "tenant", "shop")
        async with handle.reader() as db:
            assert (await db.execute(text(SHOWN))).one()[0] == "on"


@pytest.mark.parametrize("ignored", [(), IGNORED], ids=["as installed", "as guides have it"])
async def test_sagas_run_through_session_pooling(
    bouncers: Bouncers, postgres_database: DatabaseFactory, driver: str, ignored: tuple[str, ...]
) -> None:
    sagas, settings = program(shop=through(bouncers("session", ignored), postgres_database(), driver))
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with sagas.open(settings.sagas):
            saga = saga_of(sagas)
            assert await asyncio.gather(*(sagas.run(saga, n) for n in range(30))) == [n + 1 for n in range(30)]


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("ignored", [(), IGNORED], ids=["as installed", "as guides have it"])
async def test_pooling_of_transactions_is_refused_with_the_setting_to_change(
    bouncers: Bouncers, postgres_database: DatabaseFactory, driver: str, mode: PoolMode, ignored: tuple[str, ...]
) -> None:
    url = through(bouncers(mode, ignored), postgres_database(), driver)
    handle = SqlDatabase("shop")
    for _ in range(3):  # whatever connections of the server it has by then
        with pytest.raises(ConfigurationError, match="pool_mode = session"):
            async with Databases(handle).open(parse_settings({"databases": {"shop": {"url": url}}})):
                pass


def test_the_check_says_it(
    bouncers: Bouncers, postgres_database: DatabaseFactory, driver: str, project: Project
) -> None:
    direct = postgres_database()
    project.set_url(orders=through(bouncers("transaction", IGNORED), direct, driver))
    told = project.polysaga("check")
    assert told.code == 1
    assert "pool_mode = session" in " ".join(told.err.split())
    project.set_url(orders=through(bouncers("session", ()), direct, driver))
    assert project.polysaga("check").code == 0


async def test_a_primary_and_its_replica_may_stand_behind_poolers_of_their_own(
    postgres_cluster: PostgresCluster, server_directory: Path, driver: str
) -> None:
    postgres_cluster.primary.ensure_database("pooled")
    postgres_cluster.catch_up()
    handle = SqlDatabase("shop")
    with ExitStack() as stack:
        urls = []
        for server in (postgres_cluster.primary, postgres_cluster.replicas[0]):
            bouncer = running(server_directory, server, "session", stack)
            urls.append(through(bouncer, server.url("pooled"), driver))
        shop = {"url": urls[0], "replicas": [urls[1]]}
        known = parse_settings({"databases": {"shop": shop}, "bookmarks": {"secret": "a secret of the tests"}})
        async with Databases(handle).open(known):
            async with handle.writer() as db:
                assert (await db.execute(text(SHOWN))).one()[:2] == ("off", "5s")
            async with handle.reader(consistency="eventual") as db:
                assert (await db.execute(text(SHOWN))).one()[:2] == ("on", "5s")
