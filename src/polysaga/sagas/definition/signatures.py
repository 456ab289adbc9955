"""Check the signatures in a saga's definition; each mistake is one clear `DefinitionError`."""

import inspect
import sys
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


def check_database(database: object, step: str) -> None:
    """Raise unless *database* is a handle."""
    if isinstance(database, type) or not all(hasattr(database, name) for name in ("name", "writer", "wrote")):
        raise DefinitionError(f"step '{step}' runs on {database!r}, which is not a database: give it a handle")


def asks_bare(function: Callable[..., Any], database: object, what: str) -> bool:
    """Return whether the first parameter of *function* is annotated with what *database* lends besides sessions.

    Raise if it asks for a connection of a *database* that lends none.
    """
    first, name = _first_annotation(function)
    if database is None:
        return False
    bare: type | None = getattr(database, "bare", None)
    if bare is None and name == "AsyncConnection":
        raise DefinitionError(
            f"{what} asks for an AsyncConnection, which only a SqlDatabase lends: declare one, "
            f"or annotate `{first}` with the session of {database!r}"
        )
    return bare is not None and name == bare.__name__


def check_bare(undo: Callable[..., Any], database: object, what: str, *, bare: bool) -> None:
    """Raise if the compensation *undo* is annotated with something else than its step, which is *bare* or not."""
    first, name = _first_annotation(undo)
    if name not in {"", "Any", "object"} and asks_bare(undo, database, what) is not bare:
        raise DefinitionError(f"{what} asks for another `{first}` than its step: annotate both alike")


def _first_annotation(function: Callable[..., Any]) -> tuple[str, str]:
    """Return the first parameter of *function* and the last name of its annotation; none is an empty text.

    The annotation is not resolved: its import may be for type checkers only.
    """
    first = next(iter(inspect.signature(function).parameters), "")
    annotation = _annotations(function).get(first, "")
    text = getattr(annotation, "__forward_arg__", annotation)
    name = text if isinstance(text, str) else getattr(text, "__name__", str(text))
    return first, name.rpartition(".")[2].strip("'\" ")


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
