"""The metrics as Prometheus reads them: what programs do shows, and a scrape asks no database."""

import asyncio
import collections
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import text

from polysaga import MongoSession, StepContext
from polysaga.errors import ConfigurationError, NeedsAttention, Refused
from polysaga.events import SagaFinished, SagaNotKnown, StartParked, StepFailed
from polysaga.fastapi.metrics import metrics_routes
from polysaga.telemetry.prometheus import Metrics
from tests.fixtures.notes import Notes, settings_of, until_replicas_are_known
from tests.fixtures.processes import next_line
from tests.fixtures.programs import PLACE_ORDER, QUICK, Order, Program, Urls
from tests.fixtures.scrapes import Scrape
from tests.fixtures.servers import PostgresCluster
from tests.fixtures.waiting import until, within


def measured(urls: Urls, **more: Any) -> tuple[Program, Metrics]:
    program = Program(urls, PLACE_ORDER)
    metrics = Metrics(program.databases, program.sagas, registry=CollectorRegistry(), every=0.02, **more)
    program.subscribers.append(metrics)
    program.steps["confirm_order"].retry = QUICK
    program.steps["credit_points"].undo_retry = QUICK
    return program, metrics


async def fail(db: object, ctx: StepContext) -> None:
    raise RuntimeError("the printer is on fire")


async def refuse(db: object, ctx: StepContext) -> None:
    raise Refused("nothing is left")


async def fail_once(db: object, ctx: StepContext) -> None:
    if ctx.attempt == 1:
        raise RuntimeError("the printer is on fire")


async def run(program: Program, count: int = 1) -> None:
    for _ in range(count):
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        await program.recorder.wait_for(SagaFinished, lambda event, saga=handle.id: event.saga_id == saga)


async def test_sagas_and_steps_are_counted_and_timed(urls: Urls) -> None:
    program, metrics = measured(urls)
    async with program.open():
        await run(program, 3)
        program.on("confirm_order", refuse)
        with pytest.raises(Refused):
            await run(program)
        await program.recorder.wait_for(SagaFinished, lambda event: event.status == "compensated")
    found = Scrape(metrics)
    assert found.value("sagas_started_total", saga="place-order") == 4
    assert found.value("sagas_finished_total", saga="place-order", status="completed") == 3
    assert found.value("sagas_duration_seconds_count", status="compensated") == 1
    assert found.value("sagas_duration_seconds_sum", status="completed") > 0
    steps = {"saga": "place-order", "step": "confirm_order", "phase": "do"}
    assert found.value("steps_seconds_count", **steps, outcome="done") == 3
    assert found.value("steps_seconds_count", **steps, outcome="refused") == 1
    assert found.value("steps_seconds_sum", **steps, outcome="done") > 0
    assert found.value("steps_seconds_count", step="credit_points", phase="undo", outcome="done") == 1
    assert found.value("steps_seconds_sum", step="credit_points", phase="undo") > 0
    assert math.isnan(found.value("step_failures_total"))
    assert found.value("journal_batch_size_sum", what="finishes") > 0


async def test_retries_and_failures_are_counted_by_their_fault(urls: Urls) -> None:
    program, metrics = measured(urls)
    program.on("record_event", fail_once)
    async with program.open():
        await run(program)
    found = Scrape(metrics)
    labels = {"step": "record_event", "phase": "do"}
    assert found.value("step_failures_total", **labels, fault="error") == 1
    assert found.value("step_retries_total", **labels) == 1
    assert found.value("steps_seconds_count", **labels, outcome="failed") == 1


