"""What a scope must see while several tasks of it write, read and are cancelled, and while nobody can tell."""

import asyncio

import pytest

from polysaga.clock import Clock
from polysaga.databases.positions import Epoch, Lsn, Position
from polysaga.events import BookmarkUnknown
from polysaga.routing.primary_position import Capture
from polysaga.routing.scopes import Scope
from tests.fixtures.programs import Recorder
from tests.fixtures.waiting import reached

HERE = Epoch("1", 1)


class Slow:
    """Tells where the primary stands when the test says so."""

    def __init__(self) -> None:
        self.questions: asyncio.Queue[None] = asyncio.Queue()
        self.answers: asyncio.Queue[Position | None] = asyncio.Queue()

    async def position(self) -> Position | None:
        self.questions.put_nowait(None)
        return await self.answers.get()


async def asked(source: Slow) -> None:
    async with asyncio.timeout(30):
        await source.questions.get()


async def test_who_reads_while_another_task_asks_where_the_commit_is_must_ask_too() -> None:
    scope, source = Scope(clock=Clock()), Slow()
    scope.wrote("orders", source)
    one = asyncio.create_task(scope.settle("orders"))
    await asked(source)
    assert "orders" in scope.written
    other = asyncio.create_task(scope.settle("orders"))
    await asked(source)
    for _ in range(2):
        source.answers.put_nowait(Lsn(7, HERE))
    await asyncio.gather(one, other)
    assert scope.required == {"orders": Lsn(7, HERE)}
    assert not scope.written


async def test_who_is_cancelled_while_he_asks_leaves_the_commit_to_be_asked_for() -> None:
    scope, source = Scope(clock=Clock()), Slow()
    scope.wrote("orders", source)
    impatient = asyncio.create_task(scope.settle())
    await asked(source)
    impatient.cancel()
    await asyncio.wait([impatient])
    assert "orders" in scope.written


async def test_a_commit_during_the_question_is_asked_for_by_the_next_one() -> None:
    scope, source = Scope(clock=Clock()), Slow()
    scope.wrote("orders", source)
    asking = asyncio.create_task(scope.settle())
    await asked(source)
    scope.wrote("orders", source)
    source.answers.put_nowait(Lsn(7, HERE))
    await asking
    assert "orders" in scope.written


async def test_the_client_is_told_where_the_database_stands_when_it_is_answered() -> None:
    scope, source = Scope(clock=Clock()), Slow()
    scope.wrote("orders", source)
    source.answers.put_nowait(Lsn(7, HERE))
    await scope.settle()
    source.answers.put_nowait(Lsn(9, HERE))  # another request of the client wrote, and was answered
    assert await scope.news() == ["orders"]
    assert scope.required == {"orders": Lsn(9, HERE)}


class Broken:
    """A connection whose answers nobody understands."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def capture(self) -> Position | None:
        self.asked.set()
        await reached(self.go_on, "the test lets it go on")
        raise LookupError("no such function")

    def cut(self) -> None: ...

    async def close(self) -> None: ...


@pytest.mark.parametrize("late", [1, 5])
async def test_an_error_that_nobody_foresaw_leaves_no_one_waiting(late: int) -> None:
    line, recorder = Broken(), Recorder()
    capture = Capture("orders", line, timeout=30.0, emit=recorder)
    tasks = [asyncio.create_task(capture.position())]
    await reached(line.asked, "the line is asked")
    tasks += [asyncio.create_task(capture.position()) for _ in range(late)]
    await asyncio.sleep(0)
    line.go_on.set()
    async with asyncio.timeout(30):
        assert await asyncio.gather(*tasks) == [None] * (late + 1)
    assert {event.reason for event in recorder.of(BookmarkUnknown)} == {"LookupError: no such function"}
