"""Where and of what a measurement was made: commit, versions, machine."""

import os
import platform
import subprocess
from datetime import UTC
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from polysaga.clock import Clock

_ROOT = Path(__file__).parents[1]
_PACKAGES = ("polysaga", "sqlalchemy", "asyncpg", "asyncmy", "pymongo", "fastapi", "dbos", "restate-sdk")


def about(*, short: bool) -> dict[str, Any]:
    """Return what a reader of figures must know; *short*: they only show that the benchmarks work."""
    return {
        "at": Clock().now().astimezone(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),  # against that commit
        "short": short,
        "machine": {
            "processor": _field("/proc/cpuinfo", "model name"),
            "processors": os.cpu_count(),
            "memory": _field("/proc/meminfo", "MemTotal"),
            "kernel": platform.release(),
            "load": [round(load, 2) for load in os.getloadavg()],  # before: what else the machine was doing
        },
        "versions": {"python": platform.python_version()} | _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip()


def _field(path: str, name: str) -> str:
    """Return one line of a file in /proc; empty if it is not there."""
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
