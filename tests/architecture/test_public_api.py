"""What is public is listed, so that a change of it is seen."""

import importlib
import inspect
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("public_api.txt")
FACADES = ["polysaga", "polysaga.databases", "polysaga.fastapi", "polysaga.sagas", "polysaga.testing"]


def exported(module: str) -> list[str]:
    names: list[str] = importlib.import_module(module).__all__
    return names


def test_the_public_names_are_those_of_the_list() -> None:
    public = [f"{module}.{name}" for module in FACADES for name in exported(module)]
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


def test_everything_public_is_explained() -> None:
    found = [getattr(importlib.import_module(module), name) for module in FACADES for name in exported(module)]
    silent = [one for one in found if inspect.isclass(one) or inspect.isfunction(one) if not one.__doc__]
    assert silent == []
