"""Repeats work for ever: after the pauses that the work asks for, and at once when there is news.

`pauses` are those between two looks at what another process, or a commit under way, is about to change.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator

from polysaga.events import WorkerFailed
from polysaga.limits import limited
from polysaga.sagas.driving.resources import Engine
from polysaga.texts import said

LONGEST_PAUSE = 0.5  # seconds
_FIRST_PAUSE = 0.02
_JITTER = 0.1  # of a pause


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each next look: few at first, so that a quick answer is seen at once."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 2, LONGEST_PAUSE)


async def repeat(
    engine: Engine,
    work: Callable[[], Awaitable[float]],
    *,
    patience: float,
    news: asyncio.Event | None = None,
    hear: Callable[[], None] = lambda: None,
) -> None:
    """Do *work* until cancelled, each round for at most *patience* seconds; it returns the seconds to the next.

    The next round begins at once when *news* is set, with a call of *hear*. A round that fails or hangs is
    announced; the next one follows after a quarter of *patience*. Pauses vary by a tenth, so that processes that
    start together drift apart.
    """
    heard, task = news or asyncio.Event(), asyncio.current_task()
    # A driver can swallow a cancellation, and the next round would not receive it again.
    while task is None or not task.cancelling():
        if heard.is_set():
            heard.clear()
            hear()
        pause, began = patience / 4, engine.clock.monotonic()
        try:
            pause = await limited(work(), patience)
        except Exception as error:  # noqa: BLE001 - border: one failed round must not end recovery
            late = isinstance(error, TimeoutError) and engine.clock.monotonic() - began >= patience
            engine.emit(WorkerFailed(f"it did not end within {patience:g} s" if late else said(error)))
        await rest(engine, pause * random.uniform(1 - _JITTER, 1 + _JITTER), heard)


async def rest(engine: Engine, seconds: float, news: asyncio.Event) -> None:
    """Return after *seconds*, or when *news* is set."""
    sleep, wake = asyncio.ensure_future(engine.clock.sleep(seconds)), asyncio.ensure_future(news.wait())
    try:
        await asyncio.wait({sleep, wake}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleep.cancel()
        wake.cancel()
        await asyncio.gather(sleep, wake, return_exceptions=True)
