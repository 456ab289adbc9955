"""`orders replay` and `orders reconcile` against a shop in a process of its own."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.processes import begin

from .conftest import Served

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
DIRT = (
    "C536379,D,Discount,-1,1/12/2010,27.5,14527,United Kingdom",
    "536414,22139,,56,1/12/2010,0,,United Kingdom",
    "536545,21134,,1,1/12/2010,0,17850,United Kingdom",
    "536546,22145,,0,1/12/2010,2.1,17850,United Kingdom",
    "536549,85226A,,some,1/12/2010,2.1,17850,United Kingdom",
    "536550,85044",
)
DIRTY = {
    "returned goods": 1,
    "no customer": 1,
    "no price": 1,
    "zero quantity": 1,
    "unreadable quantity": 1,
    "wrong number of columns": 1,
}
SOLD = (
    ("85123A", "WHITE HANGING HEART T-LIGHT HOLDER", 6, "2.55"),
    ("71053", "WHITE METAL LANTERN", 6, "3.39"),
    ("84406B", "CREAM CUPID HEARTS COAT HANGER", 8, "2.75"),
    ("84029G", '"KNITTED UNION FLAG, HOT WATER BOTTLE"', 6, "3.39"),
    ("22752", "SET 7 BABUSHKA NESTING BOXES", 2, "7.65"),
    ("21730", "GLASS STAR FROSTED T-LIGHT HOLDER", 6, "4.25"),
)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """60 rows: 54 orders of 6 products by 4 customers, and 6 rows of dirt."""
    clean = [
        f"5363{number:02},{code},{name},{quantity},1/12/2010,{price},{17850 + number % 4},United Kingdom"
        for number in range(9)
        for code, name, quantity, price in SOLD
    ]
    rows = [*clean[:20], *DIRT[:3], *clean[20:], *DIRT[3:]]
    file = tmp_path / "online retail.csv"
    file.write_text("\ufeff" + "\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return file


def _json(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_replay_counts_outcomes_and_dirt_and_ends_with_books_that_agree(served: Served, trace: Path) -> None:
    done = served.run("replay", str(trace), "--url", served.url, "--json")
    report = _json(done)
    orders = report["orders"]
    assert done.returncode == 0
    assert report["dirty"] == DIRTY
    assert (orders["total"], orders["confirmed"] + orders["refused"], orders["failed"]) == (54, 54, 0)
    # 90 % of the demand is in stock: for 9 orders of 6 that is enough for 8.
    assert orders["refusals"] == {"out-of-stock": 6}
    assert report["reconciliation"] == {"orders": 54, "products": 6, "users": 4, "contradictions": []}


def test_the_same_replay_again_changes_nothing(served: Served, trace: Path) -> None:
    first = _json(served.run("replay", str(trace), "--url", served.url, "--json", "--concurrency", "2"))
    again = _json(served.run("replay", str(trace), "--url", served.url, "--json", "--concurrency", "16"))
    assert again["orders"]["confirmed"] == first["orders"]["confirmed"]
    assert again["reconciliation"] == first["reconciliation"]


def test_another_file_of_the_same_name_is_another_trace(served: Served, tmp_path: Path) -> None:
    counts = []
    for folder, quantities in (("first", "56"), ("second", "57"), ("second", "57")):
        file = tmp_path / folder / "piece.csv"
        file.parent.mkdir(exist_ok=True)
        rows = [f"536365,TEA,,{quantity},1/12/2010,2.55,17850,UK" for quantity in quantities]
        file.write_text("\n".join([HEADER, *rows]), encoding="utf-8")
        report = _json(served.run("replay", str(file), "--url", served.url, "--json"))
        assert report["orders"]["failed"] == 0
        counts.append(report["reconciliation"]["orders"])
    assert counts == [2, 4, 4]


def test_people_get_the_same_facts_in_words(served: Served, trace: Path) -> None:
    done = served.run("replay", str(trace), "--url", served.url, "--limit", "30", "--rate", "500")
    assert done.returncode == 0
    assert "27 orders in" in done.stdout
    assert "3 rows are not orders" in done.stdout
    assert "The three databases agree (27 orders, 6 products, 4 users)" in done.stdout


def test_a_replay_survives_a_server_that_is_killed_and_started_again(served: Served, trace: Path) -> None:
    command = [sys.executable, "-m", "orders", "replay", str(trace), "--url", served.url]
    options = ["--data", str(served.data), "--json", "--rate", "40"]
    with begin([*command, *options]) as replay:
        _wait_for_orders(served.data / "orders.db", 10)
        served.restart(signal.SIGKILL)
        report, _ = replay.communicate(timeout=120)
    orders = json.loads(report)
    assert replay.returncode == 0
    assert orders["orders"]["failed"] == 0
    assert orders["orders"]["retried"] > 0
    assert orders["reconciliation"]["contradictions"] == []


def test_reconcile_finds_what_was_planted_and_ends_with_code_1(served: Served, trace: Path) -> None:
    served.run("replay", str(trace), "--url", served.url, "--json")
    assert served.run("reconcile").returncode == 0
    with closing(sqlite3.connect(served.data / "inventory.db")) as database, database:
        database.execute("UPDATE products SET stock = stock + 1 WHERE id = '71053'")
    done = served.run("reconcile", "--json")
    assert done.returncode == 1
    [contradiction] = _json(done)["reconciliation"]["contradictions"]
    assert contradiction.startswith("product 71053:")
    assert "✗ 1 contradiction between the databases" in served.run("reconcile").stdout


def test_a_directory_without_a_shop_is_not_in_order_by_accident(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orders", "reconcile", "--data", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "--data must name the directory of the service" in done.stderr
    assert not (tmp_path / "nothing").exists()


def _orders(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "orders", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_files_without_the_tables_of_a_shop_are_told_in_one_line(tmp_path: Path) -> None:
    for name in ("orders", "points", "inventory"):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as database, database:
            database.execute("CREATE TABLE other (id INTEGER)")
    done = _orders("reconcile", "--data", str(tmp_path))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "database 'orders' has no table 'orders'" in done.stderr


@pytest.mark.parametrize("url", ["nonsense", "ftp://example.com", "http://"])
def test_an_address_that_no_service_can_have_is_told_at_once(trace: Path, url: str) -> None:
    done = _orders("replay", str(trace), "--url", url)
    assert done.returncode == 2
    assert f"'{url}' is no URL of a service; write http://HOST:PORT" in done.stderr


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_goes_away_changes_no_exit_code(empty_shop: Path, options: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "orders", "reconcile", "--data", str(empty_shop), *options]
    with os.fdopen(writing) as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def _wait_for_orders(file: Path, count: int) -> None:
    with closing(sqlite3.connect(file, timeout=30)) as database:
        while database.execute("SELECT count(*) FROM orders").fetchone()[0] < count:
            pass
