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
from uuid import uuid4

import pytest
from sqlalchemy import text

from devservers import Server
from devservers.ports import free_port
from polysaga import Databases, Retry, SqlDatabase, StepContext
from polysaga.config import SagaSettings, parse_settings
from polysaga.errors import Busy, DeadlineExceeded, OutcomePending, Refused
from polysaga.events import SagaDecided, SagaFinished, SagasLeft, StepDone, StepFailed, WorkerFailed
from polysaga.sagas.definition.identity import id_from_key
from polysaga.sagas.driving.progress import Asked
from polysaga.sagas.operations.repairs import Repairs
from polysaga.testing import settled
from tests.fixtures.left_behind import LEAVES_BEHIND
from tests.fixtures.processes import begin, next_line
from tests.fixtures.programs import LEDGER_PIVOT, PLACE_ORDER, WITH_CALLS, Gate, Order, Program, Urls, make_due
from tests.fixtures.proxy import Proxy
from tests.fixtures.servers import PostgresCluster
from tests.fixtures.services import poll_until
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import forever, reached, stubborn, until, within
from tests.integration import wedged_service
from tests.integration.test_repairs import stumble

pytestmark = LEAVES_BEHIND

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


@pytest.mark.parametrize("how", wedged_service.STARTS)
def test_a_service_asked_to_end_ends_although_its_start_hangs(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-m", "tests.integration.wedged_service", how, str(free_port()), str(tmp_path)]
    service = begin(command, stderr=subprocess.PIPE)
    try:
        assert next_line(service, "the start hangs").strip() == "inside"
        began = time.monotonic()
        service.send_signal(signal.SIGTERM)
        service.wait(30)
        seconds = time.monotonic() - began
    finally:
        service.kill()
        _, said = service.communicate(timeout=30)

    assert seconds < wedged_service.DRAIN + GRACE, said
    assert "the process was asked to end while it started" in said
    # A start that is reported as failed ends with code 3; gunicorn would end all its other workers for it.
    assert service.returncode == -signal.SIGTERM
    assert "Traceback" not in said


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


async def test_a_step_may_start_another_saga_while_its_process_closes(urls: Urls) -> None:
    """It was taken for a bug of the step: a deployment undid the saga for good."""
    leaving, staying, gate = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER), Gate()

    async def follow_up(db: Any, ctx: StepContext) -> None:
        await gate(db, ctx)
        await leaving.sagas.start(leaving.saga, Order(), key="follow-up", tx=db)

    leaving.on("credit_points", follow_up)
    opened = leaving.open(drain=30.0)
    await opened.__aenter__()
    handle = await leaving.sagas.start(leaving.saga, Order())
    await gate.reached()
    closing = asyncio.ensure_future(opened.__aexit__(None, None, None))
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="closing"):
        await leaving.sagas.start(leaving.saga, Order())
    gate.open()
    await within(closing, "the process has ended", patience=60.0)
    async with staying.open(lease=1.0):
        for saga_id in (handle.id, id_from_key("place-order", "follow-up")):
            assert (await settled(staying.sagas, saga_id, within=60)).status == "completed"


@pytest.mark.parametrize("times", [1, 3])
async def test_a_close_that_is_cancelled_hands_its_sagas_over_all_the_same(urls: Urls, times: int) -> None:
    """They went on without their databases, and no other process got them before their lease was over."""
    leaving, staying, gate = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER), Gate()
    leaving.on("credit_points", gate)
    async with leaving.connected(), staying.open(lease=1.0):
        opened = leaving.sagas.open(SagaSettings(lease=3600.0, drain=3600.0))
        await opened.__aenter__()
        handle = await leaving.sagas.start(leaving.saga, Order())
        caller = asyncio.ensure_future(handle.result())
        await gate.reached()
        runner, driving = leaving.runner, list(leaving.runner.tasks)
        closing = asyncio.ensure_future(opened.__aexit__(None, None, None))
        for _ in range(times):
            await asyncio.sleep(0)
            closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(closing, "the process has ended")
        if times == 1:
            assert all(task.done() for task in driving)
        await until(lambda: not runner.executions, "no saga goes on here")
        with pytest.raises(OutcomePending):
            await within(caller, "the caller has an answer")
        assert (await settled(staying.sagas, handle.id, within=30)).status == "completed"


