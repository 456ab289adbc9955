"""Where the shop's databases are if the settings do not say it."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_commands_of_the_library_find_the_files_of_the_shop(tmp_path: Path) -> None:
    # In a process of its own: the applications of other tests tell the databases other settings.
    (tmp_path / "data").mkdir()
    variables = {name: text for name, text in os.environ.items() if not name.startswith("POLYSAGA_")}
    ended = subprocess.run(
        [Path(sys.executable).with_name("polysaga"), "nodes", "orders.sagas:sagas", "--json"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert {row["database"]: row["node"] for row in json.loads(ended.stdout)} == {
        name: f"sqlite+aiosqlite:///data/{name}.db" for name in ("orders", "points", "inventory")
    }
