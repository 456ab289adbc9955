"""Tools for the tests of programs that use Polysaga: a crash kit for sagas, and a clock that is moved by hand."""

from polysaga.testing.clock import HandClock
from polysaga.testing.judges import Run
from polysaga.testing.kit import CrashKit, CrashProgress, CrashReport, PromiseBroken

__all__ = ["CrashKit", "CrashProgress", "CrashReport", "HandClock", "PromiseBroken", "Run"]
