"""What the program declares of its sagas, as the pages need it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polysaga.dashboard.words import first_line
from polysaga.sagas import Saga


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredStep:
    """One step."""

    name: str
    kind: str
    database: str | None
    after: tuple[str, ...]
    does: str
    undo: str | None  # the name of its compensation
    undoes: str
    within: float | None  # seconds that it is retried; None: for ever
    undo_within: float | None

    @property
    def where(self) -> str:
        """The database, for people."""
        return self.database or "no database"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredSaga:
    """One version of a saga."""

    name: str
    version: int
    steps: tuple[DeclaredStep, ...]

    @property
    def databases(self) -> tuple[str, ...]:
        """The databases that its steps work on."""
        return tuple(dict.fromkeys(step.database for step in self.steps if step.database is not None))


def declared(sagas: Sequence[Saga[Any, Any]]) -> tuple[DeclaredSaga, ...]:
    """Return what *sagas* are."""
    return tuple(
        DeclaredSaga(name=saga.name, version=saga.version, steps=tuple(_step(step) for step in saga.steps))
        for saga in sagas
    )


def find(sagas: Sequence[DeclaredSaga], name: str, version: int) -> DeclaredSaga | None:
    """Return the declaration of a version."""
    return next((saga for saga in sagas if (saga.name, saga.version) == (name, version)), None)


def by_name(saga: DeclaredSaga | None) -> Mapping[str, DeclaredStep]:
    """Return the steps by name."""
    return {} if saga is None else {step.name: step for step in saga.steps}


def _step(step: Any) -> DeclaredStep:
    return DeclaredStep(
        name=step.name,
        kind=step.kind,
        database=step.database_name,
        after=tuple(one.name for one in step.after),
        does=first_line(step.action.__doc__ or ""),
        undo=None if step.undo is None else step.undo.__name__,
        undoes=first_line("" if step.undo is None else step.undo.__doc__ or ""),
        within=None if step.kind == "retriable" else step.retry.within,
        undo_within=step.undo_retry.within,
    )
