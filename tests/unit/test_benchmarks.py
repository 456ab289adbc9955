"""The pure parts of the benchmarks: ratios of neighbours, quantiles, packets, coordination, the page's figures."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import packets, processors, tables
from benchmarks.bursts import Burst, Spread, Turns, take_turns
from benchmarks.plain import PlainCoordinator
from benchmarks.side import Side, Told, burst, quantile
from orders.errors import OutOfStock
from polysaga import Saga, SqlDatabase, StepContext

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "performance.md"


def one(throughput: float) -> Burst:
    return Burst(Told(count=round(throughput * 10), seconds=10, p50=0.5, p99=0.9, cpu=2.0), {"PostgreSQL": 1.0})


def test_a_burst_is_compared_with_its_two_neighbours_only() -> None:
    turns = Turns(16, [("b", one(100)), ("a", one(60)), ("b", one(20)), ("a", one(30)), ("b", one(40))])

    assert turns.ratios("a", "b")["throughput"] == Spread.of([60 / 60, 30 / 30])


def test_a_burst_without_a_neighbour_on_each_side_is_left_out() -> None:
    turns = Turns(1, [("a", one(500)), ("b", one(10)), ("a", one(30)), ("b", one(20))])

    assert turns.ratios("a", "b")["throughput"].median == 2.0


def test_processor_time_is_milliseconds_a_saga() -> None:
    figures = one(100).figures

    assert (figures["client_cpu_ms"], figures["server_cpu_ms"], figures["cpu_ms"]) == (2.0, 1.0, 3.0)


def test_unknown_processor_time_of_servers_gives_no_ratio() -> None:
    def unknown() -> Burst:
        return Burst(one(100).told, {})

    assert "server_cpu_ms" not in Turns(1, [("b", unknown()), ("a", one(1)), ("b", unknown())]).ratios("a", "b")


@pytest.mark.parametrize("names", [["plain", "ours"], ["plain", "ours", "dbos"]])
def test_every_burst_of_ours_has_a_neighbour_on_both_sides(names: list[str]) -> None:
    asked: list[str] = []

    class Asked:
        def __init__(self, name: str) -> None:
            self.name = name

        def burst(self, concurrency: int, seconds: float, refuse_every: int = 0) -> Burst:
            asked.append(self.name)
            return one(100)

    turns = take_turns({name: Asked(name) for name in names}, concurrency=1, rounds=3, seconds=1.0)

    assert asked[: len(names)] == names  # the first of each is not counted
    stored = turns.to_json([("ours", "plain")])
    assert stored["ratios"]["ours / plain"]["throughput"] == [1.0, 1.0, 1.0]
    assert sum(burst["side"] == "ours" for burst in stored["bursts"]) >= 3


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_a_quantile_is_one_of_the_values(share: float, expected: int) -> None:
    assert quantile([float(value) for value in range(1, 101)], share) == expected


async def test_every_so_manieth_saga_is_one_that_is_refused() -> None:
    refused: list[int] = []
    ran: list[int] = []

    async def once() -> None:
        ran.append(0)
        await asyncio.sleep(0)

    async def refuse() -> None:
        refused.append(len(ran) + len(refused) + 1)
        await asyncio.sleep(0)

    told = await burst(Side(once, refuse), concurrency=1, seconds=0.02, refuse_every=10)

    assert told.count == len(ran) + len(refused)
    assert refused == list(range(10, told.count + 1, 10))


def test_a_packet_is_counted_when_it_carries_data() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        accepted, _ = server.accept()
        with accepted:
            before = packets.sent()
            for _ in range(3):
                client.sendall(b"question")
                assert accepted.recv(100) == b"question"
            client.send(b"held back ", socket.MSG_MORE)
            client.sendall(b"and sent with this")
            assert packets.between(before, packets.sent()) == 4


def test_a_connection_that_was_closed_meanwhile_is_an_error() -> None:
    with pytest.raises(packets.ConnectionClosed, match="1 connections"):
        packets.between({1: 5, 2: 7}, {2: 9})


def test_processor_time_of_a_process_includes_its_ended_threads() -> None:
    before = processors.used(os.getpid())
    thread = threading.Thread(target=lambda: sum(range(2_000_000)))
    thread.start()
    thread.join(60)

    assert processors.used(os.getpid()) > before
    assert processors.resident(os.getpid()) > 2**20


def test_a_thread_that_ends_meanwhile_does_not_hide_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [*found(path), str(2**22 + 1)])
    assert processors.used(os.getpid()) > 0
    assert processors.resident(os.getpid()) > 2**20


def test_a_process_that_is_gone_used_nothing() -> None:
    assert processors.used(2**22 + 1) == processors.resident(2**22 + 1) == 0


shop = SqlDatabase("shop")
buy = Saga("buy", input=int, output=int, refusals=[OutOfStock])
Trail = list[str]


@buy.step(shop)
async def opened(db: Any, number: int, ctx: StepContext) -> None:
    db.append("open")


@opened.compensation
async def reject(db: Any, number: int, done: None, ctx: StepContext) -> None:
    db.append("reject")


@buy.step(shop, after=[opened])
async def take(db: Any, number: int, ctx: StepContext) -> None:
    if number < 0:
        raise OutOfStock("p", wanted=1, left=0)
    db.append("take")


@take.compensation
async def give_back(db: Any, number: int, done: None, ctx: StepContext) -> None:
    db.append("give back")


@buy.step(shop, after=[opened])
async def credit(db: Any, number: int, ctx: StepContext) -> None:
    db.append("credit")


@credit.compensation
async def uncredit(db: Any, number: int, done: None, ctx: StepContext) -> None:
    db.append("uncredit")


@buy.step(shop, after=[take, credit], kind="pivot")
async def confirm(db: Any, number: int, ctx: StepContext) -> int:
    db.append("confirm")
    return number


def coordinator(trail: Trail, *, side_by_side: bool) -> PlainCoordinator:
    @asynccontextmanager
    async def begin() -> AsyncIterator[Trail]:
        yield trail

    return PlainCoordinator(buy, {"shop": begin}, side_by_side=side_by_side)


@pytest.mark.parametrize("side_by_side", [False, True])
async def test_the_plain_coordinator_runs_each_step_once(side_by_side: bool) -> None:
    trail: Trail = []

    assert await coordinator(trail, side_by_side=side_by_side).run(7) == 7
    assert sorted(trail) == ["confirm", "credit", "open", "take"]
    assert (trail[0], trail[-1]) == ("open", "confirm")


async def test_the_plain_coordinator_undoes_branches_that_ended_beside_a_refusal() -> None:
    trail: Trail = []

    with pytest.raises(OutOfStock):
        await coordinator(trail, side_by_side=True).run(-1)
    assert trail == ["open", "credit", "uncredit", "reject"]


def result() -> dict[str, Any]:
    turns = [
        take_turns({"plain": Steady(), "ours": Steady()}, concurrency=c, rounds=2, seconds=1).to_json(
            [("ours", "plain")]
        )
        for c in (1, 16)
    ]
    machine = {"processor": "Quick", "processors": 2, "memory": "4194304 kB", "kernel": "6", "load": [0.5, 0, 0]}
    about = {"at": "2026-11-28T10:00:00", "commit": "abcdef1234567", "changed": False, "short": False}
    servers = ["PostgreSQL 18"]
    took_over: Mapping[str, Any] = dict.fromkeys(
        (
            "in_flight",
            "lease_seconds",
            "seconds_until_they_are_up",
            "seconds_until_half_are_at_rest",
            "seconds_until_all_are_at_rest",
            "claims_lost",
            "sagas_claimed_twice",
            "effects_missing",
        ),
        1000,
    )
    recovery = {"sagas_claimed_by_each": [30, 31], "effects_doubled": 0}
    counts: Mapping[str, Any] = {
        "ours": {"packets": 16.0},
        "plain": {"packets": 15, "commits": 5, "statements": 15},
    }
    return {
        "about": about | {"machine": machine, "versions": {"python": "3.11"}},
        "parts": {
            "plain": {"servers": servers, "turns": turns, "on_connections": turns[:1], "counts": counts},
            "recovery": took_over
            | recovery
            | {"crowd": took_over | recovery | {"sagas_claimed_by_each": [20, 20, 21]}},
            "http": {"failed": "TimeoutError: no answer"},
        },
    }


class Steady:
    def burst(self, concurrency: int, seconds: float, refuse_every: int = 0) -> Burst:
        return one(100)


def test_the_page_shows_medians_ratios_and_what_is_missing() -> None:
    page = tables.filled(PAGE.read_text(), result(), {"plain": "plain.svg"}, "performance")

    assert "| 16 | ours | 100.0 | 500.0 | 900.0 | 2.0 | 1.0 |" in page
    assert "| 16 | ours / plain | 1.00 (1.00 to 1.00) |" in page
    assert "| ours | 16.0 | ? | ? |" in page
    assert "| sagas claimed by each fresh process | 30 and 31 | 20 and 20 and 21 |" in page
    assert "This part failed: TimeoutError: no answer" in page
    assert "![plain](performance/plain.svg)" in page
    assert "- Machine: 2 processors (Quick), 4 GiB, Linux 6, load average before the run 0.5." in page
    assert page.count(tables.NOT_MEASURED) == 10


def test_making_the_page_twice_changes_nothing() -> None:
    once = tables.filled(PAGE.read_text(), result(), {}, "performance")

    assert tables.filled(once, result(), {}, "performance") == once


def test_parts_of_an_earlier_result_are_shown_and_named() -> None:
    first, second = result(), result()
    second["about"] = second["about"] | {"commit": "1234567890abcdef"}
    second["parts"] = {"http": second["parts"]["http"]}

    both = tables.joined([first, second])
    page = tables.filled(PAGE.read_text(), both, {}, "performance")

    assert tables.joined([both]) == both
    assert "at commit `1234567890`" in page
    assert "at the earlier commit `abcdef1234`: plain, recovery." in " ".join(page.split())
    assert "| 16 | ours | 100.0 | 500.0 | 900.0 | 2.0 | 1.0 |" in page


def test_every_block_has_its_place_on_the_page() -> None:
    text = PAGE.read_text()

    assert all(f"<!-- figures {name} -->" in text for name in ("about", *tables.BLOCKS))
