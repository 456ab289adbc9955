"""A database that is away holds its own sagas up, and no others."""

from collections import Counter
from typing import Any

import pytest

from polysaga.errors import DatabaseUnavailable
from polysaga.events import SagaFinished
from polysaga.sagas.process.runner import LocalRunner
from polysaga.sagas.protocol.states import Status
from tests.fixtures.left_behind import LEAVES_BEHIND
from tests.fixtures.programs import PLACE_ORDER, Gate, Order, Program, Urls, take_over
from tests.fixtures.setups import urls as urls
from tests.fixtures.waiting import forever, until

pytestmark = LEAVES_BEHIND


class Away:
    """Makes the ledger of one database answer no question of a program until `back`."""

    def __init__(self, program: Program, database: str, how: str, patch: pytest.MonkeyPatch) -> None:
        runner, _ = places_of(program)
        self._participant: Any = runner.engine.participants[database]
        self._gate = runner.engine.gates[database]
        self._look, self._patch = self._participant.look, patch
        self._database, self._how = database, how
        self._limit = self._gate.limit
        if how == "lets no step in":  # the places are taken by what hangs there
            self._gate.limit = 0
        patch.setattr(self._participant, "look", self._fail)

    async def _fail(self, *_: Any) -> Any:
        if self._how == "is silent":
            await forever()
        raise DatabaseUnavailable(self._database, "the server", "connection refused")

    def back(self) -> None:
        self._gate.limit = self._limit
        self._patch.setattr(self._participant, "look", self._look)


def places_of(program: Program) -> tuple[LocalRunner, int]:
    runner = program.runner
    return runner, runner.engine.settings.max_in_flight


@pytest.mark.parametrize("how", ["refuses", "is silent", "lets no step in"])
async def test_sagas_taken_over_take_no_places_while_their_database_is_away(
    urls: Urls, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an outage of minutes they would use up `max_in_flight`, and nothing could be started any more."""
    monkeypatch.setattr("polysaga.sagas.driving.attempts._SILENCE", 0.3)
    monkeypatch.setattr("polysaga.sagas.driving.writes._PATIENCE", 0.1)
    monkeypatch.setattr("polysaga.sagas.driving.writes.PAUSE", 0.0)
    first, second, held = Program(urls, PLACE_ORDER), Program(urls, PLACE_ORDER), Gate()
    first.on("credit_points", held)
    async with second.open(lease=3600.0), first.open(lease=3600.0):
        handle = await first.sagas.start(first.saga, Order())
        await held.reached()
        away = Away(second, "points", how, monkeypatch)
        runner, places = places_of(second)
        await take_over(second, handle.id)
        await until(lambda: runner.free == places, "the saga is put aside")
        row = await runner.engine.journal.load(handle.id)
        assert row is not None
        assert (row.status, row.expiries) == (Status.RUNNING, 0)

        monkeypatch.setattr("polysaga.sagas.driving.attempts._SILENCE", 15.0)
        away.back()
        await take_over(second, handle.id)
        await second.recorder.wait_for(SagaFinished)
        held.open()
        assert await second.effects(handle.id) == Counter(list(second.steps))
