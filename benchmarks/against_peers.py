"""Three steps on one PostgreSQL server: Polysaga against DBOS and Restate, all durable.

`no-op` steps do nothing, `inserts` steps insert a row each. Restate is measured with no-op steps only: what its
steps do to a database is not part of its promise. It keeps its own log, so it is not on PostgreSQL at all.
"""

import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import peers, restate_server
from benchmarks.comparing import timed
from benchmarks.parts import Scale, alone, tell
from benchmarks.peers import INSERTS, NO_OP
from benchmarks.process import Process, Recipe
from benchmarks.servers import running


def measure(scale: Scale) -> dict[str, Any]:
    """Time all that are installed at every concurrency; count what one saga sends."""
    with ExitStack() as stack:
        databases = stack.enter_context(running(peers.PLACES))
        asyncio.run(peers.fill(databases))
        recipes = peers.recipes(databases)
        sides = {name: Process(recipe, databases.pids) for name, recipe in recipes.items()}
        versions, missing = databases.versions, [] if peers.has_dbos() else ["DBOS"]
        try:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="polysaga-bench-"))
            restate = stack.enter_context(restate_server.running(Path(directory) / "restate"))
        except restate_server.RestateMissing as reason:
            tell(f"Restate is left out: {reason}")
            missing.append("Restate")
        else:
            caller = Recipe("benchmarks.restate_side", NO_OP, {"ingress": restate.ingress})
            sides[f"restate {NO_OP}"] = Process(caller, lambda: {"Restate": restate.server}, [restate.service])
            versions = [*versions, restate.version]
        pairs = [
            (f"ours {kind}", other)
            for kind in (NO_OP, INSERTS)
            for other in (f"dbos {kind}", f"restate {kind}")
            if other in sides
        ]
        return {
            "servers": versions,
            "missing": missing,
            "turns": timed(sides, pairs, scale),
            "counts": {name: databases.counted(recipe) for name, recipe in recipes.items()},
        }


if __name__ == "__main__":
    alone("peers", measure)
