"""Where the shop's databases are if the settings do not say it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orders.settings import files, load

from .conftest import calling


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


@pytest.mark.parametrize("name", ["we?ird", "50%25", "a b#c@d", "file:x", "größe"])
async def test_the_three_files_are_in_the_directory_whatever_its_name(tmp_path: Path, name: str) -> None:
    settings = load(Path(name))
    assert files(settings) == [Path(name) / f"{database}.db" for database in ("orders", "points", "inventory")]
    async with calling(settings):
        pass
    assert {file.name for file in (tmp_path / name).glob("*.db")} == {"orders.db", "points.db", "inventory.db"}
