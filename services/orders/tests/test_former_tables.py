"""A database with the shop of another version is refused before anything in it is read or written."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pymongo import AsyncMongoClient

from orders.app import create_app
from orders.settings import load
from polysaga.config import parse_settings
from polysaga.errors import ConfigurationError

FORMER = {
    "orders": """
        CREATE TABLE orders (
            id VARCHAR(36) PRIMARY KEY, user_id VARCHAR(64) NOT NULL, product_id VARCHAR(64), quantity INTEGER,
            unit_price BIGINT, status VARCHAR(16), created_at DATETIME, locked_by VARCHAR(36)
        );
        INSERT INTO orders (id, user_id, status) VALUES ('01a203a2-56e0-78f1-b4e2-8e65590dde21', 'ada', 'pending');
        """,
    "points": "CREATE TABLE point_entries (order_id VARCHAR(36) PRIMARY KEY, user_id VARCHAR(64), amount BIGINT)",
    "inventory": """
        CREATE TABLE user_events (
            order_id VARCHAR(36), kind VARCHAR(16), user_id VARCHAR(64), product_id VARCHAR(64), quantity INTEGER,
            at DATETIME, PRIMARY KEY (order_id, kind)
        )
        """,
}


def make(directory: Path, *names: str) -> None:
    directory.mkdir(exist_ok=True)
    for name in names:
        with closing(sqlite3.connect(directory / f"{name}.db")) as database, database:
            database.executescript(FORMER[name])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("orders", r"column 'orders\.user_id' is VARCHAR\(64\), not BIGINT"),
        ("points", r"column 'point_entries\.user_id' is VARCHAR\(64\)"),
        ("inventory", "table 'user_events' has no column 'event_type'"),
    ],
)
async def test_the_service_does_not_start(tmp_path: Path, name: str, wrong: str) -> None:
    make(tmp_path, name)
    app = create_app(load(tmp_path))
    with pytest.raises(ConfigurationError, match=rf"database '{name}' has a shop of another version: .*{wrong}"):
        async with app.router.lifespan_context(app):
            pass


def test_the_commands_say_it_in_one_line_and_change_nothing(tmp_path: Path) -> None:
    make(tmp_path / "data", *FORMER)
    for command in (["serve", "--port", "0"], ["reconcile"]):
        done = subprocess.run(
            [sys.executable, "-m", "orders", *command, "--data", str(tmp_path / "data")],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("orders: database 'orders' has a shop of another version")
        assert "another --data" in done.stderr
        assert done.stderr.count("\n") == 1
    with closing(sqlite3.connect(tmp_path / "data" / "orders.db")) as database:
        assert database.execute("SELECT user_id, status FROM orders").fetchall() == [("ada", "pending")]


async def test_events_in_mongodb_are_looked_at_too(mongo_database: Callable[[], str], tmp_path: Path) -> None:
    url = mongo_database()
    async with AsyncMongoClient[dict[str, object]](url) as client:
        await client.get_default_database()["user_events"].insert_one({"user_id": "ada", "kind": "order_placed"})
    files = {name: {"url": f"sqlite+aiosqlite:///{tmp_path}/{name}.db"} for name in ("orders", "points")}
    app = create_app(parse_settings({"databases": {**files, "inventory": {"url": url}}}))
    with pytest.raises(ConfigurationError, match=r"'inventory' has a shop of another version: .*is not a number"):
        async with app.router.lifespan_context(app):
            pass
