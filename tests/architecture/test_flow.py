"""One flow: steps, calls and writes return facts, and the execution alone applies them."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args

import pytest

from polysaga.sagas import driving
from polysaga.sagas.protocol import known

DRIVING = Path(driving.__file__).parent
LOOP = "execution.py"
LEAVES = sorted(
    path.name for path in DRIVING.glob("*.py") if path.name not in {LOOP, "progress.py", "__init__.py"}
)


def written(tree: ast.AST) -> Iterator[str]:
    """Yield the objects whose attributes or items *tree* changes: `progress` for `progress.known = ...`."""
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = list(node.targets)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            for one in ast.walk(target):
                if isinstance(one, ast.Attribute | ast.Subscript) and not isinstance(one.ctx, ast.Load):
                    yield ast.unparse(one.value)


CHANGES = (".update", ".pop", ".popitem", ".clear", ".setdefault", ".__setattr__", ".__setitem__")


def called(tree: ast.AST) -> Iterator[str]:
    """Yield the methods that *tree* calls, as they are written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_changes_nothing_of_what_is_known(leaf: str) -> None:
    tree = ast.parse((DRIVING / leaf).read_text())
    assert [one for one in written(tree) if "progress" in one or "known" in one] == []
    assert [one for one in called(tree) if one.endswith((".learn", ".keep"))] == []
    assert [one for one in called(tree) if one.endswith(CHANGES) and ("known" in one or "marks" in one)] == []
    assert "setattr" not in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def test_the_leaves_are_found() -> None:
    assert {"steps.py", "calls.py", "writes.py", "attempts.py", "announcements.py"} <= set(LEAVES)


def test_the_execution_learns_and_tells_in_one_place() -> None:
    tree = ast.parse((DRIVING / LOOP).read_text())
    assert {one for one in called(tree) if one.endswith(".learn")} == {"self.progress.learn", "progress.learn"}
    homes = {
        function.name: [one for one in called(function) if one.endswith("progress.learn")]
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    # A takeover tells nothing before it knows what all databases say.
    assert {name for name, calls in homes.items() if calls} == {"_learn", "resume"}


def test_the_loop_writes_only_the_claim_of_its_saga() -> None:
    tree = ast.parse((DRIVING / LOOP).read_text())
    changed = {ast.unparse(node) for node in ast.walk(tree) if _is_write(node)}
    assert {one for one in changed if one.startswith(("progress.", "self.progress."))} == {
        "self.progress.asked",
    }


def _is_write(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)


def test_facts_and_what_is_known_are_frozen() -> None:
    """The type checker holds the code to it (`polysaga.frozen`)."""
    tree = ast.parse(inspect.getsource(known))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    decorated = {one.name for one in classes if "frozen" in map(ast.unparse, one.decorator_list)}
    kinds = [*get_args(known.Fact), known.Known, known.Sighting]
    assert len(kinds) > 10, "the test sees nothing"
    for kind in kinds:
        assert is_dataclass(kind)
        assert kind.__name__ in decorated
    assert {field.name for field in fields(known.Known)} >= {"status", "marks", "failure", "reason"}


def test_a_leaf_that_changed_something_would_be_found() -> None:
    tree = ast.parse("progress.marks[step] = 1\nself._progress.known = 2\ndel progress.known.marks['a']\n")
    assert list(written(tree)) == ["progress.marks", "self._progress", "progress.known.marks"]
