"""Circuit breakers: a node whose sessions keep failing gets none for a while, then one at a time as a trial.

The monitor asks whether a node answers at all. The breaker sees what the monitor cannot, such as a node that
answers the monitor and fails every session. A breaker is closed, or open until a moment. After that moment it is
half-open: one session may try, and its end closes the breaker, or opens it for twice as long.
"""

from dataclasses import dataclass

_LONGEST = 30.0  # seconds that a breaker stays open at most


@dataclass(slots=True)
class Breaker:
    """The breaker of one node."""

    failures: int = 3  # in a row, that open it
    pause: float = 1.0  # seconds that it stays open the first time
    seen: int = 0
    open_until: float = 0.0
    trying: bool = False
    opened: int = 0  # times in a row

    def allows(self, now: float) -> bool:
        """Return whether a session may go to the node now."""
        return self.opened == 0 or (now >= self.open_until and not self.trying)

    def begin(self) -> None:
        """Note that a session goes there."""
        if self.opened:
            self.trying = True

    def succeeded(self) -> None:
        """Note that a session there ended well, or failed for reasons of its own."""
        self.seen = self.opened = 0
        self.trying = False

    def failed(self, now: float) -> bool:
        """Note that the node failed a session; return True if that opens the breaker."""
        self.seen += 1
        if not self.trying and (self.opened or self.seen < self.failures):
            return False
        self.trying = False
        self.open_until = now + min(_LONGEST, self.pause * 2**self.opened)
        self.opened += 1
        self.seen = 0
        return True
