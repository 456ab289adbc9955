"""A process whose clock is a day behind that of a database drives no saga, and says so when it opens them."""

from datetime import datetime, timedelta

import pytest

from polysaga.clock import Clock
from polysaga.errors import ConfigurationError
from tests.fixtures.programs import PLACE_ORDER, Order, Program, Urls
from tests.fixtures.setups import urls as urls


class _Apart(Clock):
    """The machine's clock, set wrong."""

    def __init__(self, hours: float) -> None:
        self._apart = timedelta(hours=hours)

    def now(self) -> datetime:
        return super().now() + self._apart


async def test_a_clock_a_day_behind_that_of_a_database_is_refused(urls: Urls) -> None:
    """Its ledger would refuse every step, and the saga would go on for ever."""
    program = Program(urls, PLACE_ORDER)
    async with program.connected():
        with pytest.raises(ConfigurationError, match=r"more than a day behind that of database .*freeze_time"):
            async with program.sagas.open(clock=_Apart(hours=-24.1)):
                pass


@pytest.mark.parametrize("hours", [-23.0, 24.0 * 365])
async def test_sagas_run_by_any_other_clock(urls: Urls, hours: float) -> None:
    program = Program(urls, PLACE_ORDER)
    async with program.connected(), program.sagas.open(clock=_Apart(hours)):
        await program.sagas.run(program.saga, Order())
