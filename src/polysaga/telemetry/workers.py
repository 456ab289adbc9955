"""The gauges of workers that share a directory of prometheus-client, and end.

prometheus-client leaves it to the parent of the workers to remove the gauges of one that has ended
(`multiprocess.mark_process_dead`). gunicorn has a hook for that, uvicorn has none. What remains would count for
ever: a worker that had not ticked yet would hide all the others from the alert on silent workers.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path


def forget_ended(directory: Path) -> None:
    """Remove from *directory* the gauges of processes that have ended; what they have counted stays.

    Another process may do the same at the same time. Does nothing on Windows, which cannot ask for a process.
    """
    if sys.platform == "win32":
        return
    for file in directory.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdecimal() and not _is_alive(int(pid)):
            with suppress(OSError):  # another process has done it, or may, and this one may not
                file.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # of another user
    return True
