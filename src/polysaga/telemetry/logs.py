"""Events as log lines, through the standard library's `logging`.

    events = Events(LogSubscriber())
    async with databases.open(settings, emit=events), sagas.open(settings.sagas, emit=events): ...

One event is one record of the logger `polysaga`: a sentence for people, and in `extra` the same facts as fields
for machines. The field `event` names the kind ("saga-finished"). A sentence has the whole id of its saga, so lines
can be searched and passed to other tools whatever the formatter prints.

Texts from databases and user code go through `_clean` first: one line, at most `_LONGEST` characters, no password.
"""

import dataclasses
import logging
import re
from functools import singledispatch
from logging import DEBUG, ERROR, INFO, WARNING
from typing import TypeAlias
from uuid import UUID

from polysaga.config import masked
from polysaga.events import (
    BatchWritten,
    BookmarkUnknown,
    ClaimLost,
    ClientReplaced,
    DatabaseOpened,
    Event,
    Migration,
    MonitorFailed,
    NodeLeft,
    NodeReturned,
    PrimaryChanged,
    PrimaryLost,
    ReadWaited,
    ReplicaUnreachable,
    SagaClaimed,
    SagaDecided,
    SagaEvent,
    SagaFinished,
    SagaNotKnown,
    SagaParked,
    SagaRepaired,
    SagasLeft,
    SagasRemoved,
    SagaStarted,
    ServerSilent,
    StartParked,
    StepCompensated,
    StepDone,
    StepEvent,
    StepFailed,
    SubscriberFailed,
    TablesAhead,
    WorkerFailed,
    WorkerTicked,
)

Line: TypeAlias = tuple[int, str]  # level and sentence
Field: TypeAlias = str | int | float | bool | list[str] | None

# Before the reason, which may be cut.
_REPAIR = "`polysaga sagas show PROGRAM ID`, mend the cause, `polysaga sagas retry`"
_LIST = "`polysaga verify PROGRAM` lists it"

_LONGEST = 500  # characters of one sentence, or of one field
_MOST = 20  # items of a field that is a list

# `logging` refuses extras that would overwrite a record's own attributes.
_TAKEN = {*vars(logging.makeLogRecord({})), "message", "asctime"}


