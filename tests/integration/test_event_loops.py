"""Sagas and the event loops of a program: those of threads, and one loop after another."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.testclient import TestClient

from polysaga import Databases, SagaFilter, SqlDatabase
from polysaga.config import Settings, parse_settings
from polysaga.errors import ConfigurationError
from polysaga.fastapi import install
from polysaga.migrations import migrate
from polysaga.routing.health import states_of
from tests.fixtures.programs import SINGLE, Order, Program
from tests.fixtures.setups import embedded_urls
from tests.fixtures.waiting import reached, within


def in_a_thread(work: Callable[[], Coroutine[Any, Any, object]]) -> BaseException | None:
    """Run *work* in a loop of a thread of its own and return its error."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(asyncio.wait_for(work(), 10))
        except BaseException as error:  # noqa: BLE001 - given to the caller
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    return failed[0] if failed else None


async def test_sagas_refuse_another_event_loop_at_once_and_say_what_to_do(tmp_path: Path) -> None:
    async with Program(embedded_urls(tmp_path), SINGLE).open() as program:
        sagas, saga = program.sagas, program.saga
        known = await sagas.start(saga, Order(), key="k")
        await known.result(30)
        uses: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: sagas.run(saga, Order()),
            lambda: sagas.start(saga, Order(), key="k"),
            lambda: sagas.get(known.id),
            lambda: sagas.find(),
            lambda: sagas.cancel(known.id),
            lambda: sagas.retry(known.id, by="me", why="to see"),
        ]
        for use in uses:
            error = await within(asyncio.to_thread(in_a_thread, use), "the other loop ends")
            assert isinstance(error, ConfigurationError)
            assert "opened in another event loop" in str(error)
            assert "run_coroutine_threadsafe" in str(error)
        loop = asyncio.get_running_loop()
        sent = await asyncio.to_thread(
            lambda: asyncio.run_coroutine_threadsafe(sagas.run(saga, Order(), timeout=30), loop).result(30)
        )
        assert sent is not None


async def test_databases_refuse_another_event_loop_and_go_on_in_their_own(tmp_path: Path) -> None:
    """A connection made in the other loop would stay in the pool, and fail in the session of another caller."""
    shop = SqlDatabase("shop")
    known = parse_settings({"databases": {"shop": {"url": f"sqlite+aiosqlite:///{tmp_path}/shop.db"}}})

    async def read() -> object:
        async with shop.reader() as db:
            return (await db.execute(text("SELECT 1"))).scalar()

    async def write() -> None:
        async with shop.writer() as db:
            await db.execute(text("SELECT 1"))

    async with Databases(shop).open(known):
        for use in (read, write):
            error = await within(asyncio.to_thread(in_a_thread, use), "the other loop ends")
            assert isinstance(error, ConfigurationError)
            assert "database 'shop' was opened in another event loop" in str(error)
            assert "run_coroutine_threadsafe" in str(error)
        await write()
        assert await read() == 1
    error = await within(asyncio.to_thread(in_a_thread, read), "the other loop ends")
    assert "is not open" in str(error)


async def test_reading_sagas_and_health_without_driving_sagas_is_for_the_same_event_loop(tmp_path: Path) -> None:
    """The dashboard of a program that drives no sagas; asyncpg's connection would fail the next session here."""
    program = Program(embedded_urls(tmp_path), SINGLE)
    sagas = program.sagas

    async def overview() -> object:
        return await sagas.inspector().overview()

    async with program.connected():
        uses: list[Callable[[], Coroutine[Any, Any, object]]] = [
            sagas.find,
            sagas.verify,
            lambda: sagas.retry(SagaFilter(), by="me", why="to see"),
            overview,
            lambda: migrate(sagas),
            lambda: nothing_in(sagas.open()),
        ]
        for use in uses:
            error = await within(asyncio.to_thread(in_a_thread, use), "the other loop ends")
            assert isinstance(error, ConfigurationError)
            assert "opened in another event loop" in str(error)
        states = await asyncio.to_thread(lambda: asyncio.run(states_of(program.databases)))
        assert set(states.values()) == {"unreachable"}
        assert set((await states_of(program.databases)).values()) == {"ok"}
        assert not (await sagas.find()).sagas


