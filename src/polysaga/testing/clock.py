"""Time that stands still until the test advances it."""

from datetime import UTC, datetime, timedelta

from polysaga.clock import Clock

_REAL = Clock()


class HandClock(Clock):
    """A clock for tests: `sleep` advances it and returns at once, `move` advances it by hand."""

    def __init__(self, now: datetime | None = None) -> None:
        self._now = now or _REAL.now()
        self._passed = 0.0

    def now(self) -> datetime:
        """Return the time it shows, aware, in UTC."""
        return (self._now + timedelta(seconds=self._passed)).astimezone(UTC)

    def monotonic(self) -> float:
        """Return the seconds by which it was advanced."""
        return self._passed

    def move(self, seconds: float) -> None:
        """Advance the clock by *seconds*."""
        self._passed += seconds

    async def sleep(self, seconds: float) -> None:
        """Advance the clock by *seconds*, and let other tasks run."""
        self.move(seconds)
        await _REAL.sleep(0)