async def test_no_worker_goes_on_after_a_close_that_is_cancelled_while_a_batch_ends(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving, begun, woken = Program(urls, PLACE_ORDER), asyncio.Event(), asyncio.Event()

    async def hang(*_: object, **__: object) -> None:
        begun.set()
        await stubborn(woken)

    monkeypatch.setattr(Repairs, "carry_out", hang)
    async with leaving.connected():
        before = asyncio.all_tasks()
        opened = leaving.sagas.open(SagaSettings(lease=3600.0))
        await opened.__aenter__()
        leaving.sagas.begin_batch("retry", [uuid4()], by="ada", why="the shelf is full again")
        await reached(begun, "the batch is under way")
        closing = asyncio.ensure_future(opened.__aexit__(None, None, None))
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(closing, "the process has ended")
        woken.set()
        await until(lambda: asyncio.all_tasks() <= before, "nothing goes on")


async def test_a_saga_that_waits_for_its_next_attempt_holds_up_no_end(urls: Urls) -> None:
    """Its claim is handed back: the next process need not wait for the lease."""
    leaving, staying = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    leaving.steps["record_event"].retry = Retry(within=None, first=600.0, cap=600.0)
    leaving.on("record_event", stumble)
    async with staying.open(lease=1.0):
        opened = leaving.open(lease=3600.0, drain=3600.0)
        await opened.__aenter__()
        handle = await leaving.sagas.start(leaving.saga, Order())
        await leaving.recorder.wait_for(StepFailed)
        await within(opened.__aexit__(None, None, None), "the process has ended")
        finished = await staying.recorder.wait_for(SagaFinished)
        assert (finished.saga_id, finished.status) == (handle.id, "completed")


async def test_a_saga_that_is_about_to_go_on_ends_in_the_process_that_is_asked_to_end(urls: Urls) -> None:
    leaving, failed = Program(urls, PLACE_ORDER), asyncio.Event()
    leaving.steps["record_event"].retry = Retry(within=None, first=0.5)

    async def fail_once(db: Any, ctx: StepContext) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("once")

    leaving.on("record_event", fail_once)
    async with leaving.open(lease=3600.0, drain=3600.0):
        await leaving.sagas.start(leaving.saga, Order())
        await leaving.recorder.wait_for(StepFailed)
    assert [event.status for event in leaving.recorder.of(SagaFinished)] == ["completed"]


async def test_a_step_beside_one_that_waits_for_its_next_attempt_may_end(urls: Urls) -> None:
    leaving, gate = _with_a_step_that_waits(urls), Gate()
    leaving.on("credit_points", gate)
    opened = leaving.open(lease=3600.0, drain=3600.0)
    await opened.__aenter__()
    await leaving.sagas.start(leaving.saga, Order())
    await leaving.recorder.wait_for(StepFailed)
    await gate.reached()
    end = asyncio.create_task(opened.__aexit__(None, None, None))
    await until(lambda: leaving.runner.closing, "the process is asked to end")
    assert await asyncio.wait({end}, timeout=0.3) == (set(), {end}), "three looks"
    gate.open()
    await within(end, "the process has ended")
    assert [event.step for event in leaving.recorder.of(StepDone)] == ["open_order", "credit_points"]


def _with_a_step_that_waits(urls: Urls) -> Program:
    """A program whose `reserve_stock` is late, and is tried again after minutes."""
    program = Program(urls, PLACE_ORDER)
    program.steps["reserve_stock"].retry = Retry(within=None, first=600.0, cap=600.0)

    async def be_late(db: Any, ctx: StepContext) -> None:
        raise TimeoutError  # an error that is retried

    program.on("reserve_stock", be_late)
    return program


def _outcomes(program: Program) -> list[str]:
    """Return the decisions and the ends of sagas that the program has announced."""
    return [event.status for event in program.recorder.events if isinstance(event, SagaDecided | SagaFinished)]


@pytest.mark.parametrize("turns", [0, 1, 3, 5])
async def test_a_saga_that_waits_for_an_attempt_is_cancelled_at_the_last_moment(urls: Urls, turns: int) -> None:
    """The execution hears of it some turns of the loop later than the process is asked to end."""
    leaving = _with_a_step_that_waits(urls)
    opened = leaving.open(lease=3600.0, drain=3600.0)
    await opened.__aenter__()
    handle = await leaving.sagas.start(leaving.saga, Order())
    await leaving.recorder.wait_for(StepDone, lambda event: event.step == "credit_points")
    await leaving.recorder.wait_for(StepFailed)
    cancelling = asyncio.create_task(handle.cancel())
    for _ in range(turns):
        await asyncio.sleep(0)
    await within(opened.__aexit__(None, None, None), "the process has ended")
    await within(cancelling, "the cancellation is answered")
    assert _outcomes(leaving) == ["compensating", "compensated"]


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_refusal_beside_a_step_that_waits_for_an_attempt_is_carried_out(urls: Urls, turns: int) -> None:
    leaving, failed, refused = _with_a_step_that_waits(urls), asyncio.Event(), asyncio.Event()

    async def refuse(db: Any, ctx: StepContext) -> None:
        await reached(failed, "the other step has failed")
        raise Refused("no points")

    def hear(event: object) -> None:
        if isinstance(event, StepFailed):
            (refused if event.step == "credit_points" else failed).set()

    leaving.on("credit_points", refuse)
    leaving.subscribers.append(hear)
    opened = leaving.open(lease=3600.0, drain=3600.0)
    await opened.__aenter__()
    handle = await leaving.sagas.start(leaving.saga, Order())
    caller = asyncio.create_task(handle.result())
    await reached(refused, "the step is refused")
    for _ in range(turns):
        await asyncio.sleep(0)
    await within(opened.__aexit__(None, None, None), "the process has ended")
    with pytest.raises(Refused):
        await caller
    assert _outcomes(leaving) == ["compensating", "compensated"]


async def test_a_deadline_that_is_near_passes_in_the_process_that_is_asked_to_end(urls: Urls) -> None:
    leaving = _with_a_step_that_waits(urls)
    leaving.saga.deadline = 2.0
    opened = leaving.open(lease=3600.0, drain=3600.0)
    await opened.__aenter__()
    handle = await leaving.sagas.start(leaving.saga, Order())
    caller, began = asyncio.create_task(handle.result()), time.monotonic()
    await until(lambda: time.monotonic() > began + 1.2, "the deadline is less than a second off")
    assert leaving.recorder.of(StepFailed)
    await within(opened.__aexit__(None, None, None), "the process has ended")
    with pytest.raises(DeadlineExceeded):
        await caller
    assert _outcomes(leaving) == ["compensating", "compensated"]


async def test_the_result_of_a_call_is_recorded_although_the_journal_takes_it_late(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the memory of this process only: the next one would call again."""
    leaving = Program(urls, WITH_CALLS)
    leaving.steps["charge_card"].retry = Retry(within=None, first=2.5, cap=2.5)
    opened = leaving.open(lease=3600.0, drain=3600.0)
    await opened.__aenter__()
    journal = leaving.runner.engine.journal
    record, told = journal.record_call, []

    async def fail_once(*given: Any) -> bool:
        told.append(given)
        if len(told) == 1:
            raise ConnectionError("the journal is gone")
        return await record(*given)

    monkeypatch.setattr(journal, "record_call", fail_once)
    await leaving.sagas.start(leaving.saga, Order())
    await leaving.recorder.wait_for(StepFailed)
    await within(opened.__aexit__(None, None, None), "the process has ended")
    assert _outcomes(leaving)[-1] == "completed"
    assert leaving.outside.asked["charge_card"] == 1


async def test_a_cancellation_while_the_last_round_of_the_worker_ends_is_announced(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving, inside, asked, ends = _with_a_step_that_waits(urls), asyncio.Event(), asyncio.Event(), asyncio.Event()
    opened = leaving.open(lease=3600.0, drain=3600.0)
    await opened.__aenter__()
    handle = await leaving.sagas.start(leaving.saga, Order())
    await leaving.recorder.wait_for(StepDone, lambda event: event.step == "credit_points")
    await leaving.recorder.wait_for(StepFailed)
    journal = leaving.runner.engine.journal
    compensate = journal.compensate

    async def end_slowly(*_: object, **__: object) -> Any:
        inside.set()
        try:
            await forever()
        finally:
            ends.set()
            await reached(asked, "the saga's compensation is written")

    async def answer_late(*given: Any) -> bool:
        done = await compensate(*given)
        asked.set()
        await asyncio.wait({end}, timeout=0.3)  # a process that does not look again ends meanwhile
        return done

    monkeypatch.setattr(journal, "claim", end_slowly)
    monkeypatch.setattr(journal, "compensate", answer_late)
    leaving.runner.due.set()
    await reached(inside, "the worker's round is under way")
    end = asyncio.create_task(opened.__aexit__(None, None, None))
    await reached(ends, "the worker's round is asked to end")
    cancelling = asyncio.create_task(handle.cancel())
    await within(end, "the process has ended")
    await within(cancelling, "the cancellation is answered")
    assert _outcomes(leaving) == ["compensating", "compensated"]


async def test_callers_of_a_silent_journal_have_an_answer_when_the_time_is_up(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They follow or cancel a saga that another process drives."""
    driving, leaving, gate, woken = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER), Gate(), asyncio.Event()
    driving.on("credit_points", gate)
    async with driving.open(lease=3600.0), leaving.open(lease=3600.0, drain=0.2):
        handle = await driving.sagas.start(driving.saga, Order())
        await gate.reached()
        runner = leaving.runner
        follow = runner.handle(leaving.definition, handle.id)
        with monkeypatch.context() as frozen:
            for look in ("load", "standings"):
                frozen.setattr(runner.engine.journal, look, lambda _: stubborn(woken))
            callers = [
                asyncio.create_task(follow.result()),
                asyncio.create_task(follow.cancel()),
            ]
            await asyncio.sleep(0)
            leaving.sagas.wind_down()
            done, pending = await asyncio.wait(callers, timeout=GRACE)
        woken.set()
        gate.open()
    assert not pending
    assert {type(caller.exception()) for caller in done} == {OutcomePending, Busy}


async def test_a_saga_that_is_claimed_as_the_end_begins_is_handed_back(urls: Urls) -> None:
    first, leaving, gate, other = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER), Gate(), Gate()
    first.on("credit_points", gate)
    leaving.on("credit_points", other)
    async with first.open(lease=3600.0):
        opened = leaving.open(lease=3600.0, drain=0.01)
        await opened.__aenter__()
        handle = await first.sagas.start(first.saga, Order())
        await gate.reached()
        runner = await make_due(leaving, handle.id)
        asked = Asked.now(runner.engine.clock)
        (row,) = await runner.engine.journal.claim(10)
        # The worker's claim is answered a few turns of the loop after it was asked to end.
        asyncio.get_running_loop().call_soon(runner.take_over, row, asked)
        await within(opened.__aexit__(None, None, None), "the program is closed")
        assert runner.free == runner.engine.settings.max_in_flight, "a saga goes on without its databases"
        (again,) = await first.runner.engine.journal.claim(10)
        assert (again.claim.saga_id, again.expiries) == (handle.id, 1), "it runs out instead of being handed back"
        gate.open()


