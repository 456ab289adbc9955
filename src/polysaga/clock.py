"""The only door to time: everything that waits or measures asks a `Clock`.

Wall time is for people and for the 24-hour fence of the ledger; every decision about who may drive a saga
is taken by the journal's database with its own clock.
"""

import asyncio
import time
from datetime import UTC, datetime


class Clock:
    """The machine's clock. Tests hand in a subclass that they move by hand."""

    def now(self) -> datetime:
        """Return wall time, aware, in UTC."""
        return datetime.now(UTC)

    monotonic = staticmethod(time.monotonic)  # seconds on a scale that never goes back

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*, or earlier by cancellation."""
        await asyncio.sleep(seconds)
