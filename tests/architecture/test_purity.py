"""The rooms that hold the rules of sagas can be read, imported and tested without a database."""

import subprocess
import sys

import pytest

IMPURE = ("sqlalchemy", "asyncpg", "psycopg", "asyncmy", "aiosqlite", "pymongo", "bson", "sqlglot", "greenlet")
OURS = ("polysaga.clock", "polysaga.config", "polysaga.databases", "polysaga.limits")

PROGRAM = """
import importlib, pkgutil, sys

room = importlib.import_module("{room}")
for module in pkgutil.iter_modules(room.__path__):
    importlib.import_module(room.__name__ + "." + module.name)
print(" ".join(sorted(sys.modules)))
"""


def loaded_with(room: str) -> list[str]:
    """Return the modules that a new interpreter loads for all modules of *room*."""
    program = PROGRAM.format(room=room)
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


def test_the_package_itself_loads_nothing_but_what_is_asked_for() -> None:
    program = "import sys, polysaga; print(*sys.modules); polysaga.Refused; polysaga.events; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    assert {name for name in before if name.startswith("polysaga.")} == {"polysaga.loading"}
    assert {"polysaga.errors", "polysaga.events"} <= after
    assert impure(sorted(after)) == []


def test_a_program_on_one_kind_of_database_loads_no_other_driver() -> None:
    program = (
        "import sys\nfrom polysaga import SqlDatabase, Databases, Sagas\n"
        "from polysaga.databases import SqlNode\nfrom polysaga.config import DatabaseSettings\n"
        "SqlNode('shop', 'primary', 'sqlite+aiosqlite:///shop.db', DatabaseSettings(url='sqlite:///x')).writer\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "aiosqlite" in loaded
    assert {"asyncpg", "psycopg", "asyncmy", "pymongo", "bson"}.isdisjoint(loaded)
