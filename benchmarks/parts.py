"""What the parts of `make bench` have in common: how much to measure, and how one of them is run alone."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from benchmarks.machine import about


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure."""

    rounds: int  # bursts of each side that count
    seconds: float  # of one burst
    in_flight: int  # sagas that are in flight when their process is killed
    crowd: tuple[int, int]  # the same for many fresh processes, and how many those are
    finished: tuple[int, ...]  # sagas in the journals that have grown
    parked: int  # sagas beside which claims are timed
    since: int  # sagas that finish while a snapshot is open
    searched: int  # finished sagas among which is searched
    steady: float  # seconds of load while memory is watched


FULL = Scale(
    rounds=8,
    seconds=2.0,
    in_flight=1_000,
    crowd=(600, 8),
    finished=(100_000, 1_000_000),
    parked=10_000,
    since=200_000,
    searched=1_000_000,
    steady=600.0,
)
SHORT = Scale(
    rounds=1,
    seconds=0.3,
    in_flight=60,
    crowd=(60, 3),
    finished=(1_000, 5_000),
    parked=500,
    since=1_000,
    searched=5_000,
    steady=12.0,
)

Measure: TypeAlias = Callable[[Scale], dict[str, Any]]


def options(about_it: str) -> argparse.ArgumentParser:
    """Return the parser of the options that all parts have."""
    parser = argparse.ArgumentParser(description=about_it)
    parser.add_argument("--short", action="store_true", help="only see whether it works: the figures say nothing")
    return parser


def alone(name: str, measure: Measure) -> None:
    """Measure one part and print what `make bench` would store of it."""
    asked = options(f"measure '{name}' alone").parse_args()
    scale = SHORT if asked.short else FULL
    print(json.dumps({"about": about(short=scale is SHORT), "parts": {name: measure(scale)}}, indent=2))


def tell(line: str) -> None:
    """Tell the person who waits; standard output is for figures."""
    print(line, file=sys.stderr, flush=True)
