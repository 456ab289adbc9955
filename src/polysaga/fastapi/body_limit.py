"""A size limit for the bodies of requests, counted while they arrive.

Starlette has such a limit too, which answers in plain text. Where the application sets it, that number counts.
"""

from http import HTTPStatus

from fastapi import Response
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polysaga.fastapi.problems import problem

_STARLETTES = "starlette.max_body_size"  # in the scope, if the application or the route has a limit


class BodyTooLarge(HTTPException):
    """The body has more than *limit* bytes; raised where the body is read."""

    def __init__(self, limit: int) -> None:
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        self.limit = limit


class BodyLimit:
    """Refuses a request with more than *limit* bytes when its body is read."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count the bytes of its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced, taken, began = _announced(scope), 0, False

        async def counted() -> Message:
            nonlocal taken
            limit: int = scope.get(_STARLETTES, self._limit)
            if announced <= limit:
                message = await receive()
                taken += len(message.get("body", b""))
            if max(announced, taken) > limit:
                raise BodyTooLarge(limit)
            return message

        async def watched(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except BodyTooLarge as error:  # a middleware read the body, outside the exception handlers
            if began:
                raise
            await of_size(HTTPConnection(scope), error)(scope, receive, send)


class Ungrouped:
    """Raises `BodyTooLarge` alone where Starlette's `BaseHTTPMiddleware` has raised it in a group.

    Inside of all middleware: FastAPI, and handlers of errors, know the error and not the group.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def alone() -> Message:
            try:
                return await receive()
            except ExceptionGroup as group:
                raise _too_large(group) or group from None

        await self._app(scope, alone if scope["type"] == "http" else receive, send)


def _too_large(group: ExceptionGroup[Exception]) -> Exception | None:
    found: Exception | None = group.subgroup(BodyTooLarge)
    while isinstance(found, ExceptionGroup):  # one group for each middleware
        found = found.exceptions[0]
    return found


def of_size(request: HTTPConnection, error: BodyTooLarge) -> Response:
    """Answer that the body is too large."""
    detail = f"The body is larger than {error.limit} bytes, which is the limit here."
    return problem(request, error.status_code, detail, kind="body-too-large")


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            # Python refuses to read 5,000 digits; 20 of them are more than any limit.
            return int(value.lstrip(b"0")[:20] or b"0")
    return 0
