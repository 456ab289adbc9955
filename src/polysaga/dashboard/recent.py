"""What happened in this process lately: a subscriber that keeps the last events worth a person's look.

Single steps are among them only if their database could not be reached. The same kind of event with the same text
within five minutes is one line with a count. Give the `Events` of the program to `dashboard(events=...)`.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from polysaga.clock import Clock
from polysaga.config import masked
from polysaga.dashboard import words
from polysaga.dashboard.screens.hosts import host
from polysaga.events import (
    DatabaseOpened,
    Event,
    NodeLeft,
    NodeReturned,
    PrimaryChanged,
    PrimaryLost,
    ReplicaUnreachable,
    SagaClaimed,
    SagaNotKnown,
    SagaParked,
    SagaRepaired,
    SagasLeft,
    SagasRemoved,
    StartParked,
    StepDone,
    StepFailed,
    WorkerFailed,
)
from polysaga.faults import Fault

_KEPT = 200
_TOGETHER = timedelta(minutes=5)
_ABSENCES, _LATELY = 5, timedelta(hours=1)
_OUT_OF_REACH = frozenset(
    {Fault.UNREACHABLE, Fault.DISCONNECTED, Fault.REJECTED, Fault.NO_DATABASE, Fault.TOO_MANY_CONNECTIONS}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One line: *text* for one event, *many* for several, with `{}` for their number."""

    at: datetime
    first: datetime
    kind: str  # the colour
    icon: str
    text: str
    many: str
    count: int = 1
    database: str | None = None

    @property
    def told(self) -> str:
        """The line for people."""
        if self.count == 1:
            return self.text
        since = f" (since {words.clock(self.first)})" if words.clock(self.first) != words.clock(self.at) else ""
        return f"{self.many.replace('{}', words.number(self.count))}{since}"


@dataclass(frozen=True, slots=True)
class Absence:
    """A time in which the steps of this process could not reach a database."""

    database: str
    since: datetime
    until: datetime

    @property
    def told(self) -> str:
        """The sentence for people."""
        lasted = words.duration(words.since(self.since, self.until))
        return f"{self.database} was out of reach from {words.clock(self.since)} for {lasted}."


class Recent:
    """The last lines, the newest first; call it with each event."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock, self._lines = clock or Clock(), deque[Happening](maxlen=_KEPT)
        # Since when: databases that the last attempt of a step could not reach.
        self._out_of_reach: dict[str, datetime] = {}
        self._absences = deque[Absence](maxlen=_ABSENCES)
        self.subscribed = False

    @property
    def lines(self) -> Sequence[Happening]:
        """The lines, the newest first."""
        return tuple(reversed(self._lines))

    @property
    def out_of_reach(self) -> Mapping[str, datetime]:
        """Since when the steps of this process cannot reach which databases."""
        return self._out_of_reach

    def absences(self) -> list[Absence]:
        """Return which databases steps could not reach in the last hour, the latest last."""
        begin = self._clock.now() - _LATELY
        return [one for one in self._absences if one.until > begin]

    def __call__(self, event: Event) -> None:
        """Keep *event* if people want to see it."""
        line = self._told_of_step(event) if isinstance(event, StepDone | StepFailed) else None
        line = line or told_of(event, self._clock.now())
        if line is None:
            return
        for place in range(len(self._lines) - 1, -1, -1):
            known = self._lines[place]
            if line.at - known.at > _TOGETHER:
                break
            if (known.kind, known.many, known.database) == (line.kind, line.many, line.database):
                del self._lines[place]
                line = replace(line, first=known.first, count=known.count + 1)
                break
        self._lines.append(line)

    def _told_of_step(self, event: StepDone | StepFailed) -> Happening | None:
        """Return a line if the database of a step is out of reach, or was until now."""
        database, now = event.database, self._clock.now()
        if database is None:
            return None
        if isinstance(event, StepFailed) and event.fault in _OUT_OF_REACH:
            self._out_of_reach.setdefault(database, now)
            text = (
                f"{database}: {event.saga} could not reach it at {event.step}: {words.short(masked(event.reason))}"
            )
            many = f"{database}: {{}} attempts of steps could not reach it"
            return _happening(now, "failed", "gone", text, many, database)
        if isinstance(event, StepDone) and database in self._out_of_reach:
            since = self._out_of_reach.pop(database)
            self._absences.append(Absence(database, since, now))
            lasted = words.duration(words.since(since, now))
            text = f"{database}: steps reach it again, after {lasted}"
            return _happening(now, "ok", "primary", text, database=database)
        return None


def told_of(event: Event, now: datetime) -> Happening | None:
    """Return the line of *event*; None if it is not shown."""
    line = partial(_happening, now)
    match event:
        case SagaParked():
            reason = words.short(event.reason)
            text = f"{event.saga} …{words.tail(event.saga_id)} parked: {reason}"
            return line("needs_attention", "needs_attention", text, f"{{}} {event.saga} sagas parked: {reason}")
        case StartParked():
            text = f"A start of {event.saga} in {event.database} cannot be moved to the journal: {event.reason}"
            return line("needs_attention", "needs_attention", text, database=event.database)
        case SagaRepaired():
            text = f"{event.by} ordered {event.action} for {event.saga} …{words.tail(event.saga_id)}: {event.why}"
            many = f"{event.by} ordered {event.action} for {{}} {event.saga} sagas: {event.why}"
            return line("info", "person", text, many)
        case SagaClaimed():
            text = f"{event.saga} …{words.tail(event.saga_id)} taken up, as it was due"
            many = f"{{}} {event.saga} sagas taken up, as they were due"
            return line("info", "taken", text, many)
        case SagaNotKnown():
            what = f"{event.saga} version {event.version} is not known here; left for a process that knows it"
            return line("late", "late", what, f"{what} ({{}} times)")
        case SagasLeft():
            why = words.short(masked(event.reason))
            return line("late", "late", f"{words.counted(event.count, 'saga')} left to other processes: {why}")
        case SagasRemoved():
            return line("ok", "done", f"{words.counted(event.count, 'saga')} removed: kept long enough at rest")
        case PrimaryLost():
            text = f"{event.database}: no node takes writes; readers go on, writers are refused at once"
            return line("failed", "gone", text, database=event.database)
        case PrimaryChanged():
            again = " again" if event.before == event.node else "" if event.before is None else " now"
            text = f"{event.database}: {host(event.node)} takes the writes{again}"
            return line("ok", "primary", text, database=event.database)
        case NodeLeft() | ReplicaUnreachable():
            text = f"{event.database}: {host(event.node)} does not count any more: {masked(event.reason)}"
            return line("failed", "gone", text, database=event.database)
        case NodeReturned():
            return line(
                "ok", "replica", f"{event.database}: {host(event.node)} answers again", database=event.database
            )
        case DatabaseOpened():
            text = f"{event.database}: opened at {words.joined([host(node) for node in event.nodes])}"
            return line("ok", "primary", text, database=event.database)
        case WorkerFailed():
            told = words.short(masked(event.reason))
            return line("failed", "gone", f"Work in the background of this process failed: {told}")
    return None


def _happening(
    at: datetime, kind: str, icon: str, text: str, many: str = "", database: str | None = None
) -> Happening:
    many = many or f"{text} ({{}} times)"
    return Happening(at=at, first=at, kind=kind, icon=icon, text=text, many=many, database=database)
