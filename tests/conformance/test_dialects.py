"""Every fault is recognised on every driver, by provoking the real error: wrapped by SQLAlchemy and raw.

The error table of each driver is its own; everybody above `dialects/` speaks of faults.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncSession

from polysaga import Databases
from polysaga.databases import Fault, SqlDatabase, SqlNode
from polysaga.databases.dialects import fault_of
from polysaga.errors import ConfigurationError, DatabaseUnavailable, NoPrimary, PoolExhausted, ReadOnlyNode
from tests.conformance.shops import Shelf, SqlShop, settings
from tests.conformance.test_participant_health import _gone, backend, kill
from tests.fixtures.waiting import reached, until


async def provoked(node: SqlNode, *statements: str) -> dict[str, BaseException]:
    """Run *statements* in one transaction, through SQLAlchemy and on the driver; return both errors."""
    errors: dict[str, BaseException] = {}
    dialect = node.dialect
    for way in ("wrapped", "raw"):
        async with node.writer.connect() as connection:
            try:
                for statement in statements:
                    if way == "wrapped":
                        await connection.exec_driver_sql(statement)
                        continue
                    driver = (await connection.get_raw_connection()).driver_connection
                    await dialect.send(driver, dialect.render(statement), {})
            except Exception as error:  # noqa: BLE001 - whatever the driver raises
                errors[way] = error
            await _rolled_back(connection)
    return errors


async def _rolled_back(connection: Any) -> None:
    try:
        await connection.rollback()
    except Exception:  # noqa: BLE001 - it is dead
        await connection.invalidate()


def assert_told(node: SqlNode, errors: dict[str, BaseException], fault: Fault) -> None:
    assert set(errors) == {"wrapped", "raw"}, "both ways fail"
    for way, error in errors.items():
        assert node.dialect.fault(error) is fault, f"{way}: {error!r}"
        assert fault_of(error) is fault, f"{way}, without knowing the database: {error!r}"


async def test_a_duplicate_key_is_recognised(sql_shop: SqlShop, item: str) -> None:
    insert = f"INSERT INTO shelves (name, touched) VALUES ('{item}', 0)"
    node = sql_shop.node()

    assert_told(node, await provoked(node, insert, insert), Fault.DUPLICATE_KEY)


@pytest.mark.parametrize("statement", ["SELECT * FROM nowhere", "SELECT colour FROM shelves"])
async def test_a_missing_table_or_column_is_recognised(sql_shop: SqlShop, statement: str) -> None:
    node = sql_shop.node()

    assert_told(node, await provoked(node, statement), Fault.SCHEMA_MISSING)


async def test_a_mistake_of_the_program_is_no_fault(sql_shop: SqlShop) -> None:
    node = sql_shop.node()
    for error in (await provoked(node, "SELEKT 1")).values():
        assert node.dialect.fault(error) is None
        assert fault_of(error) is None
    assert node.dialect.fault(LookupError()) is None


async def test_a_lock_that_takes_too_long_is_recognised(sql_shop: SqlShop, item: str) -> None:
    await sql_shop.put_up(item)
    seconds = 1.0 if sql_shop.kind.scheme.startswith("mysql") else 0.1  # MariaDB counts whole seconds
    node = sql_shop.node(lock_timeout=seconds)
    async with sql_shop.node().writer.connect() as holder:
        await holder.execute(update(Shelf).where(Shelf.name == item).values(touched=1))

        errors = await provoked(node, f"UPDATE shelves SET touched = 2 WHERE name = '{item}'")

    if sql_shop.kind.side_by_side:
        assert_told(node, errors, Fault.LOCK_TIMEOUT)
    else:  # it waits at BEGIN, which SQLAlchemy sends
        assert node.dialect.fault(errors["wrapped"]) is Fault.LOCK_TIMEOUT


async def test_a_locked_row_is_recognised_also_by_those_who_do_not_wait(server_shop: SqlShop, item: str) -> None:
    await server_shop.put_up(item)
    node = server_shop.node()
    async with node.writer.connect() as holder:
        await holder.execute(update(Shelf).where(Shelf.name == item).values(touched=1))

        errors = await provoked(node, f"SELECT * FROM shelves WHERE name = '{item}' FOR UPDATE NOWAIT")

    assert_told(node, errors, Fault.LOCK_TIMEOUT)


async def test_an_option_that_forbids_a_statement_does_not_make_the_server_a_replica(mariadb: SqlShop) -> None:
    node = mariadb.node()
    for error in (await provoked(node, "SELECT 1 INTO OUTFILE '/nowhere/polysaga'")).values():
        assert node.dialect.fault(error) is None


@pytest.mark.parametrize("way", ["wrapped", "raw"])
async def test_a_deadlock_is_recognised(server_shop: SqlShop, item: str, way: str) -> None:
    left, right = f"{item}l", f"{item}r"
    await server_shop.put_up(left, right)
    node = server_shop.node()
    errors = []

    async def crossing(first: str, second: str, here: asyncio.Barrier) -> None:
        async with node.writer.connect() as connection:
            await connection.exec_driver_sql(f"UPDATE shelves SET touched = 1 WHERE name = '{first}'")
            await reached(here, "the others are here")
            statement = f"UPDATE shelves SET touched = 1 WHERE name = '{second}'"
            try:
                if way == "wrapped":
                    await connection.exec_driver_sql(statement)
                else:
                    driver = (await connection.get_raw_connection()).driver_connection
                    await node.dialect.send(driver, node.dialect.render(statement), {})
            except Exception as error:  # noqa: BLE001 - whatever the driver raises
                errors.append(error)
            await connection.rollback()

    here = asyncio.Barrier(2)
    await asyncio.gather(crossing(left, right, here), crossing(right, left, here))

    assert [node.dialect.fault(error) for error in errors] == [Fault.DEADLOCK]


async def test_a_serialization_failure_is_recognised(server_shop: SqlShop, item: str) -> None:
    if not server_shop.kind.scheme.startswith("postgresql"):
        pytest.skip("MariaDB has it only with innodb_snapshot_isolation")
    await server_shop.put_up(item)
    node = server_shop.node()
    async with node.writer.connect() as late:
        await late.execution_options(isolation_level="REPEATABLE READ")
        await late.exec_driver_sql("SELECT count(*) FROM shelves")
        async with node.writer.begin() as first:
            await first.execute(update(Shelf).where(Shelf.name == item).values(touched=1))
        with pytest.raises(Exception) as raised:  # noqa: PT011
            await late.execute(update(Shelf).where(Shelf.name == item).values(touched=2))

    assert node.dialect.fault(raised.value) is Fault.SERIALIZATION


_MANY = "information_schema.collations"  # a few hundred rows


async def test_a_statement_that_takes_too_long_is_recognised(server_shop: SqlShop) -> None:
    node = server_shop.node()
    statements = (
        ("SELECT set_config('statement_timeout', '20', false)", "SELECT pg_sleep(20)")
        if server_shop.kind.scheme.startswith("postgresql")
        # There sleep() itself would end early, without an error.
        else (f"SELECT /*+ MAX_EXECUTION_TIME(20) */ count(*) FROM {_MANY} a, {_MANY} b, {_MANY} c",)
        if server_shop.kind.mysql
        else ("SET STATEMENT max_statement_time = 0.02 FOR SELECT sleep(20)",)
    )

    assert_told(node, await provoked(node, *statements), Fault.STATEMENT_TIMEOUT)


async def test_a_session_that_only_reads_is_recognised(server_shop: SqlShop, item: str) -> None:
    node = server_shop.node()
    async with node.reader.connect() as connection:
        with pytest.raises(Exception) as raised:  # noqa: PT011
            await connection.exec_driver_sql(f"INSERT INTO shelves (name, touched) VALUES ('{item}', 0)")

    assert node.dialect.fault(raised.value) is Fault.READ_ONLY


WRITES = [
    "INSERT INTO shelves (name, touched) VALUES ('{item}', 0)",
    "UPDATE shelves SET touched = 1",
    "DELETE FROM shelves",
    "CREATE TABLE t{item} (id int)",
    "/* read */ insert into shelves (name, touched) values ('{item}', 0)",
]


@pytest.mark.parametrize("statement", WRITES, ids=[one.split()[0] + str(at) for at, one in enumerate(WRITES)])
async def test_the_server_refuses_writes_of_a_reader(sql_shop: SqlShop, item: str, statement: str) -> None:
    node = sql_shop.node()
    async with AsyncSession(node.reader) as session:
        with pytest.raises(Exception) as raised:  # noqa: PT011
            await session.execute(text(statement.format(item=item)))

    assert node.dialect.fault(raised.value) is Fault.READ_ONLY
    assert await sql_shop.count(text(f"SELECT count(*) FROM shelves WHERE name = '{item}'")) == 0


@pytest.mark.parametrize("when", ["while it lies idle", "while it works"])
@pytest.mark.parametrize("way", ["wrapped", "raw"])
async def test_a_connection_that_the_server_cut_is_recognised(server_shop: SqlShop, when: str, way: str) -> None:
    node = server_shop.node()
    long = "SELECT pg_sleep(30)" if server_shop.kind.scheme.startswith("postgresql") else "SELECT sleep(30)"
    statement = "SELECT 1" if when == "while it lies idle" else long
    async with node.writer.connect() as connection:
        thread = await backend(server_shop, connection)
        if when == "while it lies idle":
            await kill(server_shop, thread)
            running = asyncio.ensure_future(_sent(node, connection, statement, way))
        else:
            running = asyncio.ensure_future(_sent(node, connection, statement, way))
            await until(lambda: _works(server_shop, thread), "the server works on the statement")
            await kill(server_shop, thread)
        (error,) = await asyncio.gather(running, return_exceptions=True)
        await connection.invalidate()

    assert isinstance(error, BaseException)
    assert node.dialect.fault(error) is Fault.DISCONNECTED, repr(error)


async def _sent(node: SqlNode, connection: Any, statement: str, way: str) -> None:
    if way == "wrapped":
        await connection.exec_driver_sql(statement)
        return
    driver = (await connection.get_raw_connection()).driver_connection
    await node.dialect.send(driver, node.dialect.render(statement), {})


async def _works(shop: SqlShop, thread: int) -> bool:
    query = (
        f"SELECT count(*) FROM pg_stat_activity WHERE pid = {thread} AND state = 'active'"
        if shop.kind.scheme.startswith("postgresql")
        else f"SELECT count(*) FROM information_schema.processlist WHERE id = {thread} AND command = 'Query'"
    )
    return await shop.count(text(query)) == 1


@pytest.mark.parametrize("way", ["wrapped", "raw"])
async def test_a_transaction_that_was_idle_for_too_long_is_recognised(server_shop: SqlShop, way: str) -> None:
    limit = 0.2 if server_shop.kind.scheme.startswith("postgresql") else 1.0
    node = server_shop.node(idle=limit)
    async with node.writer.connect() as connection:
        thread = await backend(server_shop, connection)
        await connection.exec_driver_sql("SELECT count(*) FROM shelves")
        await until(lambda: _gone(server_shop, thread), "the server has ended the connection")
        (error,) = await asyncio.gather(_sent(node, connection, "SELECT 1", way), return_exceptions=True)
        await connection.invalidate()

    assert isinstance(error, BaseException)
    assert node.dialect.fault(error) is Fault.DISCONNECTED, repr(error)


SAID = {
    "postgresql": {
        "53100": Fault.OUT_OF_RESOURCES,
        "57P05": Fault.DISCONNECTED,
        "58030": Fault.SERVER_TROUBLE,
        "40003": Fault.UNKNOWN_COMMIT,
        "08001": Fault.UNREACHABLE,
        "55006": Fault.LOCK_TIMEOUT,
        "72000": Fault.SERIALIZATION,
        "XX000": Fault.SERVER_TROUBLE,
        "26000": Fault.STALE_PLAN,
    },
    "mysql": {
        "1021": Fault.OUT_OF_RESOURCES,
        "1047": Fault.UNREACHABLE,
        "1180": Fault.UNKNOWN_COMMIT,
        "1203": Fault.TOO_MANY_CONNECTIONS,
        "1615": Fault.STALE_PLAN,
        "3101": Fault.SERIALIZATION,
        "3572": Fault.LOCK_TIMEOUT,
    },
}


async def test_what_a_server_says_under_pressure_is_recognised(server_shop: SqlShop) -> None:
    node = server_shop.node()
    raises = {
        "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'as it says' USING ERRCODE = '{}'; END $$",
        "mysql": "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {}, MESSAGE_TEXT = 'as it says'",
    }[node.dialect.name]
    for code, fault in SAID[node.dialect.name].items():
        assert_told(node, await provoked(node, raises.format(code)), fault)


async def test_a_limit_of_the_server_that_is_reached_is_recognised(sql_shop: SqlShop) -> None:
    node = sql_shop.node(connections=1)
    exhausting = {
        "postgresql": (
            "SELECT set_config('temp_file_limit', '64', false), set_config('work_mem', '64', false)",
            "SELECT count(*) FROM (SELECT g FROM generate_series(1, 100000) AS g ORDER BY g DESC) AS sorted",
        ),
        "sqlite": ("PRAGMA max_page_count = 1", "CREATE TABLE full AS SELECT randomblob(1000000) AS much"),
        "mysql": (
            "SET SESSION max_heap_table_size = 16384",
            "DROP TEMPORARY TABLE IF EXISTS full",
            "CREATE TEMPORARY TABLE full (much char(250)) ENGINE = MEMORY",
            "INSERT INTO full SELECT repeat('x', 250) FROM information_schema.collations",
        ),
    }[node.dialect.name]

    errors = await provoked(node, *exhausting)

    assert set(errors) == {"wrapped", "raw"}
    faults = {way: node.dialect.fault(error) for way, error in errors.items()}
    assert set(faults.values()) == {Fault.OUT_OF_RESOURCES}, errors


@pytest.mark.parametrize("way", ["wrapped", "raw"])
async def test_a_statement_that_an_administrator_ended_is_recognised(server_shop: SqlShop, way: str) -> None:
    node = server_shop.node()
    postgres = server_shop.kind.scheme.startswith("postgresql")
    # SLEEP() and BENCHMARK() of MariaDB would answer all the same.
    many = ", ".join(f"information_schema.collations AS c{place}" for place in range(5))
    long = "SELECT pg_sleep(30)" if postgres else f"SELECT count(*) FROM {many}"
    async with node.writer.connect() as connection:
        thread = await backend(server_shop, connection)
        running = asyncio.ensure_future(_sent(node, connection, long, way))
        await until(lambda: _works(server_shop, thread), "the server works on the statement")
        async with server_shop.observer.connect() as observer:
            end = f"SELECT pg_cancel_backend({thread})" if postgres else f"KILL QUERY {thread}"
            await observer.exec_driver_sql(end)
        (error,) = await asyncio.gather(running, return_exceptions=True)
        await connection.rollback()

    assert isinstance(error, BaseException)
    assert node.dialect.fault(error) is Fault.STATEMENT_TIMEOUT, repr(error)


async def test_no_idle_limit_is_so_short_that_it_means_none(server_shop: SqlShop) -> None:
    node = server_shop.node(idle=0.4, lock_timeout=0.4)
    postgres = server_shop.kind.scheme.startswith("postgresql")
    idle = "wait_timeout" if server_shop.kind.mysql else "idle_transaction_timeout"
    names = (
        ["idle_in_transaction_session_timeout", "lock_timeout"]
        if postgres
        else [idle, "innodb_lock_wait_timeout", "net_read_timeout", "net_write_timeout"]
    )
    async with node.writer.connect() as connection:
        for name in names:
            show = f"SHOW {name}" if postgres else f"SELECT @@{name}"
            assert str((await connection.exec_driver_sql(show)).scalar_one()) not in {"0", "0ms", "0s"}, name


async def test_what_only_reads_may_lie_idle_as_long_as_the_server_likes(mariadb: SqlShop) -> None:
    node = mariadb.node(idle=1.0)
    asked = "SELECT @@session.wait_timeout = @@global.wait_timeout"
    for engine in (node.reader, node.snapshots):
        async with engine.connect() as connection:
            assert (await connection.exec_driver_sql(asked)).scalar_one() == 1
    arguments = node.dialect.line_arguments(node.url, node.settings)
    async with node.reader.connect() as connection:
        await connection.exec_driver_sql(arguments["init_command"])
        assert (await connection.exec_driver_sql(asked)).scalar_one() == 1


ADDRESSES: dict[str, tuple[Callable[[Any], Any], type[Exception]]] = {
    "no such database": (lambda url: url.set(database="nowhere"), ConfigurationError),
    "no such user": (lambda url: url.set(username="nobody", password="secret-7"), ConfigurationError),
    "a port where no server listens": (lambda url: url.set(port=1), DatabaseUnavailable),
    "a host that does not exist": (lambda url: url.set(host="nowhere.invalid"), DatabaseUnavailable),
}


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("work", ["ping", "a statement"])
async def test_a_wrong_address_is_told_in_our_words_without_the_password(
    server_shop: SqlShop, address: str, work: str
) -> None:
    change, expected = ADDRESSES[address]
    wrong = change(server_shop.node().url).render_as_string(hide_password=False)
    node = SqlNode("shop", "primary", wrong, settings(wrong))

    with pytest.raises(expected) as raised:
        await _tried(node, work)
    await node.close()

    assert "shop" in str(raised.value)
    assert "secret-7" not in str(raised.value)
    if expected is DatabaseUnavailable:
        assert node.dialect.fault(raised.value) is Fault.UNREACHABLE


async def _tried(node: SqlNode, work: str) -> None:
    if work == "ping":
        await node.ping()
        return
    async with node.writer.connect() as connection:
        await connection.exec_driver_sql("SELECT 1")


async def test_an_exhausted_pool_is_recognised_and_told_in_our_words(sql_shop: SqlShop) -> None:
    handle = SqlDatabase("shop")
    limits = settings(sql_shop.url, connections=1)
    limits = limits.model_copy(update={"pool": limits.pool.model_copy(update={"acquire_timeout": 0.05})})
    node = SqlNode("shop", "primary", sql_shop.url, limits)
    handle.attach((node,))

    async with handle.writer() as session:
        await session.execute(text("SELECT 1"))
        with pytest.raises(Exception) as raised:  # noqa: PT011
            await _tried(node, "a statement")
        assert node.dialect.fault(raised.value) is Fault.POOL_EXHAUSTED
        with pytest.raises(PoolExhausted):
            async with handle.writer() as other:
                await other.execute(text("SELECT 1"))
    await node.close()


async def test_a_handle_tells_of_a_write_through_a_reader_in_our_words(sql_shop: SqlShop, item: str) -> None:
    handle = SqlDatabase("shop")
    handle.attach((sql_shop.node(),))
    assert list(Databases(handle)) == [handle]

    with pytest.raises(ReadOnlyNode):
        async with handle.reader() as session:
            await session.execute(text(f"INSERT INTO shelves (name, touched) VALUES ('{item}', 0)"))


_READ_ONLY_FROM_NOW_ON = {
    "postgresql": "SET default_transaction_read_only = on",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "sqlite": "PRAGMA query_only = 1",
}


async def test_a_writer_whose_server_only_reads_is_told_to_try_again_on_another_connection(
    sql_shop: SqlShop, item: str
) -> None:
    handle, node = SqlDatabase("shop"), sql_shop.node(connections=1)
    handle.attach((node,))
    insert = text(f"INSERT INTO shelves (name, touched) VALUES ('{item}', 0)")
    async with handle.writer() as session:
        await session.execute(text(_READ_ONLY_FROM_NOW_ON[node.dialect.name]))

    with pytest.raises(NoPrimary):
        async with handle.writer() as session:
            await session.execute(insert)
    async with handle.writer() as session:  # the name or the proxy leads to the server that writes by now
        await session.execute(insert)


async def test_ids_survive_the_way_through_the_database(sql_shop: SqlShop) -> None:
    dialect = sql_shop.node().dialect
    for value in (uuid4(), uuid4()):
        assert dialect.key_from(dialect.key(value)) == value
