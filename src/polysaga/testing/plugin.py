"""The pytest plugin: the fixture `crash_kit`, its options, and a line in the summary for every proof.

    def test_an_order_is_everywhere_or_nowhere(crash_kit):
        crash_kit(sagas, setup=create_tables).prove(place_order, order, invariant=books_add_up)

Without settings every SQL database of the program is an SQLite file in the test's own folder.

pytest loads this module in every project of the environment, so it loads the kit itself with the first fixture.
"""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polysaga.loading import load_module

if TYPE_CHECKING:
    from polysaga.testing.crash_kit.fixture import NewCrashKit

# A test's report carries these properties, even from a worker of pytest-xdist.
KEPT, BROKEN, LISTED = "crash kit", "crash kit, promise broken", "crash kit, cases"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the crash kit."""
    group = parser.getgroup("polysaga", "crash kit of Polysaga")
    group.addoption("--crash-sample", type=int, metavar="N", help="run about N cases instead of all")
    group.addoption("--crash-seed", type=int, default=0, metavar="N", help="which sample (default: 0)")
    group.addoption("--crash-case", metavar="NAME", help="repeat the one case of this name")
    group.addoption("--crash-list", action="store_true", help="list the names of all cases and prove nothing")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a line for every proof."""
    told: dict[str, list[tuple[str, str]]] = {}
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        kinds = {KEPT, BROKEN, LISTED}
        lines = [one for one in getattr(report, "user_properties", ()) if one[0] in kinds]
        # Each report of a test, one per phase or part, has all lines so far.
        test = getattr(report, "nodeid", "")
        told[test] = max(told.get(test, []), lines, key=len)
    for name, line in itertools.chain.from_iterable(told.values()):
        terminalreporter.write_line(line, red=name == BROKEN)


@pytest.fixture
def crash_kit(request: pytest.FixtureRequest, tmp_path: Path) -> "NewCrashKit":
    """Return a function that makes a `CrashKit` with the options of the command line.

    It takes the program's `Sagas`, `settings=` and the other arguments of `CrashKit`.
    """
    made: NewCrashKit = load_module("polysaga.testing.crash_kit.fixture").maker(request, tmp_path)
    return made
