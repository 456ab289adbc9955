"""The program that a command works on: MODULE:ATTRIBUTE, importable from the current directory."""

import difflib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from polysaga.config import Settings, load_settings
from polysaga.errors import ConfigurationError, PolysagaError
from polysaga.loading import load_module
from polysaga.sagas import Sagas

_HELP = "The program's app or Sagas object, e.g. shop:app or orders.sagas:sagas."
Target = Annotated[str, typer.Argument(metavar="MODULE:ATTRIBUTE", help=_HELP, show_default=False)]
PerhapsTarget = Annotated[str | None, typer.Argument(metavar="MODULE:ATTRIBUTE", help=_HELP, show_default=False)]


def load_sagas(target: str) -> Sagas:
    """Import *target*, "MODULE:ATTRIBUTE", and return the `Sagas` object that it names, or that of its app.

    The current directory is importable. Raises `ConfigurationError`, with the remedy, if there is no such object
    or if the module cannot be imported.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"'{target}' names no object: write MODULE:ATTRIBUTE, e.g. orders.sagas:sagas")
    if module_name.endswith(".py"):
        named = module_name.removeprefix("./").removesuffix(".py").replace("/", ".")
        raise ConfigurationError(f"'{module_name}' is a file: name its module, {named}:{attribute}")
    module = _import(module_name)
    found = getattr(module, attribute, None)
    sagas = getattr(getattr(found, "state", None), "polysaga", found)  # set by `install`, if *found* is an app
    if isinstance(sagas, Sagas):
        return sagas
    if sagas is None and found is not None:
        raise ConfigurationError(f"'{target}' has no sagas: write install(app, databases, sagas=...)")
    if found is not None:
        raise ConfigurationError(
            f"'{target}' is of type {type(found).__name__}, neither Sagas nor an app that was given to "
            f"`install`{_candidates(module, attribute)}"
        )
    raise ConfigurationError(
        f"module '{module_name}' has no attribute '{attribute}'{_candidates(module, attribute)}"
    )


def settings_for(sagas: Sagas | None) -> Settings:
    """Return the settings of the program of *sagas*, with its spelling of databases; None: no program."""
    if sagas is None:
        return load_settings()
    try:
        settings = sagas.databases.settings()
    except PolysagaError:
        raise
    except Exception as error:  # border: the program's own function reads them
        raise ConfigurationError(f"the program's settings cannot be read: {_where(error)}") from error
    return settings.spelt_as([handle.name for handle in sagas.databases])


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module: ModuleType = load_module(name)
    except ModuleNotFoundError as error:
        # Was it the module itself, or a package around it, that is missing, or a module that it imports?
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"module '{name}' needs '{error.name}', which is not installed: install it beside polysaga"
            ) from error
        raise ConfigurationError(
            f"there is no module '{error.name}' in {here} or among the installed packages; call this in the "
            "directory that has it, or install it"
        ) from error
    except Exception as error:  # border: the program's own code runs
        raise ConfigurationError(f"module '{name}' cannot be imported: {_where(error)}") from error
    return module


def _where(error: Exception) -> str:
    """Return the text of *error* and the line of the program that raised it."""
    said = " ".join(str(error).split())
    told = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, SyntaxError):  # it names the line itself
        return told
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_of_others(frame.filename)]
    return f"{told} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else told


def _is_of_others(file: str) -> bool:
    packaged = {"site-packages", "dist-packages"} & set(Path(file).parts)
    return bool(packaged) or file.startswith("<") or Path(file).is_relative_to(_OURS)


def _candidates(module: ModuleType, attribute: str) -> str:
    sagas = [name for name, value in vars(module).items() if isinstance(value, Sagas)]
    if not sagas:
        return "; it has no Sagas object at its top level: put one there, `sagas = Sagas(databases, ...)`"
    close = difflib.get_close_matches(attribute, sagas, n=1, cutoff=0.0)
    return f", did you mean {module.__name__}:{close[0]}?"


_OURS = Path(__file__).parents[1]
