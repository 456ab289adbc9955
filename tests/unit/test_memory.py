"""Tests keep their temporary files in memory where there is enough of it, unless a setting names another place."""

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fixtures import memory

GIB = 2**30


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TMPDIR", "restored at the end")
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(memory, "_MEMORY", tmp_path)
    return tmp_path


def offer(monkeypatch: pytest.MonkeyPatch, *, free: int, available: int) -> None:
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr(memory, "_available", lambda: available)


def test_files_are_in_memory_if_there_is_enough(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, free=9 * GIB, available=9 * GIB)
    memory.pytest_configure()
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(place)


@pytest.mark.parametrize(("free", "available"), [(GIB, 9 * GIB), (9 * GIB, GIB)])
def test_files_are_on_the_disk_if_there_is_not(
    place: Path, monkeypatch: pytest.MonkeyPatch, free: int, available: int
) -> None:
    offer(monkeypatch, free=free, available=available)
    memory.pytest_configure()
    assert "TMPDIR" not in os.environ


def test_another_place_can_be_chosen(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, free=9 * GIB, available=9 * GIB)
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    memory.pytest_configure()
    assert os.environ["TMPDIR"] == "/var/tmp"


def test_the_kernel_says_how_much_memory_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    machine = memory._available()
    assert machine > GIB / 4
    (tmp_path / "memory.current").write_text("1000\n")
    for limit, available in (("max", machine), ("1500", 500)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert memory._available() == pytest.approx(available, rel=0.5)
