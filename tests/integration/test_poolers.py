"""PgBouncer between a program and PostgreSQL: session pooling works as it is installed, the others are refused."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest
from psycopg import sql
from sqlalchemy import text

from devservers import PgBouncer, Server, ServerUnavailable
from devservers.pgbouncer import PoolMode
from polysaga import Databases, SqlDatabase
from polysaga.config import parse_settings
from polysaga.databases import SqlNode, sentinels
from polysaga.databases.sentinels import Sentinels
from polysaga.errors import ConfigurationError, DatabaseUnavailable
from polysaga.events import Event, ServerSilent
from polysaga.migrations import migrate
from tests.fixtures.left_behind import LEAVES_BEHIND
from tests.fixtures.projects import Project
from tests.fixtures.servers import DatabaseFactory, PostgresCluster
from tests.fixtures.waiting import pause, reached, until, within
from tests.integration.migrating import program, saga_of

pytestmark = LEAVES_BEHIND

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
MOST = 19  # connections that the pooler lends, but for the one of the pool that reads
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


class Together:
    """Lets no task go on until as many as the pooler has connections have come."""

    def __init__(self) -> None:
        self._missing, self._complete = MOST, asyncio.Event()

    async def wait_for_all(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._complete.set()
        await reached(self._complete, "all connections are lent")


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


async def test_a_step_whose_session_the_server_has_ended_is_repeated(
    bouncers: Bouncers, postgres_database: DatabaseFactory, postgres_server: Server, driver: str
) -> None:
    """Both the server and PgBouncer say so on the idle connection; the step sends nothing before BEGIN."""
    direct = postgres_database()
    sagas, settings = program(shop=through(bouncers("session", ()), direct, driver))
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with sagas.open(settings.sagas):
            saga = saga_of(sagas)
            await sagas.run(saga, 1)
            gone = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = {}"
            name = urlsplit(direct).path[1:]
            await asyncio.to_thread(postgres_server._client.run, sql.SQL(gone).format(sql.Literal(name)))
            assert await within(sagas.run(saga, 1), "the saga is done") == 2


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


@pytest.mark.parametrize(
    ("wrong", "told"), [("account", "rejects the login"), ("database", "has no database of this name")]
)
async def test_a_login_that_cannot_succeed_is_a_mistake_in_the_url(
    bouncers: Bouncers, postgres_database: DatabaseFactory, driver: str, wrong: str, told: str
) -> None:
    """PgBouncer reports it with the code of a broken connection."""
    url = through(bouncers("session", ()), postgres_database(), driver)
    url = url.replace("polysaga@", "nobody@") if wrong == "account" else f"{url}_nowhere"
    handle = SqlDatabase("shop")
    with pytest.raises(ConfigurationError, match=told):
        async with Databases(handle).open(parse_settings({"databases": {"shop": {"url": url}}})):
            pass


async def test_a_pooler_without_a_place_is_told_as_no_answer(
    bouncers: Bouncers, postgres_database: DatabaseFactory, driver: str
) -> None:
    handle, pool = SqlDatabase("shop"), {"size": MOST + 1, "max_overflow": 0, "connect_timeout": 1}
    shop = {"url": through(bouncers("session", ()), postgres_database(), driver), "pool": pool}
    async with Databases(handle).open(parse_settings({"databases": {"shop": shop}})), AsyncExitStack() as stack:
        for _ in range(MOST):
            db = await stack.enter_async_context(handle.writer())
            await db.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable, match="no answer in 1 s"):
            async with handle.writer() as db:
                await db.execute(text("SELECT 1"))


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


async def test_as_many_connections_as_the_pooler_has_are_made_in_one_moment(
    bouncers: Bouncers, postgres_database: DatabaseFactory, driver: str
) -> None:
    """Each would take a second one to find out what stands between, and wait for the others."""
    handle, pool = SqlDatabase("shop"), {"size": MOST, "max_overflow": 0}
    shop = {"url": through(bouncers("session", ()), postgres_database(), driver), "pool": pool}
    lent = Together()

    async def ask() -> None:
        async with handle.writer() as db:
            await db.execute(text("SELECT 1"))
            await lent.wait_for_all()

    async with Databases(handle).open(parse_settings({"databases": {"shop": shop}})):
        await within(asyncio.gather(*(ask() for _ in range(MOST))), "all connections are lent")


async def test_a_pooler_without_a_connection_to_spare_is_no_sign_of_silence(
    bouncers: Bouncers, postgres_database: DatabaseFactory, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who asks for one more stands in the pooler's queue; the sentinel would cut all those that work."""
    questions, worked, full, enough = 0, 0, False, asyncio.Event()
    in_use, ask = SqlNode.in_use, Sentinels._ask

    async def ask_while_others_work(self: Sentinels, question: Any, patience: float) -> Any:
        """Ask for a moment, and let that count as the silence of the whole *patience*."""
        nonlocal questions
        before = worked
        answer = await ask(self, question, 0.1)
        await until(lambda: worked > before, "others work")
        questions += 1
        return answer if answer.seen else replace(answer, seconds=patience)

    monkeypatch.setattr(sentinels, "_EVERY", 0.05)
    monkeypatch.setattr(Sentinels, "_ask", ask_while_others_work)
    # Until all connections are lent the sentinel sees nothing to do, and so has none itself.
    monkeypatch.setattr(SqlNode, "in_use", property(lambda node: full and in_use.fget(node)))  # type: ignore[attr-defined]
    handle, heard = SqlDatabase("shop"), list[Event]()
    pool = {"size": MOST, "max_overflow": 0, "acquire_timeout": 30}
    shop = {"url": through(bouncers("session", ()), postgres_database(), driver), "pool": pool}
    lent = Together()

    async def work() -> None:
        nonlocal worked
        async with handle.writer() as db:
            await db.execute(text("SELECT 1"))
            await lent.wait_for_all()
        while not enough.is_set():
            async with handle.writer() as db:
                await db.execute(text("SELECT 1"))
            worked += 1
            await pause()

    async with Databases(handle).open(parse_settings({"databases": {"shop": shop}}), emit=heard.append):
        async with asyncio.TaskGroup() as works:
            for _ in range(MOST - 1):
                works.create_task(work())
            async with handle.writer() as db:
                await db.execute(text("SELECT 1"))
                await lent.wait_for_all()
                full = True
                await until(lambda: questions >= 2, "the sentinel has asked in vain")
                await db.execute(text("SELECT 1"))
            enough.set()
        assert not [one for one in heard if isinstance(one, ServerSilent)]
