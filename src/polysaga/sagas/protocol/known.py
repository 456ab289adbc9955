"""What the owner of a saga knows of it, and what each fact changes. Pure, like `decide`, which looks at it.

Whatever happens to a saga in its owner's hands is one of the facts below. Steps, calls and writes to the journal
return facts; `Execution` applies them, and no other code changes what is known
(`tests/architecture/test_flow.py`). The model in `tests/model` searches all interleavings of the same facts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from typing import TypeAlias

from polysaga.frozen import frozen
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.protocol.outcomes import Failure
from polysaga.sagas.protocol.reasons import Reason
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark, Status

RULED_OUT = frozenset({Mark.BLOCKED, Mark.COMPENSATED})  # such a step is undone, or can never happen
_NO_TROUBLE = Reason()


@frozen
class Known:
    """Where a saga stands, as its owner knows; the databases know the same, or more."""

    status: Status
    marks: Mapping[str, Mark]
    failure: Failure | None = None  # why the saga is to be undone
    born_alone: bool = False  # the journal row was inserted in a caller's transaction, without the first step
    reason: Reason | None = None  # why it is undone or parked, as the journal keeps it
    trouble: Reason = _NO_TROUBLE  # why it would be parked

    @property
    def undoing_elsewhere(self) -> bool:
        """Whether another owner has begun to undo, even if a failover lost that decision in the journal."""
        return not RULED_OUT.isdisjoint(self.marks.values())

    @property
    def active(self) -> bool:
        """Whether a step is under way in this process."""
        return Mark.ACTIVE in self.marks.values()

    @property
    def at_rest(self) -> bool:
        """Whether there is nothing to do for an owner: the saga has ended, or is parked."""
        return not self.status.moving

    def decided(self, definition: Definition) -> bool:
        """Return whether the deciding step is known to be done."""
        decision = definition.decision
        return decision is not None and self.marks.get(decision.name) is Mark.DONE


@frozen
class Born:
    """The journal row exists, without a step in its commit; or it was found, with *results* in it."""

    status: Status
    reason: Reason | None = None
    results: Mapping[str, str] = field(default_factory=dict)  # JSON by step


@frozen
class Claimed:
    """This process took the saga over; the row says this."""

    status: Status
    reason: Reason | None
    born_alone: bool


@frozen
class Surveyed:
    """The records of the steps, from the journal row and from all ledgers."""

    records: Mapping[str, LedgerRow]


@frozen
class Begun:
    """Attempts of these steps, or of their compensations, are under way."""

    steps: tuple[str, ...]


@frozen
class Did:
    """A step is committed, by this process or by an earlier run; perhaps with the status in the same commit."""

    step: str
    result: str  # JSON
    status: Status | None = None


@frozen
class Undid:
    """A step is compensated, or blocked for ever; perhaps with the status in the same commit."""

    step: str
    mark: Mark
    status: Status | None = None


@frozen
class Failed:
    """The saga is to be undone. *step* is what was under way; None if that is no step, or it has no mark."""

    failure: Failure
    step: str | None = None


@frozen
class Stuck:
    """The retries of a step, or of its compensation, are used up in this process."""

    step: str
    trouble: Reason | None = None


@frozen
class Interrupted:
    """The steps under way were cancelled and have ended."""


@frozen
class Written:
    """A write to the journal, without a step, has changed the status."""

    status: Status
    reason: Reason | None = None


@frozen
class FoundDecided:
    """The saga cannot be undone any more: its pivot has committed all the same, with *results*."""

    status: Status
    results: Mapping[str, str]  # JSON by step


Fact: TypeAlias = (
    Born | Claimed | Surveyed | Begun | Did | Undid | Failed | Stuck | Interrupted | Written | FoundDecided
)


@frozen
class Sighting:
    """What a look at the record of a step has found; a *mark* of None says: no record."""

    mark: Mark | None
    fact: Fact | None = None  # if it is done


def apply(definition: Definition, known: Known, fact: Fact) -> Known:
    """Return what is known after *fact*."""
    match fact:
        case Begun(steps):
            return _marked(known, dict.fromkeys(steps, Mark.ACTIVE))
        case Did(step, _, status):
            return _marked(known, {step: Mark.DONE}, status)
        case Undid(step, mark, status):
            return _marked(known, {step: mark}, status)
        case Failed(failure, step):
            marks = {name: mark for name, mark in known.marks.items() if name != step}
            return replace(known, marks=marks, failure=known.failure or failure)
        case Stuck(step, trouble):
            return replace(known, marks={**known.marks, step: Mark.STUCK}, trouble=trouble or known.trouble)
        case Interrupted():
            return _only_done(known)
        case Written(status, reason):
            return _written(known, status, reason)
        case Born(status, reason, results):
            if results:  # the first step, which was taken for failed, had committed all the same
                return _decided(known, status, results)
            return replace(known, status=status, reason=reason)
        case FoundDecided(status, results):
            return _decided(known, status, results)
        case Claimed(status, reason, born_alone):
            return Known(status, {}, None, born_alone, reason)
        case Surveyed(records):
            return _marked(known, _found(definition, known, records))


def _marked(known: Known, marks: Mapping[str, Mark], status: Status | None = None) -> Known:
    marks = {**known.marks, **marks}
    # `dataclasses.replace` takes ten times as long, and this is what nearly every fact comes to.
    return Known(status or known.status, marks, known.failure, known.born_alone, known.reason, known.trouble)


def _only_done(known: Known) -> Known:
    return replace(known, marks={name: mark for name, mark in known.marks.items() if mark is Mark.DONE})


def _written(known: Known, status: Status, reason: Reason | None) -> Known:
    match status:
        case Status.COMPENSATING:  # each step that was done must now be undone
            return replace(known, status=status, marks={}, reason=reason)
        case Status.RUNNING:  # decided after all: there is nothing to undo
            return _only_done(Known(status, known.marks, born_alone=known.born_alone))
        case Status.NEEDS_ATTENTION:
            return replace(known, status=status, reason=reason)
        case _:
            return replace(known, status=status)


def _decided(known: Known, status: Status, results: Iterable[str]) -> Known:
    marks = {**known.marks, **dict.fromkeys(results, Mark.DONE)}
    return Known(status, marks, born_alone=known.born_alone)


def _found(definition: Definition, known: Known, records: Mapping[str, LedgerRow]) -> dict[str, Mark]:
    """Return the marks of what was found; while compensating, a step that is done is still to be undone."""
    marks: dict[str, Mark] = {}
    for name, record in records.items():
        call = definition.by_name[name].database is None
        # A blocked call may have happened all the same, so its compensation must run.
        pending = record.state is Mark.DONE or (record.state is Mark.BLOCKED and call)
        if not pending or known.status is not Status.COMPENSATING:
            marks[name] = record.state
    by_hand = known.reason.undone_by_hand if known.reason is not None else ()
    return {**marks, **dict.fromkeys(by_hand, Mark.COMPENSATED)}
