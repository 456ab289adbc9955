"""The only source of time: everything that waits or measures uses a `Clock`.

Wall time is for people and for the 24-hour fence of the ledger. The journal's database decides which process may
drive a saga, by its own clock.
"""

import asyncio
import time
from datetime import UTC, datetime


class Clock:
    """The machine's clock. Tests pass a subclass that they advance by hand."""

    def now(self) -> datetime:
        """Return wall time, aware, in UTC."""
        return datetime.now(UTC)

    monotonic = staticmethod(time.monotonic)  # seconds on a scale that never goes back

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*; cancellation ends it earlier."""
        await asyncio.sleep(seconds)
