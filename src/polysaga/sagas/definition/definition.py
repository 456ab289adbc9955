"""A checked saga: its steps in a topological order, the graph both ways, and its decision."""

import hashlib
import json
from typing import Any

from polysaga.errors import DefinitionError
from polysaga.sagas.definition.saga import Saga
from polysaga.sagas.definition.schemas import named
from polysaga.sagas.definition.signatures import hint, without_extras
from polysaga.sagas.definition.step import AnyStep


def check_kinds(definition: "Definition") -> None:
    """Raise unless every step before the decision can be undone and no step after it needs to be."""
    saga, decision = definition.saga.name, definition.decision
    for step in definition.steps:
        if step is decision:
            continue
        if step.kind == "retriable":
            if decision is None or decision.name not in definition.ancestors[step.name]:
                raise DefinitionError(
                    f"retriable step '{step.name}' of saga '{saga}' must follow the pivot: "
                    "before it everything must be undoable"
                )
            continue
        if decision is not None and decision.name in definition.ancestors[step.name]:
            raise DefinitionError(
                f"compensatable step '{step.name}' of saga '{saga}' comes after the pivot "
                f"'{decision.name}'; nothing is undone there, make it retriable"
            )
        if decision is not None and step.name not in definition.ancestors[decision.name]:
            raise DefinitionError(
                f"compensatable step '{step.name}' of saga '{saga}' is not before the pivot "
                f"'{decision.name}'; add it to the pivot's after=[...]"
            )
        if step.undo is None:
            raise DefinitionError(
                f"step '{step.name}' of saga '{saga}' has no compensation: declare one with "
                f"@{step.name}.compensation"
            )


def check_output(definition: "Definition") -> None:
    """Raise unless the deciding step returns the saga's declared output type."""
    wanted, decision = definition.saga.output_type, definition.decision
    if wanted is None:
        return
    if decision is None:
        last = [step for step in definition.steps if not definition.following[step.name]]
        found = "several last steps" if len(last) > 1 else "a last step without a database"
        raise DefinitionError(
            f"saga '{definition.name}' has an output but {found}; declare a pivot, which returns it"
        )
    given = without_extras(hint(decision.action, "return", f"step '{decision.name}'"))
    if given != without_extras(wanted):
        raise DefinitionError(
            f"the output of saga '{definition.name}' is {named(wanted)}, but its deciding step "
            f"'{decision.name}' returns {named(given)}"
        )


class Definition:
    """A checked saga: its steps in a topological order, the graph both ways, and its decision."""

    def __init__(self, saga: Saga[Any, Any], steps: tuple[AnyStep, ...]) -> None:
        if not steps:
            raise DefinitionError(f"saga '{saga.name}' has no steps")
        self.saga, self.steps = saga, steps
        self.by_name = {step.name: step for step in steps}
        self.before = {step.name: frozenset(earlier.name for earlier in step.after) for step in steps}
        self.following = {
            step.name: frozenset(later.name for later in steps if step.name in self.before[later.name])
            for step in steps
        }
        self.ancestors: dict[str, frozenset[str]] = {}
        for step in steps:  # declared in a topological order
            direct = self.before[step.name]
            self.ancestors[step.name] = direct.union(*(self.ancestors[name] for name in direct))
        self.databases = tuple({step.database: None for step in steps if step.database is not None})
        self.decision = self._find_decision()
        check_kinds(self)
        check_output(self)
        self.undoable = tuple(
            step.name for step in steps if step.kind == "compensatable" and step != self.decision
        )
        self.fingerprint = self._fingerprint()

    @property
    def name(self) -> str:
        """The saga's name."""
        return self.saga.name

    def _find_decision(self) -> AnyStep | None:
        pivots = [step for step in self.steps if step.kind == "pivot"]
        if len(pivots) > 1:
            names = " and ".join(f"'{step.name}'" for step in pivots)
            raise DefinitionError(f"saga '{self.saga.name}' has two pivots, {names}; one step decides")
        if pivots:
            return pivots[0]
        last = [step for step in self.steps if not self.following[step.name]]
        decides = len(last) == 1 and last[0].kind != "retriable" and last[0].database is not None
        return last[0] if decides else None

    def _fingerprint(self) -> str:
        shape = [[step.name, step.kind, step.database_name, sorted(self.before[step.name])] for step in self.steps]
        text = json.dumps([self.saga.name, self.saga.version, shape])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def define(saga: Saga[Any, Any]) -> Definition:
    """Check *saga* as a whole and return it as data; raise `DefinitionError` for the first mistake."""
    return Definition(saga, saga.steps)
