"""A step that nothing ends does not hold its saga: its claim runs out, and the step is begun anew."""

import asyncio
from typing import Any

import pytest

from polysaga import StepContext
from polysaga.events import SagaFinished
from tests.fixtures.programs import PLACE_ORDER, Order, Program, Urls
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import stubborn


async def test_a_saga_whose_step_hangs_is_finished_by_the_same_process(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polysaga.sagas.deadlines._AGAIN", 0.05)
    program, released, runs = Program(urls, PLACE_ORDER), asyncio.Event(), 0
    program.steps["credit_points"].timeout = 0.1

    async def hang_once(db: Any, ctx: StepContext) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            await stubborn(released)

    program.on("credit_points", hang_once)
    async with program.open(lease=1.0):
        handle = await program.sagas.start(program.saga, Order())
        finished = await program.recorder.wait_for(SagaFinished)
        assert (finished.saga_id, finished.status) == (handle.id, "completed")
        assert await handle.result(30) is not None
        released.set()
    assert runs == 2
