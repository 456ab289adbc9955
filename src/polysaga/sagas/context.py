"""What a step is told besides its input."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from polysaga.errors import DefinitionError
from polysaga.sagas.definition import Step

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class StepContext:
    """The saga around one attempt of one step."""

    saga_id: UUID
    step: str
    attempt: int
    _results: Mapping[str, Any] = field(repr=False)

    @property
    def idempotency_key(self) -> str:
        """A text that is the same on every attempt in every process: hand it to the outside world."""
        return f"{self.saga_id}:{self.step}"

    def result(self, step: Step[Any, Any, ResultT]) -> ResultT:
        """Return what an earlier *step* returned; raise `DefinitionError` if this one does not follow it."""
        if step.name not in self._results:
            raise DefinitionError(
                f"step '{self.step}' asks for the result of '{step.name}', which it does not follow; "
                f"add it to after=[...]"
            )
        result: ResultT = self._results[step.name]
        return result
