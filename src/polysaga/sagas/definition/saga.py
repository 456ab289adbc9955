"""Sagas as data: named steps, what each follows, how each is undone; checked before anything runs.

Three kinds of step, in this order along every path (Garcia-Molina and Salem, "Sagas", 1987; Richardson,
"Microservices Patterns", chapter 4):

    compensatable   can be undone; has a compensation
    pivot           the decision: once it has committed, the saga can only go forward
    retriable       after the pivot; is retried until it succeeds

Every saga has one decision: the declared pivot, or else the last step. If there are several last steps, or the
last step has no database, the decision is the finishing write of the journal.
"""

import re
import typing
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, overload

from pydantic import TypeAdapter

from polysaga.errors import DefinitionError, Refused
from polysaga.sagas.definition.options import (
    check_kind_of,
    check_name,
    check_seconds,
    check_type,
    check_version,
    listed,
)
from polysaga.sagas.definition.retries import Retry
from polysaga.sagas.definition.schemas import payload_type, written_fields
from polysaga.sagas.definition.signatures import (
    check_call,
    check_database,
    check_function,
    refuse_without_database,
)
from polysaga.sagas.definition.step import (
    Action,
    AnyStep,
    BareHandle,
    BareT,
    Call,
    Handle,
    InputT,
    Kind,
    ResultT,
    SessionT,
    Step,
    without_session,
)

if TYPE_CHECKING:
    from typing_extensions import TypeForm

OutputT = TypeVar("OutputT", covariant=True)

_SAGA_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_STEP_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Declare(Protocol[SessionT, BareT, InputT]):
    """Declares a function as a step; its annotation says whether it takes a session or less."""

    @overload
    def __call__(self, action: "Action[SessionT, InputT, ResultT]", /) -> Step[SessionT, InputT, ResultT]: ...

    @overload
    def __call__(self, action: "Action[BareT, InputT, ResultT]", /) -> Step[BareT, InputT, ResultT]: ...