class LogSubscriber:
    """A subscriber that logs every event; give it to `Events`, or as `emit`."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("polysaga")

    def __call__(self, event: Event) -> None:
        """Log *event* as one record, if its level is enabled."""
        level, sentence = line(event)
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", _clean(sentence), extra=fields(event))


def fields(event: Event) -> dict[str, Field]:
    """Return the facts of *event*, shortened and cleaned, under names that a log record accepts."""
    facts = {field.name: _plain(getattr(event, field.name)) for field in dataclasses.fields(event)}
    return {
        "event": _kind(event),
        **{f"{name}_" if name in _TAKEN else name: fact for name, fact in facts.items()},
    }


@singledispatch
def line(event: Event) -> Line:
    """Return level and sentence of *event*; an event without its own sentence lists its facts."""
    facts = " ".join(f"{name}={fact}" for name, fact in fields(event).items() if name != "event")
    return INFO, f"{_kind(event)} {facts}".rstrip()


@line.register
def _(event: Migration) -> Line:
    done = "created" if event.current is None else f"brought from revision {event.current} to {event.head}"
    return INFO, f"database {event.database}: the tables of the {event.line} are {done}"


@line.register
def _(event: TablesAhead) -> Line:
    return WARNING, (
        f"database {event.database}: the tables of the {event.line} are at revision {event.current}, and this "
        f"version of Polysaga knows up to {event.head}: it works on them if the next version has migrated them"
    )


@line.register
def _(event: DatabaseOpened) -> Line:
    return INFO, f"database {event.database} is open at {', '.join(event.nodes)}"


@line.register
def _(event: ReplicaUnreachable) -> Line:
    return WARNING, f"replica {event.node} of database {event.database} does not answer: {_why(event.reason)}"


@line.register
def _(event: NodeLeft) -> Line:
    return WARNING, f"node {event.node} of database {event.database} is left alone: {_why(event.reason)}"


@line.register
def _(event: NodeReturned) -> Line:
    return INFO, f"node {event.node} of database {event.database} answers again"


@line.register
def _(event: PrimaryChanged) -> Line:
    if event.before is None:
        return INFO, f"database {event.database} has its primary at {event.node}"
    if event.before == event.node:
        return WARNING, f"database {event.database} has its primary at {event.node} again"
    where = f"at {event.node} instead of {event.before} (epoch {event.epoch})"
    return WARNING, f"database {event.database} has its primary {where}"


@line.register
def _(event: PrimaryLost) -> Line:
    what = f"database {event.database} has no primary: it can be read and not written"
    return ERROR, f"{what}; if none follows, promote a server (`polysaga nodes PROGRAM` shows them)"


@line.register
def _(event: BookmarkUnknown) -> Line:
    return WARNING, f"how far database {event.database} has got is unknown after a commit: {_why(event.reason)}"


@line.register
def _(event: ReadWaited) -> Line:
    return (
        DEBUG,
        f"a read of database {event.database} waited {_duration(event.seconds)} for a replica",
    )


@line.register
def _(event: MonitorFailed) -> Line:
    return ERROR, f"asking node {event.node} of database {event.database} failed: {_why(event.reason)}"


@line.register
def _(event: SagaStarted) -> Line:
    return DEBUG, f"{_saga(event)} {'joined' if event.joined else 'started'}"


@line.register
def _(event: StartParked) -> Line:
    where = f"stays in the outbox of {event.database} and needs a person ({_LIST})"
    return ERROR, f"{_saga(event)} {where}: {_why(event.reason)}"


@line.register
def _(event: SagaDecided) -> Line:
    if event.status == "compensating":
        return INFO, f"{_saga(event)} is being undone: {_why(event.reason)}"
    return DEBUG, f"{_saga(event)} is decided: {event.status}"


@line.register
def _(event: SagaFinished) -> Line:
    return INFO, f"{_saga(event)} {event.status} in {_duration(event.seconds)}"


@line.register
def _(event: SagaParked) -> Line:
    return ERROR, f"{_saga(event)} is parked and needs a person ({_REPAIR}): {_why(event.reason)}"


@line.register
def _(event: SagaRepaired) -> Line:
    return WARNING, f"{_saga(event)} is {event.status} after {event.action} by {event.by}: {_why(event.why)}"


@line.register
def _(event: SagaClaimed) -> Line:
    return INFO, f"{_saga(event)} taken over in epoch {event.epoch}"


@line.register
def _(event: ClaimLost) -> Line:
    return WARNING, f"{_saga(event)} is driven by another process; epoch {event.epoch} ends here"


@line.register
def _(event: SagaNotKnown) -> Line:
    lacks = f"this process has no definition of its version {event.version}"
    return WARNING, f"{_saga(event)} is overdue, but {lacks}; keep a process running that has one"


@line.register
def _(event: StepDone) -> Line:
    if event.found:
        return DEBUG, f"{_step(event)} had been done already"
    return DEBUG, f"{_step(event)} done in {_duration(event.seconds)}{_attempts(event)}"


@line.register
def _(event: StepFailed) -> Line:
    if event.fault == "refused":
        return INFO, f"{_step(event)} refused: {_why(event.reason)}"
    what = "could not be undone" if event.phase == "undo" else "failed"
    return WARNING, f"{_step(event)} {what}, attempt {event.attempt} ({event.fault}): {_why(event.reason)}"


@line.register
def _(event: StepCompensated) -> Line:
    if event.null:
        return DEBUG, f"{_step(event)} never happened and never will"
    return INFO, f"{_step(event)} undone{_attempts(event)}"


@line.register
def _(event: ServerSilent) -> Line:
    where = f"database {event.database} at {event.node}"
    return ERROR, f"{where} has not answered for {event.seconds:g} s; what waited for it is broken off"


@line.register
def _(event: ClientReplaced) -> Line:
    where = f"database {event.database} at {event.node}"
    return ERROR, f"the client of {where} hung for {event.seconds:g} s although the server answers; it is replaced"


@line.register
def _(event: BatchWritten) -> Line:
    return DEBUG, f"one commit wrote {event.count} {event.what} to the journal in {_duration(event.seconds)}"


@line.register
def _(event: WorkerTicked) -> Line:
    return DEBUG, f"worker: {event.renewed} renewed, {event.claimed} taken over, {event.in_flight} in flight"


@line.register
def _(event: WorkerFailed) -> Line:
    return ERROR, f"a round of the worker failed, the next one tries again: {_why(event.reason)}"


@line.register
def _(event: SagasLeft) -> Line:
    which = "1 saga is" if event.count == 1 else f"{event.count} sagas are"
    return WARNING, f"{which} left to other processes: {_why(event.reason)}"


@line.register
def _(event: SagasRemoved) -> Line:
    return INFO, f"{event.count} sagas that had been at rest for long were removed"


@line.register
def _(event: SubscriberFailed) -> Line:
    return ERROR, f"event subscriber {event.subscriber} failed: {_why(event.reason)}"


def _why(told: str | None) -> str:
    return (told or "").strip() or "no reason given"


def _saga(event: SagaEvent) -> str:
    return f"saga {event.saga} {event.saga_id}"


def _step(event: StepEvent) -> str:
    where = "" if event.database is None else f" on {event.database}"
    return f"{_saga(event)}: step {event.step}{where}"


def _attempts(event: StepEvent) -> str:
    return f", attempt {event.attempt}" if event.attempt > 1 else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _kind(event: Event) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(event).__name__).lower()


def _plain(value: object) -> Field:
    match value:
        case None | bool() | int() | float():
            return value
        case UUID():
            return str(value)
        case tuple() | list():
            return [_clean(str(item)) for item in value[:_MOST]]
        case _:
            return _clean(str(value))


def _clean(said: str) -> str:
    """Return *said* without passwords, line breaks and control characters, cut to `_LONGEST`."""
    # Masked before it is cut: `masked` would not recognise a URL that was cut in half.
    words = " ".join("".join(char if char.isprintable() else " " for char in masked(said)).split())
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
