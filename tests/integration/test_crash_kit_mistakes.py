"""Mistakes of users that the crash kit finds, and what it says about them."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from devservers import Server
from polysaga.config import Settings, parse_settings
from polysaga.testing import PromiseBroken, Run
from tests.fixtures.trips import agency


@pytest.fixture(autouse=True)
def one_story_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polysaga.testing.crash_kit.kit._MOST_TOLD", 1)


OWN_WRITER = "opened a writer of its own on the SQLite file of database 'hotels', which has one writer"


@pytest.fixture
def on_postgres(postgres_server: Server) -> Iterator[Settings]:
    names = {name: f"{name}_{uuid.uuid4().hex[:8]}" for name in ("flights", "hotels", "payments")}
    for database in names.values():
        postgres_server.create_database(database)
    urls = {name: {"url": postgres_server.url(database)} for name, database in names.items()}
    yield parse_settings({"databases": urls})
    for database in names.values():
        postgres_server.drop_database(database)


def broken(crash_kit: Any, mistake: str, **options: Any) -> PromiseBroken:
    found = agency(mistake)
    with pytest.raises(PromiseBroken) as told:
        crash_kit(found.sagas, options.pop("settings", None), setup=found.setup, **options).prove(
            found.book_trip, found.a_trip, invariant=found.books_add_up
        )
    return told.value


@pytest.mark.parametrize("mistake", ["own-session-in-step", "own-session-in-undo"])
def test_a_writer_of_a_steps_own_on_sqlite_is_told_with_the_remedy(crash_kit: Any, mistake: str) -> None:
    assert OWN_WRITER in str(broken(crash_kit, mistake))


def test_a_session_of_the_steps_own_is_named_in_the_story(crash_kit: Any, on_postgres: Settings) -> None:
    told = str(broken(crash_kit, "own-session-in-step", settings=on_postgres))
    assert "reserve_hotel opens a session of its own on hotels, beside the one that it was given" in told
    assert "the invariant does not hold" in told


@pytest.mark.parametrize(
    ("mistake", "story"),
    [
        ("input-for-result", "the invariant does not hold: (seats, nights, money) taken: (0, 1, 0)"),
        ("swallowed-database-error", "begin_nested"),
        ("swallowed-error", "the invariant does not hold: (seats, nights, money) taken: (1, 0, 100)"),
        ("own-session-in-step", OWN_WRITER),
        ("own-session-in-undo", OWN_WRITER),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_sample_of_64_finds_it(crash_kit: Any, mistake: str, story: str, seed: int) -> None:
    assert story in str(broken(crash_kit, mistake, sample=64, seed=seed))


def test_a_sample_of_64_finds_a_compensation_with_a_session_of_its_own(
    crash_kit: Any, on_postgres: Settings
) -> None:
    found = broken(crash_kit, "own-session-in-undo", settings=on_postgres, sample=64)
    assert "/" in found.report.cases[0], "only a disturbance shows it: one in which the compensation is repeated"
    assert "the invariant does not hold" in str(found)


def test_a_compensation_that_writes_an_old_value_undoes_the_saga_beside_it(crash_kit: Any) -> None:
    found = agency("old-value-in-undo")
    kit = crash_kit(found.sagas, setup=found.setup, only="refused-in-charge/beside@A:after:reserve_hotel")
    with pytest.raises(PromiseBroken, match=r"after two sagas: AssertionError.*taken: \(1, 0, 100\)"):
        kit.prove(found.book_trip, found.a_trip, invariant=found.books_add_up)


def test_a_read_without_a_guard_loses_what_the_saga_beside_it_wrote(crash_kit: Any, on_postgres: Settings) -> None:
    found = agency("read-then-write")
    case = "forward/beside@A:between:reserve_hotel"
    kit = crash_kit(found.sagas, on_postgres, setup=found.setup, only=case)
    with pytest.raises(PromiseBroken, match=r"taken: \(2, 3, 200\)") as told:
        kit.prove(found.book_trip, found.a_trip, invariant=found.books_add_up)
    assert "A stands between two statements of reserve_hotel" in str(told.value)


def test_a_correct_saga_holds_beside_another_one(crash_kit: Any, on_postgres: Settings) -> None:
    found = agency()
    kit = crash_kit(found.sagas, on_postgres, setup=found.setup, sample=24)
    report = kit.prove(found.book_trip, found.a_trip, invariant=found.books_add_up)
    assert report.kinds["beside another saga"] > 0
    assert report.left_out is None


def test_an_invariant_for_one_saga_is_not_asked_about_two(crash_kit: Any) -> None:
    found = agency()

    async def written_for_one(run: Run) -> None:
        await found.books_add_up(replace(run, beside=None))

    kit = crash_kit(found.sagas, setup=found.setup, sample=24)
    report = kit.prove(found.book_trip, found.a_trip, invariant=written_for_one)
    assert report.kinds["beside another saga"] == 0
    assert "cases beside another saga, because the invariant is written for one saga" in report.left_out