class Saga(Generic[InputT, OutputT]):
    """A named, versioned definition of steps over several databases.

    Raise *version* when steps are added, removed or moved; only processes that know the version a saga was
    started with drive it. *output* is what the deciding step returns. *key_fields* names the input fields that
    must be the same when a key is reused; the default is all of them. *refusals* are the subclasses of `Refused`
    that later callers get back as the same class. A saga that is not decided within *deadline* seconds of its
    durable start, by the clock of the journal's database, is undone.

    All steps are declared before `Sagas(...)` takes the saga. Every mistake raises `DefinitionError`.
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

    # Apart, for what is no class, such as `Order | None`: not every type checker knows TypeForm.
    @overload
    def __init__(
        self: "Saga[InputT, None]",
        name: str,
        *,
        input: "TypeForm[InputT]",
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
        input: "TypeForm[InputT]",
        output: "TypeForm[OutputT]",
        version: int = 1,
        key_fields: Collection[str] | None = None,
        refusals: Sequence[type[Refused]] = (),
        deadline: float | None = None,
    ) -> None: ...

    def __init__(
        self,
        name: str,
        *,
        input: "type[InputT] | TypeForm[InputT]",  # noqa: A002 - the word users look for
        output: Any = None,
        version: int = 1,
        key_fields: Collection[str] | None = None,
        refusals: Sequence[type[Refused]] = (),
        deadline: float | None = None,
    ) -> None:
        check_name(name, _SAGA_NAME, "a saga's name", "use a-z, 0-9 and -, at most 64 characters")
        check_version(version, f"the version of saga '{name}'")
        check_seconds(deadline, f"the deadline of saga '{name}'", none="for no deadline")
        check_type(input, f"the input of saga '{name}'")
        check_type(output, f"the output of saga '{name}'")
        self.name, self.version, self.deadline = name, version, deadline
        self.input: TypeAdapter[InputT] = payload_type(input, f"the input of saga '{name}'")
        self.output_type = output
        self.key_fields = key_fields
        self._check_key_fields()
        self.refusals = self._by_code(refusals)
        self._steps: dict[str, AnyStep] = {}
        self._may_declare = True

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
        database: BareHandle[SessionT, BareT],
        *,
        after: Sequence[AnyStep] | None = None,
        kind: Kind = "compensatable",
        retry: Retry | None = None,
        timeout: float | None = None,
        undo_retry: Retry | None = None,
    ) -> "Declare[SessionT, BareT, InputT]": ...

    @overload
    def step(
        self,
        database: Handle[SessionT],
        *,
        after: Sequence[AnyStep] | None = None,
        kind: Kind = "compensatable",
        retry: Retry | None = None,
        timeout: float | None = None,
        undo_retry: Retry | None = None,
    ) -> "Callable[[Action[SessionT, InputT, ResultT]], Step[SessionT, InputT, ResultT]]": ...

    def step(
        self,
        database: Handle[Any] | None,
        *,
        after: Sequence[AnyStep] | None = None,
        kind: Kind = "compensatable",
        retry: Retry | None = None,
        timeout: float | None = None,
        undo_retry: Retry | None = None,
    ) -> "Callable[[Any], Step[Any, InputT, Any]]":
        """Declare the decorated function as a step that runs on *database*, after the steps in *after*.

        Without *after* it follows the step declared before it. *timeout* is in seconds, for one attempt.

        The function's first parameter is a session of *database*. On a `SqlDatabase` it is an `AsyncConnection` if
        it is annotated so, which costs less of the process's time (`docs/guides/writing-a-saga.md`).

        *undo_retry* sets how long the compensation is retried; then the saga is parked for a person.

        If *database* is None, the function takes `(input, ctx)` and calls the outside world, at least once: pass
        `ctx.idempotency_key` on, and raise `TryAgain` for transient errors. The journal's database stores its
        result before any later step begins. Such a step can be compensatable or retriable, not the pivot.

        Raises `DefinitionError` for every mistake, also for a step that comes after `Sagas(...)` took the saga.
        """
        refuse_without_database(database, self.name)

        def declare(action: Any) -> Step[Any, InputT, Any]:
            name = getattr(action, "__name__", None)
            if name is None:
                kind_of = type(action).__name__
                raise DefinitionError(
                    f"a step is a function with a name, not a {kind_of}: declare one that calls it"
                )
            earlier = self._check_new(name, kind, after)
            self._check_patience(name, timeout, retry=retry, undo_retry=undo_retry)
            if database is None:
                check_call(kind, name)
                check_function(action, 2, f"step '{name}'", "(input, ctx)")
                action = without_session(action)
            else:
                check_database(database, name)
                check_function(action, 3, f"step '{name}'", "(db, input, ctx)")
            step: Step[Any, InputT, Any] = Step(name, kind, database, action, earlier)
            step.retry = step.retry if retry is None else retry
            step.timeout = step.timeout if timeout is None else timeout
            step.undo_retry = step.undo_retry if undo_retry is None else undo_retry
            self._steps[name] = step
            return step

        return declare

    @property
    def steps(self) -> tuple[AnyStep, ...]:
        """The steps declared so far, in their order."""
        return tuple(self._steps.values())

    def end_declarations(self) -> None:
        """Refuse further steps; `Sagas` calls this, which runs only the steps that it was built with."""
        self._may_declare = False

    def _check_key_fields(self) -> None:
        known = written_fields(self.input)
        given = () if self.key_fields is None else self.key_fields
        for field in listed(given, f"the option key_fields= of saga '{self.name}'", "key_fields=['number']"):
            if known is None:
                raise DefinitionError(f"the input of saga '{self.name}' has no fields; drop key_fields")
            if not isinstance(field, str) or field not in known:
                raise DefinitionError(
                    f"the input of saga '{self.name}' has no field '{field}' for key_fields; "
                    f"known: {', '.join(sorted(known))}"
                )

    def _by_code(self, given: Sequence[type[Refused]]) -> dict[str, type[Refused]]:
        refusals = listed(given, f"the option refusals= of saga '{self.name}'", "refusals=[SoldOut]")
        for one in refusals:
            if not (isinstance(one, type) and issubclass(one, Refused)):
                raise DefinitionError(
                    f"the option refusals= of saga '{self.name}' has {one!r}, which is not a subclass of Refused; "
                    "give the classes that steps raise to say no, and let them inherit from Refused"
                )
        by_code = {one.code: one for one in refusals}
        if len(by_code) != len(refusals):
            raise DefinitionError(f"two refusals of saga '{self.name}' have the same code; give each its own")
        return by_code

    def _check_new(self, name: str, kind: Kind, after: Sequence[AnyStep] | None) -> tuple[AnyStep, ...]:
        """Return the steps that the new step follows."""
        if kind not in typing.get_args(Kind):
            kinds = ", ".join(typing.get_args(Kind))
            raise DefinitionError(f"step '{name}' has the kind '{kind}', which is none of {kinds}")
        check_name(name, _STEP_NAME, "a step's name", "use a-z, 0-9 and _, at most 64 characters")
        if not self._may_declare:
            raise DefinitionError(
                f"step '{name}' is declared after Sagas(...) was built with saga '{self.name}', and would never "
                "run; declare all steps first: import the modules that declare them before Sagas(...) is built"
            )
        if name in self._steps:
            raise DefinitionError(f"saga '{self.name}' has two steps named '{name}'; names must be unique")
        if after is None:
            return self.steps[-1:]
        earlier = listed(after, f"the option after= of step '{name}'", "after=[open_order]")
        for step in earlier:
            # Only declared steps can be named, so the graph cannot have a cycle.
            if step not in self._steps.values():
                raise DefinitionError(
                    f"step '{name}' follows {step!r}, which is not a step of saga '{self.name}'; "
                    "name the decorated function, e.g. after=[open_order]"
                )
        return earlier

    def _check_patience(self, name: str, timeout: object, **retries: object) -> None:
        step = f"of step '{name}' of saga '{self.name}'"
        check_seconds(timeout, f"the option timeout= {step}", none="for 30 seconds")
        for option, given in retries.items():
            if given is not None:
                remedy = f"give a Retry, e.g. {option}=Retry(within=20.0); it limits seconds, not attempts"
                check_kind_of(given, Retry, f"the option {option}= {step}", remedy)
