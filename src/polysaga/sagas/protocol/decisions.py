"""The state machine of a saga, as pure functions: what is known goes in, what to do next comes out.

`states.TRANSITIONS` is the only table of states; `docs/explanation/saga-states.md` draws it and a test compares
the two. `decide` never looks at a clock, a database or a task. `Execution` calls it after every fact and does
what it returns; a dashboard can call it to show what happens next.
"""

from collections.abc import Collection
from typing import TypeAlias

from polysaga.frozen import frozen
from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.definition.step import AnyStep
from polysaga.sagas.protocol.known import RULED_OUT, Known
from polysaga.sagas.protocol.states import Mark, Status


@frozen
class RunSteps:
    """Begin these steps, concurrently."""

    steps: tuple[str, ...]


@frozen
class UndoSteps:
    """Begin these compensations, concurrently."""

    steps: tuple[str, ...]


@frozen
class BlockPivot:
    """Make sure that the deciding step never commits, or find that it has."""

    step: str


@frozen
class CancelActive:
    """Cancel the steps under way and wait until they have ended."""


@frozen
class Compensate:
    """Write the decision to compensate."""


@frozen
class GoForward:
    """Write that the saga was decided after all, and continue forward."""


@frozen
class Finish:
    """Write the final status."""

    status: Status


@frozen
class Wait:
    """Something is under way; decide again when it has ended."""


@frozen
class Rest:
    """This process can do nothing more now: a step that must happen, or must be undone, is stuck."""


Move: TypeAlias = RunSteps | UndoSteps | BlockPivot | CancelActive | Compensate | GoForward | Finish | Wait | Rest


def decide(definition: Definition, known: Known, *, home: str) -> Move:
    """Return what to do next. *home* names the database of the journal.

    Carrying out a decision changes what is known, so repeated calls end in `Finish` or `Rest`.
    """
    if known.status is Status.COMPENSATING:
        return _backward(definition, known, home)
    doomed = known.failure is not None or known.undoing_elsewhere
    if known.status is Status.RUNNING and doomed and not known.decided(definition):
        # A branch that goes on would hold the connection that its compensation needs.
        return CancelActive() if known.active else Compensate()
    return _forward(definition, known)


def _forward(definition: Definition, known: Known) -> Move:
    done = {name for name, mark in known.marks.items() if mark is Mark.DONE}
    ready = tuple(
        [name for name, before in definition.before.items() if name not in known.marks and before <= done]
    )
    if ready:
        return RunSteps(ready)
    if known.active:
        return Wait()
    return Finish(Status.COMPLETED) if len(done) == len(definition.steps) else Rest()


def _backward(definition: Definition, known: Known, home: str) -> Move:
    pivot = pivot_elsewhere(definition, home)
    if pivot is not None:
        # The pivot comes first: it must not commit late, after its predecessors are undone.
        match known.marks.get(pivot.name):
            case Mark.DONE:
                return GoForward()
            case None:
                return BlockPivot(pivot.name)
            case Mark.STUCK:
                return Rest()
    pending = [name for name in definition.undoable if known.marks.get(name) not in RULED_OUT]
    fused = None if known.born_alone else fused_first(definition, home)
    if not pending or pending == [fused]:
        if any(known.marks.get(name) is Mark.STUCK for name in pending):
            return Rest()
        return Finish(Status.COMPENSATED)  # the fused first step is undone with the final status
    ready = tuple(
        name
        for name in pending
        if known.marks.get(name) not in {Mark.ACTIVE, Mark.STUCK}
        and name != fused
        and not any(later in pending for later in definition.following[name])
    )
    if ready:
        return UndoSteps(ready)
    return Wait() if known.active else Rest()


def pivot_elsewhere(definition: Definition, home: str) -> AnyStep | None:
    """Return the deciding step if it commits in another database than the journal's, else None.

    The journal alone cannot say whether such a step has committed.
    """
    pivot = definition.decision
    return None if pivot is None or pivot.database_name == home else pivot


def fused_first(definition: Definition, home: str) -> str | None:
    """Return the name of the first step if it commits together with the journal row (is fused), else None."""
    first = definition.steps[0]
    return first.name if first.database_name == home else None


def fused_in(definition: Definition, home: str, results: Collection[str]) -> str | None:
    """Return the name of the fused first step of a row that has *results*, if there is one.

    A row inserted in a caller's transaction (`Sagas.start(tx=...)`) has no fused step; its first step is recorded
    like all others.
    """
    first = fused_first(definition, home)
    return first if first in results else None
