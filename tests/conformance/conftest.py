"""Every test gets a shop for each kind of database; a kind has one database for the whole session.

Tests do not meet: each has saga ids and items of its own. Those of the journal begin with an empty one.
"""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import delete

from devservers import Server
from polysaga.sagas.journal.tables import journal
from tests.conformance.kinds import (
    ASYNCPG,
    BARE_KINDS,
    KINDS,
    MARIADB,
    MONGO,
    MYSQL,
    SERVERS,
    SQL_KINDS,
    SQLITE,
    Kind,
)
from tests.conformance.shops import MongoShop, SqlShop, furnish, opened
from tests.fixtures import own_loop


@pytest.fixture(scope="session")
def postgres_shop(postgres_server: Server) -> Iterator[str]:
    yield from _one_database(postgres_server)


@pytest.fixture(scope="session")
def mariadb_shop(mariadb_server: Server) -> Iterator[str]:
    yield from _one_database(mariadb_server)


@pytest.fixture(scope="session")
def mysql_shop(mysql_server: Server) -> Iterator[str]:
    yield from _one_database(mysql_server)


@pytest.fixture(scope="session")
def mongo_shop(mongo_server: Server) -> Iterator[str]:
    yield from _one_database(mongo_server)


@pytest.fixture(scope="session")
def sqlite_shop(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('shop') / 'shop.sqlite'}"


@pytest.fixture(scope="session")
def furnished(request: pytest.FixtureRequest) -> Callable[[Kind], str]:
    """Return the URL of the kind's database, with all tables; they are made on first use."""
    urls: dict[Kind, str] = {}

    def url_of(kind: Kind) -> str:
        if kind not in urls:
            _, _, address = request.getfixturevalue(kind.fixture).partition("://")
            urls[kind] = f"{kind.scheme}://{address}"
            own_loop.run(furnish(kind, urls[kind]))
        return urls[kind]

    return url_of


@pytest.fixture(params=[*KINDS, *BARE_KINDS], ids=str)
async def shop(
    request: pytest.FixtureRequest, furnished: Callable[[Kind], str]
) -> AsyncIterator[SqlShop | MongoShop]:
    async with opened(request.param, furnished(request.param)) as one:
        yield one


def _sql_shops(*kinds: Kind) -> Any:
    @pytest.fixture(params=kinds, ids=str)
    async def one(request: pytest.FixtureRequest, furnished: Callable[[Kind], str]) -> AsyncIterator[SqlShop]:
        async with opened(request.param, furnished(request.param)) as opened_shop:
            assert isinstance(opened_shop, SqlShop)
            yield opened_shop

    return one


sql_shop = _sql_shops(*SQL_KINDS)
bare_shop = _sql_shops(*BARE_KINDS)
any_shop = _sql_shops(*SQL_KINDS, *BARE_KINDS)
server_shop = _sql_shops(*SERVERS)
asyncpg = _sql_shops(ASYNCPG)
mariadb = _sql_shops(MARIADB, MYSQL)
mysql = _sql_shops(MYSQL)
sqlite = _sql_shops(SQLITE)


@pytest.fixture(params=[MONGO], ids=str)
async def mongo(request: pytest.FixtureRequest, furnished: Callable[[Kind], str]) -> AsyncIterator[MongoShop]:
    async with opened(request.param, furnished(request.param)) as one:
        assert isinstance(one, MongoShop)
        yield one


@pytest.fixture
async def empty_journal(sql_shop: SqlShop) -> SqlShop:
    async with sql_shop.observer.begin() as connection:
        await connection.execute(delete(journal))
    return sql_shop


@pytest.fixture
def item() -> str:
    """A name that no other test sells."""
    return uuid.uuid4().hex


def _one_database(server: Server) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    yield server.url(name)
    server.drop_database(name)
