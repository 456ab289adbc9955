"""Time that stands still until somebody moves it."""

from datetime import UTC, datetime, timedelta

from polysaga.clock import Clock

_REAL = Clock()


class HandClock(Clock):
    """A clock for tests: `sleep` returns at once and has moved it, `move` moves it by hand."""

    def __init__(self, now: datetime | None = None) -> None:
        self._now = now or _REAL.now()
        self._passed = 0.0

    def now(self) -> datetime:
        """Return the time it shows, aware, in UTC."""
        return (self._now + timedelta(seconds=self._passed)).astimezone(UTC)

    def monotonic(self) -> float:
        """Return the seconds that it was moved."""
        return self._passed

    def move(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self._passed += seconds

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* pass and others take their turn."""
        self.move(seconds)
        await _REAL.sleep(0)
