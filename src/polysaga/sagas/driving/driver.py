"""The task that drives a saga, and when a stop may cut off what it awaits.

A stop (a cancellation by a caller, a deadline) must end the steps that the task awaits, and must not cut off a
write to the journal. The task takes the cancellation back, and goes on to undo the saga.
"""

import asyncio
from collections.abc import Awaitable, Collection, Mapping
from enum import StrEnum
from typing import Any


class Turn(StrEnum):
    """What the driving task does now; `docs/explanation/saga-states.md` draws it."""

    DRIVES = "drives"  # it decides, or writes to the journal: a stop waits for the next decision
    AWAITS = "awaits_steps"  # a stop may cut them off
    INTERRUPTED = "interrupted"  # a stop has cancelled the task, which will take that back


TURNS: Mapping[Turn, frozenset[Turn]] = {
    Turn.DRIVES: frozenset({Turn.AWAITS}),
    Turn.AWAITS: frozenset({Turn.DRIVES, Turn.INTERRUPTED}),
    Turn.INTERRUPTED: frozenset({Turn.DRIVES}),
}


class Driver:
    """The task that begins or resumes a saga and drives it."""

    def __init__(self) -> None:
        self.turn = Turn.DRIVES
        self._task: asyncio.Task[Any] | None = None

    def take_seat(self) -> None:
        """Note that the current task drives."""
        self._task = asyncio.current_task()

    def is_among(self, tasks: Collection["asyncio.Task[Any]"]) -> bool:
        """Return whether the driving task is one of *tasks*."""
        return self._task in tasks

    def interrupt(self) -> None:
        """Cut off the steps that the task awaits; no effect at any other time."""
        if self.turn is Turn.AWAITS and self._task is not None:
            self.turn = Turn.INTERRUPTED
            self._task.cancel()

    async def interrupted_in(self, steps: Awaitable[None]) -> bool:
        """Await *steps*; return whether a stop has cut them off."""
        self.turn = Turn.AWAITS
        try:
            await steps
        except asyncio.CancelledError:
            if not self._take_back():
                raise
            return True
        finally:
            self._take_back()  # also if a step swallowed the cancellation
        return False

    def refuse_if_cancelled(self) -> None:
        """Raise CancelledError if a database driver, or a step, has swallowed it."""
        if self._task is not None and self._task.cancelling():
            raise asyncio.CancelledError

    def _take_back(self) -> bool:
        """Return whether a cancellation came from a stop alone, and take that one back."""
        interrupted, self.turn = self.turn is Turn.INTERRUPTED, Turn.DRIVES
        return interrupted and self._task is not None and self._task.uncancel() == 0
