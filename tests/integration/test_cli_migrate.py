"""`polysaga migrate`, called in a project's directory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.projects import Project

ALL = [
    {"database": "orders", "line": "journal", "from": None, "to": "0003"},
    {"database": "orders", "line": "ledger", "from": None, "to": "0001"},
    {"database": "points", "line": "ledger", "from": None, "to": "0001"},
]


def test_check_finds_what_is_behind_until_migrate_was_called(project: Project) -> None:
    behind = project.polysaga("migrate", "shop:everything", "--check", "--json")
    assert (behind.code, json.loads(behind.out)) == (1, ALL)
    assert list(project.directory.glob("*.sqlite*")) == [], "--check creates no file"

    made = project.polysaga("migrate", "shop:everything", "--json")
    assert (made.code, json.loads(made.out), made.err) == (0, ALL, "")

    level = project.polysaga("migrate", "shop:everything", "--check", "--json")
    assert (level.code, json.loads(level.out)) == (0, [])


def test_people_get_a_table_and_a_sentence(project: Project) -> None:
    behind = project.polysaga("migrate", "shop:everything", "--check")
    first = project.polysaga("migrate", "shop:everything")
    second = project.polysaga("migrate", "shop:everything")

    assert (behind.code, first.code, second.code) == (1, 0, 0)
    for table in (behind.out, first.out):
        words = [line.replace("│", " ").split() for line in table.splitlines()]
        assert ["points", "ledger", "-", "0001"] in words
    assert second.out == "Every database is up to date.\n"


def test_it_migrates_real_servers(project: Project, postgres_database: Any, mariadb_database: Any) -> None:
    project.set_url(orders=postgres_database(), points=mariadb_database())
    made = project.polysaga("migrate", "shop:everything", "--json")
    assert (made.code, json.loads(made.out)) == (0, ALL)
    assert project.polysaga("migrate", "shop:everything", "--check").code == 0


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ("shop", "write MODULE:ATTRIBUTE, e.g. orders.sagas:sagas"),
        ("shop:", "write MODULE:ATTRIBUTE"),
        ("shop.py:everything", "'shop.py' is a file: name its module, shop:everything"),
        ("./src/shop.py:sagas", "name its module, src.shop:sagas"),
        ("shopp:everything", "there is no module 'shopp' in"),
        ("shop.sagas:everything", "there is no module 'shop.sagas' in"),
        ("shop:everythin", "module 'shop' has no attribute 'everythin', did you mean shop:everything?"),
        (
            "shop:app",
            "'shop:app' is of type object, neither Sagas nor an app that was given to `install`, did you",
        ),
        ("json:sagas", "it has no Sagas object at its top level"),
        ("needy:sagas", "module 'needy' needs 'nowhere_to_be_found', which is not installed"),
        ("wrong:sagas", "'Buy now' is not a saga's name"),
    ],
)
def test_a_wrong_target_is_one_line_with_the_remedy(project: Project, target: str, remedy: str) -> None:
    (project.directory / "needy.py").write_text("import nowhere_to_be_found\n")
    (project.directory / "wrong.py").write_text("from polysaga import Saga\nSaga('Buy now', input=int)\n")
    assert remedy in project.refusal("migrate", target)


def test_a_database_without_settings_is_one_line_with_the_remedy(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POLYSAGA_DATABASES__POINTS__URL")
    assert "set databases.points.url" in project.refusal("migrate", "shop:everything")


def test_a_server_that_does_not_answer_is_one_line_without_its_password(project: Project) -> None:
    project.set_url(points="postgresql+asyncpg://app:s3cret@127.0.0.1:1/points")
    told = project.refusal("migrate", "shop:everything")
    assert "database 'points' is not reachable" in told
    assert "s3cret" not in told


def test_a_wrong_option_is_a_usage_error(project: Project) -> None:
    ended = project.polysaga("migrate", "shop:everything", "--chek")
    assert ended.code == 2
    assert "No such option: --chek" in ended.err


def test_the_installed_command_does_it_in_a_process_of_its_own(project: Project) -> None:
    command = [str(Path(sys.executable).with_name("polysaga")), "migrate", "shop:everything"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60)
    misspelt = subprocess.run([*command[:-1], "shop:nothing"], capture_output=True, text=True, timeout=60)

    assert (made.returncode, made.stderr) == (0, "")
    assert project.polysaga("migrate", "shop:everything", "--check").code == 0
    assert (misspelt.returncode, misspelt.stdout) == (2, "")
    assert misspelt.stderr == "polysaga: module 'shop' has no attribute 'nothing', did you mean shop:everything?\n"


def test_help_names_the_verbs(project: Project) -> None:
    shown = project.polysaga("--help")
    assert shown.code == 0
    assert "Create or upgrade the journal and the ledgers of a program." in shown.out
