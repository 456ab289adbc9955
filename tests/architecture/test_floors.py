"""The floors that the page about the architecture draws are those that import-linter holds the imports to."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/architecture.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def drawn() -> list[list[list[str]]]:
    """Return the words on each floor of each house that the page draws, the highest floor first."""
    houses = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [[re.split(r" {3,}", line[10:]) for line in house.splitlines()] for house in houses]


@pytest.mark.parametrize("house", [0, 1])
def test_the_floors_are_those_that_the_imports_are_held_to(house: int) -> None:
    contract: dict[str, Any] = [one for one in CONTRACTS if one["type"] == "layers"][house]
    # In parentheses: floors that are planned.
    held = [[name for name in re.split(r"[ |:]+", layer) if "(" not in name] for layer in contract["layers"]]
    assert len(held) > 5
    known = {name for layer in held for name in layer}
    assert [[word for word in floor if word in known] for floor in drawn()[house]] == held


def test_the_page_names_files_that_are_there() -> None:
    named = set(re.findall(r"`((?:src|tests|docs)/[\w/.-]+)", PAGE))
    assert len(named) > 5
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
