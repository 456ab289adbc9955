"""One step of a saga as a program declares it, and the context that it gets when it runs."""

import functools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, overload
from uuid import UUID

from pydantic import TypeAdapter

from polysaga.errors import DefinitionError
from polysaga.sagas.definition.retries import COMPENSATION, RETRIABLE, STEP
from polysaga.sagas.definition.signatures import asks_bare, check_bare, check_function, check_unknown, result_type

Kind: TypeAlias = Literal["compensatable", "pivot", "retriable"]
SessionT = TypeVar("SessionT")
LentT = TypeVar("LentT", covariant=True)
BareT = TypeVar("BareT")
BareT_co = TypeVar("BareT_co", covariant=True)
InputT = TypeVar("InputT")
ResultT = TypeVar("ResultT")
Action: TypeAlias = "Callable[[SessionT, InputT, StepContext], Awaitable[ResultT]]"
Undo: TypeAlias = "Callable[[SessionT, InputT, ResultT, StepContext], Awaitable[None]]"
# For a step without a database. Its compensation gets None if it is unknown whether the call happened.
Call: TypeAlias = "Callable[[InputT, StepContext], Awaitable[ResultT]]"
CallUndo: TypeAlias = "Callable[[InputT, ResultT | None, StepContext], Awaitable[None]]"


class Handle(Protocol[LentT]):
    """What a definition needs to know of a database: its name, and the kind of session it lends."""

    @property
    def name(self) -> str:
        """The name of the database in the settings."""

    def writer(self) -> AbstractAsyncContextManager[LentT]:
        """Lend a session that may write."""

    def wrote(self) -> None:
        """Note that the caller has written."""


class BareHandle(Handle[LentT], Protocol[LentT, BareT_co]):
    """A database of which a step may ask less than a session, by its annotation."""

    @property
    def bare(self) -> type[BareT_co]:
        """What a step gets that is annotated with this type."""


class Step(Generic[SessionT, InputT, ResultT]):
    """One local transaction in one database, or a call that needs none; made by `Saga.step`."""

    def __init__(
        self,
        name: str,
        kind: Kind,
        database: Handle[SessionT] | None,
        action: "Action[SessionT, InputT, ResultT]",
        after: "tuple[AnyStep, ...]",
    ) -> None:
        self.name, self.kind, self.database, self.action, self.after = name, kind, database, action, after
        self.result: TypeAdapter[ResultT] = result_type(action, f"step '{name}'")
        self.undo: Undo[SessionT, InputT, ResultT] | None = None
        self.bare = asks_bare(action, database, f"step '{name}'")  # for a connection in place of a session
        self.retry = RETRIABLE if kind == "retriable" else STEP
        self.undo_retry = COMPENSATION
        self.timeout = 30.0  # seconds for one attempt
        self.database_name = None if database is None else database.name

    def __repr__(self) -> str:
        return f"Step({self.name!r}, {self.kind})"

    @overload
    def compensation(
        self: "Step[None, InputT, ResultT]", undo: "CallUndo[InputT, ResultT]"
    ) -> "CallUndo[InputT, ResultT]": ...

    @overload
    def compensation(self, undo: "Undo[SessionT, InputT, ResultT]") -> "Undo[SessionT, InputT, ResultT]": ...

    def compensation(self, undo: Any) -> Any:
        """Declare how the step is undone; *undo* gets what the step returned.

        It happens exactly once for a step that happened and never for one that did not. The compensation of a
        step without a database runs at least once, even if it is unknown whether the step happened. In that
        case *done* is None, and `ctx.idempotency_key`, the same as in the call, must be enough to undo it.

        It gets what the step gets, a session or a connection.
        """
        if self.kind != "compensatable":
            raise DefinitionError(f"step '{self.name}' is {self.kind} and is never undone; drop its compensation")
        if self.undo is not None:
            raise DefinitionError(f"step '{self.name}' has two compensations; keep one")
        what = f"the compensation of step '{self.name}'"
        if self.database is None:
            check_function(undo, 3, what, "(input, done, ctx)")
            check_unknown(undo, what)
            self.undo = without_session(undo)
        else:
            check_function(undo, 4, what, "(db, input, done, ctx)")
            check_bare(undo, self.database, what, bare=self.bare)
            self.undo = undo
        return undo


AnyStep: TypeAlias = Step[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class StepContext:
    """The saga around one attempt of one step."""

    saga_id: UUID
    step: str
    attempt: int
    _results: Mapping[str, Any] = field(repr=False)

    @property
    def idempotency_key(self) -> str:
        """A text that is the same on every attempt in every process; pass it to the outside world."""
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


def without_session(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return *function* with the signature of a step that has a session."""

    @functools.wraps(function)
    async def call(_: None, *given: Any) -> Any:
        return await function(*given)

    return call
