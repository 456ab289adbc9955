"""One process of several that take over the same overdue sagas.

python -m tests.integration.claiming_worker URLS SHARE FILE

URLS is a JSON object, from the name of a database to its URL. No saga gets past `reserve_stock` before there is
FILE, and the process claims at most four times SHARE until then. Prints "ready"; "shares" as soon as it has
claimed SHARE sagas; then, asked to end, one JSON object: how many sagas it claimed and finished, how many claims
it lost, and how many rounds of its worker failed.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from polysaga import StepContext
from polysaga.events import ClaimLost, SagaClaimed, SagaFinished, WorkerFailed
from tests.fixtures.programs import PLACE_ORDER, Program
from tests.fixtures.setups import MigratedUrls
from tests.fixtures.waiting import reached, until

_COUNTED = {"claimed": SagaClaimed, "finished": SagaFinished, "lost": ClaimLost, "failed": WorkerFailed}


async def serve(urls: dict[str, str], share: int, opened: Path) -> None:
    """Drive sagas until SIGTERM."""
    program, asked = Program(MigratedUrls(urls), PLACE_ORDER), asyncio.Event()
    program.pool = {"size": 2, "max_overflow": 0, "acquire_timeout": 30}
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)

    async def stand_still(db: Any, ctx: StepContext) -> None:
        await until(opened.exists, "the test lets the sagas go on", patience=300.0)

    program.on("reserve_stock", stand_still)
    async with program.open(lease=2.0, claim_batch=10, max_in_flight=4 * share):
        say("ready")
        claimed = program.recorder.of
        await until(lambda: len(claimed(SagaClaimed)) >= share, f"{share} sagas are claimed", patience=300.0)
        say("shares")
        await reached(asked, "the test asks it to end", patience=300.0)
        say(json.dumps({name: len(program.recorder.of(kind)) for name, kind in _COUNTED.items()}))


def say(line: str) -> None:
    """Print *line* at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