async def nothing_in(block: AbstractAsyncContextManager[object]) -> None:
    async with block:
        pass


async def test_a_session_asked_for_without_a_loop_belongs_to_the_one_that_enters_it(tmp_path: Path) -> None:
    """A dependency of FastAPI that is a plain function runs in a thread without an event loop."""
    shop = SqlDatabase("shop")
    known = parse_settings({"databases": {"shop": {"url": f"sqlite+aiosqlite:///{tmp_path}/shop.db"}}})

    async def enter(lent: AbstractAsyncContextManager[AsyncSession]) -> object:
        async with lent as db:
            return (await db.execute(text("SELECT 1"))).scalar()

    async with Databases(shop).open(known):
        for lend in (shop.reader, shop.writer):
            elsewhere, here = [await asyncio.to_thread(lend) for _ in range(2)]
            error = await within(asyncio.to_thread(in_a_thread, partial(enter, elsewhere)), "the other loop ends")
            assert "database 'shop' was opened in another event loop" in str(error)
            assert await enter(here) == 1


def test_a_test_client_lends_its_loop_to_the_test_beside_it(tmp_path: Path) -> None:
    shop, app = SqlDatabase("shop"), FastAPI()
    known = parse_settings({"databases": {"shop": {"url": f"sqlite+aiosqlite:///{tmp_path}/shop.db"}}})
    install(app, Databases(shop), settings=known)

    async def read() -> object:
        async with shop.reader() as db:
            return (await db.execute(text("SELECT 1"))).scalar()

    with TestClient(app) as client:
        with pytest.raises(ConfigurationError, match=r"portal\.call"):
            asyncio.run(read())
        assert client.portal is not None
        assert client.portal.call(read) == 1


def test_an_application_without_its_lifespan_is_not_ready_because_its_databases_are_closed(tmp_path: Path) -> None:
    """Such as of `uvicorn --lifespan off`; no server was asked, so none is unreachable."""
    app, known = (
        FastAPI(),
        parse_settings({"databases": {"shop": {"url": f"sqlite+aiosqlite:///{tmp_path}/s.db"}}}),
    )
    install(app, Databases(SqlDatabase("shop")), settings=known)
    answer = TestClient(app).get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["databases"] == {"shop": "closed"}
    assert answer.json()["detail"] == "database 'shop' is closed"


def test_of_two_threads_that_open_the_databases_at_once_one_succeeds_undisturbed(tmp_path: Path) -> None:
    """A worker of a job queue with threads, each of which runs its job by `asyncio.run`."""
    shop = SqlDatabase("shop")
    known = parse_settings({"databases": {"shop": {"url": f"sqlite+aiosqlite:///{tmp_path}/shop.db"}}})
    both, done = threading.Barrier(2), threading.Event()

    def settings() -> Settings:
        both.wait(10)
        return known

    databases = Databases(shop, settings=settings)

    async def job() -> None:
        async with databases.open():
            assert await asyncio.to_thread(done.wait, 20), "the other thread was refused"
            async with shop.writer() as db:
                await db.execute(text("SELECT 1"))

    def run() -> BaseException | None:
        error = in_a_thread(job)
        done.set()
        return error

    with ThreadPoolExecutor() as threads:
        outcomes = [one.result(30) for one in [threads.submit(run) for _ in range(2)]]
    refused = [one for one in outcomes if one is not None]
    assert len(refused) == 1
    assert isinstance(refused[0], ConfigurationError)
    assert "open already, in the event loop of another thread" in str(refused[0])


