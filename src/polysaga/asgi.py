"""Bookmarks in, bookmarks out: a pure ASGI middleware for any framework.

Every request gets a scope, shared by all its tasks. The scope begins with the bookmark that the client sends in
the header `Polysaga-Bookmark` or in a cookie. When the response starts, the positions of all commits so far go out
the same ways. So a commit belongs before the response (`docs/decisions/0001`): no header can carry what a stream
or a background task commits later.

Clients send requests in parallel and keep the last cookie they receive. So each database has its own cookie, and
it carries the database's position at the start of the response, not at the write. No response deletes a cookie,
because it cannot know what another response has just set. A client that uses the header may send several
bookmarks, joined by commas.

A response carries a bookmark only if there is news. Most responses carry none and stay cacheable. Without replicas
a request passes untouched.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from typing import Any, TypeAlias

from polysaga.routing import Databases, Scope

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HEADER = "Polysaga-Bookmark"
ROUTE = "X-Polysaga-Route"

NEWS = "polysaga.news"  # in the ASGI scope: an asynchronous function that returns the headers of a response

_HEADER = HEADER.lower().encode()
_ROUTE = ROUTE.lower().encode()
_AGE = 24 * 3600  # seconds that a browser keeps a bookmark; replicas further behind are not read from


class BookmarkMiddleware:
    """Gives every HTTP request and every websocket a scope of its own."""

    def __init__(self, app: App, databases: Databases) -> None:
        self._app, self._databases = app, databases

    async def __call__(self, asked: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass the request on, in its scope."""
        databases = self._databases
        if not databases.replicated or asked["type"] not in {"http", "websocket"}:
            await self._app(asked, receive, send)
            return
        with databases.scope(_carried(asked["headers"], databases.bookmarks.cookie)) as scope:
            scope.explains = databases.bookmarks.explain

            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message.get("headers", ()), *await self._news(scope)]
                await send(message)

            # Frameworks answer an uncaught error outside all middleware; earlier commits still count.
            asked[NEWS] = partial(self._news, scope)
            await self._app(asked, receive, answer)

    async def _news(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        databases, settings = self._databases, self._databases.bookmarks
        headers: list[tuple[bytes, bytes]] = []
        if scope.explains and scope.answered:
            told = ", ".join(f"{name}={how}" for name, how in scope.answered.items())
            headers.append((_ROUTE, told.encode()))
        secure = "; Secure" if settings.secure else ""
        rest = f"; Max-Age={_AGE}; Path=/; HttpOnly; SameSite=Lax{secure}"
        news = await scope.news()
        whole = databases.encode_bookmark(scope) if news else ""
        if whole:
            headers.append((_HEADER, whole.encode()))
        for name in news:
            text = databases.encode_bookmark(scope, {name})
            if text:
                headers.append((b"set-cookie", f"{settings.cookie}_{name}={text}{rest}".encode()))
        return headers


def _carried(headers: Iterable[tuple[bytes, bytes]], cookie: str) -> str:
    """Return the bookmarks that a request carries, unverified; headers win over cookies."""
    told: list[str] = []
    kept: list[str] = []
    for name, value in headers:
        if name == _HEADER:
            told.append(value.decode("latin-1"))
        elif name == b"cookie":
            pairs = (part.strip().partition("=") for part in value.decode("latin-1").split(";"))
            kept += [text for named, _, text in pairs if named.startswith(f"{cookie}_")]
    return ",".join(told or kept)
