"""Starting when things go wrong: no caller hears what is not certain, or waits for what does not come."""

import asyncio
from typing import Any

import pytest

from polysaga import Refused, Retry, Status
from polysaga.errors import (
    Busy,
    DatabaseUnavailable,
    NeedsAttention,
    OutcomePending,
    SagaFailed,
    UnknownVersion,
)
from polysaga.events import SagaFinished, StepFailed
from tests.fixtures.left_behind import LEAVES_BEHIND
from tests.fixtures.programs import PLACE_ORDER, QUICK, Gate, Order, Program, Urls
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import forever, reached, until

pytestmark = LEAVES_BEHIND

ALL_DONE = {step: 1 for step, *_ in PLACE_ORDER}


async def refuse(db: Any, ctx: Any) -> None:
    raise Refused("no lantern left")


async def test_a_first_attempt_that_commits_after_the_refusal_of_the_second_is_what_happened(urls: Urls) -> None:
    """Its reply was lost, the look found nothing yet, and the second was refused: by the first's own effect."""
    async with Program(urls, PLACE_ORDER).open() as program:
        engine = program.runner.engine
        transact, add = engine.home_participant.transact, engine.starts.add
        held: list[Any] = []

        async def send_and_lose(work: Any, seal: Any, **options: Any) -> Any:
            if not held:
                held.append((work, seal))
                program.on("open_order", refuse)
                raise TimeoutError
            return await transact(work, seal, **options)

        async def land_first(birth: Any, **more: Any) -> Any:
            del program.hooks["open_order"]
            await transact(*held[0])
            return await add(birth, **more)

        engine.home_participant.transact, engine.starts.add = send_and_lose, land_first
        handle = await program.sagas.start(program.saga, Order())

        assert (await handle.result(30)).step == "confirm_order"
        assert (await program.recorder.wait_for(SagaFinished)).status == "completed"
        assert await program.effects(handle.id) == ALL_DONE


async def test_a_start_whose_commit_may_have_arrived_is_told_as_uncertain(urls: Urls) -> None:
    program = Program(urls, PLACE_ORDER)
    program.steps["open_order"].retry = QUICK
    async with program.open():

        async def be_silent(work: Any, seal: Any, **options: Any) -> Any:
            raise TimeoutError

        program.runner.engine.home_participant.transact = be_silent
        with pytest.raises(OutcomePending) as pending:
            await program.sagas.start(program.saga, Order())
        assert pending.value.saga == "place-order"


async def test_a_start_that_certainly_failed_is_told_so_to_all_who_joined_it(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        arrived, fail = asyncio.Event(), asyncio.Event()

        async def be_down(work: Any, seal: Any, **options: Any) -> Any:
            arrived.set()
            await reached(fail, "the test lets it fail")
            raise DatabaseUnavailable("orders", "there", "it is down")

        program.runner.engine.home_participant.transact = be_down
        starts = [asyncio.ensure_future(program.sagas.start(program.saga, Order(), key="k-1")) for _ in range(3)]
        await reached(arrived, "the start has arrived")
        fail.set()
        told = await asyncio.gather(*starts, return_exceptions=True)
        assert [type(one) for one in told] == [DatabaseUnavailable] * 3
        assert (await program.sagas.find()).sagas == ()


async def test_who_follows_a_saga_waits_for_a_journal_that_is_out_of_reach(urls: Urls) -> None:
    owner, follower = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER)
    async with owner.open(), follower.open():
        gate = Gate()
        owner.on("reserve_stock", gate)
        await owner.sagas.start(owner.saga, Order(), key="k-1")
        joined = await follower.sagas.start(follower.saga, Order(), key="k-1")
        journal = follower.runner.engine.journal
        look, failed = journal.standings, asyncio.Event()

        async def fail_first(saga_ids: Any) -> Any:
            if failed.is_set():
                return await look(saga_ids)
            failed.set()
            gate.open()
            raise DatabaseUnavailable("orders", "there", "it is down")

        journal.standings = fail_first
        assert (await joined.result(30)).step == "confirm_order"
        assert failed.is_set()


