"""Directories of servers that are set up once and copied from then on.

`initdb`, MariaDB's installation and base backups take seconds of CPU time; a copy takes a tenth of one. A
directory can be copied while its server is down: no file in it names a port or a path, which are on the command
line.

Processes share a folder of templates: the first one makes a template, the others wait for it.
"""

import fcntl
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

_PATIENCE = 300.0  # seconds for another process to make a template
_POLL = 0.1  # seconds between two looks at its lock


class Templates:
    """Set-up directories below *home*, by name."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o711, parents=True, exist_ok=True)

    def fill(self, directory: Path, name: str, make: Callable[[Path], None]) -> None:
        """Make *directory* a copy of the template *name*, which *make* fills on first use and leaves at rest."""
        template, complete = self.home / name, self.home / f"{name}.complete"
        with (self.home / f"{name}.lock").open("w") as lock:
            _lock(lock)
            if not complete.exists():
                shutil.rmtree(template, ignore_errors=True)  # the rest of an attempt that failed
                template.mkdir(mode=0o711)
                make(template)
                complete.touch()
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        # Owners stay as they are: servers run under accounts of their own.
        subprocess.run(["cp", "-a", f"{template}/.", str(directory)], check=True, timeout=120)  # noqa: S603, S607


def _lock(file: IO[str]) -> None:
    for _ in range(round(_PATIENCE / _POLL)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_POLL)  # noqa: TID251 - between two looks, within a limit
        else:
            return
    raise TimeoutError(f"another process has held {file.name} for {_PATIENCE:g} s")
