"""Tests wait for what happens, with a limit: they do not sleep, and nothing waits for ever by accident."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ["tests", "devservers", *(str(path.relative_to(ROOT)) for path in (ROOT / "services").glob("*/tests"))]
# Where the time between two looks at a condition is spent, and what keeps to a plan of its own.
LOOKS = {
    "devservers/templates.py: _lock",
    "tests/fixtures/waiting.py: pause",
    "tests/fixtures/services.py: poll_until",
    "tests/fixtures/watch.py: _look",
    "tests/fixtures/watch.py: _end",
    "tests/fixtures/proxy.py: _pump",  # a delay that a test asked for
    "tests/soak/__main__.py: _break_things",
    "tests/soak/audit.py: _audit",
}
# What waits for its caller, who has a limit.
ENDLESS = {
    "tests/fixtures/waiting.py: reached",
    "tests/fixtures/waiting.py: forever",
    "tests/fixtures/programs.py: look",
    "tests/fixtures/programs.py: __call__",
    "tests/fixtures/proxy.py: _pump",
    "tests/soak/house.py: _supervise",  # the thread that waits for its service
    "devservers/cli.py: _run",  # in the foreground, for a person
}
WAITS = {"wait", "join", "communicate"}
OF_PROCESSES = {"run", "communicate", "wait", "check_output", "check_call"}


def test_no_test_sleeps() -> None:
    assert {place for place, call in _calls() if _sleeps(call)} == LOOKS


def test_everything_that_is_waited_for_has_a_limit() -> None:
    assert {place for place, call in _calls() if _is_endless(call)} == ENDLESS


@pytest.mark.parametrize("text", ["time.sleep(1)", "clock.sleep(seconds)", "asyncio.sleep(0.1)"])
def test_a_sleep_is_recognised(text: str) -> None:
    assert _sleeps(_only_call(text))


@pytest.mark.parametrize("text", ["asyncio.sleep(0)", "Clock().now()"])
def test_what_does_not_sleep_is_left_alone(text: str) -> None:
    assert not _sleeps(_only_call(text))


@pytest.mark.parametrize(
    "text",
    [
        "event.wait()",
        "thread.join()",
        "asyncio.to_thread(thread.join)",
        "process.communicate()",
        "subprocess.run(['ls'], check=True)",
    ],
)
def test_an_endless_wait_is_recognised(text: str) -> None:
    assert _is_endless(_only_call(text))


@pytest.mark.parametrize(
    "text", ["process.wait(30)", "thread.join(5)", "subprocess.run(['ls'], timeout=5)", "', '.join(names)"]
)
def test_a_wait_with_a_limit_is_left_alone(text: str) -> None:
    assert not _is_endless(_only_call(text))


def _only_call(text: str) -> ast.Call:
    node = ast.parse(text, mode="eval").body
    assert isinstance(node, ast.Call)
    return node


def _sleeps(call: ast.Call) -> bool:
    is_sleep = isinstance(call.func, ast.Attribute) and call.func.attr == "sleep"
    return is_sleep and not (isinstance(call.args[0], ast.Constant) and call.args[0].value == 0)


def _is_endless(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Attribute) and call.func.attr == "to_thread" and len(call.args) == 1:
        work = call.args[0]
        return isinstance(work, ast.Attribute) and work.attr in WAITS and not call.keywords
    if not isinstance(call.func, ast.Attribute) or any(keyword.arg == "timeout" for keyword in call.keywords):
        return False
    if isinstance(call.func.value, ast.Name) and call.func.value.id == "subprocess":
        return call.func.attr in OF_PROCESSES
    return call.func.attr in WAITS and not call.args and not call.keywords


def _calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call in the tests and the servers, and the function around it."""
    for path in sorted(path for place in PLACES for path in (ROOT / place).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        yield from _inside(ast.parse(path.read_text()), name, "")


def _inside(node: ast.AST, name: str, function: str) -> Iterator[tuple[str, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield f"{name}: {function}", child
        inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield from _inside(child, name, inner)
