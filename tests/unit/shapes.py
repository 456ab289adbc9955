"""Sagas in a few words, for tests that look at their shape and never run their steps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from polysaga import SqlDatabase
from polysaga.sagas.definition.definition import Definition, define
from polysaga.sagas.definition.saga import Saga
from polysaga.sagas.definition.step import AnyStep, Kind
from polysaga.sagas.protocol.known import Known
from polysaga.sagas.protocol.outcomes import Failure
from polysaga.sagas.protocol.states import Mark, Status
from polysaga.sagas.protocol.verdicts import Verdict

OUTSIDE = "outside"
HOME = "home"  # the journal's database in all these tests
FAILURE = Failure(Verdict.FAILED, "pay", RuntimeError("it failed"))


@dataclass(frozen=True, slots=True)
class Planned:
    """One step; *after* None: the one before it. The database OUTSIDE is none."""

    name: str
    database: str = HOME
    after: tuple[str, ...] | None = None
    kind: Kind = "compensatable"


def saga_of(steps: Iterable[Planned], *, name: str = "order", version: int = 1) -> Saga[Any, Any]:
    """Return a saga of these steps; every compensatable one has a compensation."""
    saga: Saga[Any, Any] = Saga(name, input=int, version=version)
    handles: dict[str, SqlDatabase] = {}
    made: dict[str, AnyStep] = {}
    for one in steps:
        after = None if one.after is None else [made[earlier] for earlier in one.after]
        if one.database == OUTSIDE:
            call = saga.step(None, after=after, kind=one.kind)(_call(one.name))
            made[one.name] = call
            if one.kind == "compensatable":
                call.compensation(_undo_call)
            continue
        handle = handles.setdefault(one.database, SqlDatabase(one.database))
        step = saga.step(handle, after=after, kind=one.kind)(_action(one.name))
        made[one.name] = step
        if one.kind == "compensatable":
            step.compensation(_undo)
    return saga


def known_as(status: Status, marks: Mapping[str, Mark], failed: bool = False) -> Known:
    """Return what an owner knows; *failed*: there is a reason to undo the saga."""
    return Known(status, marks, FAILURE if failed else None)


def definition_of(*steps: Planned) -> Definition:
    """Return the checked definition of these steps."""
    return define(saga_of(steps))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[Planned, ...]:
    """A random saga: a graph of compensatable steps, perhaps a pivot, perhaps retriable steps behind it."""
    databases = st.sampled_from([HOME, "inventory", "points"])
    places = st.sampled_from([HOME, "inventory", "points", OUTSIDE])
    declared = draw(st.booleans())
    steps: list[Planned] = []
    for number in range(draw(st.integers(min_value=0 if declared else 1, max_value=5))):
        earlier = tuple(step.name for step in steps if draw(st.booleans()))
        steps.append(Planned(f"do_{number}", draw(places), earlier))
    if not declared:
        return tuple(steps)
    named = {name for step in steps for name in step.after or ()}
    leaves = tuple(step.name for step in steps if step.name not in named)
    pivot = Planned("decide", draw(databases), leaves, "pivot")
    behind: list[Planned] = []
    for number in range(draw(st.integers(min_value=0, max_value=3))):
        earlier = tuple(step.name for step in behind if draw(st.booleans()))
        behind.append(Planned(f"then_{number}", draw(places), (*earlier, "decide"), "retriable"))
    return (*steps, pivot, *behind)


def _action(name: str) -> Any:
    async def action(db: Any, value: int, ctx: Any) -> int:
        return value

    action.__name__ = name
    return action


def _call(name: str) -> Any:
    async def call(value: int, ctx: Any) -> int:
        return value

    call.__name__ = name
    return call


async def _undo_call(value: int, done: int | None, ctx: Any) -> None:
    """Undo nothing."""


async def _undo(db: Any, value: int, done: int, ctx: Any) -> None:
    """Undo nothing."""


PLACE_ORDER = (
    Planned("open_order"),
    Planned("reserve_stock", "inventory"),
    Planned("credit_points", "points", after=("open_order",)),
    Planned("confirm_order", HOME, ("reserve_stock", "credit_points"), "pivot"),
    Planned("record_event", "inventory", kind="retriable"),
)
LEDGER_PIVOT = (
    Planned("reserve", "inventory"),
    Planned("credit", "points"),
    Planned("ship", "inventory", kind="pivot"),
    Planned("announce", "points", kind="retriable"),
)
SEVERAL_LEAVES = (
    Planned("open"),
    Planned("reserve", "inventory"),
    Planned("credit", "points", after=("open",)),
)
