"""What the tests of users can ask about routing, without a replica."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from polysaga import Databases, SqlDatabase
from polysaga.config import parse_settings
from polysaga.testing import assert_routed, simulated_lag


async def test_readers_are_behind_unless_their_scope_wrote(tmp_path: Path) -> None:
    orders = SqlDatabase("orders")
    databases = Databases(orders)
    url = f"sqlite+aiosqlite:///{tmp_path}/orders.db"

    async def count(**wish: str) -> object:
        async with orders.reader(**wish) as db:  # type: ignore[arg-type]
            return (await db.execute(text("SELECT count(*) FROM orders"))).scalar()

    async def write() -> None:
        async with orders.writer() as db:
            await db.execute(text("INSERT INTO orders VALUES (1)"))

    async with databases.open(parse_settings({"databases": {"orders": {"url": url}}})):
        async with orders.writer() as db:
            await db.execute(text("CREATE TABLE orders (id INT)"))
        async with simulated_lag(orders):
            with databases.scope():
                await write()
                assert await count() == 1
                assert await count(consistency="eventual") == 0
            with databases.scope():
                assert await count() == 0
                assert await count(consistency="strong") == 1
        with databases.scope():
            assert await count() == 1


def test_a_test_can_ask_who_answered() -> None:
    answer = SimpleNamespace(
        headers={"X-Polysaga-Route": "orders=replica-1;reason=fresh, points=primary;reason=strong"}
    )
    assert_routed(answer, orders="replica", points="primary")
    with pytest.raises(AssertionError, match="'orders' was read from replica-1, not from a primary"):
        assert_routed(answer, orders="primary")
    with pytest.raises(AssertionError, match="'stock' was read from nowhere"):
        assert_routed(answer, stock="replica")