def test_sagas_can_be_opened_in_one_loop_after_another(tmp_path: Path) -> None:
    program = Program(embedded_urls(tmp_path), SINGLE)

    async def place() -> None:
        async with program.open():
            await program.sagas.run(program.saga, Order(), timeout=30)

    for _ in range(2):
        asyncio.run(place())


async def test_of_two_tasks_that_open_the_sagas_at_once_one_succeeds_undisturbed(tmp_path: Path) -> None:
    program = Program(embedded_urls(tmp_path), SINGLE)
    refused = asyncio.Event()

    async def drive() -> object:
        try:
            async with program.sagas.open():
                await reached(refused, "the other task is refused")
                return await program.sagas.run(program.saga, Order(), timeout=30)
        except ConfigurationError as error:
            refused.set()
            return str(error)

    async with program.connected():
        await migrate(program.sagas)
        outcomes = await within(asyncio.gather(drive(), drive()), "both tasks end")
    assert sum("open already" in str(one) for one in outcomes) == 1


def test_a_loop_that_ended_without_closing_leaves_sagas_that_say_so(tmp_path: Path) -> None:
    """A fixture that opens them in the loop of another test."""
    program, opened = Program(embedded_urls(tmp_path), SINGLE), asyncio.new_event_loop()
    context = program.open()
    try:
        opened.run_until_complete(context.__aenter__())
        with pytest.raises(ConfigurationError, match="opened in another event loop"):
            asyncio.run(asyncio.wait_for(program.sagas.run(program.saga, Order()), 10))
        opened.run_until_complete(context.__aexit__(None, None, None))
    finally:
        opened.close()


def test_a_loop_that_was_closed_with_databases_open_is_named_when_they_are_opened_again(tmp_path: Path) -> None:
    program, loop = Program(embedded_urls(tmp_path), SINGLE), asyncio.new_event_loop()
    opened = program.connected()
    try:
        loop.run_until_complete(opened.__aenter__())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "is_closed", lambda: True)  # really closed, it could not end the threads of SQLite
            with pytest.raises(ConfigurationError, match="still open in an event loop that was closed"):
                asyncio.run(nothing_in(program.connected()))
        loop.run_until_complete(opened.__aexit__(None, None, None))
    finally:
        loop.close()
    asyncio.run(nothing_in(program.connected()))


FORKED = """
import asyncio, os, sys
from polysaga import Databases, SqlDatabase
from polysaga.config import Settings, parse_settings
from polysaga.errors import ConfigurationError

shop = SqlDatabase("shop")
databases = Databases(shop, settings=parse_settings({"databases": {"shop": {"url": sys.argv[1]}}}))


async def use():
    async with shop.reader():
        pass


async def open_them():
    async with databases.open():
        await use()


def tell(work, run=asyncio.run):
    try:
        run(work())
        print("fine", flush=True)
    except ConfigurationError as error:
        print(error, flush=True)


def in_a_child():
    child = os.fork()
    if not child:
        asyncio.events._set_running_loop(None)  # the loop stays behind in the parent
        tell(use)
        tell(open_them)
        os._exit(0)
    os.waitpid(child, 0)


async def main():
    async with databases.open():
        in_a_child()


asyncio.run(main())
in_a_child()
loop = asyncio.new_event_loop()
opened = databases.open()
loop.run_until_complete(opened.__aenter__())
child = os.fork()
if not child:
    tell(use, loop.run_until_complete)
    os._exit(0)
os.waitpid(child, 0)
loop.run_until_complete(opened.__aexit__(None, None, None))
loop.close()
"""


def test_a_forked_process_is_told_to_open_databases_of_its_own(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/shop.db"
    command = [sys.executable, "-c", FORKED, url]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    use, open_them, closed, opened, in_a_copy_of_the_loop = told
    for refusal in (use, open_them, in_a_copy_of_the_loop):
        assert "opened before this process was forked" in refusal
        assert "open them in each process" in refusal
    assert "is not open" in closed
    assert opened == "fine"
