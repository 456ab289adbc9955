"""Questions about sagas, and repairs, fail with Polysaga's own errors and never with a driver's."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from devservers import Server
from polysaga import Sagas
from polysaga.config import parse_settings
from polysaga.databases import SqlNode
from polysaga.errors import DatabaseUnavailable, NeedsAttention, PoolExhausted, SchemaMissing
from polysaga.migrations import migrate
from polysaga.sagas import AuditFilter, SagaFilter
from tests.fixtures.left_behind import LEAVES_BEHIND
from tests.fixtures.programs import PLACE_ORDER, QUICK, Order, Program
from tests.fixtures.proxy import Proxy
from tests.fixtures.setups import embedded_urls
from tests.fixtures.waiting import until
from tests.integration.migrating import program, settings_for, sqlite_url

pytestmark = LEAVES_BEHIND

ID, ME = UUID(int=7), {"by": "ada", "why": "the shelf was counted by hand"}
OPERATIONS: dict[str, Callable[[Sagas], Awaitable[object]]] = {
    "get": lambda sagas: sagas.get(ID),
    "find": lambda sagas: sagas.find(),
    "verify": lambda sagas: sagas.verify(),
    "freeze": lambda sagas: sagas.freeze(SagaFilter()),
    "batch": lambda sagas: sagas.batch(ID),
    "retry": lambda sagas: sagas.retry(ID, **ME),
    "retry many": lambda sagas: sagas.retry(SagaFilter(), **ME),
    "skip": lambda sagas: sagas.skip(ID, "pay", **ME),
    "compensate": lambda sagas: sagas.compensate(ID, **ME),
    "resolve": lambda sagas: sagas.resolve(ID, "completed", **ME),
    "overview": lambda sagas: sagas.inspector().overview(),
    "count": lambda sagas: sagas.inspector().count(SagaFilter()),
    "examine": lambda sagas: sagas.inspector().examine(ID),
    "audit": lambda sagas: sagas.inspector().audit(AuditFilter()),
    "fates": lambda sagas: sagas.inspector().fates(ID),
    "census": lambda sagas: sagas.census().count(),
}
PARTS = [pytest.param(ask, id=name) for name, ask in OPERATIONS.items()]


@pytest.mark.parametrize("ask", PARTS)
async def test_tables_that_are_missing_are_said_to_be_missing(
    tmp_path: Path, ask: Callable[[Sagas], Awaitable[object]]
) -> None:
    sagas, settings = program(shop=sqlite_url(tmp_path))
    async with sagas.databases.open(settings):
        with pytest.raises(SchemaMissing, match="the journal tables of database 'shop'"):
            await ask(sagas)


async def test_a_full_pool_is_said_to_be_full(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    sagas, _ = program(shop=url)
    settings = parse_settings({"databases": {"shop": {"url": url, "pool": {"acquire_timeout": 0.05}}}})
    with_readers = {"verify", "census"}  # they do not wait for the only writer
    async with sagas.databases.open(settings):
        await migrate(sagas)
        async with sagas.journal.writer() as session:
            await session.execute(text("SELECT 1"))
            for name in OPERATIONS.keys() - with_readers:
                with pytest.raises(PoolExhausted, match="the one connection to database 'shop'"):
                    await OPERATIONS[name](sagas)


@asynccontextmanager
async def disconnected(postgres_server: Server) -> AsyncIterator[Sagas]:
    """Lend sagas whose journal has just cut all connections, and accepts no new ones."""
    name = "test_errors_of_operations"
    postgres_server.create_database(name)
    with Proxy.to(postgres_server.url(name)) as proxy:
        sagas, _ = program(shop=proxy.url)
        async with sagas.databases.open(settings_for(shop=proxy.url)):
            await migrate(sagas)
            await sagas.find()  # there is a connection that looks fresh
            proxy.refuse()
            proxy.reset()
            yield sagas
    postgres_server.drop_database(name)


async def test_a_server_that_is_away_is_said_to_be_away(postgres_server: Server) -> None:
    async with disconnected(postgres_server) as sagas:
        for ask in OPERATIONS.values():
            with pytest.raises(DatabaseUnavailable, match="'shop' is not reachable"):
                await ask(sagas)


async def test_a_repair_names_the_database_whose_ledger_is_missing(tmp_path: Path) -> None:
    async def stumble(*_: object) -> None:
        raise ZeroDivisionError

    async def refuse(*_: object) -> None:
        raise NotImplementedError

    shop = Program(embedded_urls(tmp_path), PLACE_ORDER)
    shop.steps["reserve_stock"].undo_retry = QUICK
    shop.on("undo:reserve_stock", stumble)
    shop.on("confirm_order", refuse)
    async with shop.open():
        with pytest.raises(NeedsAttention) as parked:
            await shop.sagas.run(shop.saga, Order())
        node = shop.handles["inventory"].primary
        assert isinstance(node, SqlNode)
        async with node.writer.begin() as connection:
            await connection.execute(text("DROP TABLE polysaga_ledger"))
        with pytest.raises(SchemaMissing, match="the ledger tables of database 'inventory'"):
            await shop.sagas.skip(parked.value.saga_id, "reserve_stock", **ME)


async def test_a_cancellation_says_that_the_journal_is_missing(tmp_path: Path) -> None:
    shop = Program(embedded_urls(tmp_path), PLACE_ORDER)
    async with shop.open():
        handle = await shop.sagas.start(shop.saga, Order())
        await until(lambda: not shop.runner.tasks, "the saga has ended")
        node = shop.handles["orders"].primary
        assert isinstance(node, SqlNode)
        async with node.writer.begin() as connection:
            await connection.execute(text("ALTER TABLE polysaga_journal RENAME TO elsewhere"))
        with pytest.raises(SchemaMissing):
            await shop.sagas.cancel(handle.id)
        with pytest.raises(SchemaMissing):
            await handle.cancel()
