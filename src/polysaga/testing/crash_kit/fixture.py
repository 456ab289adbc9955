"""What the fixture `crash_kit` of the pytest plugin gives a test."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from polysaga.config import Settings
from polysaga.sagas import Sagas
from polysaga.testing.crash_kit.kit import CrashKit, CrashProgress, CrashReport
from polysaga.testing.plugin import BROKEN, KEPT, LISTED
from polysaga.testing.programs import on_sqlite

NewCrashKit: TypeAlias = Callable[..., CrashKit]

_ON_A_TERMINAL, _IN_A_LOG = 0.2, 30.0  # seconds between two lines of progress


def maker(request: pytest.FixtureRequest, tmp_path: Path) -> NewCrashKit:
    """Return what makes a `CrashKit` for the test of *request* with the options of the command line."""
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
        request.node.user_properties.append((BROKEN if broken else KEPT, line))
        if proved.left_out is not None:
            request.node.user_properties.append((KEPT, f"  left out: {proved.left_out}"))

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
            made.listed = lambda line: request.node.user_properties.append((LISTED, line))
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
