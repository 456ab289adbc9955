"""Sagas as data: named steps, what each follows, how each is undone. Checked before anything runs.

Three kinds of step, in this order along every path (Garcia-Molina and Salem, "Sagas", 1987; Richardson,
"Microservices Patterns", chapter 4):

    compensatable   can be undone; has a compensation
    pivot           the decision: once it has committed, the saga can only go forward
    retriable       after the pivot; is repeated until it succeeds

Every saga has one decision. Without a declared pivot it is the last step, if that is a single one; with
several last steps, or a last step without a database, it is the finishing write of the journal.
"""

import functools
import hashlib
import json
import re
import typing
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, overload

from pydantic import TypeAdapter

from polysaga.errors import DefinitionError, Refused
from polysaga.sagas.checks import (
    check_call,
    check_database,
    check_function,
    check_kinds,
    check_output,
    check_unknown,
    result_type,
)
from polysaga.sagas.retries import COMPENSATION, RETRIABLE, STEP, Retry
from polysaga.sagas.schemas import payload_type, written_fields

if TYPE_CHECKING:
    from polysaga.databases import Database
    from polysaga.sagas.context import StepContext

Kind: TypeAlias = Literal["compensatable", "pivot", "retriable"]
SessionT = TypeVar("SessionT")
InputT = TypeVar("InputT")
ResultT = TypeVar("ResultT")
OutputT = TypeVar("OutputT", covariant=True)
Action: TypeAlias = "Callable[[SessionT, InputT, StepContext], Awaitable[ResultT]]"
Undo: TypeAlias = "Callable[[SessionT, InputT, ResultT, StepContext], Awaitable[None]]"
# Of a step without a database. Its compensation gets None if nobody knows whether the call happened.
Call: TypeAlias = "Callable[[InputT, StepContext], Awaitable[ResultT]]"
CallUndo: TypeAlias = "Callable[[InputT, ResultT | None, StepContext], Awaitable[None]]"