async def test_parked_sagas_are_counted_in_the_journal(urls: Urls) -> None:
    program, metrics = measured(urls)
    async with program.open(), metrics.reading():
        await until(lambda: Scrape(metrics).value("journal_reader") == 1, "the process is the reader")
        parked = {"saga": "place-order", "status": "needs_attention"}
        # Nought, and not absent: an alert must be able to end.
        assert Scrape(metrics).value("sagas_unfinished", **parked) == 0
        program.on("confirm_order", fail)
        program.on("undo:credit_points", fail)
        with pytest.raises(NeedsAttention):
            await run(program)
        await until(lambda: Scrape(metrics).value("sagas_unfinished", **parked) == 1, "the parked saga is counted")
        found = Scrape(metrics)
        assert found.value("sagas_oldest_seconds", status="needs_attention") > 0
        assert found.value("sagas_parked_total", saga="place-order") == 1
        assert found.value("sagas_overdue") == 0


async def test_a_process_that_does_not_count_shows_no_counts(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    program, metrics = measured(urls)
    async with program.open():
        counting, elected = program.sagas.census(), True
        monkeypatch.setattr(program.sagas, "census", lambda: counting)

        async def vote() -> bool:
            return elected

        monkeypatch.setattr(counting, "elected", vote)
        async with metrics.reading():
            await until(lambda: Scrape(metrics).value("journal_reader") == 1, "the process counts")
            assert Scrape(metrics).value("sagas_unfinished") == 0
            elected = False
            await until(lambda: Scrape(metrics).value("journal_reader") == 0, "another process counts")
            assert math.isnan(Scrape(metrics).value("sagas_unfinished"))


async def test_a_process_without_metrics_never_takes_the_place_of_the_one_that_counts(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The one with the least id counts, which is chance; here it is that of a worker without metrics.
    ids = iter([UUID(int=1), UUID(int=2)])
    monkeypatch.setattr("polysaga.sagas.process.pulse.uuid4", lambda: next(ids))
    monkeypatch.setattr("polysaga.sagas.process.pulse.BEAT", 0.05)
    worker = Program(urls, PLACE_ORDER)
    service, metrics = measured(urls)

    async def both_are_there() -> bool:
        return len((await service.sagas.inspector().activity()).processes) == 2

    async with worker.open(), service.open(), metrics.reading():
        await until(both_are_there, "both have said that they are there")
        before = Scrape(metrics).value("journal_read_timestamp_seconds")
        await until(
            lambda: Scrape(metrics).value("journal_read_timestamp_seconds") > before, "the service counts again"
        )
        assert Scrape(metrics).value("journal_reader") == 1


async def test_a_count_that_fails_is_told_and_repeated(
    urls: Urls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program, metrics = measured(urls)
    async with program.open():
        counting = program.sagas.census()
        monkeypatch.setattr(program.sagas, "census", lambda: counting)

        async def down() -> bool:
            raise TimeoutError

        with monkeypatch.context() as broken:
            broken.setattr(counting, "elected", down)
            async with metrics.reading():
                await until(lambda: Scrape(metrics).value("journal_read_failures_total") > 1, "it tries again")
        assert "counting unfinished sagas for metrics failed, again in 0.02 s: TimeoutError" in caplog.messages
        async with metrics.reading():
            await until(lambda: Scrape(metrics).value("journal_reader") == 1, "it counts again")


async def test_a_scrape_asks_no_database(urls: Urls) -> None:
    program, metrics = measured(urls)
    async with program.open():
        await run(program)
        nodes = [node for handle in program.databases for node in handle.nodes]
        used = [[(use.in_use, use.waits) for use in node.pools] for node in nodes]
        metrics.exposition()  # it is no coroutine: nothing can be awaited in it
        assert [[(use.in_use, use.waits) for use in node.pools] for node in nodes] == used


async def test_a_caller_that_waits_for_a_connection_shows(urls: Urls) -> None:
    program, metrics = measured(urls)
    program.pool |= {"size": 1, "max_overflow": 0}
    async with program.open():
        handle = program.handles["orders"]
        async with handle.reader() as first:
            assert not isinstance(first, MongoSession)
            await first.execute(text("SELECT 1"))
            assert Scrape(metrics).value("pool_in_use", database="orders", pool="reader") == 1

            async def second() -> None:
                async with handle.reader() as db:
                    assert not isinstance(db, MongoSession)
                    await db.execute(text("SELECT 1"))

            waiting = asyncio.create_task(second())
            labels = {"database": "orders", "pool": "reader"}
            await until(lambda: Scrape(metrics).value("pool_waiting", **labels) == 1, "a caller waits")
            await first.close()
            await within(waiting, "the second caller is served")
        found = Scrape(metrics)
        assert found.value("pool_waits_total", **labels) == 1
        assert found.value("pool_wait_seconds_total", **labels) > 0


def test_names_of_other_programs_are_bounded(tmp_path: Any) -> None:
    program = Program({"orders": "", "inventory": "", "points": ""}, PLACE_ORDER)
    metrics = Metrics(program.databases, program.sagas, registry=CollectorRegistry(), limit=3)
    for number in range(10):
        metrics(SagaNotKnown(uuid4(), f"saga-{number}", 1))
        for step in range(200):
            metrics(StepFailed(uuid4(), "place-order", f"step-{number}-{step}", "orders", 1, "error", "no"))
    metrics(SagaNotKnown(uuid4(), "place-order", 2))
    found = Scrape(metrics)
    assert found.value("sagas_not_known_total", saga="other") == 7
    assert found.value("sagas_not_known_total", saga="place-order") == 1
    assert found.value("step_failures_total", step="other") == 2000 - 20 * (3 + 1)


def test_no_id_and_no_text_becomes_a_label() -> None:
    program = Program({"orders": "", "inventory": "", "points": ""}, PLACE_ORDER)
    metrics = Metrics(program.databases, program.sagas, registry=CollectorRegistry())
    secret = uuid4()
    metrics(StepFailed(secret, "place-order", "open_order", "orders", 1, "error", "a@b.c is taken"))
    metrics(StartParked(secret, "place-order", "points", "a@b.c is taken"))
    body = metrics.exposition()[0].decode()
    assert str(secret) not in body
    assert "a@b.c" not in body


def test_a_registry_takes_the_metrics_once_and_keeps_those_of_others() -> None:
    program = Program({"orders": "", "inventory": "", "points": ""}, PLACE_ORDER)
    registry = CollectorRegistry()
    Counter("visits", "Visits", registry=registry).inc()
    metrics = Metrics(program.databases, program.sagas, registry=registry)
    with pytest.raises(ConfigurationError, match="make one Metrics in a process"):
        Metrics(program.databases, program.sagas, registry=registry)
    assert "visits_total 1.0" in metrics.exposition()[0].decode()


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text; version=1.0.0",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ],
)
async def test_the_route_answers_in_the_format_that_is_asked_for(
    urls: Urls, accept: str, content_type: str
) -> None:
    program, metrics = measured(urls)
    app = FastAPI()
    app.include_router(metrics_routes(metrics))
    async with program.open(), app.router.lifespan_context(app):
        await run(program)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://shop") as client:
            answer = await client.get("/metrics", headers={"Accept": accept})
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith(content_type)
            assert 'polysaga_sagas_started_total{saga="place-order"} 1.0' in answer.text
            # The lifespan of the application counts in the journal.
            await until(lambda: Scrape(metrics).value("journal_reader") == 1, "the process is the reader")
            assert (await client.head("/metrics")).status_code == 200


async def test_replicas_show_where_reads_went_and_how_late_they_are(postgres_cluster: PostgresCluster) -> None:
    name = f"metrics_{uuid4().hex}"
    postgres_cluster.primary.create_database(name)
    await asyncio.to_thread(postgres_cluster.catch_up)
    notes = Notes()
    metrics = Metrics(notes.databases, registry=CollectorRegistry())
    notes.subscribers.append(metrics)
    # A read that waits no longer than the default, 30 ms, goes to the primary on a busy machine.
    async with notes.open(settings_of(postgres_cluster.urls(name), wait=5.0)):
        await until_replicas_are_known(notes.router)
        before = Scrape(metrics)
        browser = notes.browser()
        assert (await browser.put(1, 1)).status_code == 204

        async def a_replica_answers() -> bool:
            """A process that has stood still for a second knows no fresh replica, and reads on the primary."""
            assert await browser.get(1) == 1
            return "replica" in browser.went[-1].partition(";")[0]

        await until(a_replica_answers, "a replica answers")
        for replica in postgres_cluster.replicas:
            await asyncio.to_thread(replica.pause)
        assert (await browser.put(1, 2)).status_code == 204
        assert await browser.get(1) == 2
        found = Scrape(metrics)
        assert found.value("node_up", database="notes") == 3
        assert found.value("node_is_primary", database="notes") == 1
        assert found.value("database_has_primary", database="notes") == 1
        assert found.value("breaker_open", database="notes") == 0
        told = collections.Counter(re.findall("reason=([a-z-]+)", " ".join(browser.went)))
        assert browser.went[-1].startswith("notes=primary;reason=no-replica")
        assert found.value("reads_total", database="notes") == len(browser.went) == told.total()
        assert {reason: found.value("reads_total", reason=reason) for reason in told} == told
        assert found.value("bookmark_wait_seconds_count", database="notes") >= 1
        assert found.value("pool_in_use", database="notes", node="primary", pool="writer") == 0
        assert {"polysaga_reads_total", "polysaga_node_lag_seconds"} <= found.moved(before)
        postgres_cluster.replicas[0].freeze()
        await until(lambda: Scrape(metrics).value("node_up", database="notes") == 2, "a frozen node is down")
        postgres_cluster.replicas[0].thaw()


WORKER = """
import asyncio, json, sys

from polysaga.events import SagaFinished, WorkerTicked
from polysaga.telemetry.prometheus import Metrics
from tests.fixtures.programs import PLACE_ORDER, Order, Program
from tests.fixtures.setups import MigratedUrls

async def work() -> None:
    program = Program(MigratedUrls(json.loads(sys.argv[1])), PLACE_ORDER)
    metrics = Metrics(program.databases, program.sagas, every=0.02)
    program.subscribers.append(metrics)
    async with program.open(), metrics.reading():
        handle = await program.sagas.start(program.saga, Order())
        await handle.result(30)
        await program.recorder.wait_for(SagaFinished)
        sys.stdout.write("ready\\n")
        sys.stdout.flush()
        while await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(json.dumps(metrics.exposition()[0].decode()) + "\\n")
            sys.stdout.flush()

asyncio.run(work())
"""


def test_several_workers_behind_one_port_answer_for_all(urls: Urls, tmp_path: Path) -> None:
    shared = tmp_path / "metrics"
    shared.mkdir()
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(shared)}
    command = [sys.executable, "-W", "error", "-c", WORKER, json.dumps(dict(urls))]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    try:
        for worker in workers:
            assert next_line(worker, "the worker is ready") == "ready\n"
        _, found = scraped(workers[0]), scraped(workers[1])
        assert found.value("sagas_started_total", saga="place-order") == 2
        assert found.value("sagas_duration_seconds_count", saga="place-order") == 2
        assert found.value("pool_size", database="orders", pool="writer") > 0
        assert found.value("journal_reader") >= 1
        assert found.value("sagas_unfinished", saga="place-order", status="needs_attention") == 0

        workers[0].kill()
        workers[0].wait(timeout=30)
        left = scraped(workers[1])
        size = {"database": "orders", "pool": "writer"}
        assert left.value("pool_size", **size) == found.value("pool_size", **size) / 2, "one worker is left"
        assert left.value("sagas_started_total", saga="place-order") == 2, "what both have counted stays"
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate(timeout=30)


def scraped(worker: "subprocess.Popen[str]") -> "Scrape":
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    return Scrape.of(json.loads(next_line(worker, "the worker shows its metrics")))
