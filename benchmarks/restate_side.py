"""Three no-op steps run by Restate: the caller. The steps are in `restate_service.py`, in a process of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import restate

from benchmarks.restate_service import no_op
from benchmarks.side import Places, Side, serve


@asynccontextmanager
async def calling(places: Places) -> AsyncIterator[Side]:
    async with restate.create_client(places["ingress"]) as client:

        async def once() -> None:
            assert await client.service_call(no_op, arg=1) == 1

        yield Side(once)


if __name__ == "__main__":
    serve({"no-op": calling})
