"""Many sagas are repaired in the background: those that a person chose, each with a line, and no others."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from polysaga import Status
from polysaga.errors import Busy, ConfigurationError, PayloadError
from polysaga.sagas import BatchProgress, SagaFilter
from polysaga.sagas.journal import figures
from polysaga.sagas.operations import batches
from polysaga.sagas.operations.repairs import Repairs
from tests.fixtures.programs import PLACE_ORDER, Gate, Order, Program, Urls
from tests.fixtures.repairs import HeldRepairs
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import reached, until, within
from tests.integration.test_repairs import ME, parked, stuck_going_back


async def ended(program: Program, batch_id: UUID) -> BatchProgress:
    async def is_over() -> bool:
        told = await program.sagas.batch(batch_id)
        return told is not None and told.ended_at is not None

    await until(is_over, "the batch ends")
    told = await program.sagas.batch(batch_id)
    assert told is not None
    return told


async def test_the_chosen_sagas_are_repaired_and_later_ones_are_not(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        chosen = {await parked(program) for _ in range(5)}
        frozen = await program.sagas.freeze(SagaFilter(name="place-order"))
        later = await parked(program)
        assert (set(frozen.ids), frozen.complete) == (chosen, True)

        batch_id = program.sagas.begin_batch("resolve", frozen.ids, **ME, outcome="compensated")

        told = await ended(program, batch_id)
        assert (told.total, told.done, told.refused, told.problem) == (5, 5, {}, None)
        assert (told.action, told.by, told.why, told.here) == ("resolve", ME["by"], ME["why"], True)
        assert (await program.sagas.get(later)).status is Status.NEEDS_ATTENTION
        for saga_id in chosen:
            saga = await program.sagas.get(saga_id)
            assert saga.status is Status.COMPENSATED
            assert [line.details["batch"] for line in saga.audit] == [str(batch_id)]
        (line,) = (await program.sagas.inspector().audit()).lines
        assert (line.batch, line.count, line.by) == (batch_id, 5, ME["by"])


async def test_a_saga_that_has_moved_on_is_refused_and_the_others_are_repaired(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program:
        sagas = [await parked(program) for _ in range(3)]
        frozen = await program.sagas.freeze(SagaFilter())
        await program.sagas.resolve(sagas[1], "compensated", **ME)

        told = await ended(program, program.sagas.begin_batch("retry", [*frozen.ids, uuid4()], **ME))

        assert (told.total, told.done) == (4, 2)
        assert sorted(told.refused.values()) == [1, 1]
        assert any("at rest" in reason for reason in told.refused)
        assert not any(str(sagas[1]) in reason for reason in told.refused), "equal refusals are counted as one"


async def test_another_process_sees_how_far_a_batch_is(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as program, Program(urls, PLACE_ORDER).open() as other:
        for _ in range(3):
            await parked(program)
        frozen = await program.sagas.freeze(SagaFilter())
        batch_id = program.sagas.begin_batch("resolve", frozen.ids, **ME, outcome="compensated")
        here = await ended(program, batch_id)

        there = await other.sagas.batch(batch_id)

        assert there is not None
        assert (there.total, there.done, there.here) == (3, 3, False)
        assert (there.action, there.by, there.why) == (here.action, here.by, here.why)
        assert there.ended_at is not None
        assert await other.sagas.batch(uuid4()) is None


async def test_another_process_reads_a_batch_page_by_page(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_LINES", 1)
    async with stuck_going_back(urls).open() as program, Program(urls, PLACE_ORDER).open() as other:
        sagas = [await parked(program) for _ in range(3)]
        batch_id = program.sagas.begin_batch("resolve", sagas, **ME, outcome="compensated")
        await ended(program, batch_id)
        moments = [(await program.sagas.get(saga_id)).audit[0].at for saga_id in sagas]

        there = await other.sagas.batch(batch_id)

        assert there is not None
        assert (there.done, there.began_at, there.ended_at) == (3, min(moments), max(moments))


async def test_a_filter_that_finds_more_than_a_batch_may_have_says_so(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST", 2)
    monkeypatch.setattr(batches, "_PAGE", 1)
    async with stuck_going_back(urls).open() as program:
        for _ in range(3):
            await parked(program)

        frozen = await program.sagas.freeze(SagaFilter())

        assert (len(frozen.ids), frozen.complete) == (2, False)


async def test_a_batch_ends_with_its_process_and_leaves_the_rest_as_it_was(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def hang(self: Any, *asked: Any, **more: Any) -> Any:
        begun.set()
        await reached(never, "the batch is stopped")

    program = stuck_going_back(urls)
    async with program.open():
        saga_id = await parked(program)
        monkeypatch.setattr(Repairs, "carry_out", hang)
        batch_id = program.sagas.begin_batch("retry", [saga_id], **ME)
        await reached(begun, "the batch has begun")
    async with program.open():
        told = await program.sagas.batch(batch_id)
        assert told is not None
        assert (told.done, told.problem) == (0, "this process ends")
        assert (await program.sagas.get(saga_id)).status is Status.NEEDS_ATTENTION


async def test_no_batch_begins_while_the_sagas_are_closing(urls: Urls) -> None:
    """Nothing would have stopped it: it went on when the databases were closed."""
    program, gate = Program(urls, PLACE_ORDER), Gate()
    program.on("credit_points", gate)
    opened = program.open(drain=30.0)
    await opened.__aenter__()
    await program.sagas.start(program.saga, Order())
    await gate.reached()
    closing = asyncio.ensure_future(opened.__aexit__(None, None, None))
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="closing"):
        program.sagas.begin_batch("retry", [uuid4()], **ME)
    gate.open()
    await within(closing, "the process has ended")


async def test_a_batch_that_a_person_stops_leaves_the_rest_as_it_was(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stuck_going_back(urls).open() as program, Program(urls, PLACE_ORDER).open() as other:
        sagas = [await parked(program) for _ in range(6)]
        held = HeldRepairs(monkeypatch)
        batch_id = program.sagas.begin_batch("resolve", sagas, **ME, outcome="compensated")
        await until(lambda: held.under_way == 4, "four repairs are under way")

        assert not other.sagas.stop_batch(batch_id, by="bob"), "it works elsewhere"
        assert program.sagas.stop_batch(batch_id, by="bob")
        assert program.sagas.stop_batch(batch_id, by="eve"), "it is stopped already"
        held.go_on.set()

        told = await ended(program, batch_id)
        assert (told.done, told.total, told.stopped_by, told.problem) == (4, 6, "bob", None)
        states = [(await program.sagas.get(saga_id)).status for saga_id in sagas]
        assert sorted(states) == [Status.COMPENSATED] * 4 + [Status.NEEDS_ATTENTION] * 2
        assert not program.sagas.stop_batch(batch_id, by="bob"), "it has ended"
        assert not program.sagas.stop_batch(uuid4(), by="bob")


async def test_an_error_that_is_no_refusal_ends_the_batch_and_is_told(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Any, *asked: Any, **more: Any) -> Any:
        raise OSError("no route to the journal")

    async with stuck_going_back(urls).open() as program:
        monkeypatch.setattr(Repairs, "carry_out", fail)

        told = await ended(program, program.sagas.begin_batch("retry", [uuid4()], **ME))

        assert (told.done, told.refused) == (0, {})
        assert "no route to the journal" in (told.problem or "")


async def test_a_batch_without_a_reason_or_without_open_sagas_is_refused(urls: Urls) -> None:
    program = stuck_going_back(urls)
    async with program.open():
        with pytest.raises(PayloadError, match="why="):
            program.sagas.begin_batch("retry", [uuid4()], by="ada", why=" ")
    with pytest.raises(ConfigurationError, match="not open"):
        program.sagas.begin_batch("retry", [uuid4()], **ME)
