"""Recovery: a process with 1,000 sagas in flight is killed with SIGKILL, and two fresh processes take over.

The same with 600 sagas and eight fresh processes: on two processors they are late with everything they do.

Measured is the time from the kill until every saga is at rest. Nothing can happen before the dead process' claims
run out, a lease after its last renewal. Counted are claims that a fresh process lost to the other one, sagas that
were claimed more than once, effects that are missing, and effects that happened twice.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks import recovery_saga
from benchmarks.parts import Scale, alone, tell
from benchmarks.process import ROOT, answer, places_in_environment
from benchmarks.servers import running
from benchmarks.shop import POOL
from benchmarks.side import Places
from devservers import MARIADB, POSTGRES

_LOOK = 0.1  # seconds between two looks at the journal
_CONNECTIONS = 200  # of all fresh processes together to one server; MariaDB's takes 300
_PATIENCE = 600.0  # seconds for everything
_AT_REST = "SELECT count(*) FROM polysaga_journal WHERE wake_at IS NULL"


def measure(scale: Scale) -> dict[str, Any]:
    """Kill a process in the middle of its sagas, let others finish them, and audit the result."""
    crowd, processes = scale.crowd
    return _taken_over(scale.in_flight, 2) | {"crowd": _taken_over(crowd, processes)}


def _taken_over(count: int, processes: int) -> dict[str, Any]:
    with running({"app": POSTGRES, "other": MARIADB}) as databases:
        asyncio.run(recovery_saga.fill(databases.urls))
        tell(f"  bringing {count} sagas into flight")
        first = _program(databases.urls, "begin", str(count))
        try:
            answer(first, "recovery_saga begin")
        finally:
            first.kill()
            first.wait(_PATIENCE)
        killed = time.monotonic()
        connections = min(POOL["size"], _CONNECTIONS // processes)
        fresh = [_program(databases.urls, "take-over", str(connections)) for _ in range(processes)]
        try:
            for program in fresh:
                answer(program, "recovery_saga take-over")
            up = time.monotonic() - killed
            half, whole = (_until_at_rest(databases.urls["app"], wanted, killed) for wanted in (count // 2, count))
            told = [_ended(program) for program in fresh]
        finally:
            for program in fresh:
                program.kill()
                program.wait(_PATIENCE)
        claims = Counter(saga_id for one in told for saga_id in one["claims"])
        return {
            "servers": databases.versions,
            "in_flight": count,
            "lease_seconds": recovery_saga.LEASE,
            "seconds_until_they_are_up": round(up, 2),
            "seconds_until_half_are_at_rest": round(half, 2),
            "seconds_until_all_are_at_rest": round(whole, 2),
            "sagas_claimed_by_each": [len(set(one["claims"])) for one in told],
            "claims_lost": sum(one["lost"] for one in told),
            "sagas_claimed_twice": sum(times > 1 for times in claims.values()),
            **asyncio.run(_audited(databases.urls, count)),
        }


def _program(urls: Places, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.recovery_saga", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | places_in_environment(urls),
    )


def _ended(program: "subprocess.Popen[str]") -> dict[str, Any]:
    assert program.stdin is not None
    program.stdin.close()
    told = answer(program, "recovery_saga take-over")
    program.wait(_PATIENCE)
    return told


def _until_at_rest(url: str, wanted: int, since: float) -> float:
    """Return the seconds since *since* when at least *wanted* sagas are at rest."""
    with psycopg.connect(url.replace("+asyncpg", ""), autocommit=True) as connection:
        while time.monotonic() < since + _PATIENCE:
            found = connection.execute(_AT_REST).fetchone()
            if found is not None and found[0] >= wanted:
                return time.monotonic() - since
            time.sleep(_LOOK)
    raise TimeoutError(f"{wanted} sagas were not at rest within {_PATIENCE:.0f} seconds")


async def _audited(urls: Places, count: int) -> dict[str, int]:
    missing = doubled = 0
    for name, steps in recovery_saga.EFFECTS_OF_ONE.items():
        engine = create_async_engine(urls[name])
        async with engine.connect() as connection:
            rows = (await connection.execute(text("SELECT count(*) FROM effects"))).scalar_one()
            distinct = text("SELECT count(*) FROM (SELECT DISTINCT id, step FROM effects) AS once")
            once = (await connection.execute(distinct)).scalar_one()
        await engine.dispose()
        missing += count * steps - once
        doubled += rows - once
    return {"effects_missing": missing, "effects_doubled": doubled}


if __name__ == "__main__":
    alone("recovery", measure)
