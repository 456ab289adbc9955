"""Where the shop's databases are if the settings do not say it, and which token operators need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orders.settings import OPERATOR_TOKEN, files, load, operator_token
from polysaga.errors import ConfigurationError

from .conftest import calling


def test_commands_of_the_library_find_the_files_of_the_shop(tmp_path: Path) -> None:
    # In a process of its own: the applications of other tests tell the databases other settings.
    (tmp_path / "data").mkdir()
    for name in ("orders", "points", "inventory"):
        (tmp_path / "data" / f"{name}.db").touch()
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


@pytest.mark.parametrize(
    ("given", "token"), [("", None), ("open sesame", "open sesame"), (" sesam-öffne \r\n", "sesam-öffne")]
)
def test_the_token_has_no_blanks_around_it(monkeypatch: pytest.MonkeyPatch, given: str, token: str | None) -> None:
    monkeypatch.setenv(OPERATOR_TOKEN, given)
    assert operator_token() == token


@pytest.mark.parametrize(
    ("given", "said"), [(b" \n", "is blank"), (b"a\xffb", "not UTF-8"), (b"a\nb", "invisible")]
)
def test_a_token_that_no_client_can_send_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: bytes, said: str
) -> None:
    monkeypatch.setenv(OPERATOR_TOKEN, os.fsdecode(given))
    with pytest.raises(ConfigurationError, match=rf"ORDERS_OPERATOR_TOKEN .*{said}"):
        operator_token()
