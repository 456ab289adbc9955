"""The pulse of one process: what its sagas and steps do in each minute, counted from events.

Every ten seconds the process writes the current minute's counts to the journal, if there are new ones, and at
least twice a minute that it is there. One small statement; if it fails, the counts are kept and written with the
next beat. No saga depends on it.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from sqlalchemy.exc import DBAPIError

from polysaga.databases import Fault
from polysaga.events import (
    Event,
    SagaDecided,
    SagaFinished,
    SagaParked,
    SagaStarted,
    StepDone,
    StepFailed,
    WorkerFailed,
)
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.driving.resources import Engine
from polysaga.sagas.journal.pulses import Pulses
from polysaga.sagas.process.loop import repeat
from polysaga.sagas.protocol.histograms import bucket_of
from polysaga.texts import said

BEAT = 10.0  # seconds between two writes
_STILL_HERE = 30.0  # seconds between two writes of a process that does nothing
_REMOVAL = 600.0  # seconds between two removals of old rows
_NOT_ALLOWED = 3600.0  # seconds until a write that the database refuses is tried again
_KEPT = 5  # minutes that wait for a journal that does not answer


@dataclass(slots=True)
class _SagaCounts:
    counts: Counter[str] = field(default_factory=Counter)  # started, completed, compensated, parked
    times: Counter[int] = field(default_factory=Counter)  # to the decision, by bucket

    def facts(self) -> dict[str, Any]:
        return {**self.counts, "times": self.times}


@dataclass(slots=True)
class _StepCounts:
    database: str | None
    times: Counter[int] = field(default_factory=Counter)  # of what was done, by bucket
    failures: Counter[str] = field(default_factory=Counter)  # by kind

    def facts(self) -> dict[str, Any]:
        return {"database": self.database, "times": self.times, "failures": self.failures}


@dataclass(slots=True)
class _Counts:
    sagas: dict[str, _SagaCounts] = field(default_factory=dict)
    steps: dict[tuple[str, str], _StepCounts] = field(default_factory=dict)
    is_written: bool = False

    def facts(self) -> dict[str, Any]:
        steps: dict[str, dict[str, Any]] = {}
        for (saga, step), counts in self.steps.items():
            steps.setdefault(saga, {})[step] = counts.facts()
        return {"sagas": {name: one.facts() for name, one in self.sagas.items()}, "steps": steps}


class Pulse:
    """One per process. As a subscriber it counts; `run` writes."""

    def __init__(self, engine: Engine, definitions: Iterable[Definition], in_flight: Callable[[], int]) -> None:
        self._engine, self._in_flight = engine, in_flight
        self._clock, self._pulses = engine.clock, Pulses(engine.journal.node)
        self.process = uuid4()
        self._counts = False
        self._about = {
            "process": engine.process,
            "started_at": engine.clock.now().isoformat(),
            "capacity": engine.settings.max_in_flight,
            "knows": [f"{one.name} {one.saga.version}" for one in definitions],
        }
        self._minutes: dict[int, _Counts] = {}
        self._current, self._ends_at = _Counts(), -math.inf  # by the monotonic clock
        self._turn()  # a process that has done nothing is shown, too
        self._written_at = self._removed_at = -math.inf
        self._count: Mapping[type[Event], Callable[[Any], None]] = {
            SagaStarted: self._started,
            SagaDecided: self._decided,
            SagaFinished: self._finished,
            SagaParked: self._parked,
            StepDone: self._done,
            StepFailed: self._failed,
        }

    def __call__(self, event: Event) -> None:
        """Count *event*."""
        count = self._count.get(type(event))
        if count is not None:
            if self._clock.monotonic() >= self._ends_at:
                self._turn()
            self._current.is_written = False
            count(event)

    async def run(self) -> None:
        """Write until cancelled."""
        # Not at the start: on SQLite it would hold the only writer just when the program's first requests come.
        await self._clock.sleep(BEAT)
        await repeat(self._engine, self.beat, patience=BEAT)

    def facts(self, minute: int) -> dict[str, Any]:
        """Return what this process says of itself in *minute*, as the journal keeps it."""
        one = self._minutes.get(minute) or _Counts()
        return {**self._about, "counts": self._counts, "in_flight": self._in_flight(), **one.facts()}

    @contextmanager
    def candidacy(self) -> Iterator[None]:
        """Say, while the block runs, that this process has metrics and may count in the journal for all."""
        self._announce(counts=True)
        try:
            yield
        finally:
            self._announce(counts=False)

    def _announce(self, *, counts: bool) -> None:
        self._counts = counts
        self._current.is_written = False  # the next beat tells others

    @property
    def minutes(self) -> tuple[int, ...]:
        """The minutes that this process remembers."""
        return tuple(self._minutes)

    async def beat(self) -> float:
        """Write what is new, and return the seconds to the next beat."""
        now = self._clock.monotonic()
        if now >= self._ends_at:
            self._turn()
        waiting = [minute for minute, one in self._minutes.items() if not one.is_written]
        if not waiting and now - self._written_at < _STILL_HERE:
            return BEAT
        try:
            for minute in waiting or [max(self._minutes)]:
                await self._write(minute)
            if now - self._removed_at >= _REMOVAL:
                self._removed_at = now
                await self._pulses.remove_old()
        except DBAPIError as error:
            if self._engine.home_participant.fault(error) not in {Fault.SCHEMA_MISSING, Fault.DENIED}:
                raise
            told = f"what this process does is not shown to others: {said(error)}; run `polysaga check`"
            self._engine.emit(WorkerFailed(told))
            return _NOT_ALLOWED
        return BEAT

    async def _write(self, minute: int) -> None:
        one = self._minutes[minute]
        one.is_written = True  # an event during the write changes that
        try:
            await self._pulses.put(self.process, minute, self.facts(minute))
        except BaseException:
            one.is_written = False
            raise
        self._written_at = self._clock.monotonic()

    def _turn(self) -> None:
        """Begin a minute."""
        seconds = self._clock.now().timestamp()
        minute = int(seconds // 60)
        self._ends_at = self._clock.monotonic() + 60 - seconds % 60
        self._current = self._minutes.setdefault(minute, _Counts())
        written = [one for one in self._minutes if one != minute and self._minutes[one].is_written]
        others = [one for one in self._minutes if one != minute]
        for old in {*written, *others[:-_KEPT]}:
            del self._minutes[old]

    def _saga(self, name: str) -> _SagaCounts:
        found = self._current.sagas.get(name)
        if found is None:
            found = self._current.sagas[name] = _SagaCounts()
        return found

    def _step(self, event: StepDone | StepFailed) -> _StepCounts:
        found = self._current.steps.get((event.saga, event.step))
        if found is None:
            found = self._current.steps[event.saga, event.step] = _StepCounts(event.database)
        return found

    def _started(self, event: SagaStarted) -> None:
        if not event.joined:
            self._saga(event.saga).counts["started"] += 1

    def _decided(self, event: SagaDecided) -> None:
        if event.status != "compensating":
            self._saga(event.saga).times[bucket_of(event.seconds)] += 1

    def _finished(self, event: SagaFinished) -> None:
        saga = self._saga(event.saga)
        saga.counts[event.status] += 1
        if event.status == "compensated":
            saga.times[bucket_of(event.seconds)] += 1

    def _parked(self, event: SagaParked) -> None:
        self._saga(event.saga).counts["parked"] += 1

    def _done(self, event: StepDone) -> None:
        self._step(event).times[bucket_of(event.seconds)] += 1

    def _failed(self, event: StepFailed) -> None:
        self._step(event).failures[event.fault] += 1
