"""The guide "Testing your service" is true: its tests pass, as its reader would run them."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from polysaga.errors import Refused, TryAgain
from polysaga.sagas.definition.definition import define
from polysaga.testing import failing_once, on_sqlite, opened, settled
from tests.fixtures.trips import Trip, agency
from tests.fixtures.waiting import reached, until

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "testing.md"
PROGRAM, TESTS, REPLICAS = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_tests_of_the_guide_pass(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (tmp_path / "box_office.py").write_text(PROGRAM)
    (tmp_path / "test_box_office.py").write_text(f"{TESTS}\n\n{REPLICAS}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_box_office.py"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "5 passed" in told.stdout


@pytest.mark.anyio
async def test_a_saga_that_does_not_come_to_rest_fails_the_test(tmp_path: Path) -> None:
    program, stuck = agency(), asyncio.Event()
    step: Any = define(program.book_trip).by_name["charge"]
    charge = step.action

    async def wait(*given: Any) -> None:
        await reached(stuck, "the test lets the step go on")
        await charge(*given)

    async with opened(program.sagas, on_sqlite(program.sagas, tmp_path), ready=program.setup):
        trip = await program.a_trip()
        step.action = wait
        handle = await program.sagas.start(program.book_trip, trip)
        with pytest.raises(AssertionError, match=r"is not at rest after 0.05 s: it is running"):
            await settled(program.sagas, handle.id, within=0.05)
        stuck.set()
        assert isinstance(handle.id, UUID)
        assert (await settled(program.sagas, handle.id)).status == "completed"


def charge_by(action: Callable[..., Any], program: Any) -> Any:
    """Let *action* be what the step does that charges; return the step."""
    step: Any = define(program.book_trip).by_name["charge"]
    step.action = action
    return step


@pytest.mark.anyio
async def test_a_saga_that_is_retried_is_named_with_what_its_last_attempt_said(tmp_path: Path) -> None:
    program = agency()

    async def again(*given: Any) -> None:
        raise TryAgain("the till is shut")

    charge_by(again, program)
    async with opened(program.sagas, on_sqlite(program.sagas, tmp_path), ready=program.setup):
        handle = await program.sagas.start(program.book_trip, await program.a_trip())

        async def failed() -> bool:
            return any(one.said for one in (await program.sagas.get(handle.id)).history)

        await until(failed, "an attempt fails")
        with pytest.raises(AssertionError, match=r"attempt \d+ of step 'charge' failed with .*the till is shut"):
            await settled(program.sagas, handle.id, within=0)


@pytest.mark.anyio
async def test_a_step_that_fails_by_itself_is_not_said_to_have_not_run(tmp_path: Path) -> None:
    program = agency()

    async def refuse(*given: Any) -> None:
        raise Refused("no")

    step = charge_by(refuse, program)

    async def book() -> None:
        with failing_once(step):
            handle = await program.sagas.start(program.book_trip, await program.a_trip())
            await settled(program.sagas, handle.id)

    async with opened(program.sagas, on_sqlite(program.sagas, tmp_path), ready=program.setup):
        with pytest.raises(AssertionError, match="step 'charge' ran, but not to its end"):
            await book()


@pytest.mark.anyio
async def test_a_step_that_does_not_run_cannot_fail() -> None:
    step = define(agency().book_trip).by_name["charge"]
    with pytest.raises(AssertionError, match="step 'charge' did not run"), failing_once(step):
        assert Trip().nights == 2
