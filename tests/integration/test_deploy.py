"""The Grafana board and the alerts: each metric in them exists and moves, each alert has its runbook."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from polysaga import MongoSession, StepContext
from polysaga.errors import NeedsAttention, Refused, TryAgain
from polysaga.events import ClaimLost, PrimaryChanged, SagaFinished, SagaNotKnown, WorkerFailed
from polysaga.sagas.participants.outboxes import Waiting
from polysaga.telemetry.prometheus import Metrics
from tests.fixtures.notes import Notes, settings_of
from tests.fixtures.programs import PLACE_ORDER, QUICK, Order, Program, Urls, take_over
from tests.fixtures.scrapes import Scrape
from tests.fixtures.servers import PostgresCluster
from tests.fixtures.waiting import forever, reached, until, within

ROOT = Path(__file__).parents[2]
DEPLOY, GUIDES = ROOT / "deploy" / "grafana", ROOT / "docs" / "guides"
RULES, BOARD = (DEPLOY / "alerts.yml").read_text(), (DEPLOY / "polysaga.json").read_text()
NAMED = set(re.findall(r"\bpolysaga_[a-z_]+", RULES + BOARD))
# What only a database with replicas has.
ROUTED = {name for name in NAMED if re.match("polysaga_(node|reads|bookmark|breaker|database|primary)", name)}


def names_of(metrics: Metrics) -> set[str]:
    """Return the names of all metrics, without the suffixes of their samples."""
    return {family.name for family in metrics.registry.collect() if family.name.startswith("polysaga_")}


def unopened() -> Metrics:
    program = Program({"orders": "", "inventory": "", "points": ""}, PLACE_ORDER)
    return Metrics(program.databases, program.sagas, registry=CollectorRegistry())


def without_suffix(name: str) -> str:
    return re.sub("_(total|bucket|count|sum)$", "", name)


def test_every_metric_that_is_named_exists() -> None:
    assert len(NAMED) > 30, "the test sees nothing"
    assert {without_suffix(name) for name in NAMED} - names_of(unopened()) == set()


def test_the_guide_lists_every_metric_and_no_other() -> None:
    listed = set(re.findall(r"^\| `(polysaga_[a-z_]+)`", (GUIDES / "metrics.md").read_text(), re.MULTILINE))
    assert {without_suffix(name) for name in listed} == names_of(unopened())


def test_every_alert_has_its_runbook() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES)
    links = re.findall(r"runbook_url: docs/guides/alerts\.md#(\w+)", RULES)
    assert links == [name.lower() for name in alerts]
    sections = re.findall(r"^## (\w+)$", (GUIDES / "alerts.md").read_text(), re.MULTILINE)
    assert sections == alerts


def test_the_board_is_one_that_grafana_reads() -> None:
    board: dict[str, Any] = json.loads(BOARD)
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
        for target in panel["targets"]:
            assert 'job=~"$job"' in target["expr"]


@pytest.mark.parametrize("command", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_promtool_finds_nothing_wrong(command: list[str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        told = "promtool is missing: run `make setup-servers`, or install Prometheus"
        pytest.fail(told) if os.environ.get("CI") == "true" else pytest.skip(told)
    ended = subprocess.run(
        [promtool, *command], cwd=DEPLOY, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


async def fail(db: object, ctx: StepContext) -> None:
    raise RuntimeError("the printer is on fire")


async def fail_once(db: object, ctx: StepContext) -> None:
    if ctx.attempt == 1:
        raise TryAgain("the printer is out of paper")


async def refuse(db: object, ctx: StepContext) -> None:
    raise Refused("nothing is left")


class Load:
    """A program, its metrics, and the names that have moved since the beginning."""

    def __init__(self, urls: Urls) -> None:
        self.program = Program(urls, PLACE_ORDER)
        self.metrics = Metrics(
            self.program.databases, self.program.sagas, registry=CollectorRegistry(), every=0.02
        )
        self.program.subscribers.append(self.metrics)
        self.program.steps["confirm_order"].retry = QUICK
        self.program.steps["credit_points"].undo_retry = QUICK
        self._before = Scrape(self.metrics)
        self.moved: set[str] = set()

    def look(self) -> None:
        self.moved |= Scrape(self.metrics).moved(self._before)

    async def run(self, ends: type[Exception] | None = None) -> None:
        handle = await self.program.sagas.start(self.program.saga, Order())
        if ends is None:
            await handle.result(30)
            await self.program.recorder.wait_for(SagaFinished, lambda event: event.saga_id == handle.id)
            return
        with pytest.raises(ends):
            await handle.result(30)

    async def hang(self) -> None:
        """Take over a saga while its step hangs, and let its claim have run out without another owner."""
        program, inside = self.program, asyncio.Event()

        async def stay(db: object, ctx: StepContext) -> None:
            inside.set()
            await forever()

        program.on("confirm_order", stay)
        handle = await program.sagas.start(program.saga, Order())
        await reached(inside, "the step runs")
        self.look()  # in flight, inside of the database
        inside.clear()
        await take_over(program, handle.id)
        await reached(inside, "the step runs anew")
        node = program.runner.engine.journal.node
        overdue = node.dialect.render(
            f"UPDATE polysaga_journal SET wake_at = {node.dialect.ago('3600')} WHERE id = :id"
        )
        async with node.writer.begin() as connection:
            await connection.exec_driver_sql(overdue.sql, overdue.bind({"id": node.dialect.key(handle.id)}))
        await until(lambda: Scrape(self.metrics).value("sagas_overdue") > 0, "the saga counts as overdue")

    async def park_a_start(self) -> None:
        outbox = self.program.runner.engine.participants["points"].outbox
        for parked in (False, True):
            waiting = Waiting(uuid4(), "place-order", "{}")
            async with self.program.handles["points"].writer() as db:
                assert not isinstance(db, MongoSession)
                await outbox.put(db, waiting)
            if parked:
                await outbox.park(waiting.saga_id, "its key stands for another input")
        await until(lambda: Scrape(self.metrics).value("outbox_parked") > 0, "the start is counted")
        await until(lambda: Scrape(self.metrics).value("outbox_oldest_seconds") > 0, "the other waits")

    async def crowd(self) -> None:
        """Wait for a connection, and for room in a database."""
        gate = self.program.sagas.gates["inventory"]
        for _ in range(gate.limit):
            await gate.enter()
        waiting = asyncio.create_task(gate.enter())
        await until(lambda: gate.waiting == 1, "a step waits")
        self.look()
        for _ in range(gate.limit + 1):
            gate.leave(None, None)
        await within(waiting, "the step has room")
        handle = self.program.handles["points"]

        async def read() -> None:
            async with handle.reader() as db:
                assert not isinstance(db, MongoSession)
                await db.execute(text("SELECT 1"))

        async with handle.reader() as db:
            assert not isinstance(db, MongoSession)
            await db.execute(text("SELECT 1"))
            second = asyncio.create_task(read())
            await until(lambda: Scrape(self.metrics).value("pool_waiting") == 1, "a caller waits")
            self.look()
        await within(second, "the caller is served")


async def test_every_metric_of_sagas_moves_under_load(urls: Urls) -> None:
    load = Load(urls)
    program = load.program
    program.pool |= {"size": 1, "max_overflow": 0}
    async with program.open(lease=600.0), load.metrics.reading():
        program.on("credit_points", fail_once)  # its patience is long: a slow attempt does not use it up
        await load.run()
        program.on("confirm_order", refuse)
        await load.run(Refused)
        program.on("undo:credit_points", fail)
        await load.run(NeedsAttention)
        await load.park_a_start()
        await load.crowd()
        load.metrics.verified(await program.sagas.verify())
        load.look()
        await load.hang()
        # What happens to processes that are frozen, or of another version.
        load.metrics(ClaimLost(uuid4(), "place-order", 1))
        load.metrics(SagaNotKnown(uuid4(), "place-order", 2))
        load.metrics(WorkerFailed("the journal does not answer"))
        load.look()
    assert NAMED - ROUTED - load.moved == set()


async def test_every_metric_of_routing_moves_under_load(postgres_cluster: PostgresCluster) -> None:
    name = f"deploy_{uuid4().hex}"
    postgres_cluster.primary.create_database(name)
    await asyncio.to_thread(postgres_cluster.catch_up)
    notes = Notes()
    metrics = Metrics(notes.databases, registry=CollectorRegistry())
    notes.subscribers.append(metrics)
    before = Scrape(metrics)
    async with notes.open(settings_of(postgres_cluster.urls(name))):
        await asyncio.to_thread(postgres_cluster.catch_up)
        for replica in postgres_cluster.replicas:
            await asyncio.to_thread(replica.pause)
        browser = notes.browser()
        assert (await browser.put(1, 1)).status_code == 204
        assert await browser.get(1) == 1
        for _ in range(3):
            notes.router.failed(1)
        metrics(PrimaryChanged("notes", "b", 2, "a"))
        assert ROUTED - Scrape(metrics).moved(before) == set()
