"""One process of several that take over the same overdue sagas.

python -m tests.integration.claiming_worker URLS

URLS is a JSON object, from the name of a database to its URL. Prints "ready"; then, asked to end, one JSON object:
how many sagas it claimed and finished, how many claims it lost, and how many rounds of its worker failed.
"""

import asyncio
import json
import signal
import sys
from typing import Any

from polysaga import StepContext
from polysaga.events import ClaimLost, SagaClaimed, SagaFinished, WorkerFailed
from tests.fixtures.programs import PLACE_ORDER, Program
from tests.fixtures.setups import MigratedUrls
from tests.fixtures.waiting import pause, reached

_COUNTED = {"claimed": SagaClaimed, "finished": SagaFinished, "lost": ClaimLost, "failed": WorkerFailed}


async def serve(urls: dict[str, str]) -> None:
    """Drive sagas until SIGTERM."""
    program, asked = Program(MigratedUrls(urls), PLACE_ORDER), asyncio.Event()
    program.pool = {"size": 2, "max_overflow": 0, "acquire_timeout": 30}
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)

    async def take_a_while(db: Any, ctx: StepContext) -> None:
        await pause()

    program.on("credit_points", take_a_while)
    async with program.open(lease=2.0):
        say("ready")
        await reached(asked, "the test asks it to end", patience=300.0)
        say(json.dumps({name: len(program.recorder.of(kind)) for name, kind in _COUNTED.items()}))


def say(line: str) -> None:
    """Print *line* at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
