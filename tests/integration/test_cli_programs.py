"""Which program a command works on, and with which settings: those that the program's code gives."""

from pathlib import Path

import pytest

from tests.fixtures.projects import SHOP, Project

IN_CODE = """
from functools import partial

from polysaga import load_settings

files = {name: {"url": f"sqlite+aiosqlite:///{name}.in-code"} for name in ("orders", "points")}
read = partial(load_settings, defaults={"databases": files})
"""
DATABASES = SHOP.replace("Databases(orders, points)", "Databases(orders, points, settings=read)")
INSTALLED = """
from fastapi import FastAPI

from polysaga.fastapi import install
from shop import everything, read

app = FastAPI()
install(app, everything.databases, sagas=everything, settings=read)
bare = FastAPI()
install(bare, everything.databases, settings=read)
"""
COMMANDS = [("migrate",), ("check",), ("nodes",), ("verify",), ("sagas", "list")]


@pytest.fixture
def coded(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose settings are in its code, and nowhere else."""
    for name in ("ORDERS", "POINTS"):
        monkeypatch.delenv(f"POLYSAGA_DATABASES__{name}__URL")
    (project.directory / "shop.py").write_text(IN_CODE + SHOP)
    return project


def files(project: Project) -> set[str]:
    return {path.name for path in project.directory.glob("*.in-code")}


@pytest.mark.parametrize("target", ["service:app", "service:everything"])
def test_commands_find_the_settings_that_install_was_given(coded: Project, target: str) -> None:
    (coded.directory / "service.py").write_text(INSTALLED)
    for command in COMMANDS:
        ended = coded.polysaga(*command, target)
        assert (ended.code, ended.err) == (0, ""), command
    assert files(coded) == {"orders.in-code", "points.in-code"}


def test_commands_find_the_settings_that_the_databases_were_given(coded: Project) -> None:
    (coded.directory / "shop.py").write_text(IN_CODE + DATABASES)
    for command in COMMANDS:
        assert coded.polysaga(*command, "shop:everything").code == 0, command
    assert files(coded) == {"orders.in-code", "points.in-code"}


def test_variables_win_over_the_settings_in_the_code_for_commands_too(
    coded: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (coded.directory / "shop.py").write_text(IN_CODE + DATABASES)
    coded.set_url(orders=f"sqlite+aiosqlite:///{coded.directory}/elsewhere.sqlite")
    assert coded.polysaga("migrate", "shop:everything").code == 0
    assert files(coded) == {"points.in-code"}


async def test_databases_open_with_the_settings_that_they_were_given(coded: Project) -> None:
    scope: dict[str, object] = {}
    exec(compile(IN_CODE + DATABASES, "shop.py", "exec"), scope)
    databases = scope["everything"].databases  # type: ignore[attr-defined]
    async with databases.open():
        assert files(coded) == {"orders.in-code", "points.in-code"}


def test_an_app_without_sagas_is_told(coded: Project) -> None:
    (coded.directory / "service.py").write_text(INSTALLED)
    assert "'service:bare' has no sagas: write install(app, databases, sagas=...)" in coded.refusal(
        "verify", "service:bare"
    )


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def f():\n    return nothing\nf()\n", "NameError: name 'nothing' is not defined ({broken}, line 2)"),
        ("import json\n\njson.loads('{')\n", "JSONDecodeError: "),
        ("x = (\n", "SyntaxError: '(' was never closed (broken.py, line 1)"),
        ("raise ValueError\n", "ValueError ({broken}, line 1)"),
        ("from polysaga import Nothing\n", "ImportError: cannot import name 'Nothing' from 'polysaga'"),
        ("from polysaga import Saga\n\nSaga('Buy now', input=int)\n", "is not a saga's name"),
        (
            "from polysaga import load_settings\nload_settings(environment={'POLYSAGA_SAGAS__LEASE': '0'})",
            "sagas.lease",
        ),
    ],
)
def test_a_program_that_cannot_be_imported_is_one_line_that_names_its_own_line(
    project: Project, source: str, says: str
) -> None:
    (project.directory / "broken.py").write_text(source)
    told = project.refusal("migrate", "broken:sagas")
    assert "module 'broken' cannot be imported: " in told
    assert says.format(broken=project.directory / "broken.py") in told


def test_a_failure_of_the_programs_settings_is_one_line_that_names_its_own_line(coded: Project) -> None:
    failing = "import os\n\ndef read():\n    return os.environ['NOWHERE_TO_BE_FOUND']\n"
    (coded.directory / "shop.py").write_text(failing + DATABASES)
    for command in COMMANDS:
        told = coded.refusal(*command, "shop:everything")
        assert "the program's settings cannot be read: KeyError: 'NOWHERE_TO_BE_FOUND' (" in told
        assert f"{coded.directory / 'shop.py'}, line 4)" in told


def test_an_error_in_the_programs_settings_is_one_line(coded: Project) -> None:
    (coded.directory / "polysaga.toml").write_text("[sagas]\nlaese = 1")
    (coded.directory / "shop.py").write_text(IN_CODE + DATABASES)
    for command in COMMANDS:
        assert "did you mean 'lease'" in coded.refusal(*command, "shop:everything")
    Path("polysaga.toml").unlink()
