"""The program as syntax trees, for tests about how it is written."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PLACES = [ROOT / "src", *sorted((ROOT / "services").glob("*/src"))]


@dataclass(frozen=True)
class Source:
    """One module of the program."""

    name: str  # relative to its `src`, e.g. polysaga/sagas/process/worker.py
    text: str
    tree: ast.Module


@cache
def sources() -> tuple[Source, ...]:
    """Every module of the library and of the services, without their tests."""
    found = [(place, path) for place in _PLACES for path in sorted(place.rglob("*.py"))]
    texts = [(place, path, path.read_text()) for place, path in found]
    return tuple(Source(str(path.relative_to(place)), text, ast.parse(text)) for place, path, text in texts)


def walk(node: ast.AST, inside: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], ast.AST]]:
    """Yield every node below *node* with the names of the classes and functions around it."""
    for child in ast.iter_child_nodes(node):
        yield inside, child
        named = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        yield from walk(child, (*inside, child.name) if named else inside)  # type: ignore[attr-defined]
