"""What the documents promise is proven by tests that exist: `path.py::test_name` in each line of a table."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["GUARANTEES.md", "docs/explanation/holes-and-traps.md"]
PROOF = re.compile(r"`([\w/.-]+\.py)::(\w+)`")


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def lines_of(page: str) -> list[str]:
    """Return the lines of the tables of *page*, without their heads."""
    lines = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("| ")]
    return [line for line in lines if not line.startswith(("| when |", "| no. |"))]


@pytest.mark.parametrize("page", PAGES)
def test_every_proof_is_a_test_that_exists(page: str) -> None:
    proofs = PROOF.findall((ROOT / page).read_text())
    missing = [f"{path}::{name}" for path, name in proofs if name not in names_in(path)]
    assert proofs
    assert missing == []


def test_every_guarantee_has_a_proof() -> None:
    lines = lines_of("GUARANTEES.md")
    assert len(lines) > 20
    assert [line for line in lines if not PROOF.search(line)] == []


def test_every_hole_and_every_trap_is_answered() -> None:
    """By a test, or by a line that says why it cannot happen here."""
    lines = lines_of("docs/explanation/holes-and-traps.md")
    numbers = [line.split("|")[1].strip() for line in lines]
    assert numbers == [f"H{number}" for number in range(1, 20)] + [f"T{number}" for number in range(1, 21)]
    assert [line for line in lines if not PROOF.search(line) and "Cannot happen:" not in line] == []
