"""What all processes did in the last hour, minute by minute, from the pulses that they write to the journal."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from polysaga.clock import Clock
from polysaga.databases import Fault
from polysaga.sagas.journal.pulses import SHOWN, PulseRow, Pulses
from polysaga.sagas.protocol.histograms import quantile

MINUTES = 60
_GONE = timedelta(seconds=45)  # without a word: the process has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """What happened to the sagas of one name in one minute; times in seconds, to the decision."""

    at: datetime
    started: int
    completed: int
    compensated: int
    parked: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMinute:
    """What happened to one step in one minute."""

    at: datetime
    p95: float | None  # seconds of a successful attempt
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepActivity:
    """One step in the last hour."""

    name: str
    database: str | None
    p95: float | None
    failures: Mapping[str, int]  # failed attempts by kind: the database's fault, `refused`, or `error`
    minutes: tuple[StepMinute, ...]  # 60, the oldest first


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaActivity:
    """The sagas of one name in the last hour."""

    name: str
    started: int
    completed: int
    compensated: int
    parked: int
    p50: float | None
    p95: float | None
    minutes: tuple[Minute, ...]  # 60, the oldest first
    steps: tuple[StepActivity, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """One process that drives sagas of this journal."""

    name: str  # host and process id
    here: bool  # this one
    started_at: datetime
    seen_at: datetime
    in_flight: int
    capacity: int
    knows: tuple[str, ...]  # names and versions of sagas


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What all processes do; of this process only if not *shared*: the journal has no table for it."""

    processes: tuple[ProcessFacts, ...]  # this one first, then by name
    former: int  # processes that drove sagas in the last hour and have ended
    sagas: tuple[SagaActivity, ...]  # by name
    shared: bool

    def others_that_know(self, name: str, version: int) -> tuple[str, ...]:
        """Return the names of the other processes that know this version of a saga."""
        known = f"{name} {version}"
        return tuple(process.name for process in self.processes if not process.here and known in process.knows)


class OwnPulse(Protocol):
    """What this process knows of itself, also if it is not written yet."""

    process: UUID

    @property
    def minutes(self) -> tuple[int, ...]:
        """The minutes that it remembers."""

    def facts(self, minute: int) -> dict[str, Any]:
        """Return what it says of itself in *minute*."""


@dataclass(slots=True)
class _Sum:
    counts: Counter[str] = field(default_factory=Counter)
    times: Counter[int] = field(default_factory=Counter)

    def add(self, counts: Mapping[str, int], times: Mapping[str, int]) -> None:
        self.counts.update(counts)
        self.times.update({int(bucket): number for bucket, number in times.items()})


class ActivityReader:
    """Reads what has been written since it read last, and adds up; one per process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rows: dict[tuple[UUID, int], PulseRow] = {}
        self._read_at: float | None = None  # by the monotonic clock

    async def read(self, pulses: Pulses, own: OwnPulse | None) -> Activity:
        """Return the activity of all processes; *own* is the pulse of this one, if it drives sagas."""
        now = self._clock.monotonic()
        age = SHOWN if self._read_at is None else min(now - self._read_at, SHOWN)
        shared = True
        try:
            rows = await pulses.read(age)
        except DBAPIError as error:
            if pulses.fault(error) not in {Fault.SCHEMA_MISSING, Fault.DENIED}:
                raise
            rows, shared = [], False
        self._read_at = now
        wall = self._clock.now()
        last = int(wall.timestamp() // 60)
        self._rows.update({(row.process, row.minute): row for row in rows})
        if own is not None:
            # This process knows more than it has written.
            for minute in own.minutes:
                self._rows[own.process, minute] = PulseRow(own.process, minute, wall, own.facts(minute))
        for key in [key for key in self._rows if key[1] <= last - MINUTES]:
            del self._rows[key]
        processes = _processes(self._rows.values(), None if own is None else own.process, wall)
        return Activity(
            processes=processes,
            former=len({process for process, _ in self._rows}) - len(processes),
            sagas=_sagas(self._rows.values(), range(last - MINUTES + 1, last + 1)),
            shared=shared,
        )


def _processes(rows: Iterable[PulseRow], here: UUID | None, now: datetime) -> tuple[ProcessFacts, ...]:
    latest: dict[UUID, PulseRow] = {}
    for row in rows:
        if row.process not in latest or row.seen_at > latest[row.process].seen_at:
            latest[row.process] = row
    found = [
        ProcessFacts(
            name=row.facts["process"],
            here=row.process == here,
            started_at=datetime.fromisoformat(row.facts["started_at"]),
            seen_at=row.seen_at,
            in_flight=row.facts["in_flight"],
            capacity=row.facts["capacity"],
            knows=tuple(row.facts["knows"]),
        )
        for row in latest.values()
        if row.process == here or row.seen_at > now - _GONE
    ]
    return tuple(sorted(found, key=lambda one: (not one.here, one.name)))


def _sagas(rows: Iterable[PulseRow], minutes: Sequence[int]) -> tuple[SagaActivity, ...]:
    sagas: defaultdict[str, defaultdict[int, _Sum]] = defaultdict(lambda: defaultdict(_Sum))
    steps: defaultdict[str, dict[str, defaultdict[int, _Sum]]] = defaultdict(dict)
    places: dict[tuple[str, str], str | None] = {}
    for row in rows:
        for name, facts in row.facts["sagas"].items():
            counts = {what: number for what, number in facts.items() if what != "times"}
            sagas[name][row.minute].add(counts, facts["times"])
        for name, its in row.facts["steps"].items():
            for step, facts in its.items():
                places[name, step] = facts["database"]
                steps[name].setdefault(step, defaultdict(_Sum))[row.minute].add(facts["failures"], facts["times"])
    return tuple(
        _saga(name, sagas[name], steps[name], places, minutes) for name in sorted(sagas.keys() | steps.keys())
    )


def _saga(
    name: str,
    by_minute: Mapping[int, _Sum],
    steps: Mapping[str, Mapping[int, _Sum]],
    places: Mapping[tuple[str, str], str | None],
    minutes: Sequence[int],
) -> SagaActivity:
    hour = _total(by_minute.values())
    return SagaActivity(
        name=name,
        **_outcomes(hour),
        p50=quantile(hour.times, 0.5),
        p95=quantile(hour.times, 0.95),
        minutes=tuple(
            Minute(
                at=_moment(minute),
                **_outcomes(one),
                p50=quantile(one.times, 0.5),
                p95=quantile(one.times, 0.95),
            )
            for minute in minutes
            for one in [by_minute.get(minute) or _Sum()]
        ),
        steps=tuple(_step(step, its, places[name, step], minutes) for step, its in steps.items()),
    )


def _step(name: str, by_minute: Mapping[int, _Sum], database: str | None, minutes: Sequence[int]) -> StepActivity:
    hour = _total(by_minute.values())
    return StepActivity(
        name=name,
        database=database,
        p95=quantile(hour.times, 0.95),
        failures=dict(hour.counts),
        minutes=tuple(
            StepMinute(at=_moment(minute), p95=quantile(one.times, 0.95), failures=one.counts.total())
            for minute in minutes
            for one in [by_minute.get(minute) or _Sum()]
        ),
    )


def _outcomes(found: _Sum) -> dict[str, Any]:
    return {what: found.counts[what] for what in ("started", "completed", "compensated", "parked")}


def _total(sums: Iterable[_Sum]) -> _Sum:
    total = _Sum()
    for one in sums:
        total.counts.update(one.counts)
        total.times.update(one.times)
    return total


def _moment(minute: int) -> datetime:
    return datetime.fromtimestamp(60 * minute, UTC)
