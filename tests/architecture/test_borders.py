"""Broad catches stand at known borders only, and imports stand at the top."""

import ast

import pytest

from tests.architecture.sources import Source, sources, walk

# Where anything may be raised that is not ours, and work goes on all the same: each says why in its comment.
BORDERS = {
    "polysaga/cli/programs.py: _import",  # the program that a command is to work on
    "polysaga/cli/programs.py: settings_for",  # the program's function for its settings
    "polysaga/cli/main.py: main",  # a command
    "polysaga/databases/dialects/errors.py: _of_driver",  # an error of a driver
    "polysaga/events.py: Events.__call__",  # a subscriber
    "polysaga/databases/pools.py: _KeptPlace._replaced",  # listeners, and drivers that close
    "polysaga/databases/pools.py: _KeptPlace.checkin",  # listeners, and drivers
    "polysaga/fastapi/aborted_starts.py: RefuseAfterAbort._live",  # the application's own start
    "polysaga/routing/monitor.py: Monitor._watch",  # a question to a node
    "polysaga/sagas/driving/attempts.py: Attempts._caught",  # a step
    "polysaga/sagas/definition/payloads.py: decode",  # a validator
    "polysaga/sagas/driving/user_code.py: awaited",  # a step, or its compensation
    "polysaga/sagas/process/loop.py: repeat",  # a round of the worker or of a drain
    "polysaga/telemetry/late_spans.py: tried",  # the program's sampler, processors and exporters
    "polysaga/testing/crash_kit/harness.py: _Performance._judge_both",  # an invariant written for one saga
    "polysaga/texts.py: _lines",  # an error of a program
}
BROAD = {"Exception", "BaseException"}
LOADERS = {"import_module", "__import__", "load_module"}
# What is not needed by everybody, or not installed everywhere (`docs/decisions/0010-what-is-loaded-late.md`).
LATE = {
    "polysaga/cli/main.py: load_command",  # the command that is run
    "polysaga/cli/main.py: main",  # what knows errors of databases
    "polysaga/cli/programs.py: _import",  # the program that a command is to work on
    "polysaga/cli/starting.py: _command_line",  # the command line, while Ctrl-C ends it at once
    "polysaga/cli/worker.py: _metrics",  # an extra
    "polysaga/databases/dialects/postgres_asyncpg.py: PostgresAsyncpg.engine_arguments",  # the driver
    "polysaga/databases/dialects/postgres_psycopg.py: PostgresPsycopg.options",  # the driver
    "polysaga/databases/mongo_node.py: MongoNode.__init__",  # our door to the driver
    "polysaga/databases/mongo_node.py: MongoSession.transaction",  # our door to the driver
    "polysaga/databases/pymongo_waits.py: make_safe",  # parts of a driver that it may not have
    "polysaga/fastapi/handlers.py: install_handlers",  # errors of a driver that may not be installed
    "polysaga/loading.py: facade.get",  # what a package shows, when it is asked for
    "polysaga/loading.py: load_module",
    "polysaga/routing/guards/constructs.py: guard",  # subclasses of the driver's
    "polysaga/testing/crash_kit/driver_errors.py: lost_connection",  # errors of the driver under test
    "polysaga/testing/crash_kit/driver_errors.py: lost_mongo_commit",
    "polysaga/testing/crash_kit/driver_errors.py: no_mongo_transaction",
    "polysaga/testing/plugin.py: crash_kit",  # the kit, which most tests of most projects have no use for
}


def is_broad(node: ast.AST) -> bool:
    """Tell whether *node* catches everything: a bare except, `except Exception`, `suppress(Exception)`.

    A handler that ends with a bare `raise` only looks at what passes.
    """
    if isinstance(node, ast.ExceptHandler):
        passes = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        return not passes and (node.type is None or _names_everything(node.type))
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return called == "suppress" and any(map(_names_everything, node.args))
    return False


def broad_catches(source: Source) -> list[tuple[str, str]]:
    """Return where everything is caught, and the line that does it."""
    found = []
    for inside, node in walk(source.tree):
        if is_broad(node):
            line = source.text.splitlines()[node.lineno - 1]  # type: ignore[attr-defined]
            found.append((f"{source.name}: {'.'.join(inside)}", line))
    return found


def imports_inside_functions(source: Source) -> list[int]:
    """Return the lines of such imports."""
    functions = [
        node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    inside = {node for function in functions for node in ast.walk(function)}
    return sorted(node.lineno for node in inside if isinstance(node, ast.Import | ast.ImportFrom))


def late_loads(source: Source) -> set[str]:
    """Return the functions of *source* that load a module by its name."""
    return {
        f"{source.name}: {'.'.join(inside)}"
        for inside, node in walk(source.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in LOADERS
    }


def _names_everything(node: ast.expr) -> bool:
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(isinstance(part, ast.Name) and part.id in BROAD for part in parts)


def test_everything_is_caught_at_the_known_borders_only() -> None:
    assert {place for source in sources() for place, _ in broad_catches(source)} == BORDERS


def test_every_border_says_why_it_is_one() -> None:
    catches = [caught for source in sources() for caught in broad_catches(source)]
    assert [place for place, line in catches if not line.partition("border:")[2].strip()] == []


def test_nothing_is_imported_inside_a_function() -> None:
    assert [f"{source.name}:{line}" for source in sources() for line in imports_inside_functions(source)] == []


def test_nothing_is_loaded_late_but_what_is_known() -> None:
    assert {place for source in sources() for place in late_loads(source)} == LATE


def test_an_import_inside_a_function_is_recognised() -> None:
    text = "import os\ndef read():\n    import json\n    return json, os"
    assert imports_inside_functions(Source("here.py", text, ast.parse(text))) == [3]


@pytest.mark.parametrize(
    "text",
    [
        "try: ...\nexcept: ...",
        "try: ...\nexcept Exception as error: ...",
        "try: ...\nexcept (OSError, BaseException): ...",
        "with suppress(Exception): ...",
        "with contextlib.suppress(OSError, Exception): ...",
    ],
)
def test_a_broad_catch_is_recognised(text: str) -> None:
    assert any(is_broad(node) for node in ast.walk(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "try: ...\nexcept (OSError, KeyError): ...",
        "try: ...\nexcept Exception as error:\n    print(error)\n    raise",
        "with suppress(KeyError): ...",
    ],
)
def test_a_narrow_catch_is_left_alone(text: str) -> None:
    assert not any(is_broad(node) for node in ast.walk(ast.parse(text)))
