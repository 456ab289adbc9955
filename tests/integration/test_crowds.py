"""More sagas than the pools have connections: they wait their turn, and nothing fails for that."""

import asyncio
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from polysaga import StepContext
from polysaga.events import ClaimLost, SagaClaimed, SagaFinished, StepFailed, WorkerFailed, WorkerTicked
from tests.fixtures.left_behind import LEAVES_BEHIND
from tests.fixtures.processes import begin, next_line
from tests.fixtures.programs import PLACE_ORDER, Gate, Order, Program, Urls
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import pause, until, within

pytestmark = LEAVES_BEHIND

MANY = 40


async def test_more_sagas_than_connections_wait_their_turn(urls: Urls) -> None:
    program = Program(urls, PLACE_ORDER)
    program.pool = {"size": 4, "max_overflow": 1}
    inside = most = 0

    async def take_a_while(db: Any, ctx: StepContext) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await pause()
        inside -= 1

    program.on("credit_points", take_a_while)
    async with program.open():
        running = [program.sagas.run(program.saga, Order()) for _ in range(MANY)]
        await within(asyncio.gather(*running), "all have an outcome", patience=60)
        await until(lambda: len(program.recorder.of(SagaFinished)) == MANY, "all are at rest")
        assert not program.recorder.of(StepFailed)
        assert most <= 4, "one of the five connections is left to others"


async def test_claims_are_renewed_while_requests_hold_every_connection(urls: Urls) -> None:
    program, stopped = Program(urls, PLACE_ORDER), Gate()
    if urls["orders"].startswith("sqlite"):
        pytest.skip("a file has one writer")
    program.pool = {"size": 1, "max_overflow": 1, "acquire_timeout": 30}
    program.on("reserve_stock", stopped)
    async with program.open(lease=2.0):
        handle = await program.sagas.start(program.saga, Order())
        await stopped.reached()
        async with program.handles["orders"].writer() as one, program.handles["orders"].writer() as other:
            for session in (one, other):
                await session.execute(text("SELECT 1"))
            seen = len(program.recorder.events)

            def renewed() -> int:
                later = program.recorder.events[seen:]
                return sum(event.renewed for event in later if isinstance(event, WorkerTicked))

            await until(lambda: renewed() >= 3, "the claim is renewed again and again")
        assert not program.recorder.of(WorkerFailed)
        assert not program.recorder.of(ClaimLost)
        stopped.open()
        await handle.result()


async def test_a_takeover_of_many_takes_no_more_than_the_pools_can_carry(urls: Urls) -> None:
    dying, next_ = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    for program in (dying, next_):
        program.pool = {"size": 2, "max_overflow": 1}
    stopped = Gate()
    dying.on("reserve_stock", stopped)
    async with dying.open(lease=3600.0, start_timeout=60.0):
        handles = [await dying.sagas.start(dying.saga, Order()) for _ in range(MANY)]
        await stopped.reached()
    # What the first process handed back is due at once.
    async with next_.open(lease=1.0):
        await until(lambda: len(next_.recorder.of(SagaFinished)) == MANY, "all are at rest", patience=60)
        assert not next_.recorder.of(StepFailed)
        assert max(tick.claimed for tick in next_.recorder.of(WorkerTicked)) <= MANY // 2
        assert {event.saga_id for event in next_.recorder.of(SagaClaimed)} == {handle.id for handle in handles}
        for handle in handles:
            assert await next_.effects(handle.id) == Counter(step for step, *_ in PLACE_ORDER)


async def test_processes_that_take_over_together_share_and_lose_no_claim(urls: Urls, tmp_path: Path) -> None:
    dying, stopped, opened = Program(urls, PLACE_ORDER), Gate(), tmp_path / "opened"
    dying.on("reserve_stock", stopped)
    command = [sys.executable, "-m", "tests.integration.claiming_worker", json.dumps(dict(urls))]
    workers = [begin([*command, str(MANY // 10), str(opened)]) for _ in range(3)]
    try:
        for worker in workers:
            assert (await asyncio.to_thread(next_line, worker, "it is ready")).strip() == "ready"
        async with dying.open(lease=3600.0, start_timeout=60.0):
            handles = [await dying.sagas.start(dying.saga, Order()) for _ in range(MANY)]
            await stopped.reached()
        # What this process handed back is due for all three at once. Two of them leave a share for the third.
        for worker in workers:
            assert (await asyncio.to_thread(next_line, worker, "it has its share")).strip() == "shares"
        opened.touch()
        async with dying.connected():

            async def all_at_rest() -> bool:
                states = [await dying.sagas.get(handle.id) for handle in handles]
                return all(state.status == "completed" for state in states)

            await until(all_at_rest, "all sagas are completed", patience=90)
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        said = [await asyncio.to_thread(next_line, worker, "it tells what it did") for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate(timeout=30)

    counts = [json.loads(line) for line in said]
    assert [(count["lost"], count["failed"]) for count in counts] == [(0, 0)] * 3, counts
    assert sum(count["claimed"] for count in counts) == MANY, "each saga is claimed once"
    assert all(count["claimed"] >= MANY // 10 for count in counts), counts
