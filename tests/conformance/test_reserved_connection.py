"""What keeps claims has a connection of its own, which is in all other respects like those of the pool."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncmy
import asyncpg
import psycopg
import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from polysaga.databases import SqlNode
from polysaga.errors import DatabaseUnavailable
from polysaga.sagas.journal.claims import Pick
from polysaga.sagas.journal.journal import Journal
from polysaga.sagas.journal.tables import journal as table
from tests.conformance.shops import SqlShop, settings
from tests.conformance.test_journal import KNOWN, LEASE, birth
from tests.conformance.test_participant_health import backend
from tests.fixtures.waiting import within

SETTINGS = {
    "postgresql": (
        "SELECT current_setting('transaction_isolation'), current_setting('lock_timeout'), "
        "current_setting('idle_in_transaction_session_timeout'), current_setting('transaction_read_only')"
    ),
    "mysql": (
        "SELECT @@session.time_zone, @@session.innodb_lock_wait_timeout, @@session.net_write_timeout, "
        "@@session.autocommit, @@session.sql_mode, "
        "/*M!100301 @@session.tx_isolation, @@session.tx_read_only, @@session.idle_transaction_timeout */"
        "/*!80000 @@session.transaction_isolation, @@session.transaction_read_only, @@session.wait_timeout */"
    ),
}


@asynccontextmanager
async def exhausted(*engines: AsyncEngine) -> AsyncIterator[None]:
    """Hold every connection that *engines* may make."""
    async with AsyncExitStack() as stack:
        for engine in engines:
            pool = engine.sync_engine.pool
            for _ in range(pool.size() + pool._max_overflow):  # type: ignore[attr-defined]
                await stack.enter_async_context(engine.connect())
        yield


async def emptied(shop: SqlShop) -> Journal:
    async with shop.observer.begin() as connection:
        await connection.execute(delete(table))
    return Journal(shop.node(connections=2), [KNOWN], lease=LEASE)


async def test_claims_are_kept_while_the_program_holds_the_whole_pool(server_shop: SqlShop) -> None:
    journal = await emptied(server_shop)
    born, other = birth(), birth()
    await journal.insert([born, other])

    async def keep() -> None:
        assert await journal.renew([(born.claim, []), (other.claim, [])]) == {
            born.claim.saga_id,
            other.claim.saga_id,
        }
        assert set(await journal.standings([born.claim.saga_id], reserved=True)) == {born.claim.saga_id}
        await journal.hand_back([other.claim])
        assert [row.claim.saga_id for row in await journal.claim(10)] == [other.claim.saga_id]
        assert await journal.claim(10, Pick.LATE) == []
        assert await journal.strangers(10) == []

    async with exhausted(journal.node.writer, journal.node.reader):
        await within(keep(), "no claim waits for the pool", patience=4.0)  # the pool's users wait for 5


async def test_a_renewal_that_was_given_up_does_not_hold_up_the_next(server_shop: SqlShop) -> None:
    journal, born = await emptied(server_shop), birth()
    await journal.insert([born])
    async with journal.node.reserved.connect():
        renewed = await within(journal.renew([(born.claim, [])]), "it has another connection", patience=4.0)

    assert renewed == {born.claim.saga_id}
    assert journal.node.reserved.sync_engine.pool.checkedin() == 1  # type: ignore[attr-defined]


async def test_the_session_has_the_settings_of_a_writer(server_shop: SqlShop) -> None:
    node, found = server_shop.node(), []
    for engine in (node.writer, node.reserved):
        async with engine.connect() as connection:
            answer = await connection.exec_driver_sql(SETTINGS[node.dialect.name])
            found.append(tuple(answer.one()))

    assert found[0] == found[1]


async def test_a_file_has_no_second_writer(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'shop.sqlite'}"
    node = SqlNode("shop", "primary", url, settings(url))

    assert node.reserved is node.writer


@pytest.mark.parametrize("how", ["retire", "cut", "follow"])
async def test_it_is_replaced_when_the_primary_moves(server_shop: SqlShop, how: str) -> None:
    node = server_shop.node()
    node.watched = True
    async with AsyncSession(node.reserved) as session:
        before = await backend(server_shop, session)

    if how == "follow":
        node.follow(server_shop.node())
    else:
        getattr(node, how)()

    async with AsyncSession(node.reserved) as session:
        assert await backend(server_shop, session) != before


async def test_a_cut_breaks_it_while_it_is_in_use(server_shop: SqlShop) -> None:
    node = server_shop.node()
    node.watched = True
    async with node.reserved.connect() as connection:
        await connection.exec_driver_sql("SELECT 1")
        assert node.in_use
        node.cut()
        with pytest.raises(Exception) as broken:  # noqa: PT011 - each driver has an error of its own
            await connection.exec_driver_sql("SELECT 1")
        assert node.dialect.fault(broken.value) is not None
    assert not node.in_use


async def test_it_is_closed_with_its_node(server_shop: SqlShop) -> None:
    node = server_shop.node()
    async with AsyncSession(node.reserved) as session:
        await backend(server_shop, session)
    assert len(node._connections) == 1

    await node.close()

    assert not node._connections


def refused(node: SqlNode, error: Exception) -> None:
    """Make new connections of *node* fail with *error*."""

    async def connect(*_: Any, **__: Any) -> Any:
        raise error

    node.dialect.connector = lambda _: connect  # type: ignore[method-assign]


def full(node: SqlNode) -> Exception:
    """Return the error of a server that has no place left for a connection."""
    match node.url.drivername.partition("+")[2]:
        case "asyncpg":
            return asyncpg.TooManyConnectionsError("sorry, too many clients already")
        case "psycopg":
            return psycopg.OperationalError("FATAL:  sorry, too many clients already")
    return asyncmy.errors.OperationalError(1040, "Too many connections")


async def test_a_server_without_a_place_for_it_serves_from_the_pool(server_shop: SqlShop) -> None:
    journal, born = await emptied(server_shop), birth()
    await journal.insert([born])
    refused(journal.node, full(journal.node))

    assert await journal.renew([(born.claim, [])]) == {born.claim.saga_id}
    assert journal.node.reserved.sync_engine.pool.checkedin() == 0  # type: ignore[attr-defined]


async def test_a_server_that_cannot_be_reached_is_not_tried_twice(server_shop: SqlShop) -> None:
    journal, born = await emptied(server_shop), birth()
    await journal.insert([born])
    refused(journal.node, ConnectionRefusedError("nothing listens there"))

    with pytest.raises(DatabaseUnavailable, match="nothing listens there"):
        await journal.renew([(born.claim, [])])
