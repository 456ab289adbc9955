"""What a scope must see while its tasks write, read and are cancelled, and when no position is known."""

import asyncio
from typing import Any

import pytest

from polysaga import Databases, SqlDatabase
from polysaga.clock import Clock
from polysaga.databases.handles import check_reads
from polysaga.databases.positions import Epoch, Lsn, Position
from polysaga.errors import ConfigurationError
from polysaga.events import BookmarkUnknown
from polysaga.fastapi import auto, consistency, reader
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
    """A connection whose answers cannot be understood."""

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


SENSELESS: list[tuple[dict[str, Any], str]] = [
    ({"consistency": "junk"}, "consistency='junk' is none of eventual, session, strong"),
    ({"consistency": "Strong"}, "consistency='Strong' is none of"),
    ({"consistency": ["strong"]}, "is none of"),
    *(({"max_lag": given}, "is no lag: give seconds") for given in ("2", -1, float("nan"), True)),
]


@pytest.mark.parametrize(("options", "says"), SENSELESS, ids=[repr(options) for options, _ in SENSELESS])
def test_an_option_of_a_reader_that_makes_no_sense_is_refused_at_the_call(
    options: dict[str, Any], says: str
) -> None:
    shop, databases = SqlDatabase("shop"), Databases()
    with pytest.raises(ConfigurationError, match=says):
        shop.reader(**options)
    with pytest.raises(ConfigurationError, match=says):
        reader(shop, **options)
    if "consistency" in options:
        with pytest.raises(ConfigurationError, match=says), databases.scope(**options):
            pass
        with pytest.raises(ConfigurationError, match=says):
            auto(shop, **options)
        with pytest.raises(ConfigurationError, match=says):
            consistency(options["consistency"])


@pytest.mark.parametrize("lag", [0, 2, 0.5, float("inf")])
def test_a_reader_may_allow_no_lag_or_any(lag: float) -> None:
    check_reads("eventual", lag)
