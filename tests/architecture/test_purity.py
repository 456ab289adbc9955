"""The rooms that hold the rules of sagas can be read, imported and tested without a database."""

import subprocess
import sys
from pathlib import Path

import pytest

import polysaga

PACKAGE = Path(polysaga.__file__).parent
IMPURE = ("sqlalchemy", "asyncpg", "psycopg", "asyncmy", "aiosqlite", "pymongo", "bson", "sqlglot", "greenlet")
OURS = ("polysaga.clock", "polysaga.config", "polysaga.databases", "polysaga.limits")

# The facades `polysaga` and `polysaga.sagas` show everything, so they import everything: bare packages stand in
# for them, and what the rooms themselves need is seen.
PROGRAM = """
import importlib, pkgutil, sys, types

for name in ("polysaga", "polysaga.sagas"):
    bare = types.ModuleType(name)
    bare.__path__ = ["{package}" + name.removeprefix("polysaga").replace(".", "/")]
    sys.modules[name] = bare

before = set(sys.modules)
room = importlib.import_module("{room}")
for module in pkgutil.iter_modules(room.__path__):
    importlib.import_module(room.__name__ + "." + module.name)
print(" ".join(sorted(set(sys.modules) - before)))
"""


def loaded_with(room: str) -> list[str]:
    """Return the modules that a new interpreter loads for all modules of *room*."""
    program = PROGRAM.format(package=PACKAGE, room=room)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, cwd="/"
    )
    return done.stdout.split()


def impure(modules: list[str]) -> list[str]:
    packages = {*IMPURE, *OURS}
    return [name for name in modules if name in packages or any(name.startswith(f"{one}.") for one in packages)]


@pytest.mark.parametrize("room", ["polysaga.sagas.definition", "polysaga.sagas.protocol"])
def test_definition_and_protocol_load_neither_a_database_nor_a_clock(room: str) -> None:
    loaded = loaded_with(room)
    assert f"{room}.{'saga' if room.endswith('definition') else 'decisions'}" in loaded
    assert impure(loaded) == []


def test_a_room_that_needs_a_database_is_recognised() -> None:
    assert {"sqlalchemy", "polysaga.databases"} <= set(impure(loaded_with("polysaga.sagas.journal")))
