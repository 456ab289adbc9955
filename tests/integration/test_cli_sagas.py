"""`polysaga sagas`, called in a project's directory."""

import json
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.exc import OperationalError

from polysaga.errors import DatabaseUnavailable, DefinitionError
from polysaga.sagas.operations.repairs import Repairs
from tests.fixtures.projects import Project

PARKED, OTHER, DONE = UUID(int=1), UUID(int=2), UUID(int=3)
WHY = json.dumps({"parked": {"kind": "failed", "step": "credit", "message": "no account", "from": "running"}})
ATTEMPT = {"step": "credit", "phase": "do", "attempt": 2, "at_ms": 5.0, "ms": 1200.0, "outcome": "KeyError"}
LATER = "9999-01-01T00:00:00.000"


@pytest.fixture
def shop(project: Project) -> Project:
    """A project with two parked sagas of another version and a completed one."""
    assert project.polysaga("migrate", "shop:everything").code == 0
    add(project.directory, PARKED, "needs_attention", "2026-01-01T00:00:01.000", WHY)
    add(project.directory, OTHER, "needs_attention", "2026-01-01T00:00:02.000", WHY)
    add(project.directory, DONE, "completed", "2026-01-01T00:00:03.000", None)
    return project


def add(directory: Path, saga_id: UUID, status: str, born: str, error: str | None) -> None:
    final = status == "completed"
    row: dict[str, Any] = {
        "id": str(saga_id),
        "name": "buy",
        "version": 1,
        "fingerprint": "another",
        "saga_key": f"key-{saga_id.int}",
        "input": "7",
        "input_hash": "hash",
        "status": status,
        "epoch": 1,
        "results": "{}",
        "error": error,
        "history": json.dumps([ATTEMPT]),
        "created_at": born,
        "wake_at": None if final else LATER,
        "finished_at": born if final else None,
    }
    with sqlite3.connect(directory / "orders.sqlite") as connection:
        marks = ", ".join("?" * len(row))
        connection.execute(
            f"INSERT INTO polysaga_journal ({', '.join(row)}) VALUES ({marks})", tuple(row.values())
        )
    connection.close()


def call(project: Project, *words: str) -> Any:
    """Return the JSON that a command prints; it must end well."""
    verb, *rest = words
    ended = project.polysaga("sagas", verb, "shop:everything", *rest, "--json")
    assert (ended.code, ended.err) == (0, "")
    return json.loads(ended.out)


def ids(project: Project, *options: str) -> list[int]:
    return [UUID(saga["id"]).int for saga in call(project, "list", *options)["sagas"]]


def test_sagas_are_listed_newest_first_and_filtered(shop: Project) -> None:
    assert ids(shop) == [3, 2, 1]
    assert ids(shop, "--status", "needs_attention") == [2, 1]
    assert ids(shop, "--status", "completed", "--status", "running") == [3]
    assert ids(shop, "--error", "NO ACCOUNT", "--older-than", "15m") == [2, 1]
    assert ids(shop, "--error", "something else") == []
    assert ids(shop, "--unknown") == [3, 2, 1]
    assert ids(shop, "--since", "2026-01-01 00:00:02") == [3, 2]
    assert ids(shop, "--since", "2026-01-01T00:00:02Z", "--until", "2026-01-01T01:00:03+01:00") == [2]
    assert ids(shop, "--since", "2h") == []
    assert ids(shop, "--step", "credit") == ids(shop, "--database", "points") == [2, 1]
    assert ids(shop, "--step", "reserve") == ids(shop, "--database", "orders") == []
    assert ids(shop, "--late") == ids(shop, "--waiting") == ids(shop, "--retrying") == []
    assert ids(shop, "--crashing") == []
    assert ids(shop, "--oldest-first", "--limit", "2") == [1, 2]
    page = call(shop, "list", "--limit", "2")
    assert ids(shop, "--after", page["next"]) == [1]


