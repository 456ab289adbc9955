"""How many work on one database at once: in order, with a limit, and fewer while they are in each other's way."""

import asyncio

import pytest

from polysaga.databases import Fault
from polysaga.sagas.driving.gates import Gate
from polysaga.testing.clock import HandClock
from tests.fixtures.waiting import pause, within


async def waiting(gate: Gate, log: list[int], number: int) -> None:
    await gate.enter()
    log.append(number)


async def second(gate: Gate, clock: HandClock, *, well: int = 0, badly: int = 0) -> None:
    """Let one second pass in which so many went well and so many were in each other's way."""
    for _ in range(well):
        await within(gate.enter(), "there is a place")
        gate.leave(None, None)
    clock.move(1.0)
    for _ in range(badly):
        await within(gate.enter(), "there is a place")
        gate.leave(RuntimeError(), Fault.SERIALIZATION)


async def test_a_part_of_the_connections_is_left_to_others() -> None:
    assert [Gate("shop", connections, HandClock()).most for connections in (1, 2, 5, 20)] == [1, 2, 4, 16]


async def test_who_comes_first_goes_in_first() -> None:
    gate, log = Gate("shop", 2, HandClock()), list[int]()
    tasks = [asyncio.create_task(waiting(gate, log, number)) for number in range(5)]
    await asyncio.sleep(0)
    assert log == [0, 1]
    assert gate.room == 2 * 2 - 5
    for _ in range(3):
        gate.leave(None, None)
    await asyncio.wait(tasks, timeout=10)
    assert log == [0, 1, 2, 3, 4]


async def test_who_has_waited_long_enough_is_told() -> None:
    gate = Gate("shop", 1, HandClock())
    await gate.enter()
    with pytest.raises(TimeoutError):
        await gate.enter(0.01)
    assert "connection to database 'shop' stayed in use for 0.01 s" in str(gate.full(0.01))
    gate.leave(None, None)
    await within(gate.enter(0.01), "the one that gave up takes no place")


async def test_a_larger_pool_is_advised_where_it_helps() -> None:
    clock = HandClock()
    assert str(Gate("shop", 1, clock).full(5.0)) == (
        "the one connection to database 'shop' stayed in use for 5 s; raise databases.shop.pool.size or hold "
        "sessions for a shorter time"
    )
    full = Gate("shop", 20, clock, single_writer=True).full(5.0)
    assert str(full) == (
        "the one connection to database 'shop' stayed in use for 5 s; SQLite has one writer: open no "
        "session inside another, and hold sessions for a shorter time"
    )
    assert full.size == 1


async def test_a_place_that_comes_with_a_cancellation_goes_to_the_next() -> None:
    gate, log = Gate("shop", 1, HandClock()), list[int]()
    await gate.enter()
    first, next_ = (asyncio.create_task(waiting(gate, log, number)) for number in (1, 2))
    await asyncio.sleep(0)
    gate.leave(None, None)  # the first has the place now, and is cancelled before it goes in
    first.cancel()
    await asyncio.wait([first, next_], timeout=10)
    assert (first.cancelled(), log) == (True, [2])


async def test_one_that_is_cancelled_while_it_waits_takes_no_place() -> None:
    gate, log = Gate("shop", 1, HandClock()), list[int]()
    await gate.enter()
    first, next_ = (asyncio.create_task(waiting(gate, log, number)) for number in (1, 2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    gate.leave(None, None)
    await asyncio.wait([first, next_], timeout=10)
    assert log == [2]


async def test_fewer_go_in_while_most_are_in_each_others_way_and_more_when_it_works() -> None:
    clock = HandClock()
    gate, limits = Gate("shop", 20, clock), list[int]()
    for _ in range(6):
        await second(gate, clock, badly=3)
        limits.append(gate.limit)
    assert limits == [8, 4, 2, 1, 1, 1]
    for _ in range(8):
        await second(gate, clock, well=4)
        clock.move(1.0)
        await second(gate, clock, well=1)
        limits.append(gate.limit)
    assert limits[6:] == sorted(limits[6:])
    assert gate.limit == gate.most


async def test_some_conflicts_among_many_that_work_change_nothing() -> None:
    clock = HandClock()
    gate = Gate("shop", 20, clock)
    for _ in range(5):
        await second(gate, clock, well=12, badly=3)
    assert gate.limit == gate.most


async def test_trouble_that_is_long_over_changes_nothing() -> None:
    clock = HandClock()
    gate = Gate("shop", 20, clock)
    for _ in range(5):
        await gate.enter()
        gate.leave(RuntimeError(), Fault.SERIALIZATION)
    clock.move(3600.0)
    await gate.enter()
    gate.leave(None, None)
    assert gate.limit == gate.most


async def test_errors_of_the_steps_themselves_change_nothing() -> None:
    clock = HandClock()
    gate = Gate("shop", 20, clock)
    for fault in (None, Fault.DUPLICATE_KEY, Fault.UNREACHABLE, Fault.DISCONNECTED):
        clock.move(1.0)
        await gate.enter()
        gate.leave(ValueError(), fault)
    assert gate.limit == gate.most


async def test_one_that_waits_for_a_stuck_database_is_told() -> None:
    gate = Gate("shop", 1, HandClock())
    await gate.enter()
    failing = asyncio.create_task(waiting(gate, [], 1))
    await asyncio.sleep(0)
    hopeless = asyncio.create_task(gate.enter_unless_stuck(0.05))
    await asyncio.sleep(0)
    gate.leave(TimeoutError(), None)  # the next one goes in, but that is no sign of life
    with pytest.raises(TimeoutError):
        await within(hopeless, "it has its error")
    await failing
    gate.leave(None, None)
    await within(gate.enter(), "the one with the error takes no place")


async def test_one_in_a_queue_that_moves_is_not_told() -> None:
    gate = Gate("shop", 12, HandClock())
    for _ in range(10):
        await gate.enter()
    gate.limit = 1
    patient = asyncio.create_task(gate.enter_unless_stuck(0.1))
    for _ in range(10):
        await pause()
        gate.leave(None, None)
    await within(patient, "it has a place")


async def test_one_that_is_cancelled_before_a_stuck_database_takes_no_place() -> None:
    gate = Gate("shop", 1, HandClock())
    await gate.enter()
    first = asyncio.create_task(gate.enter_unless_stuck(60.0))
    await asyncio.sleep(0)
    gate.leave(None, None)  # it has the place now, and is cancelled before it goes in
    first.cancel()
    await asyncio.wait([first], timeout=10)
    assert first.cancelled()
    await within(gate.enter(), "the place is free")
