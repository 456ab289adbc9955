"""How much processor time a server has used: its process, those below it, and those that have ended."""

import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_OF_ENDED = slice(13, 15)  # cutime and cstime in /proc/PID/stat, counted from the field behind the name


def used(pid: int) -> float:
    """Return the seconds of processor time of *pid* and everything below it; 0.0 if it is gone.

    Exact to nanoseconds for processes that live, to hundredths of a second for those that have ended.
    """
    try:
        own = time.clock_gettime((~pid << 3) | 2)  # the clock of another process, see clock_getcpuclockid(3)
        ended = sum(map(int, _stat(pid)[_OF_ENDED])) / _TICKS
        below = [int(child) for tid in os.listdir(f"/proc/{pid}/task") for child in _children(pid, tid)]
    except (OSError, IndexError):
        return 0.0
    return own + ended + sum(used(child) for child in below)


def resident(pid: int) -> int:
    """Return the bytes of memory that *pid* and everything below it have to themselves, shared ones in parts."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        below = [int(child) for tid in os.listdir(f"/proc/{pid}/task") for child in _children(pid, tid)]
    except OSError:
        return 0
    own = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return own + sum(resident(child) for child in below)


def _stat(pid: int) -> list[str]:
    # The name stands in parentheses and may contain spaces.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _children(pid: int, tid: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{tid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []  # the thread has just ended
