"""The measuring half of a side: starts its process, asks it, and reads the servers' clocks around each burst."""

import json
import select
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import processors
from benchmarks.bursts import Burst
from benchmarks.side import Places, Told

_PATIENCE = 300.0  # seconds for one answer
_ENDING = 30.0  # seconds for the process to close everything
ROOT = Path(__file__).parents[1]


def places_in_environment(places: Places) -> dict[str, str]:
    """Return the variable in which programs other than sides find the URLs of their databases."""
    return {"PLACES": json.dumps(dict(places))}


def wait_or_kill(process: "subprocess.Popen[Any]", seconds: float) -> None:
    """Wait for *process*, which was asked to end; kill it if it has not ended after *seconds*."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(seconds)


class SideFailed(Exception):
    """A process ended or hung; its words are on standard error."""


def answer(process: "subprocess.Popen[str]", name: str) -> dict[str, Any]:
    """Return the next line of JSON that *process* prints; raise `SideFailed` if it ends or hangs."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _PATIENCE)
    line = process.stdout.readline() if ready else ""
    if not line:
        raise SideFailed(f"{name} {'ended' if ready else f'did not answer within {_PATIENCE:.0f} seconds'}")
    told = json.loads(line)
    assert isinstance(told, dict)
    return told


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to start a side: a module that calls `serve`, one of its kinds, and where its databases are."""

    module: str
    kind: str
    places: Places


class Process:
    """A running side.

    *pids* gives the servers whose processor time is read, by name. *helpers* are processes with code of the
    application: theirs counts as the client's, and instead of it if this process is *only_calling*.
    """

    def __init__(
        self,
        recipe: Recipe,
        pids: Callable[[], Mapping[str, int]],
        helpers: Sequence[int] = (),
        *,
        only_calling: bool = False,
    ) -> None:
        self._recipe, self._pids, self._helpers, self._only_calling = recipe, pids, helpers, only_calling

    def __enter__(self) -> Self:
        self.begin()
        try:
            self.opened()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def begin(self) -> None:
        """Start the process without waiting for it: several can come up at the same time."""
        recipe = self._recipe
        command = [sys.executable, "-m", recipe.module, recipe.kind, json.dumps(recipe.places)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, bufsize=1
        )

    def opened(self) -> None:
        """Return when the side has opened its databases; raise `SideFailed`."""
        self._answer()

    def end(self) -> None:
        """Let the side close everything and end."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.close()
            process.wait(_ENDING)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            process.kill()
            process.wait(_ENDING)
        finally:
            process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def burst(self, concurrency: int, seconds: float, refuse_every: int = 0) -> Burst:
        """Run one burst; see `side.burst`."""
        helped, before = sum(map(processors.used, self._helpers)), self._clocks()
        told = Told(**self._ask("burst", concurrency=concurrency, seconds=seconds, refuse_every=refuse_every))
        after = self._clocks()
        own = 0.0 if self._only_calling else told.cpu
        told = replace(told, cpu=own + sum(map(processors.used, self._helpers)) - helped)
        return Burst(told, {name: after[name] - before[name] for name in after})

    def quiet(self) -> None:
        """Return when the side's background work has just been done."""
        self._ask("quiet")

    def count(self, sagas: int) -> int:
        """Run *sagas* one after the other, each to its very end; return the packets that the process sent."""
        packets = self._ask("count", count=sagas)["packets"]
        assert isinstance(packets, int)
        return packets

    def _clocks(self) -> dict[str, float]:
        return {name: processors.used(pid) for name, pid in self._pids().items()}

    def _ask(self, verb: str, **asked: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": verb, **asked}) + "\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        return answer(self._process, f"{self._recipe.module} {self._recipe.kind}")
