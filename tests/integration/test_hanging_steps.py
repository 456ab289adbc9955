"""A step that nothing ends does not hold its saga: its claim runs out, and the step is begun anew."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from polysaga import StepContext
from polysaga.errors import OutcomePending
from polysaga.events import SagaFinished
from tests.fixtures.left_behind import LEAVES_BEHIND
from tests.fixtures.programs import PLACE_ORDER, Gate, Hook, Order, Program, Urls, take_over
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import stubborn, until, within

pytestmark = LEAVES_BEHIND


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polysaga.sagas.driving.timeouts._AGAIN", 0.05)


@pytest.fixture
async def released() -> AsyncIterator[asyncio.Event]:
    """What the steps that hang wait for; it is set at the end, whatever became of the test."""
    event = asyncio.Event()
    yield event
    event.set()


def hang_once(released: asyncio.Event, runs: Counter[str]) -> Hook:
    async def hang(db: Any, ctx: StepContext) -> None:
        runs[ctx.step] += 1
        if runs[ctx.step] == 1:
            await stubborn(released)

    return hang


async def test_a_saga_whose_step_hangs_is_finished_by_the_same_process(
    urls: Urls, released: asyncio.Event
) -> None:
    program, runs = Program(urls, PLACE_ORDER), Counter[str]()
    program.steps["credit_points"].timeout = 0.1
    program.on("credit_points", hang_once(released, runs))
    async with program.open(lease=1.0):
        handle = await program.sagas.start(program.saga, Order())
        finished = await program.recorder.wait_for(SagaFinished)
        assert (finished.saga_id, finished.status) == (handle.id, "completed")
        assert await handle.result(30) is not None
        released.set()
    assert runs == {"credit_points": 2}


async def test_a_start_that_hangs_is_begun_anew_under_its_key(urls: Urls, released: asyncio.Event) -> None:
    """There is no row yet, and so no claim that could run out."""
    program, runs = Program(urls, PLACE_ORDER), Counter[str]()
    program.steps["open_order"].timeout = 0.1
    program.on("open_order", hang_once(released, runs))
    async with program.open(lease=1.0):
        with pytest.raises(OutcomePending):
            await within(program.sagas.start(program.saga, Order(), key="k"), "the caller has an answer")
        handle = await program.sagas.start(program.saga, Order(), key="k")
        await within(handle.result(), "the saga is done")
        released.set()  # what the first run still does meets the row of the second
        await program.recorder.wait_for(SagaFinished)
        runner = program.runner
        places = runner.engine.settings.max_in_flight
        await until(lambda: runner.free == places, "both runs have ended")
        assert await program.effects(handle.id) == Counter(list(program.steps))
    assert runs == {"open_order": 2}


async def test_what_hangs_takes_no_place_at_the_way_to_its_database(urls: Urls, released: asyncio.Event) -> None:
    """The process keeps the claims of those that wait there: they would wait as long as the process lives."""
    program, runs = Program(urls, PLACE_ORDER), Counter[str]()
    program.steps["credit_points"].timeout = 0.1
    program.on("credit_points", hang_once(released, runs))
    async with program.open(lease=1.0):
        gate = program.runner.engine.gates["points"]
        gate.most = gate.limit = 1
        handle = await program.sagas.start(program.saga, Order())
        await within(handle.result(), "the saga is done")
        released.set()
        await program.recorder.wait_for(SagaFinished)
    assert (gate.room, runs) == (2 * gate.limit, {"credit_points": 2})


async def test_a_takeover_that_hangs_does_not_hold_its_saga(
    urls: Urls, released: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polysaga.sagas.driving.attempts._SILENCE", 0.1)
    first, second, held = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER), Gate()
    first.on("credit_points", held)
    async with second.open(lease=1.0), first.open(lease=3600.0):
        handle = await first.sagas.start(first.saga, Order())
        await held.reached()
        inventory: Any = second.runner.engine.participants["inventory"]
        look, looks = inventory.look, 0

        async def hang_at_first(*given: Any) -> Any:
            nonlocal looks
            looks += 1
            if looks == 1:
                await stubborn(released)
            return await look(*given)

        monkeypatch.setattr(inventory, "look", hang_at_first)
        await take_over(second, handle.id)
        await second.recorder.wait_for(SagaFinished)
        released.set()
        held.open()
        assert await second.effects(handle.id) == Counter(list(second.steps))
