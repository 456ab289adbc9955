"""Our tables: what the two lines of history build, by whom, and what they find when they come again."""

import asyncio
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga import Databases, MongoDatabase, MongoSession, Saga, Sagas, Settings, SqlDatabase, StepContext
from polysaga.config import parse_settings
from polysaga.databases import AnyDatabase, SqlNode
from polysaga.errors import ConfigurationError, DatabaseUnavailable
from polysaga.events import Event
from polysaga.migrations import Migration, locks, migrate, pending
from polysaga.sagas.tables import JOURNAL, LEDGER, metadata

SQL_KINDS = ["sqlite", "postgres-asyncpg", "postgres-psycopg", "mariadb"]
FIRST = "0001"


@pytest.fixture(params=SQL_KINDS)
def sql_kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def sql_url(sql_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return _fresh(sql_kind, request, tmp_path / "shop.sqlite")


@pytest.fixture
def other_sql_url(sql_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return _fresh(sql_kind, request, tmp_path / "other.sqlite")


async def test_a_fresh_database_is_behind_until_it_is_migrated_once(sql_url: str) -> None:
    sagas, settings = _program(shop=sql_url)
    events: list[Event] = []
    async with sagas.databases.open(settings):
        behind = await pending(sagas)
        made = await migrate(sagas, emit=events.append)
        again = await migrate(sagas, emit=events.append)
        left = await pending(sagas)

    assert behind == [Migration("shop", "journal", None, FIRST), Migration("shop", "ledger", None, FIRST)]
    assert made == behind == events
    assert (again, left) == ([], [])


async def test_sagas_open_and_run_on_migrated_tables(sql_url: str) -> None:
    sagas, settings = _program(shop=sql_url)
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with sagas.open(settings.sagas):
            assert await sagas.run(_saga_of(sagas), 20) == 21


async def test_sagas_open_if_no_step_runs_in_the_journals_database(sql_url: str, other_sql_url: str) -> None:
    sagas, settings = _program(shop=sql_url, journal=other_sql_url)
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with sagas.open(settings.sagas):
            assert await sagas.run(_saga_of(sagas), 20) == 21


async def test_the_migrated_schema_is_the_one_the_code_is_written_for(sql_url: str) -> None:
    sagas, settings = _program(shop=sql_url)
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with _node(sagas).reader.connect() as connection:
            assert await connection.run_sync(_differences) == []


async def test_the_server_describes_migrated_tables_and_the_codes_own_in_the_same_words(
    sql_kind: str, sql_url: str, other_sql_url: str
) -> None:
    migrated, settings = _program(shop=sql_url)
    async with migrated.databases.open(settings):
        await migrate(migrated)
        ours = await _description(_node(migrated), sql_kind)
    created, settings = _program(shop=other_sql_url)
    async with created.databases.open(settings):
        async with _node(created).writer.begin() as connection:
            await connection.run_sync(metadata.create_all)
        assert ours == await _description(_node(created), sql_kind)


@pytest.mark.parametrize(
    ("status", "awake", "accepted"),
    [
        ("running", True, True),
        ("running", False, False),
        ("needs_attention", False, False),
        ("completed", True, False),
        ("completed", False, True),
        ("lost", True, False),
    ],
)
async def test_the_journal_refuses_a_saga_that_nobody_would_ever_look_at(
    sql_url: str, status: str, awake: bool, accepted: bool
) -> None:
    sagas, settings = _program(shop=sql_url)
    async with sagas.databases.open(settings):
        await migrate(sagas)
        node = _node(sagas)
        insert = _journal_row(node, status, "now" if awake else None)
        if accepted:
            await insert
            return
        with pytest.raises((IntegrityError, DBAPIError), match=r"polysaga_journal_(wakes|status)"):
            await insert


async def test_on_postgres_the_journal_is_vacuumed_by_the_row_and_at_full_speed(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    sagas, settings = _program(shop=_fresh("postgres-asyncpg", request, tmp_path))
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with _node(sagas).reader.connect() as connection:
            options = await connection.scalar(
                text("SELECT reloptions FROM pg_class WHERE oid = 'polysaga_journal'::regclass")
            )
    assert set(options) == {
        "autovacuum_vacuum_scale_factor=0",
        "autovacuum_vacuum_threshold=10000",
        "autovacuum_vacuum_cost_delay=0",
    }


@pytest.mark.parametrize("lost", ["index and version", "version", "version table"])
async def test_a_migration_that_a_crash_cut_short_is_finished_by_the_next(sql_url: str, lost: str) -> None:
    sagas, settings = _program(shop=sql_url)
    async with sagas.databases.open(settings):
        node = _node(sagas)
        await migrate(sagas)
        async with node.writer.begin() as connection:
            if lost == "version table":
                await connection.execute(text("DROP TABLE polysaga_journal_version"))
                await connection.execute(text("DROP TABLE polysaga_ledger_version"))
            else:
                await connection.execute(text("DELETE FROM polysaga_journal_version"))
                await connection.execute(text("DELETE FROM polysaga_ledger_version"))
            if lost == "index and version":
                on_table = " ON polysaga_journal" if node.dialect.name == "mysql" else ""
                await connection.execute(text(f"DROP INDEX polysaga_journal_due{on_table}"))

        made = await migrate(sagas)

        assert [(one.line, one.current, one.head) for one in made] == [
            ("journal", None, FIRST),
            ("ledger", None, FIRST),
        ]
        async with node.reader.connect() as connection:
            assert await connection.run_sync(_differences) == []


async def test_a_database_that_a_later_version_migrated_is_left_alone(sql_url: str) -> None:
    sagas, settings = _program(shop=sql_url)
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with _node(sagas).writer.begin() as connection:
            await connection.execute(text("UPDATE polysaga_ledger_version SET version_num = '9999'"))
        for call in (migrate, pending):
            with pytest.raises(ConfigurationError, match=r"ledger of database 'shop' is at revision 9999"):
                await call(sagas)


async def test_a_login_that_may_not_create_tables_is_told_so(postgres_database: Any) -> None:
    url = postgres_database()
    sagas, settings = _program(shop=url)
    visitor = make_url(url).set(username=f"visitor_{uuid4().hex}", password="s3cret")
    as_visitor = _settings(shop=visitor.render_as_string(hide_password=False))
    try:
        async with sagas.databases.open(settings), _node(sagas).writer.begin() as connection:
            await connection.execute(text(f"CREATE ROLE {visitor.username} LOGIN PASSWORD 's3cret'"))
            await connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        async with sagas.databases.open(as_visitor):
            with pytest.raises(
                ConfigurationError, match=r"refuses the migration of its journal .*permission"
            ) as told:
                await migrate(sagas)
        assert "s3cret" not in str(told.value)
    finally:
        async with sagas.databases.open(settings), _node(sagas).writer.begin() as connection:
            await connection.execute(text(f"DROP ROLE {visitor.username}"))


async def test_a_migration_waits_for_another_one_and_says_so_when_it_takes_too_long(
    sql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 1)
    first, settings = _program(shop=sql_url, lock_timeout=1.0)
    second, _ = _program(shop=sql_url, lock_timeout=1.0)
    async with first.databases.open(settings), second.databases.open(settings):
        async with locks.locked(_node(first)):
            with pytest.raises(DatabaseUnavailable, match="'shop'"):
                await migrate(second)
        assert len(await migrate(second)) == 2


async def test_a_cancelled_migration_leaves_no_lock_behind(sql_url: str) -> None:
    sagas, settings = _program(shop=sql_url)
    async with sagas.databases.open(settings):
        inside = asyncio.Event()

        async def stay_inside() -> None:
            async with locks.locked(_node(sagas)):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(stay_inside())
        await inside.wait()
        task.cancel()
        await asyncio.wait([task])
        assert len(await migrate(sagas)) == 2


async def test_on_mongo_the_ledger_is_a_collection(sql_url: str, mongo_database: Any) -> None:
    sagas, settings = _program(shop=sql_url, stock=mongo_database())
    async with sagas.databases.open(settings):
        behind = await pending(sagas)
        made = await migrate(sagas)
        stock = next(handle for handle in sagas.databases if isinstance(handle, MongoDatabase))
        names = await stock.primary.documents.list_collection_names()
        left = await pending(sagas)

    assert made == behind
    assert behind[-1] == Migration("stock", "ledger", None, FIRST)
    assert LEDGER in names
    assert left == []


async def test_a_journal_on_mongo_is_refused(mongo_database: Any) -> None:
    shop = AnyDatabase("shop")
    sagas = Sagas(Databases(shop), journal=shop)
    async with sagas.databases.open(_settings(shop=mongo_database())):
        for call in (migrate, pending):
            with pytest.raises(ConfigurationError, match="the journal is kept in an SQL database"):
                await call(sagas)


async def test_of_four_processes_that_start_at_once_one_migrates(sql_url: str) -> None:
    answers = await _four_at_once({"shop": sql_url})

    assert sorted(one for answer in answers for one in answer) == ["shop journal", "shop ledger"]
    sagas, settings = _program(shop=sql_url)
    async with sagas.databases.open(settings):
        assert await pending(sagas) == []


async def test_of_four_processes_that_start_at_once_one_creates_the_collection(
    mongo_database: Any, tmp_path: Path
) -> None:
    url = _sqlite(tmp_path / "shop.sqlite")
    answers = await _four_at_once({"shop": url, "stock": mongo_database()})

    assert sorted(one for answer in answers for one in answer) == ["shop journal", "shop ledger", "stock ledger"]


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
        assert await child.stdout.readline() == b"ready\n"
    ends = await asyncio.gather(*(child.communicate(b"go\n") for child in children))
    for child, (_, error) in zip(children, ends, strict=True):
        assert (child.returncode, b"Exception ignored" in error) == (0, False), error.decode()
    return [json.loads(answer) for answer, _ in ends]


def _fresh(kind: str, request: pytest.FixtureRequest, file: Path) -> str:
    if kind == "sqlite":
        return _sqlite(file)
    server, _, driver = kind.partition("-")
    url: str = request.getfixturevalue(f"{server}_database")()
    return f"postgresql+{driver}://{url.partition('://')[2]}" if driver else url


def _sqlite(file: Path) -> str:
    return f"sqlite+aiosqlite:///{file}"


def _settings(lock_timeout: float = 5.0, **urls: str) -> Settings:
    databases = {name: {"url": url, "lock_timeout": lock_timeout} for name, url in urls.items()}
    return parse_settings({"databases": databases})


def _program(
    *, shop: str, stock: str | None = None, journal: str | None = None, lock_timeout: float = 5.0
) -> tuple[Sagas, Settings]:
    """A program with one saga over the databases that are given an URL."""
    home = SqlDatabase("shop")
    saga = Saga("buy", input=int, output=int)

    @saga.step(home, kind="pivot")
    async def pay(db: AsyncSession, value: int, ctx: StepContext) -> int:
        return value + 1

    urls = {"shop": shop}
    handles: list[SqlDatabase | MongoDatabase] = [home]
    if stock is not None:
        shelf = MongoDatabase("stock")
        urls["stock"] = stock
        handles.append(shelf)

        @saga.step(shelf, kind="retriable")
        async def note(db: MongoSession, value: int, ctx: StepContext) -> None: ...

    journal_home = home
    if journal is not None:
        journal_home = SqlDatabase("journal")
        urls["journal"] = journal
        handles.append(journal_home)
    return Sagas(Databases(*handles), saga, journal=journal_home), _settings(lock_timeout, **urls)


def _saga_of(sagas: Sagas) -> Saga[int, int]:
    (saga,) = sagas._definitions
    return saga


def _node(sagas: Sagas) -> SqlNode:
    node = sagas.journal.primary
    assert isinstance(node, SqlNode)
    return node


def _differences(connection: Connection) -> Sequence[Any]:
    options = {
        "compare_type": True,
        "compare_server_default": True,
        "include_name": lambda name, kind, _: kind != "table" or not str(name).endswith("_version"),
    }
    differences: Sequence[Any] = compare_metadata(
        MigrationContext.configure(connection=connection, opts=options), metadata
    )
    return differences


_POSTGRES_WORDS = """
    SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid), collname
    FROM pg_attribute
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    LEFT JOIN pg_collation ON pg_collation.oid = attcollation
    WHERE attrelid = '{0}'::regclass AND attnum > 0
    UNION ALL
    SELECT conname, pg_get_constraintdef(oid), NULL, NULL, NULL FROM pg_constraint
    WHERE conrelid = '{0}'::regclass
    UNION ALL
    SELECT indexrelid::regclass::name, pg_get_indexdef(indexrelid), NULL, NULL, NULL FROM pg_index
    WHERE indrelid = '{0}'::regclass
    ORDER BY 1, 2
"""
_WORDS = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE tbl_name = '{0}' ORDER BY name",
    "postgres": _POSTGRES_WORDS,
    "mariadb": "SHOW CREATE TABLE {0}",
}


async def _description(node: SqlNode, kind: str) -> list[list[str]]:
    words = _WORDS[kind.partition("-")[0]]
    async with node.reader.connect() as connection:
        rows = [row for table in (JOURNAL, LEDGER) for row in await connection.execute(text(words.format(table)))]
    # Who wrote CREATE TABLE may break its lines as they like.
    return [[" ".join(str(value).split()).replace("IF NOT EXISTS ", "") for value in row] for row in rows]


async def _journal_row(node: SqlNode, status: str, wake_at: str | None) -> None:
    values = {
        "id": node.dialect.key(uuid4()),
        "status": status,
        "awake": wake_at is not None,
    }
    moment = node.dialect.clock if wake_at is not None else "NULL"
    async with node.writer.begin() as connection:
        statement = node.dialect.render(
            f"INSERT INTO {JOURNAL} (id, name, version, fingerprint, input, input_hash, status, epoch, results, "
            f"wake_at, created_at) VALUES (:id, 'buy', 1, '', '', '', :status, 1, '', {moment}, "
            f"{node.dialect.clock})"
        )
        await connection.exec_driver_sql(statement.sql, statement.bind(values))