@pytest.fixture(params=["postgresql+asyncpg", "mysql+asyncmy", "mongodb"])
def outage(shop: Project, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The project while nothing listens where `points` should be."""
    monkeypatch.setenv("POLYSAGA_DATABASES__POINTS__POOL__CONNECT_TIMEOUT", "0.5")
    with socket.socket() as taken:  # and does not listen
        taken.bind(("127.0.0.1", 0))
        shop.set_url(points=f"{request.param}://127.0.0.1:{taken.getsockname()[1]}/points")
        yield shop


def test_sagas_are_found_and_shown_while_another_database_than_the_journals_is_down(outage: Project) -> None:
    assert ids(outage, "--database", "points") == [2, 1]
    told = call(outage, "show", str(PARKED))
    assert (told["status"], told["reason"]) == ("needs_attention", "no account")
    looked = {look["database"]: look["problem"] for look in told["ledgers"]}
    assert looked["orders"] is None
    assert looked["points"]


def test_people_see_a_line_for_each_saga_and_below_it_why(shop: Project) -> None:
    shown = shop.polysaga("sagas", "list", "shop:everything", "--limit", "2")
    lines = shown.out.splitlines()
    assert lines[0].startswith(f"{DONE}  buy  completed")
    assert lines[2].startswith(f"{OTHER}  buy  needs_attention")
    assert lines[3] == "    credit: no account"
    assert lines[-1].startswith("There are more: --after '")
    none = shop.polysaga("sagas", "list", "shop:everything", "--status", "running")
    assert (none.code, none.out) == (0, "No such saga.\n")


def test_a_search_that_ends_early_says_how_far_it_came_and_how_to_go_on(shop: Project) -> None:
    many = range(10, 10_012)
    with sqlite3.connect(shop.directory / "orders.sqlite") as connection:
        connection.executemany(
            "INSERT INTO polysaga_journal (id, name, version, fingerprint, input, input_hash, status, epoch, "
            "results, created_at, finished_at) VALUES (?, 'bulk', 1, '', '1', '', 'completed', 1, '{}', ?, ?)",
            [(str(UUID(int=one)), *["2026-02-01T00:00:00.000"] * 2) for one in many],
        )
    connection.close()

    shown = shop.polysaga("sagas", "list", "shop:everything", "--name", "buy")
    first = call(shop, "list", "--name", "buy")
    last = call(shop, "list", "--name", "buy", "--after", first["next"])

    cursor = f"2026-02-01T00:00:00+00:00~{UUID(int=12)}"
    assert shown.out == f"No such saga back to 2026-02-01 00:00:00 UTC; search on: --after '{cursor}'\n"
    assert first == {"sagas": [], "next": cursor, "searched_to": "2026-02-01T00:00:00Z"}
    assert [UUID(saga["id"]).int for saga in last["sagas"]] == [3, 2, 1]
    assert (last["next"], last["searched_to"]) == (None, None)


def test_one_saga_is_shown_with_its_attempts(shop: Project) -> None:
    shown = shop.polysaga("sagas", "show", "shop:everything", str(PARKED))
    said = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert f"buy version 1 {PARKED}" in said
    assert "status needs_attention, was running" in said
    assert "why credit: no account" in said
    assert "key key-1" in said
    assert "driven by no process: it waits for a person" in said
    assert "credit do 2 5.0 ms 1.2 s KeyError" in said
    data = call(shop, "show", str(PARKED))
    assert (data["input"], data["parked_from"], data["audit"]) == (7, "running", [])


def test_a_repair_is_done_at_once_and_written_down(shop: Project) -> None:
    done = shop.polysaga(
        "sagas", "retry", "shop:everything", str(PARKED), "--by", "ada", "--why", "account is back"
    )
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[:2] == [f"{PARKED}  buy  needs_attention -> running", "1 changed"]
    (entry,) = call(shop, "show", str(PARKED))["audit"]
    assert (entry["by"], entry["action"], entry["why"]) == ("ada", "retry", "account is back")
    shown = shop.polysaga("sagas", "show", "shop:everything", str(PARKED))
    assert "account is back" in shown.out


def test_a_dry_run_changes_nothing(shop: Project) -> None:
    told = call(shop, "retry", str(PARKED), "--why", "look", "--dry-run")
    assert (told["dry_run"], told["repairs"][0]["after"]) == (True, "running")
    assert ids(shop, "--status", "needs_attention") == [2, 1]


def test_many_are_repaired_only_with_yes(shop: Project) -> None:
    every = ("sagas", "retry", "shop:everything", "--error", "no account", "--why", "accounts are back")
    unsure = shop.polysaga(*every)
    assert (unsure.code, unsure.err) == (2, "Nothing was changed: add --yes to do it.\n")
    assert "2 would be changed" in unsure.out
    assert ids(shop, "--status", "needs_attention") == [2, 1]
    done = shop.polysaga(*every, "--yes")
    assert done.code == 0
    assert "2 changed" in done.out
    assert ids(shop, "--status", "needs_attention") == []


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--failing-step", "credit"), [2, 1]),
        (("--failing-step", "reserve"), []),
        (("--database", "points", "--oldest-first", "--limit", "1"), [1]),
        (("--since", "2026-01-01 00:00:02"), [2]),
        (("--until", "2026-01-01 00:00:02"), [1]),
        (("--late",), []),
        (("--waiting",), []),
        (("--retrying",), []),
        (("--crashing",), []),
    ],
    ids=lambda given: "-".join(map(str, given)).replace("--", ""),
)
def test_a_repair_takes_the_filters_of_the_list(shop: Project, options: tuple[str, ...], found: list[int]) -> None:
    repairs = call(shop, "retry", "--why", "it works again", "--dry-run", *options)["repairs"]
    assert [UUID(repair["saga_id"]).int for repair in repairs] == found
    listed = [option.replace("--failing-step", "--step") for option in options]
    assert ids(shop, *listed, "--status", "needs_attention") == found


def test_the_oldest_alone_is_no_filter(shop: Project) -> None:
    ended = shop.polysaga("sagas", "retry", "shop:everything", "--oldest-first", "--why", "x", "--yes")
    assert ended.code == 2
    assert "by their ids, or by a filter" in " ".join(ended.err.split())


def test_what_is_refused_says_why_and_is_code_1(shop: Project) -> None:
    ended = shop.polysaga("sagas", "retry", "shop:everything", str(PARKED), str(DONE), "--why", "both")
    assert ended.code == 1
    lines = ended.out.splitlines()
    assert lines[0].endswith("needs_attention -> running")
    assert lines[1] == f"{DONE}  buy  refused"
    assert "it is at rest for good" in " ".join(ended.out.split())
    assert "1 changed, 1 refused" in ended.out


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("show", str(UUID(int=9))), "there is no saga"),
        (("retry", str(UUID(int=9)), "--why", "x"), "there is no saga"),
        (("retry", "--why", "x"), "by their ids, or by a filter"),
        (("retry", str(PARKED), "--status", "running", "--why", "x"), "not by both"),
        (("retry", str(PARKED)), "--why"),
        (("retry", str(PARKED), "--why", " "), "why= says why"),
        (("list", "--older-than", "soon"), "write e.g. 90s, 15m, 2h or 3d"),
        (("list", "--older-than", "99999999999999d"), "is too long: write at most 100 years"),
        (("list", "--since", "99999999d"), "is too long: write at most 100 years"),
        (("list", "--since", "9" * 400 + "d"), "is too long: write at most 100 years"),
        (("list", "--since", "0001-01-01T00:00+23:00"), "not within the years 1 to 9999"),
        (("list", "--until", "9999-12-31T23:59-23:00"), "not within the years 1 to 9999"),
        (("list", "--after", "x"), "is no cursor"),
        (("skip", str(PARKED), "--step", "credit", "--result", "{", "--why", "x"), "--result is not JSON"),
        (("resolve", str(PARKED), "--as", "running", "--why", "x"), "completed"),
    ],
)
def test_a_call_at_fault_is_told_its_remedy(shop: Project, words: tuple[str, ...], remedy: str) -> None:
    verb, *rest = words
    ended = shop.polysaga("sagas", verb, "shop:everything", *rest)
    assert ended.code == 2
    assert remedy in " ".join(ended.err.replace("│", " ").split())


def test_missing_files_are_one_line_with_the_remedy_and_stay_missing(project: Project) -> None:
    for words in (("list",), ("show", str(PARKED)), ("retry", str(PARKED), "--why", "x")):
        verb, *rest = words
        told = project.refusal("sagas", verb, "shop:everything", *rest)
        assert told.endswith("orders.sqlite yet; run `polysaga migrate`")
    assert list(project.directory.glob("*.sqlite*")) == []


def test_missing_tables_are_one_line_with_the_remedy(project: Project) -> None:
    project.make_files()
    assert "run `polysaga migrate`" in project.refusal("sagas", "list", "shop:everything")


def fail_for(monkeypatch: pytest.MonkeyPatch, saga_id: UUID, error: BaseException) -> None:
    """Let the repair of one saga end with *error*."""
    load = Repairs._load

    async def loaded(repairs: Repairs, wanted: UUID) -> Any:
        if wanted == saga_id:
            raise error
        return await load(repairs, wanted)

    monkeypatch.setattr(Repairs, "_load", loaded)


def test_an_unknown_saga_keeps_no_other_from_its_repair(shop: Project) -> None:
    """The command shows the saga before it, and reaches the one behind it."""
    named = [str(one) for one in (PARKED, UUID(int=9), OTHER)]
    ended = shop.polysaga("sagas", "retry", "shop:everything", *named, "--why", "all")
    assert (ended.code, ended.err) == (1, "")
    assert ended.out.splitlines()[:5] == [
        f"{PARKED}  buy  needs_attention -> running",
        f"{UUID(int=9)}  -    refused",
        f"    there is no saga {UUID(int=9)}",
        f"{OTHER}  buy  needs_attention -> running",
        "2 changed, 1 refused",
    ]
    assert ids(shop, "--status", "needs_attention") == []


def test_json_has_a_line_for_a_saga_that_there_is_not(shop: Project) -> None:
    named = [str(PARKED), str(UUID(int=9))]
    ended = shop.polysaga("sagas", "retry", "shop:everything", *named, "--why", "all", "--json")
    done, refused = json.loads(ended.out)["repairs"]
    assert (ended.code, done["done"], refused["done"]) == (1, True, False)
    assert (refused["saga"], refused["before"], refused["problem"]) == (
        None,
        None,
        f"there is no saga {UUID(int=9)}",
    )


@pytest.mark.parametrize("named", [(str(PARKED), str(OTHER)), ("--status", "needs_attention", "--yes")])
@pytest.mark.parametrize("as_json", [(), ("--json",)])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DatabaseUnavailable("points", "there", "gone"), "database 'points' is not reachable at there: gone"),
        (OperationalError("SELECT", {}, sqlite3.OperationalError("disk I/O error")), "disk I/O error"),
    ],
    ids=["unavailable", "driver"],
)
def test_a_database_that_fails_midway_is_code_2_and_what_is_done_is_told(
    shop: Project,
    monkeypatch: pytest.MonkeyPatch,
    named: tuple[str, ...],
    as_json: tuple[str, ...],
    error: Exception,
    said: str,
) -> None:
    fail_for(monkeypatch, PARKED, error)
    ended = shop.polysaga("sagas", "retry", "shop:everything", *named, "--why", "x", *as_json)
    assert (ended.code, ended.err) == (2, f"polysaga: {said}\n")
    if as_json:
        repairs = json.loads(ended.out)["repairs"]
        told = {repair["saga_id"]: repair["problem"] for repair in repairs}
        assert told == {str(PARKED): said, str(OTHER): None}
    else:
        assert f"{OTHER}  buy  needs_attention -> running" in ended.out
        assert f"{PARKED}  buy  refused" in ended.out
        assert "1 changed, 1 refused" in ended.out
    assert ids(shop, "--status", "needs_attention") == [PARKED.int]


def test_a_call_that_fits_some_sagas_is_code_1_and_one_that_fits_none_is_code_2(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_for(monkeypatch, PARKED, DefinitionError("saga 'buy' has no step 'lend'"))
    none = shop.polysaga("sagas", "retry", "shop:everything", str(PARKED), "--why", "x")
    assert (none.code, none.err) == (2, "polysaga: saga 'buy' has no step 'lend'\n")
    some = shop.polysaga("sagas", "retry", "shop:everything", str(PARKED), str(OTHER), "--why", "x")
    assert (some.code, some.err) == (1, "")
    assert "1 changed, 1 refused" in some.out


def test_what_is_done_is_told_also_if_the_command_is_broken_off(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_for(monkeypatch, OTHER, KeyboardInterrupt())
    ended = shop.polysaga("sagas", "retry", "shop:everything", str(PARKED), str(OTHER), "--why", "x")
    assert ended.code == 130
    assert f"{PARKED}  buy  needs_attention -> running" in ended.out


def test_a_filter_repairs_at_most_as_many_as_the_limit(shop: Project) -> None:
    every = ("retry", "--error", "no account", "--why", "x", "--yes", "--limit", "1")
    assert [repair["saga_id"] for repair in call(shop, *every)["repairs"]] == [str(OTHER)]
    assert ids(shop, "--status", "needs_attention") == [1]
