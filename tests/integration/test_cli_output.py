"""What commands do when their output is a closed pipe, a full device, or has an encoding that lacks signs."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from tests.fixtures.processes import begin, next_line
from tests.fixtures.projects import Ended, Project

POLYSAGA = str(Path(sys.executable).with_name("polysaga"))
SAGA = UUID(int=7)
PATIENCE = 60  # seconds
FULL = "polysaga: the output cannot be written: No space left on device\n"
COLUMNS = "id, name, version, fingerprint, input, input_hash, status, epoch, results, created_at, finished_at"

# Python imports a `sitecustomize` at its start. This one sends Ctrl-C when the command line imports Typer.
INTERRUPTED_AT_TYPER = """
import os, signal, sys

# As in the foreground of a terminal: the tests may run in a background job, whose children ignore the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupt:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt)
"""


@pytest.fixture
def shop(project: Project) -> Project:
    """A project whose tables are there."""
    assert project.polysaga("migrate", "shop:everything").code == 0
    return project


def ended(command: str, stdout: int, **more: str) -> Ended:
    """Return how *command* ends in a process of its own."""
    words = [POLYSAGA, *command.split()]
    with begin(words, env={**os.environ, **more}, stdout=stdout, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, out or "", err)


def to_closed_pipe(command: str) -> tuple[int, str]:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        told = ended(command, writing)
    finally:
        os.close(writing)
    return told.code, told.err


def to_full_device(command: str, **more: str) -> tuple[int, str]:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        told = ended(command, full, **more)
    finally:
        os.close(full)
    return told.code, told.err


@pytest.mark.parametrize("command", ["verify shop:everything", "verify shop:everything --json"])
def test_a_closed_pipe_leaves_the_code_of_what_was_found(shop: Project, command: str) -> None:
    assert to_closed_pipe(command) == (0, "")


def test_a_closed_pipe_does_not_hide_that_a_database_is_behind(project: Project) -> None:
    assert to_closed_pipe("migrate shop:everything --check") == (1, "")


@pytest.mark.parametrize("command", ["verify shop:everything", "check --json", "--version"])
def test_a_full_device_is_one_line_and_code_2(shop: Project, command: str) -> None:
    assert to_full_device(command) == (2, FULL)


def test_a_full_device_is_noticed_without_a_buffer_too(shop: Project) -> None:
    assert to_full_device("sagas list shop:everything", PYTHONUNBUFFERED="1") == (2, FULL)


def test_watching_ends_with_its_reader(shop: Project) -> None:
    with begin([POLYSAGA, "nodes", "--watch", "--json"], stderr=subprocess.PIPE) as process:
        assert len(json.loads(next_line(process, "it has looked"))) == 2
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize("encoding", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_signs_that_the_encoding_lacks_are_written_as_escapes(shop: Project, encoding: dict[str, str]) -> None:
    add_undone_saga(shop.directory, "größer → klein")
    show = f"sagas show shop:everything {SAGA}"
    shown = ended(show, subprocess.PIPE, PYTHONCOERCECLOCALE="0", **encoding)
    assert (shown.code, shown.err) == (0, "")
    assert r"gr\xf6\xdfer \u2192 klein" in shown.out


def test_json_stays_json_in_an_encoding_that_lacks_signs(shop: Project) -> None:
    add_undone_saga(shop.directory, "größer → klein")
    told = ended(f"sagas show shop:everything {SAGA} --json", subprocess.PIPE, PYTHONIOENCODING="latin-1")
    assert (told.code, told.err) == (0, "")
    assert told.out.isascii()
    assert json.loads(told.out)["input"] == "größer → klein"


def add_undone_saga(directory: Path, given: str) -> None:
    born = "2026-01-01T00:00:00.000"
    text = json.dumps(given, ensure_ascii=False)
    row = (str(SAGA), "buy", 1, "another", text, "hash", "compensated", 1, "{}", born, born)
    with closing(sqlite3.connect(directory / "orders.sqlite")) as connection, connection:
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO polysaga_journal ({COLUMNS}) VALUES ({marks})", row)


def test_ctrl_c_ends_a_command_that_is_being_loaded_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_AT_TYPER)
    told = ended("--version", subprocess.PIPE, PYTHONPATH=str(tmp_path))
    assert (told.code, told.out, told.err) == (-signal.SIGINT, "", "")


def test_ctrl_c_just_before_a_command_begins_ends_it_without_a_traceback(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("polysaga.cli.main.app", interrupted)
    told = project.polysaga("--version")
    assert (told.code, told.out, told.err) == (130, "", "")
