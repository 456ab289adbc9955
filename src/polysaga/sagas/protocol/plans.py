"""What an owner would do next, step by step, if nothing failed; a pure look ahead with `decide` and `apply`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from polysaga.sagas.definition.definition import Definition
from polysaga.sagas.protocol.decisions import BlockPivot, Compensate, Finish, RunSteps, UndoSteps, decide
from polysaga.sagas.protocol.known import RULED_OUT, Did, Known, Undid, Written, apply
from polysaga.sagas.protocol.rows import LedgerRow
from polysaga.sagas.protocol.states import Mark, Status


@dataclass(frozen=True, slots=True)
class Planned:
    """One step that comes next, or its compensation."""

    step: str
    phase: Literal["do", "undo"]


def planned(
    definition: Definition, known: Known, records: Mapping[str, LedgerRow], *, home: str
) -> tuple[Planned, ...]:
    """Return the steps and compensations that are still to come, in their order, if nothing fails.

    *records* are those of the steps that have one; what never happened is blocked, which is no move here. *home*
    names the journal's database.
    """
    known, moves = replace(known, marks=_settled(known)), []
    for _ in range(2 * len(definition.steps) + 2):
        match decide(definition, known, home=home):
            case RunSteps(steps):
                moves += [Planned(step, "do") for step in steps]
                for step in steps:
                    known = apply(definition, known, Did(step, "null"))
            case UndoSteps(steps):
                moves += [Planned(step, "undo") for step in steps if _may_stand(definition, records, step)]
                for step in steps:
                    known = apply(definition, known, Undid(step, Mark.COMPENSATED))
            case BlockPivot(step):
                known = apply(definition, known, Undid(step, Mark.BLOCKED))
            case Compensate():
                known = apply(definition, known, Written(Status.COMPENSATING))
            case Finish(Status.COMPENSATED):
                return (*moves, *_with_the_final_status(definition, known, records))
            case _:
                break
    return tuple(moves)


def _settled(known: Known) -> dict[str, Mark]:
    return {name: mark for name, mark in known.marks.items() if mark not in {Mark.ACTIVE, Mark.STUCK}}


def _may_stand(definition: Definition, records: Mapping[str, LedgerRow], step: str) -> bool:
    """Return whether *step* has happened; a call may have happened although it has no record."""
    found = records.get(step)
    if definition.by_name[step].database is None:
        return found is None or found.state is not Mark.COMPENSATED
    return found is not None and found.state is Mark.DONE


def _with_the_final_status(
    definition: Definition, known: Known, records: Mapping[str, LedgerRow]
) -> Iterator[Planned]:
    """Yield the compensation of a fused first step: it is undone in the write of the final status."""
    first = definition.steps[0].name
    pending = first in definition.undoable and known.marks.get(first) not in RULED_OUT
    if pending and _may_stand(definition, records, first):
        yield Planned(first, "undo")
