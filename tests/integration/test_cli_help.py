"""What the command line says about itself, and the options that every command has."""

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import pytest

from polysaga.cli.check import check
from polysaga.cli.configured import VARIABLE
from polysaga.cli.main import COMMANDS, load_command
from polysaga.cli.migrate import migrate
from polysaga.cli.nodes import nodes
from polysaga.cli.sagas import sagas
from polysaga.cli.verify import verify
from polysaga.sources import PREFIX
from tests.fixtures.projects import Project

LONGEST = 60  # characters of a line in the list of commands
FUNCTIONS = [check, migrate, nodes, verify, *(command.callback for command in sagas.registered_commands)]
NAMES = ["check", "migrate", "nodes", "verify", "sagas list", "sagas show", "sagas retry", "sagas resolve"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_of_a_command_what_its_own_help_says(name: str) -> None:
    assert (load_command(name).help or "").partition("\n\n")[0] == COMMANDS[name]


def test_the_help_loads_neither_databases_nor_models() -> None:
    program = (
        "import sys\nfrom polysaga.cli.main import main\n"
        "try: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Commands:" in done.stdout
    assert {"sqlalchemy", "pydantic", "pymongo", "asyncpg", "sqlglot"}.isdisjoint(done.stderr.split())


def test_the_variable_for_the_settings_file_is_that_of_the_settings() -> None:
    assert f"{PREFIX}CONFIG" == VARIABLE


def test_the_version_is_printed(project: Project) -> None:
    told = project.polysaga("--version")
    assert (told.code, told.out) == (0, f"polysaga {version('polysaga')}\n")


@pytest.mark.parametrize("command", FUNCTIONS, ids=lambda one: one.__name__)
def test_the_first_sentence_about_a_command_fits_into_the_list(command: Callable[..., None]) -> None:
    first = (command.__doc__ or "").partition("\n\n")[0]
    assert first.endswith(".")
    assert "\n" not in first
    assert len(first) <= LONGEST


@pytest.mark.parametrize("group", [(), ("sagas",)])
def test_no_line_in_the_list_of_commands_is_cut(
    project: Project, group: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = project.polysaga(*group, "--help")
    assert told.code == 0
    assert "..." not in told.out.partition("Commands:")[2]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_takes_a_settings_file(project: Project, name: str) -> None:
    told = project.polysaga(*name.split(), "--help")
    assert told.code == 0
    assert re.search(r"--config PATH +The settings file", told.out)
    assert "[[" not in told.out


@pytest.mark.parametrize("name", [*NAMES, "sagas skip", "sagas compensate", "worker"])
def test_an_option_says_what_it_takes_in_words_of_its_own(project: Project, name: str) -> None:
    _, _, options = project.polysaga(*name.split(), "--help").out.partition("Options:")
    assert options
    assert set(re.findall("<.*?>", options)) <= {"<completed|compensated>"}


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (
            ("list", "shop:everything", "--status", "parked"),
            "'parked' is no status: write one of running, completing",
        ),
        (("show", "shop:everything", "17"), "'17' is no id of a saga: copy one from `polysaga sagas list`"),
        (("retry", "shop:everything", "17", "--why", "x"), "'17' is no id of a saga"),
    ],
    ids=lambda given: given[0] if isinstance(given, tuple) else "",
)
def test_a_word_that_is_none_of_those_wanted_is_told_with_the_remedy(
    project: Project, words: tuple[str, ...], remedy: str
) -> None:
    told = project.polysaga("sagas", *words)
    assert told.code == 2
    assert remedy in " ".join(told.err.split())


@pytest.mark.parametrize("before", [True, False])
def test_the_settings_file_of_the_command_line_is_read(
    project: Project, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ORDERS", "POINTS"):
        monkeypatch.delenv(f"POLYSAGA_DATABASES__{name}__URL")
    monkeypatch.setenv("POLYSAGA_CONFIG", "")  # and so put back after the test
    lines = [f'[databases.{name}]\nurl = "sqlite+aiosqlite:///{name}.db"' for name in ("orders", "points")]
    (project.directory / "other.toml").write_text("\n".join(lines))
    for words in (["migrate", "shop:everything"], ["nodes"], ["sagas", "list", "shop:everything"]):
        monkeypatch.setenv("POLYSAGA_CONFIG", "")
        given = ["--config", "other.toml"]
        assert project.polysaga(*(given + words if before else words + given)).code == 0
    assert "cannot read the settings file missing.toml" in project.refusal("nodes", "--config", "missing.toml")


def test_completion_can_be_shown(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--install-completion" in project.polysaga("--help").out
    monkeypatch.setenv("_POLYSAGA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "polysaga mig")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert "migrate" in project.polysaga().out