async def test_the_outcome_of_another_version_is_left_to_who_knows_it(urls: Urls) -> None:
    old, new = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER[:-1])
    async with old.open(), new.open():
        await old.sagas.run(old.saga, Order(), key="k-1", timeout=30)
        joined = await new.sagas.start(new.saga, Order(), key="k-1")
        assert joined.joined
        with pytest.raises(UnknownVersion, match="another version of the program"):
            await joined.result(30)


async def test_nothing_new_begins_in_a_process_that_is_asked_to_stop(urls: Urls) -> None:
    program = Program(urls, PLACE_ORDER)
    async with program.open(drain=20.0):
        gate = Gate()
        program.on("reserve_stock", gate)
        handle = await program.sagas.start(program.saga, Order())
        await gate.reached()
        runner = program.runner
        draining = asyncio.ensure_future(runner.drain())
        await until(lambda: runner.closing, "the process is asked to stop")
        with pytest.raises(Busy):
            await program.sagas.start(program.saga, Order())
        gate.open()
        await draining
        assert (await handle.result(30)).step == "confirm_order"


async def test_a_first_step_that_cannot_be_undone_parks_the_saga(urls: Urls) -> None:
    async def stumble(db: Any, ctx: Any) -> None:
        raise ZeroDivisionError("cannot undo")

    program = Program(urls, PLACE_ORDER)
    program.steps["open_order"].undo_retry = QUICK
    async with program.open():
        program.on("undo:open_order", stumble)
        program.on("confirm_order", refuse)
        with pytest.raises(NeedsAttention, match="cannot undo") as parked:
            await program.sagas.run(program.saga, Order(), timeout=30)
        state = await program.sagas.get(parked.value.saga_id)
        assert (state.status, state.step) == (Status.NEEDS_ATTENTION, "open_order")
        assert await program.effects(state.id) == {"open_order": 1}


async def test_a_step_that_turns_its_cancellation_into_a_lost_connection_is_not_tried_again(urls: Urls) -> None:
    """As drivers do: the statement under way is cancelled, and what comes out is that the connection is gone."""
    program = Program(urls, PLACE_ORDER)
    program.steps["credit_points"].retry = Retry(within=20.0, first=0.01)
    async with program.open():
        inside, times = asyncio.Event(), 0

        async def swallow(db: Any, ctx: Any) -> None:
            nonlocal times
            times += 1
            inside.set()
            try:
                await forever()
            except asyncio.CancelledError:
                raise TimeoutError from None

        async def refuse_then(db: Any, ctx: Any) -> None:
            await reached(inside, "the task is inside")
            raise Refused("no lantern left")

        program.on("credit_points", swallow)
        program.on("reserve_stock", refuse_then)
        with pytest.raises(Refused) as refused:
            await program.sagas.run(program.saga, Order(), timeout=30)
        assert times == 1
        assert refused.value.saga_id is not None
        assert await program.effects(refused.value.saga_id) == {}


async def test_a_step_that_awaits_what_was_cancelled_fails_like_any_other(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:

        async def await_the_cancelled(db: Any, ctx: Any) -> None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

        program.on("credit_points", await_the_cancelled)
        with pytest.raises(SagaFailed, match="awaited something that was cancelled") as failed:
            await program.sagas.run(program.saga, Order(), timeout=30)
        assert await program.effects(failed.value.saga_id) == {}
        assert program.recorder.of(StepFailed)


async def test_a_journal_that_goes_silent_is_asked_anew(urls: Urls) -> None:
    """A connection that was cut without a word must not be waited for, neither by one saga nor by a batch."""
    async with Program(urls, PLACE_ORDER).open(lease=60.0) as program:
        journal = program.runner.engine.journal
        compensate, asked = journal.compensate, 0

        async def be_silent_once(*arguments: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked == 1:
                await forever()
            return await compensate(*arguments)

        journal.compensate = be_silent_once
        program.on("credit_points", refuse)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("polysaga.sagas.driving.attempts._SILENCE", 0.2)
            with pytest.raises(Refused) as refused:
                await program.sagas.run(program.saga, Order(), timeout=30)
        assert asked == 2
        assert refused.value.saga_id is not None
        assert await program.effects(refused.value.saga_id) == {}