_LONGEST_DEADLINE = 10 * 365 * 24 * 3600.0  # seconds
_SAGA_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_STEP_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Step(Generic[SessionT, InputT, ResultT]):
    """One local transaction in one database, or a call that needs none; made by `Saga.step`."""

    def __init__(
        self,
        name: str,
        kind: Kind,
        database: "Database[Any, SessionT] | None",
        action: "Action[SessionT, InputT, ResultT]",
        after: "tuple[AnyStep, ...]",
    ) -> None:
        self.name, self.kind, self.database, self.action, self.after = name, kind, database, action, after
        self.result: TypeAdapter[ResultT] = result_type(action, f"step '{name}'")
        self.undo: Undo[SessionT, InputT, ResultT] | None = None
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
        step without a database runs at least once, also if the step may not have happened: *done* is None
        then, and `ctx.idempotency_key`, the one that the call had, must be enough to undo it.
        """
        if self.kind != "compensatable":
            raise DefinitionError(f"step '{self.name}' is {self.kind} and is never undone; drop its compensation")
        if self.undo is not None:
            raise DefinitionError(f"step '{self.name}' has two compensations; keep one")
        what = f"the compensation of step '{self.name}'"
        if self.database is None:
            check_function(undo, 3, what, "(input, done, ctx)")
            check_unknown(undo, what)
            self.undo = _without_session(undo)
        else:
            check_function(undo, 4, what, "(db, input, done, ctx)")
            self.undo = undo
        return undo


AnyStep: TypeAlias = Step[Any, Any, Any]


class Saga(Generic[InputT, OutputT]):
    """A named, versioned definition of steps over several databases.

    Raise *version* when steps are added, removed or moved; sagas in flight are left to processes that know
    the version they were started with. *output* is what the deciding step returns. *key_fields* names the
    fields of the input that a key vouches for; without it, all of them. *refusals* are the subclasses of
    `Refused` that a later caller gets back as what they were. A saga that is not decided within *deadline*
    seconds of its durable start, by the clock of the journal's database, is undone.
    """

    @overload
    def __init__(
        self: "Saga[InputT, None]",
        name: str,
        *,
        input: type[InputT],
        output: None = None,
        version: int = 1,
        key_fields: Collection[str] | None = None,
        refusals: Sequence[type[Refused]] = (),
        deadline: float | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str,
        *,
        input: type[InputT],
        output: type[OutputT],
        version: int = 1,
        key_fields: Collection[str] | None = None,
        refusals: Sequence[type[Refused]] = (),
        deadline: float | None = None,
    ) -> None: ...

    def __init__(
        self,
        name: str,
        *,
        input: type[InputT],  # noqa: A002 - the word users look for
        output: type[Any] | None = None,
        version: int = 1,
        key_fields: Collection[str] | None = None,
        refusals: Sequence[type[Refused]] = (),
        deadline: float | None = None,
    ) -> None:
        if not _SAGA_NAME.fullmatch(name):
            raise DefinitionError(f"'{name}' is not a saga's name: use a-z, 0-9 and -, at most 64 characters")
        if deadline is not None and not 0 < deadline <= _LONGEST_DEADLINE:
            raise DefinitionError(
                f"the deadline of saga '{name}' is {deadline} seconds; give it more than none, at most ten years"
            )
        self.name, self.version, self.deadline = name, version, deadline
        self.input: TypeAdapter[InputT] = payload_type(input, f"the input of saga '{name}'")
        self.output_type = output
        self.key_fields = key_fields
        self.refusals = {refusal.code: refusal for refusal in refusals}
        if len(self.refusals) != len(refusals):
            raise DefinitionError(f"two refusals of saga '{name}' have the same code; give each its own")
        self._check_key_fields()
        self._steps: dict[str, AnyStep] = {}

    def __repr__(self) -> str:
        return f"Saga({self.name!r}, version={self.version})"

    @overload
    def step(
        self,
        database: None,
        *,
        after: Sequence[AnyStep] | None = None,
        kind: Literal["compensatable", "retriable"] = "compensatable",
        retry: Retry | None = None,
        timeout: float | None = None,
        undo_retry: Retry | None = None,
    ) -> "Callable[[Call[InputT, ResultT]], Step[None, InputT, ResultT]]": ...

    @overload
    def step(
        self,
        database: "Database[Any, SessionT]",
        *,
        after: Sequence[AnyStep] | None = None,
        kind: Kind = "compensatable",
        retry: Retry | None = None,
        timeout: float | None = None,
        undo_retry: Retry | None = None,
    ) -> "Callable[[Action[SessionT, InputT, ResultT]], Step[SessionT, InputT, ResultT]]": ...

    def step(
        self,
        database: "Database[Any, Any] | None",
        *,
        after: Sequence[AnyStep] | None = None,
        kind: Kind = "compensatable",
        retry: Retry | None = None,
        timeout: float | None = None,
        undo_retry: Retry | None = None,
    ) -> "Callable[[Any], Step[Any, InputT, Any]]":
        """Declare the decorated function as a step that runs on *database*, after the steps in *after*.

        Without *after* it follows the step declared before it. *timeout* is in seconds, for one attempt.

        *undo_retry* tells how long the compensation is tried; then the saga is parked for a person.

        With None for a database the function takes `(input, ctx)` and calls the outside world, at least once:
        hand `ctx.idempotency_key` on, raise `TryAgain` for what time heals. Its result is kept in the journal
        before any later step begins. It can be compensatable or retriable, not the pivot.
        """

        def declare(action: Any) -> Step[Any, InputT, Any]:
            name = getattr(action, "__name__", None)
            if name is None:
                kind_of = type(action).__name__
                raise DefinitionError(
                    f"a step is a function with a name, not a {kind_of}: declare one that calls it"
                )
            self._check_new(name, kind, after)
            if database is None:
                check_call(kind, name)
                check_function(action, 2, f"step '{name}'", "(input, ctx)")
                action = _without_session(action)
            else:
                check_database(database, name)
                check_function(action, 3, f"step '{name}'", "(db, input, ctx)")
            last = list(self._steps.values())[-1:]
            step: Step[Any, InputT, Any] = Step(
                name, kind, database, action, tuple(last if after is None else after)
            )
            step.retry = retry or step.retry
            step.timeout = timeout or step.timeout
            step.undo_retry = undo_retry or step.undo_retry
            self._steps[name] = step
            return step

        return declare

    def definition(self) -> "Definition":
        """Check the saga as a whole and return it as data; raise `DefinitionError` for the first mistake."""
        return Definition(self, tuple(self._steps.values()))

    def _check_key_fields(self) -> None:
        known = written_fields(self.input)
        for field in self.key_fields or ():
            if known is None:
                raise DefinitionError(f"the input of saga '{self.name}' has no fields; drop key_fields")
            if field not in known:
                raise DefinitionError(
                    f"the input of saga '{self.name}' has no field '{field}' for key_fields; "
                    f"known: {', '.join(sorted(known))}"
                )

    def _check_new(self, name: str, kind: Kind, after: Sequence[AnyStep] | None) -> None:
        if kind not in typing.get_args(Kind):
            kinds = ", ".join(typing.get_args(Kind))
            raise DefinitionError(f"step '{name}' has the kind '{kind}', which is none of {kinds}")
        if not _STEP_NAME.fullmatch(name):
            raise DefinitionError(f"'{name}' is not a step's name: use a-z, 0-9 and _, at most 64 characters")
        if name in self._steps:
            raise DefinitionError(f"saga '{self.name}' has two steps named '{name}'; names must be unique")
        for step in after or ():
            # Only declared steps can be named, so the graph cannot have a cycle.
            if step not in self._steps.values():
                raise DefinitionError(
                    f"step '{name}' follows {step!r}, which is not a step of saga '{self.name}'; "
                    "name the decorated function, e.g. after=[open_order]"
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


def _without_session(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return *function* under the signature of a step that has a session."""

    @functools.wraps(function)
    async def call(_: None, *given: Any) -> Any:
        return await function(*given)

    return call
