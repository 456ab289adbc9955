"""Tools for tests of programs that use Polysaga.

A program on SQLite, a crash kit, a clock advanced by hand, and checks of where reads go.
"""

from typing import TYPE_CHECKING

from polysaga.loading import facade as _facade

if TYPE_CHECKING:
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

__getattr__, __dir__ = _facade(
    __name__,
    {
        "polysaga.testing.clock": ["HandClock"],
        "polysaga.testing.crash_kit.kit": ["CrashKit", "CrashProgress", "CrashReport", "PromiseBroken"],
        "polysaga.testing.crash_kit.oracle": ["Run"],
        "polysaga.testing.programs": ["failing_once", "on_sqlite", "opened", "settled"],
        "polysaga.testing.routing": ["assert_routed", "simulated_lag"],
    },
)
