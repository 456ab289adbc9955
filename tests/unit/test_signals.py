"""The application hears that the process is asked to end, and takes nothing from the server's own handlers."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from polysaga.signals import heard
from tests.fixtures.waiting import reached


@pytest.fixture
def theirs() -> Iterator[list[int]]:
    """What a server's own handler of SIGTERM has got."""
    got = list[int]()
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


async def test_the_application_and_the_server_hear_it(theirs: list[int]) -> None:
    told, own = asyncio.Event(), signal.getsignal(signal.SIGTERM)
    with heard(told.set):
        signal.raise_signal(signal.SIGTERM)
        await reached(told, "the application hears it")
    assert theirs == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is own


def test_the_server_hears_it_when_applications_have_ended_in_another_order_than_they_began(
    theirs: list[int],
) -> None:
    """The first one's handler is put back by the second one, and its event loop is closed by then."""
    told = list[str]()

    async def begin_and_end() -> None:
        first, second = ExitStack(), ExitStack()
        first.enter_context(heard(lambda: told.append("first")))
        second.enter_context(heard(lambda: told.append("second")))
        first.close()
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0)
        second.close()

    asyncio.run(begin_and_end())
    signal.raise_signal(signal.SIGTERM)
    assert theirs == [signal.SIGTERM, signal.SIGTERM]
    assert told == ["second"]


async def test_the_server_hears_it_after_any_number_of_listeners_that_took_turns(theirs: list[int]) -> None:
    """Two dashboards of one process: each stops to listen while the other one does, and begins again."""
    told, own = asyncio.Event(), signal.getsignal(signal.SIGTERM)
    present = ExitStack()
    present.enter_context(heard(lambda: None))
    for _ in range(2 * sys.getrecursionlimit()):
        following = ExitStack()
        following.enter_context(heard(told.set))
        present.close()
        present = following
    with present:
        signal.raise_signal(signal.SIGTERM)
        await reached(told, "the last listener hears it")
    assert theirs == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is own


def test_the_server_hears_it_after_a_loop_was_closed_in_the_middle(theirs: list[int]) -> None:
    stack = ExitStack()

    async def begin() -> None:
        stack.enter_context(heard(lambda: None))

    asyncio.run(begin())
    with stack:
        signal.raise_signal(signal.SIGTERM)
    assert theirs == [signal.SIGTERM]
