"""Tools for tests of programs that use Polysaga.

A program on SQLite, a crash kit, a clock advanced by hand, and checks of where reads go.
"""

from polysaga.testing.clock import HandClock
from polysaga.testing.crash_kit.kit import CrashKit, CrashProgress, CrashReport, PromiseBroken
from polysaga.testing.crash_kit.oracle import Run
from polysaga.testing.programs import failing_once, on_sqlite, opened, settled
from polysaga.testing.routing import assert_routed, simulated_lag

__all__ = [
    "CrashKit",
    "CrashProgress",
    "CrashReport",
    "HandClock",
    "PromiseBroken",
    "Run",
    "assert_routed",
    "failing_once",
    "on_sqlite",
    "opened",
    "settled",
    "simulated_lag",
]
