"""Polysaga and DBOS with three steps on one PostgreSQL server, and how to start each: see `trio.py`."""

from importlib.util import find_spec

from benchmarks import trio
from benchmarks.parts import tell
from benchmarks.process import Recipe
from benchmarks.servers import Databases
from devservers import POSTGRES

NO_OP, INSERTS = "no-op", "inserts"
# A system database for each program of DBOS: they are two applications.
_OWN = {NO_OP: "dbos_no_op", INSERTS: "dbos_inserts"}
PLACES = {"app": POSTGRES} | dict.fromkeys(_OWN.values(), POSTGRES)


def has_dbos() -> bool:
    """Return whether DBOS is installed."""
    return find_spec("dbos") is not None


def recipes(databases: Databases) -> dict[str, Recipe]:
    """Return how to start the sides; those of DBOS only if it is installed."""
    found = {}
    if not has_dbos():
        tell("DBOS is not installed and is left out; scripts/setup bench installs it")
    for kind in (NO_OP, INSERTS):
        if has_dbos():
            places = {"app": databases.urls["app"], "dbos": databases.urls[_OWN[kind]]}
            found[f"dbos {kind}"] = Recipe("benchmarks.dbos_side", kind, places)
        found[f"ours {kind}"] = Recipe("benchmarks.trio", kind, databases.some("app"))
    return found


async def fill(databases: Databases) -> None:
    """Create our tables; DBOS creates its own."""
    await trio.fill(databases.urls)
