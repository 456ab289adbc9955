"""A whole program in a test: put its databases on SQLite, await its sagas, make one step fail.

async with opened(sagas, on_sqlite(sagas, tmp_path), ready=create_tables):
    with failing_once(charge):
        handle = await sagas.start(buy, order)
        assert (await settled(sagas, handle.id)).status == "completed"
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from uuid import UUID

from polysaga.clock import Clock
from polysaga.config import Settings, parse_settings
from polysaga.databases import MongoDatabase
from polysaga.errors import ConfigurationError, TryAgain
from polysaga.migrations import migrate
from polysaga.sagas import Sagas, SagaState
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.protocol.states import Status

_PAUSE = 0.01  # seconds between two looks at a saga


def on_sqlite(sagas: Sagas, directory: Path) -> Settings:
    """Return settings with an SQLite file in *directory* for every database of the program.

    Raises `ConfigurationError` if one of them is MongoDB, which needs a server.
    """
    for handle in sagas.databases:
        if isinstance(handle, MongoDatabase):
            raise ConfigurationError(
                f"database '{handle.name}' is MongoDB and has no file: give the settings of a test server"
            )
    names = [handle.name for handle in sagas.databases]
    return parse_settings(
        {"databases": {name: {"url": f"sqlite+aiosqlite:///{directory}/{name}.db"} for name in names}}
    )


@asynccontextmanager
async def opened(
    sagas: Sagas, settings: Settings, *, ready: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[Sagas]:
    """Open and migrate the databases, call *ready* to create the program's own tables, and drive sagas."""
    async with sagas.databases.open(settings):
        await migrate(sagas)
        if ready is not None:
            await ready()
        async with sagas.open(settings.sagas):
            yield sagas


async def settled(sagas: Sagas, saga_id: UUID, *, within: float = 10.0) -> SagaState:
    """Return the state of the saga when it is completed, compensated, or needs attention.

    Raises `AssertionError` with its status, and the last attempt that failed, if that takes more than *within*
    seconds, and `UnknownSaga` if there is no such saga.
    """
    clock, state = Clock(), await sagas.get(saga_id)
    ends = clock.monotonic() + within
    while not (Status(state.status).final or state.status == Status.NEEDS_ATTENTION):
        if clock.monotonic() > ends:
            raise AssertionError(
                f"saga {saga_id} is not at rest after {within:g} s: it is {state.status}{_last_failure(state)}"
            )
        await clock.sleep(_PAUSE)
        state = await sagas.get(saga_id)
    return state


def _last_failure(state: SagaState) -> str:
    last = state.history[-1] if state.history else None
    if last is None or last.said is None:
        return ""
    what = "the undoing of" if last.phase == "undo" else "step"
    return f", and attempt {last.attempt} of {what} '{last.step}' failed with {last.said}"


@contextmanager
def failing_once(step: AnyStep, error: Exception | None = None) -> Iterator[None]:
    """Make the next run of *step* in this process fail with *error*, after its writes.

    The default is `TryAgain`: the step is retried. A `Refused`, or an error that is not transient, makes the saga
    compensate. Raises `AssertionError` at the end of the block if the step did not run to its end in it.
    """
    action, ran, failed = step.action, asyncio.Event(), asyncio.Event()

    @wraps(action)
    async def fail(*given: Any) -> Any:
        ran.set()
        result = await action(*given)
        if failed.is_set():
            return result
        failed.set()
        raise error or TryAgain("the test lets this step fail once")

    step.action = fail
    try:
        yield
    finally:
        step.action = action
    assert ran.is_set(), f"step '{step.name}' did not run, so it did not fail"
    assert failed.is_set(), f"step '{step.name}' ran, but not to its end, where this test makes it fail"
