"""Our tables: what the two lines of history build, by whom, and what they find when they come again."""

import asyncio
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text

from polysaga import Databases, MongoDatabase, Sagas
from polysaga.config import parse_settings
from polysaga.databases import AnyDatabase
from polysaga.errors import ConfigurationError, DatabaseUnavailable
from polysaga.events import Event, TablesAhead
from polysaga.migrations import Migration, locks, migrate, mongo, pending
from polysaga.sagas.journal.tables import LEDGER, OUTBOX
from tests.fixtures.left_behind import LEAVES_BEHIND
from tests.fixtures.waiting import forever, reached, within
from tests.integration.migrating import SQL_KINDS, fresh, journal_node, program, saga_of, settings_for, sqlite_url

pytestmark = LEAVES_BEHIND

JOURNAL_NOW, LEDGER_NOW = "0003", "0001"
DRIVERS = {"asyncmy", "asyncpg", "psycopg", "aiosqlite"}


@pytest.fixture(params=SQL_KINDS, ids=str)
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    return lambda: fresh(request.param, request, tmp_path)


@pytest.fixture
def sql_url(fresh_url: Callable[[], str]) -> str:
    return fresh_url()


async def test_a_fresh_database_is_behind_until_it_is_migrated_once(sql_url: str) -> None:
    sagas, settings = program(shop=sql_url)
    events: list[Event] = []
    async with sagas.databases.open(settings):
        behind = await pending(sagas)
        made = await migrate(sagas, emit=events.append)
        again = await migrate(sagas, emit=events.append)
        left = await pending(sagas)

    assert behind == [
        Migration("shop", "journal", None, JOURNAL_NOW),
        Migration("shop", "ledger", None, LEDGER_NOW),
    ]
    assert made == behind == events
    assert (again, left) == ([], [])


async def test_an_emit_that_raises_does_not_end_a_migration(tmp_path: Path) -> None:
    sagas, settings = program(shop=sqlite_url(tmp_path))

    def broken(event: Event) -> None:
        raise ValueError("the host for statistics is gone")

    async with sagas.databases.open(settings):
        assert [one.line for one in await migrate(sagas, emit=broken)] == ["journal", "ledger"]
        assert await pending(sagas) == []


