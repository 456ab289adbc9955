"""What is public is listed, so that a change of it is seen."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from tests.architecture.sources import Source, sources

LIST = Path(__file__).with_name("public_api.txt")
FACADES = [
    "polysaga",
    "polysaga.dashboard",
    "polysaga.databases",
    "polysaga.fastapi",
    "polysaga.routing",
    "polysaga.sagas",
    "polysaga.telemetry",
    "polysaga.testing",
]
# Public as they are: every class and function of theirs without an underscore.
MODULES = [
    "polysaga.asgi",
    "polysaga.clock",
    "polysaga.config",
    "polysaga.errors",
    "polysaga.events",
    "polysaga.fastapi.metrics",
    "polysaga.limits",
    "polysaga.migrations",
    "polysaga.telemetry.prometheus",
    "polysaga.telemetry.tracing",
    "polysaga.people",
]


def exported(module: str) -> list[str]:
    names: list[str] = importlib.import_module(module).__all__
    return names


def defined(module: str) -> list[str]:
    """Return the names that *module* lists, or else those of its classes and functions."""
    if hasattr(importlib.import_module(module), "__all__"):
        return exported(module)
    members = inspect.getmembers(
        importlib.import_module(module), lambda one: inspect.isclass(one) or inspect.isfunction(one)
    )
    return [name for name, one in members if not name.startswith("_") and one.__module__ == module]


def imported(source: Source) -> list[tuple[str, str]]:
    """Return what *source* imports from the library, as module and name."""
    return [
        (node.module, alias.name)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "polysaga"
        for alias in node.names
    ]


def test_the_public_names_are_those_of_the_list() -> None:
    public = [f"{module}.{name}" for module in FACADES for name in exported(module)]
    public += [f"{module}.{name}" for module in MODULES for name in defined(module)]
    assert LIST.read_text().splitlines() == sorted(public), (
        f"a public name came or went: change {LIST.name} as well"
    )


@pytest.mark.parametrize("module", FACADES)
def test_a_facade_lists_its_names_in_order_and_has_them_all(module: str) -> None:
    names = exported(module)
    assert names == sorted(names)
    assert [name for name in names if not hasattr(importlib.import_module(module), name)] == []


@pytest.mark.parametrize("module", FACADES)
def test_a_facade_shows_nothing_that_it_does_not_list(module: str) -> None:
    shown = inspect.getmembers(
        importlib.import_module(module), lambda one: inspect.isclass(one) or inspect.isfunction(one)
    )
    assert [name for name, _ in shown if not name.startswith("_") and name not in exported(module)] == []


def test_the_order_service_uses_what_is_public_only() -> None:
    public = {(module, name) for module in FACADES for name in exported(module)}
    used = [
        (f"{source.name}: {module}", name)
        for source in sources()
        if source.name.startswith("orders/")
        for module, name in imported(source)
        if module not in MODULES and (module, name) not in public
    ]
    assert used == []


def test_everything_public_is_explained() -> None:
    found = [getattr(importlib.import_module(module), name) for module in FACADES for name in exported(module)]
    found += [getattr(importlib.import_module(module), name) for module in MODULES for name in defined(module)]
    silent = [one for one in found if inspect.isclass(one) or inspect.isfunction(one) if not one.__doc__]
    assert silent == []
