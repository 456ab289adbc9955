"""The pytest plugin: the fixture `crash_kit`, its options, and a line in the summary for every proof.

    def test_an_order_is_everywhere_or_nowhere(crash_kit):
        crash_kit(sagas, setup=create_tables).prove(place_order, order, invariant=books_add_up)

Without settings every SQL database of the program is an SQLite file in the test's own folder.
"""

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from polysaga.config import Settings
from polysaga.sagas import Sagas
from polysaga.testing.crash_kit.kit import CrashKit, CrashProgress, CrashReport
from polysaga.testing.programs import on_sqlite

NewCrashKit: TypeAlias = Callable[..., CrashKit]

# A test's report carries these properties, even from a worker of pytest-xdist.
_KEPT, _BROKEN, _LISTED = "crash kit", "crash kit, promise broken", "crash kit, cases"

_ON_A_TERMINAL, _IN_A_LOG = 0.2, 30.0  # seconds between two lines of progress


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
        kinds = {_KEPT, _BROKEN, _LISTED}
        lines = [one for one in getattr(report, "user_properties", ()) if one[0] in kinds]
        # Each report of a test, one per phase or part, has all lines so far.
        test = getattr(report, "nodeid", "")
        told[test] = max(told.get(test, []), lines, key=len)
    for name, line in itertools.chain.from_iterable(told.values()):
        terminalreporter.write_line(line, red=name == _BROKEN)


@pytest.fixture
def crash_kit(request: pytest.FixtureRequest, tmp_path: Path) -> NewCrashKit:
    """Return a function that makes a `CrashKit` with the options of the command line.

    It takes the program's `Sagas`, `settings=` and the other arguments of `CrashKit`.
    """
    options = request.config.option
    asked: dict[str, Any] = {
        name: given
        for name, given in (
            ("sample", options.crash_sample),
            ("seed", options.crash_seed or None),
            ("only", options.crash_case),
            ("progress", _progress(request.config)),
        )
        if given is not None
    }

    def report(proved: CrashReport) -> None:
        broken = len(proved.violations)
        told = f"crash kit: {proved.saga}: {proved.runs} runs, {broken} broke the promise"
        line = f"{told}, {proved.seconds:.0f} s, seed {proved.seed}"
        request.node.user_properties.append((_BROKEN if broken else _KEPT, line))
        if proved.left_out is not None:
            request.node.user_properties.append((_KEPT, f"  left out: {proved.left_out}"))

    def create(
        sagas: Sagas,
        settings: Settings | None = None,
        *,
        setup: Callable[[], Awaitable[None]] | None = None,
        sample: int | None = None,
        seed: int = 0,
        only: str | None = None,
    ) -> CrashKit:
        known = settings or on_sqlite(sagas, tmp_path)
        chosen = {"sample": sample, "seed": seed, "only": only, **asked}
        kit = _ListingKit if options.crash_list else CrashKit
        made = kit(sagas, known, setup=setup, report=report, **chosen)
        if isinstance(made, _ListingKit):
            made.listed = lambda line: request.node.user_properties.append((_LISTED, line))
        return made

    return create


class _ListingKit(CrashKit):
    """Lists the cases instead of running them, and skips the test: it proves nothing, so it must not pass."""

    listed: Callable[[str], None]

    async def explore(self, saga: Any, value: Any, *, invariant: Any, beside: Any = None) -> CrashReport:
        names = await self.names(saga, value, invariant=invariant, beside=beside)
        self.listed(f"crash kit: {saga.name}: {len(names)} cases")
        for name in names:
            self.listed(f"  {name}")
        pytest.skip(f"--crash-list: {len(names)} cases of saga '{saga.name}' are listed, none is run")


def _progress(config: pytest.Config) -> Callable[[CrashProgress], None] | None:
    """Return a function that prints progress: in place on a terminal, every half a minute in a log."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None or capture is None or reporter.verbosity < 0:
        return None  # a worker of pytest-xdist, or run with --quiet
    pause = _ON_A_TERMINAL if reporter.isatty else _IN_A_LOG
    told_at = 0.0

    def tell(progress: CrashProgress) -> None:
        nonlocal told_at
        over = progress.counted and progress.done == progress.planned
        if progress.seconds < told_at:
            told_at = 0.0  # it was of another proof
        if progress.seconds - told_at < pause and not (over and reporter.isatty):
            return
        told_at = progress.seconds
        with capture.global_and_fixture_disabled():
            if reporter.isatty:
                reporter.rewrite("" if over else str(progress), erase=True)
            else:
                reporter.ensure_newline()
                reporter.write_line(str(progress))

    return tell
