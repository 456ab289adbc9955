"""Handles get their servers when the databases are opened, all of them or none; on SQLite files."""

import asyncio
import pickle
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeout

from polysaga import Databases, Settings, SqlDatabase
from polysaga.config import BookmarkSettings, parse_settings
from polysaga.databases.pools import ORIGIN, Origin
from polysaga.errors import ConfigurationError, DatabaseUnavailable
from polysaga.events import DatabaseOpened, Event, ReplicaUnreachable, SubscriberFailed
from tests.fixtures.waiting import reached


def url_of(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def settings_of(directory: Path, **more: Mapping[str, object]) -> Settings:
    names = ("orders", "points")
    return parse_settings(
        {"databases": {name: {"url": url_of(directory / name), **more.get(name, {})} for name in names}}
    )


class Program:
    """Two databases, as a program declares them."""

    def __init__(self) -> None:
        self.orders, self.points = SqlDatabase("orders"), SqlDatabase("points")
        self.databases = Databases(self.orders, self.points)
        self.heard: list[Event] = []

    def closed(self) -> bool:
        for handle in self.databases:
            try:
                assert handle.primary
            except ConfigurationError:
                continue
            return False
        return True


async def test_open_handles_have_their_nodes_and_closed_ones_have_none(tmp_path: Path) -> None:
    program = Program()
    async with program.databases.open(settings_of(tmp_path), emit=program.heard.append) as opened:
        assert opened is program.databases
        assert program.orders.primary.name == url_of(tmp_path / "orders")
        assert program.points.primary.role == "primary"
    assert program.closed()
    announced = {event.database for event in program.heard if isinstance(event, DatabaseOpened)}
    assert announced == {"orders", "points"}


async def test_databases_can_be_opened_again_but_not_twice_at_a_time(tmp_path: Path) -> None:
    program = Program()
    for _ in range(2):
        async with program.databases.open(settings_of(tmp_path)):
            with pytest.raises(ConfigurationError, match="open already; open them once per process"):
                async with program.databases.open(settings_of(tmp_path)):
                    pass
            assert program.orders.primary
    assert program.closed()


async def test_an_opening_that_is_refused_leaves_the_bookmarks_of_the_open_databases_alone(tmp_path: Path) -> None:
    databases, settings = Program().databases, settings_of(tmp_path)
    other = settings.model_copy(update={"bookmarks": BookmarkSettings(cookie="another")})
    async with databases.open(settings):
        with pytest.raises(ConfigurationError, match="open already"):
            async with databases.open(other):
                pass
        assert databases.bookmarks == settings.bookmarks


async def test_an_error_inside_the_block_closes_them_too(tmp_path: Path) -> None:
    program = Program()
    with pytest.raises(ValueError, match="mine"):
        async with program.databases.open(settings_of(tmp_path)):
            raise ValueError("mine")
    assert program.closed()


@pytest.mark.usefixtures("threads_ended")
async def test_a_replica_that_does_not_answer_is_left_out_and_announced(tmp_path: Path) -> None:
    program = Program()
    replicas = [url_of(tmp_path / "orders"), url_of(tmp_path / "missing" / "orders")]
    settings = settings_of(tmp_path, orders={"replicas": replicas})
    async with program.databases.open(settings, emit=program.heard.append):
        assert [node.name for node in program.orders.replicas] == replicas
    (unreachable,) = [event for event in program.heard if isinstance(event, ReplicaUnreachable)]
    assert (unreachable.database, unreachable.node) == ("orders", replicas[1])


@pytest.mark.usefixtures("threads_ended")
@pytest.mark.parametrize("replicas", [0, 2])
async def test_an_emit_that_raises_does_not_keep_databases_closed(tmp_path: Path, replicas: int) -> None:
    program = Program()

    def broken(event: Event) -> None:
        program.heard.append(event)
        raise ValueError("the host for statistics is gone")

    missing = [url_of(tmp_path / "missing" / "orders")] * replicas
    async with program.databases.open(settings_of(tmp_path, orders={"replicas": missing}), emit=broken):
        assert program.orders.primary
        async with program.orders.reader() as session:
            assert await session.scalar(text("SELECT 1")) == 1
    assert len([event for event in program.heard if isinstance(event, DatabaseOpened)]) == 2
    assert {event.subscriber for event in program.heard if isinstance(event, SubscriberFailed)} == {"broken"}


@pytest.mark.usefixtures("threads_ended")
async def test_a_primary_that_does_not_answer_is_an_error_that_names_it(tmp_path: Path) -> None:
    program = Program()
    missing = url_of(tmp_path / "missing" / "points")
    with pytest.raises(DatabaseUnavailable) as failure:
        async with program.databases.open(settings_of(tmp_path, points={"url": missing})):
            pass
    assert (failure.value.database, failure.value.node) == ("points", missing)


@pytest.mark.usefixtures("threads_ended")
async def test_when_one_primary_does_not_answer_no_handle_stays_open(tmp_path: Path) -> None:
    program = Program()
    with pytest.raises(DatabaseUnavailable):
        async with program.databases.open(
            settings_of(tmp_path, points={"url": url_of(tmp_path / "missing" / "points")})
        ):
            pass
    assert program.closed()


async def test_of_two_that_open_at_the_same_moment_one_is_refused(tmp_path: Path) -> None:
    program = Program()
    answers: asyncio.Queue[str] = asyncio.Queue()
    leave = asyncio.Event()

    async def use() -> None:
        try:
            async with program.databases.open(settings_of(tmp_path)):
                answers.put_nowait("opened")
                await reached(leave, "the test lets it leave")
        except ConfigurationError:
            answers.put_nowait("refused")

    tasks = [asyncio.create_task(use()) for _ in range(2)]
    found = [await answers.get(), await answers.get()]
    leave.set()
    await asyncio.gather(*tasks)
    assert sorted(found) == ["opened", "refused"]


@pytest.mark.parametrize("name", ["größe", "店", "order s", "", "1st", "a" * 65])
def test_a_name_that_bookmarks_could_not_spell_is_refused_when_the_handle_is_made(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a name for a database: use A-Z, a-z, 0-9 and _"):
        SqlDatabase(name)


@pytest.mark.parametrize("given", [[SqlDatabase("orders")], "orders", SqlDatabase, None], ids=repr)
def test_what_is_no_handle_is_a_mistake(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="which is not a database: give the handles one after the other"):
        Databases(given)


@pytest.mark.parametrize("given", [1, None, b"orders"])
def test_a_name_of_a_database_that_is_no_text_is_a_mistake(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a name for a database: give a text"):
        SqlDatabase(given)


async def test_settings_of_another_type_are_a_mistake() -> None:
    plain: Any = {"databases": {"orders": {"url": "sqlite+aiosqlite:///orders.db"}}}
    says = r"are of the type dict: give Settings, e\.g\. from load_settings\(\) or parse_settings"
    with pytest.raises(ConfigurationError, match=says):
        Databases(SqlDatabase("orders"), settings=plain)
    with pytest.raises(ConfigurationError, match=says):
        Databases(SqlDatabase("orders"), settings=lambda: plain).settings()
    with pytest.raises(ConfigurationError, match=says):
        async with Databases(SqlDatabase("orders")).open(plain):
            pass


def test_a_copy_of_an_error_has_no_origin() -> None:
    """Where it goes, there is no such pool: another process, for instance."""
    error = PoolTimeout("no connection became free in time")
    setattr(error, ORIGIN, Origin(Lock(), read_only=True))
    for copy in (pickle.loads(pickle.dumps(error)), deepcopy(error)):
        assert (str(copy), getattr(copy, ORIGIN)) == (str(error), None)
