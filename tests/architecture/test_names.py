"""Things are named by what they are, not by a word that fits everything."""

import ast
import re

import pytest

from tests.architecture.sources import Source, sources

EMPTY_WORDS = ("Manager", "Helper", "Util", "Utils", "Handler", "Service", "Base", "Abstract", "Impl", "Wrapper")
DRAWERS = {"utils", "util", "common", "misc", "helpers", "helper", "base"}


def ends_in_an_empty_word(name: str) -> bool:
    return name.endswith(EMPTY_WORDS) or name.startswith("Abstract")


def is_a_drawer(source: Source) -> bool:
    return bool(DRAWERS & set(re.split(r"[/.]", source.name.removesuffix(".py"))))


def test_no_class_is_named_by_an_empty_word() -> None:
    classes = [
        f"{source.name}: {node.name}"
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
    ]
    assert [name for name in classes if ends_in_an_empty_word(name)] == []


def homes_of_classes() -> dict[str, list[str]]:
    """Return where each top-level class is defined, by its name without an underscore."""
    homes: dict[str, list[str]] = {}
    for source in sources():
        for node in source.tree.body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name.removeprefix("_"), []).append(source.name)
    return homes


def test_a_class_has_its_name_for_itself() -> None:
    homes = homes_of_classes()
    assert len(homes) > 200, "the test sees nothing"
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_no_module_is_a_drawer_for_everything() -> None:
    assert [source.name for source in sources() if is_a_drawer(source)] == []


@pytest.mark.parametrize(
    "name", ["SagaManager", "_RetryHelper", "OrderService", "AbstractParticipant", "LedgerBase"]
)
def test_an_empty_word_is_recognised(name: str) -> None:
    assert ends_in_an_empty_word(name)


@pytest.mark.parametrize("name", ["Database", "Databases", "Worker", "SqlParticipant", "StrictHandlerName"])
def test_a_word_that_says_something_is_not_mistaken_for_one(name: str) -> None:
    assert not ends_in_an_empty_word(name)


def test_the_whole_program_is_looked_at() -> None:
    names = {source.name for source in sources()}
    assert {"polysaga/sagas/process/worker.py", "polysaga/config.py", "orders/__init__.py"} <= names
