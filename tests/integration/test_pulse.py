"""What the processes did minute by minute is seen in each of them, and costs no saga anything."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from polysaga.errors import Refused
from polysaga.events import SagaStarted, WorkerFailed
from polysaga.sagas.journal.pulses import Pulses
from polysaga.sagas.operations import activity
from polysaga.sagas.process.pulse import BEAT, Pulse
from polysaga.testing.clock import HandClock
from tests.fixtures.programs import PLACE_ORDER, Order, Program, Urls
from tests.fixtures.setups import urls as urls
from tests.integration.test_repairs import finished, parked, refuse, stuck_going_back

NOON = datetime(2026, 11, 29, 12, 0, 30, tzinfo=UTC)


def pulse_of(program: Program) -> Pulse:
    opened = program.sagas._opened
    assert opened is not None
    return opened.pulse


async def test_a_process_that_has_done_nothing_yet_is_shown_in_itself(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        found = await program.sagas.inspector().activity()
        assert [(one.here, one.in_flight, one.knows) for one in found.processes] == [(True, 0, ("place-order 1",))]


async def test_what_one_process_does_is_seen_in_another(urls: Urls) -> None:
    async with stuck_going_back(urls).open() as first, Program(urls, PLACE_ORDER).open() as second:
        await parked(first)
        second.on("confirm_order", refuse)
        with pytest.raises(Refused):
            await second.sagas.run(second.saga, Order(), timeout=30)
        second.hooks.clear()
        for _ in range(3):
            await finished(second, (await second.sagas.start(second.saga, Order())).id)
        await pulse_of(first).beat()
        await pulse_of(second).beat()

        found = await first.sagas.inspector().activity()

        (saga,) = found.sagas
        assert found.shared
        assert (saga.name, saga.started, saga.completed, saga.compensated, saga.parked) == (
            "place-order",
            5,
            3,
            1,
            1,
        )
        assert saga.p50 is not None
        assert saga.p95 is not None
        assert 0 < saga.p50 <= saga.p95 < 60
        assert len(saga.minutes) == 60
        assert sum(minute.completed for minute in saga.minutes) == 3
        assert sum(minute.started for minute in saga.minutes[-3:]) == 5
        steps = {step.name: step for step in saga.steps}
        assert steps["reserve_stock"].database == "inventory"
        assert steps["confirm_order"].failures == {"refused": 2}
        assert steps["reserve_stock"].failures["error"] >= 1
        assert {len(step.minutes) for step in saga.steps} == {60}
        here, there = found.processes
        assert (here.here, there.here) == (True, False)
        assert here.name == first.runner.engine.process
        assert (here.in_flight, here.knows) == (0, ("place-order 1",))


async def test_a_process_that_has_ended_is_counted_and_no_longer_listed(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        async with Program(urls, PLACE_ORDER).open() as other:
            await pulse_of(other).beat()
        await pulse_of(program).beat()
        monkeypatch.setattr(activity, "_GONE", timedelta(0))

        found = await program.sagas.inspector().activity()

        assert [process.here for process in found.processes] == [True]
        assert found.former == 1


async def test_a_second_reading_adds_what_is_new_and_counts_nothing_twice(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program, Program(urls, PLACE_ORDER).open() as other:

        async def completed() -> int:
            (saga,) = (await other.sagas.inspector().activity()).sagas
            return saga.completed

        for expected in (1, 2):
            await finished(program, (await program.sagas.start(program.saga, Order())).id)
            await pulse_of(program).beat()
            assert await completed() == expected
            assert await completed() == expected


async def test_counts_wait_for_a_journal_that_does_not_answer(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Program(urls, PLACE_ORDER).open() as program, Program(urls, PLACE_ORDER).open() as other:
        await finished(program, (await program.sagas.start(program.saga, Order())).id)
        with monkeypatch.context() as broken:
            broken.setattr(Pulses, "put", stumble_on_writing)
            with pytest.raises(OSError, match="no route"):
                await pulse_of(program).beat()

        await pulse_of(program).beat()

        (saga,) = (await other.sagas.inspector().activity()).sagas
        assert saga.completed == 1


async def test_without_the_table_sagas_run_and_this_process_shows_its_own(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        async with program.runner.engine.journal.node.writer.begin() as connection:
            await connection.execute(text("DROP TABLE polysaga_pulse"))
        await finished(program, (await program.sagas.start(program.saga, Order())).id)

        assert await pulse_of(program).beat() > 60 * BEAT

        found = await program.sagas.inspector().activity()
        assert not found.shared
        assert [(saga.name, saga.completed) for saga in found.sagas] == [("place-order", 1)]
        assert [process.here for process in found.processes] == [True]
        assert any("polysaga check" in event.reason for event in program.recorder.of(WorkerFailed))


async def test_each_minute_is_written_until_it_is_over_and_an_idle_process_says_little(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_moved = HandClock(NOON)
    written: list[tuple[UUID, int, int]] = []
    put = Pulses.put

    async def noted(self: Pulses, process: Any, minute: int, facts: Any) -> None:
        written.append((process, minute % 60, facts["sagas"].get("buy", {}).get("started", 0)))
        await put(self, process, minute, facts)

    monkeypatch.setattr(Pulses, "put", noted)
    async with Program(urls, PLACE_ORDER).open() as program:
        pulse = Pulse(replace(program.runner.engine, clock=hand_moved), [], lambda: 0)
        for seconds, starts in [(0, 1), (10, 0), (20, 0), (25, 2), (31, 1), (40, 0), (50, 0), (60, 0), (70, 0)]:
            hand_moved.move(seconds - hand_moved.monotonic())
            for _ in range(starts):
                pulse(SagaStarted(pulse.process, "buy", joined=False))
            await pulse.beat()

    ours = [what for process, *what in written if process == pulse.process]
    assert ours == [[0, 1], [0, 3], [1, 1], [1, 1]], "after 0, 25 and 31 s, and after 70 s that it is still there"


async def test_rows_are_removed_after_two_hours(urls: Urls) -> None:
    async with Program(urls, PLACE_ORDER).open() as program:
        await pulse_of(program).beat()
        node = program.runner.engine.journal.node
        pulses, process = Pulses(node), pulse_of(program).process
        await pulses.put(process, 1, {"process": "old"})
        async with node.writer.begin() as connection:
            old = node.dialect.render(
                f"UPDATE polysaga_pulse SET seen_at = {node.dialect.ago(':age')} WHERE minute = 1"
            )
            await connection.exec_driver_sql(old.sql, old.bind({"age": 7300.0}))

        await pulses.remove_old()

        async with node.reader.connect() as connection:
            left = (await connection.execute(text("SELECT minute FROM polysaga_pulse"))).scalars().all()
        assert 1 not in left
        assert len(left) >= 1


async def stumble_on_writing(self: Any, *asked: Any) -> None:
    raise OSError("no route to the journal")
