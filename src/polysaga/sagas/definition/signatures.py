"""Check the signatures in a saga's definition; each mistake is one clear `DefinitionError`."""

import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter

from polysaga.errors import DefinitionError
from polysaga.sagas.definition.schemas import named, payload_type

if sys.version_info >= (3, 14):
    from annotationlib import Format


def result_type(action: Callable[..., Any], what: str) -> TypeAdapter[Any]:
    """Return the adapter of the annotated result of *action*, a type that survives JSON."""
    if "return" not in _annotations(action):
        raise DefinitionError(f"{what} does not say what it returns; annotate it, e.g. `-> None`")
    return payload_type(hint(action, "return", what), f"the result of {what}")


def check_function(function: Callable[..., Any], count: int, what: str, wanted: str) -> None:
    """Raise unless *function* is asynchronous and takes *count* arguments by position."""
    if not inspect.iscoroutinefunction(function):
        raise DefinitionError(f"{what} must be an `async def` function")
    parameters = inspect.signature(function).parameters.values()
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    if len(parameters) != count or any(parameter.kind not in positional for parameter in parameters):
        raise DefinitionError(f"{what} must take {wanted}, by position")


def check_call(kind: str, name: str) -> None:
    """Raise if the step *name*, which has no database, is the pivot."""
    if kind == "pivot":
        raise DefinitionError(
            f"step '{name}' has no database and cannot be the pivot: a call of which no reply came can neither "
            "be found committed nor be kept from happening; make it compensatable before the pivot, or "
            "retriable behind it"
        )


def check_unknown(undo: Callable[..., Any], what: str) -> None:
    """Raise if *undo* does not accept None, which means that it is unknown whether the step happened."""
    done = list(inspect.signature(undo).parameters)[1]
    kind = without_extras(hint(undo, done, what))
    if kind not in {Any, object, type(None)} and type(None) not in typing.get_args(kind):
        raise DefinitionError(
            f"{what} must take `{done}: {named(kind)} | None`; None says that it is unknown whether the call "
            "happened"
        )


def refuse_without_database(database: object, saga: str) -> None:
    """Raise if *database* is the function to declare: `@saga.step` without a call would declare no step."""
    if inspect.isroutine(database):
        raise DefinitionError(
            f"step '{database.__name__}' of saga '{saga}' is declared without its database: write "
            "@saga.step(database), or @saga.step(None) for a call of the outside world"
        )


def check_database(database: object, step: str) -> None:
    """Raise unless *database* is a handle."""
    if isinstance(database, type) or not all(hasattr(database, name) for name in ("name", "writer", "wrote")):
        raise DefinitionError(f"step '{step}' runs on {database!r}, which is not a database: give it a handle")


def asks_bare(function: Callable[..., Any], database: object, what: str) -> bool:
    """Return whether the first parameter of *function* is annotated with what *database* lends besides sessions.

    Raise if it asks for a connection of a *database* that lends none.
    """
    if database is None:
        return False
    first, kind = _first_annotation(function)
    bare: type | None = getattr(database, "bare", None)
    if bare is not None:
        return issubclass(kind, bare) if isinstance(kind, type) else kind == bare.__name__
    if getattr(kind, "__name__", kind) == "AsyncConnection":
        raise DefinitionError(
            f"{what} asks for an AsyncConnection, which only a SqlDatabase lends: declare one, "
            f"or annotate `{first}` with the session of {database!r}"
        )
    return False


def check_bare(undo: Callable[..., Any], database: object, what: str, *, bare: bool) -> None:
    """Raise if the compensation *undo* is annotated with something else than its step, which is *bare* or not."""
    first, kind = _first_annotation(undo)
    if kind not in {"", Any, object} and asks_bare(undo, database, what) is not bare:
        raise DefinitionError(f"{what} asks for another `{first}` than its step: annotate both alike")


def _first_annotation(function: Callable[..., Any]) -> tuple[str, Any]:
    """Return the first parameter of *function* and its annotation; without one an empty text.

    What an annotation adds (`Annotated`, `| None`) is left out. One that cannot be resolved, because its import is
    for type checkers only, is its last name.
    """
    first = next(iter(inspect.signature(function).parameters), "")
    annotation = _annotations(function).get(first, "")
    if annotation == "":
        return first, ""
    try:
        kind = without_extras(hint(function, first, "the first parameter"))
    except (DefinitionError, AttributeError, TypeError, SyntaxError):
        text = getattr(annotation, "__forward_arg__", annotation)
        return first, str(text).rpartition(".")[2].strip("'\" ")
    others = [one for one in typing.get_args(kind) if one is not type(None)]
    optional = typing.get_origin(kind) in {typing.Union, types.UnionType} and len(others) == 1
    return first, others[0] if optional else kind


def hint(function: Callable[..., Any], name: str, what: str) -> Any:
    """Return one annotation of *function*, including the metadata of `Annotated`, which is part of the type.

    Other annotations are not resolved: their imports may be for type checkers only, as linters propose.
    """

    def only() -> None: ...

    only.__annotations__ = {name: _annotations(function).get(name, Any)}
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return typing.get_type_hints(only, names, include_extras=True)[name]
    except NameError as error:
        of = "what it returns" if name == "return" else f"'{name}'"
        raise DefinitionError(
            f"{what}: the annotation of {of} cannot be resolved: {error}; define the name at the top of the "
            "module, outside of `if TYPE_CHECKING:`"
        ) from error


def _annotations(function: Callable[..., Any]) -> Mapping[str, Any]:
    if sys.version_info >= (3, 14):
        return inspect.get_annotations(function, format=Format.FORWARDREF)
    return inspect.get_annotations(function)


def without_extras(kind: Any) -> Any:
    """Return *kind* as a type checker compares it."""

    def annotated() -> None: ...

    annotated.__annotations__ = {"return": kind}
    return typing.get_type_hints(annotated)["return"]
