"""What an application does whose process is asked to end while it starts.

The server ends by itself. Until then the application counts as started, with nothing open. It must not report a
failed start: gunicorn, which replaces its workers one by one, would end all of them for it.

The start itself fails, whatever it ends with, and only the server does not hear of it. So an application that
enters the lifespan of this one in its own does not go on with its start.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polysaga.fastapi.problems import problem
from polysaga.limits import ASKED_TO_END

_log = logging.getLogger("polysaga")
_ENDING = "This process is ending. Please try again."
_TRY_AGAIN_LATER = 1013  # of websockets (IANA's registry of close codes)


class StartAborted:
    """Whether the last start was aborted."""

    def __init__(self) -> None:
        self._is_set, self._cancels = False, 0

    def __bool__(self) -> bool:
        return self._is_set

    def begin(self) -> None:
        """Note that a start begins."""
        self._is_set, self._cancels = False, 0

    def cancel(self, starting: "asyncio.Task[Any]") -> None:
        """Cancel the task that starts the application."""
        self._cancels += 1
        starting.cancel(ASKED_TO_END)

    def is_all_that_cancels(self, starting: "asyncio.Task[Any]") -> bool:
        """Return whether no other code cancels the task, such as a loop that ends."""
        return starting.cancelling() <= self._cancels

    def note(self) -> None:
        """Note that the start has failed after the process was asked to end."""
        self._is_set = True
        _log.warning(ASKED_TO_END)


class RefuseAfterAbort:
    """Answers 503 to what arrives after an aborted start, in the moment before the server ends."""

    def __init__(self, app: ASGIApp, aborted: StartAborted) -> None:
        self._app, self._aborted = app, aborted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on unless the start was aborted."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif not self._aborted:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER})
        else:
            unavailable = HTTPStatus.SERVICE_UNAVAILABLE
            refused = problem(HTTPConnection(scope), unavailable, _ENDING, kind="try-again", retry_after=1.0)
            await refused(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: Message) -> None:
            failed = message["type"] == "lifespan.startup.failed"
            await send({"type": "lifespan.startup.complete"} if failed and self._aborted else message)

        try:
            await self._app(scope, receive, tell)
        except (Exception, asyncio.CancelledError):  # border: what the start ends with once it is cancelled
            task = asyncio.current_task()
            assert task is not None
            if not (self._aborted and self._aborted.is_all_that_cancels(task)):
                raise
            while task.cancelling():
                task.uncancel()
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
