"""The process and the event loop that opened the databases, or the sagas: no other may use their connections.

A forked process has copies of the connections of the process that it was forked from. What it sends would end up
in the sessions of that process, and SQLite forbids it to use a connection to a file at all.
"""

import asyncio
import os
from dataclasses import dataclass
from typing import NoReturn, Self

from polysaga.errors import ConfigurationError

_FORKED = (
    "before this process was forked from another one, whose connections it must not use: fork first, and open "
    "them in each process"
)


@dataclass(frozen=True, slots=True)
class Opener:
    """Where something was opened."""

    process: int
    loop: asyncio.AbstractEventLoop | None

    @classmethod
    def here(cls) -> Self:
        """Return this process and the running loop, if there is one."""
        return cls(os.getpid(), running())

    def refuse_another_loop(self, asking: asyncio.AbstractEventLoop | None, what: str, remedy: str) -> None:
        """Raise `ConfigurationError` if *asking* is not the loop in which *what* was opened, in this process."""
        if self.process != os.getpid():  # which may run its copy of the same loop
            raise ConfigurationError(f"{what} opened {_FORKED}")
        if self.loop is not None and asking is not self.loop:
            raise ConfigurationError(f"{what} opened in another event loop: {remedy}")

    def refuse_to_open_again(self, what: str) -> NoReturn:
        """Raise `ConfigurationError` because *what* are open, and say what has to end first."""
        if self.process != os.getpid():
            raise ConfigurationError(f"{what} were opened {_FORKED}")
        if self.loop is not None and self.loop.is_closed():
            raise ConfigurationError(
                f"{what} are still open in an event loop that was closed: let the block that opened them, such as "
                "the lifespan of an application, end before its loop is closed"
            )
        if self.loop is not None and self.loop is not running():
            raise ConfigurationError(
                f"{what} are open already, in the event loop of another thread or of another test: open them once "
                "per process, and have other threads call asyncio.run_coroutine_threadsafe with that loop"
            )
        raise ConfigurationError(f"{what} are open already; open them once per process")


def running() -> asyncio.AbstractEventLoop | None:
    """Return the running loop; None in code without one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
