"""SQLite's own connection: what it does in the event loop never waits for what its thread does."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from polysaga.databases.dialects.sqlite_file import SQLiteFile

FAILING: dict[str, Callable[[SQLiteFile], object]] = {
    "a lock": lambda file: file.execute("BEGIN IMMEDIATE"),
    "a duplicate key": lambda file: file.execute("INSERT INTO seats VALUES (1)"),
    "one of many rows": lambda file: file.executemany("INSERT INTO seats VALUES (?)", [(2,), (1,)]),
    "a cursor": lambda file: file.cursor().execute("INSERT INTO seats VALUES (1)"),
}


@pytest.mark.parametrize("name", FAILING)
def test_an_error_is_freed_at_once_while_the_thread_is_inside_a_statement(tmp_path: Path, name: str) -> None:
    """The error keeps its cursor. When Python frees that, it resets the statement, which takes SQLite's mutex."""
    path = tmp_path / "hall.db"
    file = sqlite3.connect(path, factory=SQLiteFile, timeout=0, isolation_level=None, check_same_thread=False)
    other = sqlite3.connect(path, isolation_level=None)
    file.execute("CREATE TABLE seats (number INTEGER PRIMARY KEY)")
    file.execute("INSERT INTO seats VALUES (1)")
    if name == "a lock":
        other.execute("BEGIN IMMEDIATE")
    inside, freed, in_time = Event(), Event(), list[bool]()

    def wait_here() -> None:
        inside.set()
        in_time.append(freed.wait(10))

    file.create_function("wait_here", 0, wait_here)
    thread = Thread(target=file.execute, args=("SELECT wait_here()",))
    with pytest.raises(sqlite3.Error) as raised:
        FAILING[name](file)
    thread.start()
    assert inside.wait(10)
    del raised
    freed.set()
    thread.join(20)
    assert in_time == [True]
    file.close()
    other.close()


def test_a_bulk_insert_ends_when_its_connection_is_cut_between_two_rows(tmp_path: Path) -> None:
    file = sqlite3.connect(tmp_path / "hall.db", factory=SQLiteFile, isolation_level=None)
    file.execute("CREATE TABLE seats (number INTEGER PRIMARY KEY)")
    taken = list[int]()

    def seats() -> Iterator[tuple[int]]:
        for number in range(5):
            taken.append(number)
            if number == 2:
                file.cut()
            yield (number,)

    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        file.executemany("INSERT INTO seats VALUES (?)", seats())
    assert taken == [0, 1, 2]
    file.close()


def test_a_rollback_that_an_interrupt_meets_is_repeated(tmp_path: Path) -> None:
    """The interrupt came for the statement that the thread was inside of."""

    class Interrupted(SQLiteFile):
        tries = 0

        def rollback(self) -> None:
            self.tries += 1
            if self.tries < 3:
                error = sqlite3.OperationalError("interrupted")
                error.sqlite_errorcode = sqlite3.SQLITE_INTERRUPT
                raise error
            super().rollback()

    file = sqlite3.connect(tmp_path / "hall.db", factory=Interrupted, isolation_level=None)
    file.execute("BEGIN IMMEDIATE")
    file.give_up()
    assert (file.tries, file.in_transaction) == (3, False)
    file.close()


@pytest.mark.parametrize("kept", ["a blob", "a cursor"])
def test_what_is_read_beside_it_does_not_hold_the_end_up(tmp_path: Path, kept: str) -> None:
    """SQLite forgets an interrupt only when nothing is read any more; the end of the connection frees the lock."""

    def give_up() -> None:
        with suppress(sqlite3.OperationalError):
            file.give_up()

    path = tmp_path / "hall.db"
    file = sqlite3.connect(path, factory=SQLiteFile, isolation_level=None, check_same_thread=False)
    file.execute("CREATE TABLE seats (number INTEGER PRIMARY KEY, plan BLOB)")
    file.execute("INSERT INTO seats VALUES (1, zeroblob(9)), (2, zeroblob(9))")
    file.execute("BEGIN IMMEDIATE")
    file.execute("INSERT INTO seats VALUES (3, NULL)")
    if kept == "a blob":
        read: Any = file.blobopen("seats", "plan", 1)
    else:
        read = sqlite3.Cursor(file)
        read.execute("SELECT number FROM seats")
        read.fetchone()
    file.cut()
    thread = Thread(target=give_up, daemon=True)
    thread.start()
    thread.join(timeout=20.0)
    assert not thread.is_alive(), "it repeats its rollback for ever"
    file.close()
    del read
    with closing(sqlite3.connect(path, timeout=0.0)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert other.execute("SELECT count(*) FROM seats").fetchone() == (2,)
