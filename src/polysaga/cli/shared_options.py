"""Options that several commands have in common, each declared once."""

import functools
from collections.abc import Callable, Iterator
from inspect import Parameter, signature
from typing import Any


def with_options_of(**makers: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a maker in place of a parameter.

    *makers* are named like the parameters that get what they return. Typer lists their options where the
    parameters stand.
    """

    def expand(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def expanded(**given: Any) -> None:
            made = {
                name: maker(**{option: given.pop(option) for option in signature(maker).parameters})
                for name, maker in makers.items()
            }
            command(**given, **made)

        parameters = list(_expanded(command, makers))
        expanded.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
        expanded.__annotations__ = {one.name: one.annotation for one in parameters}
        return expanded

    return expand


def _expanded(command: Callable[..., None], makers: dict[str, Callable[..., Any]]) -> Iterator[Parameter]:
    for one in signature(command).parameters.values():
        maker = makers.get(one.name)
        found = [one] if maker is None else signature(maker).parameters.values()
        yield from (option.replace(kind=Parameter.KEYWORD_ONLY) for option in found)
