"""`polysaga verify`, called in a project's directory."""

import json
import sqlite3
from pathlib import Path
from uuid import UUID

import pytest

from polysaga.cli import verify
from tests.fixtures.projects import Project

COMPLETED, UNKNOWN = UUID(int=7), UUID(int=9)
COLUMNS = "id, name, version, fingerprint, input, input_hash, status, epoch, results, created_at"


@pytest.fixture
def shop(project: Project) -> Project:
    """A project whose tables are there."""
    assert project.polysaga("migrate", "shop:everything").code == 0
    return project


def complete(directory: Path) -> None:
    """Write a completed saga, though of another version, so that its steps are not asked for."""
    row = (str(COMPLETED), "buy", 1, "another", "1", "hash", "completed", 1, '{"reserve": "null"}', "2026-01-01")
    _execute(
        directory / "orders.sqlite",
        f"INSERT INTO polysaga_journal ({COLUMNS}) VALUES ({', '.join('?' * len(row))})",
        row,
    )


def record(directory: Path, saga_id: UUID, state: str) -> None:
    row = (str(saga_id), "credit", state, 1, "null", "2026-01-01")
    sql = f"INSERT INTO polysaga_ledger VALUES ({', '.join('?' * len(row))})"
    _execute(directory / "points.sqlite", sql, row)


def test_books_that_agree_are_one_sentence_and_code_0(shop: Project) -> None:
    complete(shop.directory)
    record(shop.directory, COMPLETED, "done")
    ended = shop.polysaga("verify", "shop:everything")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "sagas        1 (1 completed)",
        "ledger rows  1 (0 in orders, 1 in points)",
        "strangers    1 of another version of the program, compared as far as possible",
        "Journal and ledgers agree.",
    ]


def test_a_log_shows_how_far_it_is(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_EVERY", 0.0)
    complete(shop.directory)
    record(shop.directory, COMPLETED, "done")
    ended = shop.polysaga("verify", "shop:everything", "--json")
    assert "compared 1 of 1 sagas ..." in ended.err
    assert json.loads(ended.out)["contradictions"] == []


def test_only_sagas_begun_since_a_time_are_compared(shop: Project) -> None:
    complete(shop.directory)  # on 2026-01-01
    record(shop.directory, COMPLETED, "blocked")
    for since, sagas in (("2025-12-31 23:59", 1), ("2026-01-01 00:01", 0), ("2h", 0)):
        ended = shop.polysaga("verify", "shop:everything", "--since", since, "--json")
        told = json.loads(ended.out)
        assert (ended.code, sum(told["sagas"].values()), len(told["contradictions"])) == (sagas, sagas, sagas), (
            since
        )
    assert "is no time" in shop.polysaga("verify", "shop:everything", "--since", "yesterday").err


def test_people_see_each_saga_with_what_is_wrong_in_it(shop: Project) -> None:
    complete(shop.directory)
    record(shop.directory, COMPLETED, "blocked")
    record(shop.directory, UNKNOWN, "done")
    ended = shop.polysaga("verify", "shop:everything")
    assert ended.code == 1
    said = " ".join(ended.out.split())
    assert f"{COMPLETED} buy (completed) undone-step points the saga is completed, but" in said
    assert f"{UNKNOWN} not in the journal no-journal-row points step 'credit' is done, but" in said
    assert "2 contradictions." in said


def test_a_start_that_is_parked_in_an_outbox_is_told_with_the_remedy(shop: Project) -> None:
    row = (str(UNKNOWN), "buy", "{", "this start cannot be read", "2026-01-01")
    sql = "INSERT INTO polysaga_outbox (id, name, birth, error, created_at) VALUES (?, ?, ?, ?, ?)"
    _execute(shop.directory / "points.sqlite", sql, row)
    ended = shop.polysaga("verify", "shop:everything")
    assert ended.code == 1
    said = " ".join(ended.out.split())
    assert f"{UNKNOWN} buy (not started) parked-start points it was committed, but cannot start: " in said
    assert "this start cannot be read; once that is seen to, delete this row of polysaga_outbox" in said


def test_machines_get_one_object(shop: Project) -> None:
    record(shop.directory, UNKNOWN, "done")
    ended = shop.polysaga("verify", "shop:everything", "--json")
    assert ended.code == 1
    assert json.loads(ended.out) == {
        "sagas": dict.fromkeys(
            ["running", "completing", "compensating", "completed", "compensated", "needs_attention"], 0
        ),
        "ledger_rows": {"orders": 0, "points": 1},
        "strangers": 0,
        "contradictions": [
            {
                "kind": "no-journal-row",
                "saga_id": str(UNKNOWN),
                "saga": None,
                "status": None,
                "step": "credit",
                "database": "points",
                "detail": "step 'credit' is done, but the journal does not know the saga",
            }
        ],
        "complete": True,
    }


def test_it_stops_at_the_limit_and_says_so(shop: Project) -> None:
    for number in range(1, 4):
        record(shop.directory, UUID(int=number), "done")
    ended = shop.polysaga("verify", "shop:everything", "--limit", "2")
    assert ended.code == 1
    assert ended.out.splitlines()[-1] == "2 contradictions, and more after them: raise --limit to see them."


def test_it_changes_nothing(shop: Project) -> None:
    complete(shop.directory)
    record(shop.directory, COMPLETED, "blocked")
    before = [_dump(shop.directory / f"{name}.sqlite") for name in ("orders", "points")]
    assert shop.polysaga("verify", "shop:everything").code == 1
    assert [_dump(shop.directory / f"{name}.sqlite") for name in ("orders", "points")] == before


def test_what_cannot_be_looked_at_is_one_line_and_code_2(project: Project) -> None:
    assert "orders.sqlite yet; run `polysaga migrate`" in project.refusal("verify", "shop:everything")
    project.make_files()
    assert "run `polysaga migrate`" in project.refusal("verify", "shop:everything")
    project.set_url(points="postgresql+asyncpg://app:s3cret@127.0.0.1:1/points")
    told = project.refusal("verify", "shop:everything")
    assert "database 'points' is not reachable" in told
    assert "s3cret" not in told


def _execute(file: Path, sql: str, row: tuple[object, ...]) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(sql, row)
    connection.close()


def _dump(file: Path) -> list[str]:
    with sqlite3.connect(file) as connection:
        found = list(connection.iterdump())
    connection.close()
    return found
