"""A process that is asked to end does, whatever drivers, servers and steps do, and its callers have an answer."""

import asyncio
import gc
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from devservers import Server
from devservers.ports import free_port
from polysaga.errors import Busy, OutcomePending
from tests.fixtures.processes import begin, next_line
from tests.fixtures.programs import PLACE_ORDER, Gate, Order, Program, Urls
from tests.fixtures.proxy import Proxy
from tests.fixtures.services import poll_until
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import within
from tests.integration import wedged_service

GRACE = 5.0  # seconds after `sagas.drain`


@pytest.mark.parametrize("how", wedged_service.WAYS)
def test_a_service_asked_to_end_ends_although_a_step_hangs(tmp_path: Path, how: str) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tests.integration.wedged_service", how, str(port), str(tmp_path)]
    service = begin(command, stderr=subprocess.PIPE)
    try:
        with ThreadPoolExecutor(1) as caller:
            answer = caller.submit(_call, port)
            assert next_line(service, "the step hangs").strip() == "inside"
            began = time.monotonic()
            service.send_signal(signal.SIGTERM)
            status, headers, body = answer.result(30)
            service.wait(30)
            seconds = time.monotonic() - began
    finally:
        service.kill()
        _, said = service.communicate(timeout=30)

    assert seconds < wedged_service.DRAIN + GRACE, said
    assert (status, headers["Retry-After"], body["title"]) == (503, "1", "Outcome pending"), body


def _call(port: int) -> tuple[int, Any, dict[str, Any]]:
    poll_until(lambda: _listens(port), f"the service on port {port} listens", patience=30)
    request = urllib.request.Request(f"http://127.0.0.1:{port}/hang", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    return refused.value.code, refused.value.headers, json.load(refused.value)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=["asyncpg", "psycopg"])
def proxies(
    request: pytest.FixtureRequest, postgres_server: Server, mariadb_server: Server, mongo_server: Server
) -> Iterator[dict[str, Proxy]]:
    """Proxies to a fresh database of each server, by the program's names for them."""
    servers = {"orders": postgres_server, "inventory": mongo_server, "points": mariadb_server}
    with ExitStack() as stack:
        found = {}
        for name, server in servers.items():
            database = f"test_ends_{request.param}"
            server.create_database(database)
            stack.callback(server.drop_database, database)
            url = server.url(database).replace("+asyncpg", f"+{request.param}")
            found[name] = stack.enter_context(Proxy.to(url))
        yield found
        for proxy in found.values():
            proxy.reset()
    gc.collect()  # what was left behind, so that no later test is blamed for it


async def test_a_program_closes_in_time_although_every_server_is_silent(proxies: dict[str, Proxy]) -> None:
    before = asyncio.all_tasks()
    program = Program({name: proxy.url for name, proxy in proxies.items()}, PLACE_ORDER)
    opened = program.open(drain=0.5)
    await opened.__aenter__()
    gate = Gate()
    program.on("confirm_order", gate)
    first = await program.sagas.start(program.saga, Order())
    await gate.reached()
    for proxy in proxies.values():
        proxy.hang()
    gate.open()
    others = [asyncio.create_task(program.sagas.run(program.saga, Order())) for _ in range(3)]
    await asyncio.wait(others, timeout=0.2)  # they wait for a server by now

    began = time.monotonic()
    await within(opened.__aexit__(None, None, None), "the program is closed")
    seconds = time.monotonic() - began

    assert seconds < 0.5 + GRACE
    for one in (asyncio.ensure_future(first.result()), *others):
        with pytest.raises(Exception):  # noqa: B017, PT011 - any answer is one, none is not
            await within(one, "a caller has an answer")
    left = {task for task in asyncio.all_tasks() - before - {asyncio.current_task()} if not _own_end(task)}
    assert not left, "the end of the loop would wait for them"


def _own_end(task: "asyncio.Task[Any]") -> bool:
    """Tell whether the end of the loop ends the task by itself: it has not been asked to yet."""
    return not task.cancelling()


async def test_a_caller_in_a_process_that_ends_gets_an_answer(urls: Urls) -> None:
    leaving, staying = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    gate = Gate()
    leaving.on("credit_points", gate)
    async with staying.open(lease=1.0), leaving.open(lease=3600.0, drain=0.2):
        handle = await leaving.sagas.start(leaving.saga, Order())
        await gate.reached()
        leaving.sagas.wind_down()
        with pytest.raises(OutcomePending):
            await within(handle.result(), "the caller has an answer")
        with pytest.raises(Busy):
            await leaving.sagas.start(leaving.saga, Order())
