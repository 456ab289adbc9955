"""Running the application in uvicorn, from the first socket to the last saga.

After a signal the service accepts no new connections and no new sagas. The requests under way get their answers
while the sagas are drained. Then the databases close, and the process ends with exit code 0, at most five seconds
after `sagas.drain`, whatever drivers and servers do.
"""

import asyncio
import contextlib
import errno
import gc
import math
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator

import uvicorn
from fastapi import FastAPI

from orders.sagas import sagas
from polysaga.limits import GRACE, ended


class AddressUnusable(Exception):
    """The address cannot be listened on."""


async def serve(app: FastAPI, *, host: str, port: int, up: Callable[[str], Awaitable[None]]) -> None:
    """Serve *app* until SIGINT or SIGTERM, and run *up* beside it with the URL.

    Raises `AddressUnusable`, or the error that keeps the databases from opening.
    """
    with _bound(host, port) as listener:
        async with app.router.lifespan_context(app):
            server = _Server(
                uvicorn.Config(
                    app,
                    lifespan="off",  # `serve` has opened it already; it outlives the last request
                    access_log=False,
                    log_level="warning",
                    timeout_graceful_shutdown=math.ceil(app.state.drain),
                )
            )
            calm_garbage_collection()
            beside = asyncio.create_task(_beside(server, listener, up))
            _stop_on_signals(server)
            try:
                await server.serve(sockets=[listener])
            finally:
                await ended([beside, *server.server_state.tasks], GRACE)
            if beside.done() and not beside.cancelled():
                beside.result()


class _Server(uvicorn.Server):
    """A server that sets an event when it is up, and leaves signals to `serve`."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def calm_garbage_collection() -> None:
    """Let the collector look at less and less often; this saves a tenth of the processor time of an order.

    What is loaded is never garbage. A hundred sagas in flight are 30,000 young objects, which die with them:
    at the default of 700 the collector looks at them again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _stop_on_signals(server: _Server) -> None:
    def stop() -> None:
        server.force_exit = server.should_exit  # the second signal does not wait for requests
        server.should_exit = True
        sagas.wind_down()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


async def _beside(server: _Server, listener: socket.socket, up: Callable[[str], Awaitable[None]]) -> None:
    await server.up.wait()
    host, port = listener.getsockname()[:2]
    await up(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket bound to the port; it does not listen until the application is ready."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named so that asyncio sends without delay (TCP_NODELAY): else every answer on a kept
    # connection waits 40 ms for the client to acknowledge its head.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:  # the latter for a name that the domain name system cannot have
        listener.close()
        why = error.strerror if isinstance(error, OSError) else error
        # Only a name that has no address here is at fault itself.
        named = isinstance(error, UnicodeError | socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        other = "--host" if named else "--port"
        raise AddressUnusable(f"cannot listen on {host}:{port} ({why}); choose another {other}") from error
    return listener
