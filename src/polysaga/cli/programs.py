"""The program a command works on: named on the command line as MODULE:ATTRIBUTE, imported from where we stand."""

import difflib
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from polysaga.errors import ConfigurationError
from polysaga.sagas import Sagas

Target = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:ATTRIBUTE",
        help="The program's Sagas object, e.g. orders.sagas:sagas.",
        show_default=False,
    ),
]


def load_sagas(target: str) -> Sagas:
    """Import *target*, "MODULE:ATTRIBUTE", and return the `Sagas` object it names.

    The current directory is importable. Raises `ConfigurationError`, naming the remedy, if there is no such
    object; what the module itself raises passes through.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"'{target}' names no object: write MODULE:ATTRIBUTE, e.g. orders.sagas:sagas")
    module = _import(module_name)
    found = getattr(module, attribute, None)
    if isinstance(found, Sagas):
        return found
    if found is not None:
        raise ConfigurationError(
            f"'{target}' is of type {type(found).__name__}, not Sagas{_candidates(module, attribute)}"
        )
    raise ConfigurationError(
        f"module '{module_name}' has no attribute '{attribute}'{_candidates(module, attribute)}"
    )


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only if the module itself is missing, or a package around it: not one that it imports.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"module '{name}' needs '{error.name}', which is not installed: install it beside polysaga"
            ) from error
        raise ConfigurationError(
            f"there is no module '{error.name}' in {here} or among the installed packages; call this in the "
            "directory that has it, or install it"
        ) from error


def _candidates(module: ModuleType, attribute: str) -> str:
    sagas = [name for name, value in vars(module).items() if isinstance(value, Sagas)]
    if not sagas:
        return "; it has no Sagas object at its top level: put one there, `sagas = Sagas(databases, ...)`"
    close = difflib.get_close_matches(attribute, sagas, n=1, cutoff=0.0)
    return f", did you mean {module.__name__}:{close[0]}?"