async def test_a_start_that_is_written_while_its_process_ends_is_handed_over(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row named an owner that never heard of it: no process drove the saga before the lease was over."""
    leaving, staying = Program(urls, LEDGER_PIVOT), Program(urls, LEDGER_PIVOT)
    writing, ending = asyncio.Event(), asyncio.Event()
    async with leaving.connected(), staying.open(lease=1.0):
        opened = leaving.sagas.open(SagaSettings(lease=3600.0, drain=0.01))
        await opened.__aenter__()
        starts = leaving.runner.engine.starts
        write, close = starts._write, starts.close

        async def write_late(births: Any) -> Any:
            writing.set()
            await reached(ending, "the open starts are written at the end")
            return await write(births)

        async def write_all() -> None:
            ending.set()
            await close()

        monkeypatch.setattr(starts, "_write", write_late)
        monkeypatch.setattr(starts, "close", write_all)
        caller = asyncio.ensure_future(leaving.sagas.start(leaving.saga, Order(), key="k-1"))
        await reached(writing, "the start is about to be written")
        await within(opened.__aexit__(None, None, None), "the process has ended")
        with pytest.raises(OutcomePending):
            await within(caller, "the caller has an answer")
        saga_id = id_from_key("place-order", "k-1")
        assert (await settled(staying.sagas, saga_id, within=30)).status == "completed"


async def test_sagas_end_in_time_although_each_part_of_the_end_hangs(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, woken, inside = Program(urls, PLACE_ORDER), asyncio.Event(), asyncio.Event()

    async def hang(db: Any, ctx: StepContext) -> None:
        inside.set()
        await stubborn(woken)

    program.on("confirm_order", hang)
    async with program.connected():
        sagas = program.sagas.open(SagaSettings(drain=0.1))
        await sagas.__aenter__()
        await program.sagas.start(program.saga, Order())
        await reached(inside, "the step hangs")
        runner = program.runner
        stuck = list(runner.tasks)
        monkeypatch.setattr(runner.engine.journal, "hand_back", lambda _: stubborn(woken))
        for batches in (runner.engine.starts, runner.engine.finishes):
            monkeypatch.setattr(batches, "close", lambda: stubborn(woken))

        began = time.monotonic()
        await within(sagas.__aexit__(None, None, None), "the sagas are closed")
        seconds = time.monotonic() - began

        woken.set()
        await asyncio.wait(stuck, timeout=30)
    assert seconds < 0.1 + GRACE


async def test_a_call_that_outlasts_its_process_is_said_to_be_left_to_another(urls: Urls) -> None:
    program, gate = Program(urls, WITH_CALLS), Gate()
    program.on("charge_card", gate)
    async with program.open(drain=0.1):
        await program.sagas.start(program.saga, Order())
        await gate.reached()
        calling = list(program.runner.tasks)
        nodes = [handle.primary for handle in program.handles.values()]
    assert program.recorder.of(SagasLeft) == [
        SagasLeft(1, "their steps did not end in time for the end of this process")
    ]
    assert not program.recorder.of(WorkerFailed), "no round failed, and none will follow"
    gate.open()
    await asyncio.wait(calling, timeout=30)
    for node in nodes:  # what is left behind may have connected once more, to record its call
        await node.close()


async def test_claims_that_cannot_be_handed_back_are_said_to_run_out(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, gate = Program(urls, PLACE_ORDER), Gate()
    program.on("reserve_stock", gate)
    async with program.open(drain=0.1):
        await program.sagas.start(program.saga, Order())
        await gate.reached()

        async def fail(*_: Any) -> None:
            raise TimeoutError("the journal is silent")

        monkeypatch.setattr(program.runner.engine.journal, "hand_back", fail)
    (left,) = program.recorder.of(SagasLeft)
    assert (left.count, left.reason) == (
        1,
        "once their claims have run out, which could not be handed back (TimeoutError: the journal is silent)",
    )
    assert not program.recorder.of(WorkerFailed), "no round failed, and none will follow"


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_databases_with_replicas_close_in_time_although_all_servers_are_silent(
    postgres_cluster: PostgresCluster, driver: str
) -> None:
    name = f"close_{driver}"
    postgres_cluster.primary.create_database(name)
    postgres_cluster.catch_up()
    with ExitStack() as stack:
        urls = [url.replace("+asyncpg", f"+{driver}") for url in postgres_cluster.urls(name)]
        proxies = [stack.enter_context(Proxy.to(url)) for url in urls]
        primary, *replicas = [proxy.url for proxy in proxies]
        handles = [SqlDatabase(name) for name in ("orders", "points", "items")]
        one = {"url": primary, "replicas": replicas}
        opened = Databases(*handles).open(parse_settings({"databases": {handle.name: one for handle in handles}}))
        await opened.__aenter__()
        for handle in handles:
            for lend in (handle.reader, handle.writer):
                async with lend() as db:
                    await db.execute(text("SELECT 1"))
        for proxy in proxies:
            proxy.hang()
        began = time.monotonic()
        await within(opened.__aexit__(None, None, None), "the databases are closed")
        seconds = time.monotonic() - began
        for proxy in proxies:
            proxy.reset()
    assert seconds < GRACE