async def test_alembic_says_nothing_of_what_is_up_to_date(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sagas, settings = program(shop=sqlite_url(tmp_path))
    caplog.set_level("INFO")
    async with sagas.databases.open(settings):
        await migrate(sagas)
        await pending(sagas)
    told = [
        record.getMessage() for record in caplog.records if record.name.startswith("alembic.runtime.migration")
    ]
    assert [line for line in told if not line.startswith("Running upgrade")] == []


async def test_no_server_has_anything_to_say_about_a_migration(
    sql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    sagas, settings = program(shop=sql_url)
    async with sagas.databases.open(settings):
        await migrate(sagas)
    assert [record.getMessage() for record in caplog.records if record.name.partition(".")[0] in DRIVERS] == []


async def test_sagas_open_and_run_on_migrated_tables(sql_url: str) -> None:
    sagas, settings = program(shop=sql_url)
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with sagas.open(settings.sagas):
            assert await sagas.run(saga_of(sagas), 20) == 21


async def test_sagas_open_if_no_step_runs_in_the_journals_database(fresh_url: Callable[[], str]) -> None:
    sagas, settings = program(shop=fresh_url(), journal=fresh_url())
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with sagas.open(settings.sagas):
            assert await sagas.run(saga_of(sagas), 20) == 21


async def test_a_database_that_a_later_version_migrated_is_left_alone(sql_url: str) -> None:
    sagas, settings = program(shop=sql_url)
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with journal_node(sagas).writer.begin() as connection:
            await connection.execute(text("UPDATE polysaga_ledger_version SET version_num = '9999'"))
        for call in (migrate, pending):
            with pytest.raises(ConfigurationError, match=r"ledger of database 'shop' is at revision 9999"):
                await call(sagas)


async def test_a_process_starts_on_tables_that_the_next_version_has_migrated(sql_url: str) -> None:
    sagas, settings = program(shop=sql_url)
    events: list[Event] = []
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with journal_node(sagas).writer.begin() as connection:
            await connection.execute(text("UPDATE polysaga_journal_version SET version_num = '9999'"))
            await connection.execute(text("ALTER TABLE polysaga_journal ADD COLUMN later VARCHAR(8)"))
        assert await migrate(sagas, emit=events.append, may_be_ahead=True) == []
        assert events == [TablesAhead("shop", "journal", "9999", JOURNAL_NOW)]
        async with sagas.open(settings.sagas):
            assert await sagas.run(saga_of(sagas), 20) == 21


@pytest.mark.parametrize(
    ("line", "table"), [("journal", "polysaga_journal"), ("journal", "polysaga_pulse"), ("ledger", LEDGER)]
)
async def test_a_table_that_is_gone_is_no_database_that_is_up_to_date(sql_url: str, line: str, table: str) -> None:
    sagas, settings = program(shop=sql_url)
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with journal_node(sagas).writer.begin() as connection:
            await connection.execute(text(f"DROP TABLE {table}"))
        told = rf"the {line} of database 'shop' was migrated, but its login sees no {table}: .*{line}_version"
        for call in (migrate, pending):
            with pytest.raises(ConfigurationError, match=told):
                await call(sagas)
        async with journal_node(sagas).writer.begin() as connection:
            await connection.execute(text(f"DROP TABLE polysaga_{line}_version"))
        assert [one.line for one in await migrate(sagas)] == [line]
        async with sagas.open(settings.sagas):
            assert await sagas.run(saga_of(sagas), 20) == 21


async def test_a_collection_that_is_gone_is_not_created_anew(mongo_database: Any, tmp_path: Path) -> None:
    sagas, settings = program(shop=sqlite_url(tmp_path), stock=mongo_database())
    async with sagas.databases.open(settings):
        await migrate(sagas)
        (stock,) = (handle for handle in sagas.databases if isinstance(handle, MongoDatabase))
        await stock.primary.documents.drop_collection(LEDGER)
        for call in (migrate, pending):
            with pytest.raises(ConfigurationError, match=rf"'stock' was migrated, .* no {LEDGER}: .*_version"):
                await call(sagas)
        await stock.primary.documents.drop_collection(mongo.VERSIONS)
        assert [(one.database, one.line) for one in await migrate(sagas)] == [("stock", "ledger")]


async def test_a_login_that_may_not_create_tables_is_told_so(postgres_database: Any) -> None:
    url = postgres_database()
    sagas, settings = program(shop=url)
    visitor = make_url(url).set(username=f"visitor_{uuid4().hex}", password="s3cret")
    as_visitor = settings_for(shop=visitor.render_as_string(hide_password=False))
    try:
        async with sagas.databases.open(settings), journal_node(sagas).writer.begin() as connection:
            await connection.execute(text(f"CREATE ROLE {visitor.username} LOGIN PASSWORD 's3cret'"))
            await connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        async with sagas.databases.open(as_visitor):
            with pytest.raises(
                ConfigurationError, match=r"refuses the migration of its journal .*permission"
            ) as told:
                await migrate(sagas)
        assert "s3cret" not in str(told.value)
    finally:
        async with sagas.databases.open(settings), journal_node(sagas).writer.begin() as connection:
            await connection.execute(text(f"DROP ROLE {visitor.username}"))


async def test_a_migration_waits_for_another_one_and_says_so_when_it_takes_too_long(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 1)
    first, settings = program(shop=sql_url, lock_timeout=1.0)
    second, _ = program(shop=sql_url, lock_timeout=1.0)
    async with first.databases.open(settings), second.databases.open(settings):
        async with locks.locked(journal_node(first)):
            with pytest.raises(DatabaseUnavailable, match="'shop'"):
                await migrate(second)
        assert len(await migrate(second)) == 2


async def test_where_there_is_nothing_to_do_no_lock_is_waited_for(sql_url: str) -> None:
    """A process that is frozen while it has the lock holds up no start of another."""
    (first, settings), (second, _) = program(shop=sql_url), program(shop=sql_url)
    async with first.databases.open(settings), second.databases.open(settings):
        await migrate(first)
        async with locks.locked(journal_node(first)):
            assert await within(migrate(second), "the second start goes on", patience=10.0) == []


async def test_a_pool_without_a_free_connection_is_no_riddle(tmp_path: Path) -> None:
    sagas, _ = program(shop=sqlite_url(tmp_path))
    url = sqlite_url(tmp_path)
    settings = parse_settings({"databases": {"shop": {"url": url, "pool": {"acquire_timeout": 0.1}}}})
    async with sagas.databases.open(settings), journal_node(sagas).writer.begin():
        with pytest.raises(DatabaseUnavailable, match="no connection became free in time"):
            await migrate(sagas)


async def test_a_cancelled_migration_leaves_no_lock_behind(sql_url: str) -> None:
    sagas, settings = program(shop=sql_url)
    async with sagas.databases.open(settings):
        inside = asyncio.Event()

        async def stay_inside() -> None:
            async with locks.locked(journal_node(sagas)):
                inside.set()
                await forever()

        task = asyncio.create_task(stay_inside())
        await reached(inside, "the task is inside")
        task.cancel()
        await asyncio.wait([task])
        assert len(await migrate(sagas)) == 2


async def test_on_mongo_the_ledger_is_a_collection(sql_url: str, mongo_database: Any) -> None:
    sagas, settings = program(shop=sql_url, stock=mongo_database())
    async with sagas.databases.open(settings):
        behind = await pending(sagas)
        made = await migrate(sagas)
        stock = next(handle for handle in sagas.databases if isinstance(handle, MongoDatabase))
        names = await stock.primary.documents.list_collection_names()
        left = await pending(sagas)

    assert made == behind
    assert behind[-1] == Migration("stock", "ledger", None, LEDGER_NOW)
    assert {LEDGER, OUTBOX} <= set(names)
    assert left == []


async def test_a_journal_on_mongo_is_refused(mongo_database: Any) -> None:
    shop = AnyDatabase("shop")
    sagas = Sagas(Databases(shop), journal=shop)
    async with sagas.databases.open(settings_for(shop=mongo_database())):
        for call in (migrate, pending):
            with pytest.raises(ConfigurationError, match="the journal is kept in an SQL database"):
                await call(sagas)


async def test_of_four_processes_that_start_at_once_one_migrates(sql_url: str) -> None:
    answers = await _four_at_once({"shop": sql_url})

    assert sorted(one for answer in answers for one in answer) == ["shop journal", "shop ledger"]
    sagas, settings = program(shop=sql_url)
    async with sagas.databases.open(settings):
        assert await pending(sagas) == []


async def test_of_four_processes_that_start_at_once_one_creates_the_collection(
    mongo_database: Any, tmp_path: Path
) -> None:
    url = sqlite_url(tmp_path)
    answers = await _four_at_once({"shop": url, "stock": mongo_database()})

    assert sorted(one for answer in answers for one in answer) == ["shop journal", "shop ledger", "stock ledger"]


async def test_of_two_that_find_no_collection_on_mongo_one_has_created_it(
    sql_url: str, mongo_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked before either creates anything, and a server may say yes to both."""
    sagas, settings = program(shop=sql_url, stock=mongo_database())

    async def see_nothing(node: Any) -> None:
        return None

    monkeypatch.setattr(mongo, "current", see_nothing)
    async with sagas.databases.open(settings):
        (stock,) = (handle for handle in sagas.databases if isinstance(handle, MongoDatabase))
        assert [await mongo.create(stock.primary), await mongo.create(stock.primary)] == [True, False]


_CHILD = """
    import asyncio, json, sys
    from polysaga import AnyDatabase, Databases, Saga, Sagas, StepContext
    from polysaga.config import parse_settings
    from polysaga.migrations import migrate

    urls = json.loads(sys.argv[1])
    handles = [AnyDatabase(name) for name in urls]
    saga = Saga("buy", input=int)
    for handle in handles:
        async def step(db: object, value: int, ctx: StepContext) -> None: ...
        step.__name__ = f"in_{handle.name}"
        last = saga.step(handle, kind="pivot" if handle is handles[0] else "retriable")(step)
    sagas = Sagas(Databases(*handles), saga, journal=handles[0])
    settings = parse_settings({"databases": {name: {"url": url} for name, url in urls.items()}})

    async def main():
        print("ready", flush=True)
        sys.stdin.readline()
        async with sagas.databases.open(settings):
            made = await migrate(sagas)
        print(json.dumps([f"{one.database} {one.line}" for one in made]))

    asyncio.run(main())
"""


async def _four_at_once(urls: dict[str, str]) -> list[list[str]]:
    """Start four processes, let them all go at the same moment, return what each of them migrated."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(_CHILD), json.dumps(urls)]
    pipe = asyncio.subprocess.PIPE
    children = [
        await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert await within(child.stdout.readline(), "the child is ready", patience=60) == b"ready\n"
    ends = await within(
        asyncio.gather(*(child.communicate(b"go\n") for child in children)), "the four end", patience=120
    )
    for child, (_, error) in zip(children, ends, strict=True):
        assert (child.returncode, b"Exception ignored" in error) == (0, False), error.decode()
    return [json.loads(answer) for answer, _ in ends]
