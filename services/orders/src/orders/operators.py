"""Access to listing and repairing sagas: a client needs the token that the service was started with."""

import base64
import secrets
from collections.abc import Callable
from http import HTTPStatus

from fastapi import HTTPException, Request

from polysaga.fastapi import Person, Role

_NAMED = "X-Operator"  # which of the people with the token it is, for the audit trail


def by_token(token: str) -> Callable[[Request], Person | None]:
    """Return an `authorize` for `operator_routes`: `Authorization: Bearer TOKEN`, compared in constant time."""

    def authorize(request: Request) -> Person | None:
        kind, _, shown = request.headers.get("authorization", "").partition(" ")
        # As bytes: `compare_digest` takes no text with characters outside ASCII.
        if kind.lower() != "bearer" or not secrets.compare_digest(_sent(shown.strip(" \t")), token.encode()):
            return None
        name = _sent(request.headers.get(_NAMED, "")).decode(errors="replace")
        return Person(name[:100] or "operator", Role.OPERATOR)

    return authorize


def by_password(token: str) -> Callable[[Request], Person | None]:
    """Return an `authorize` for the dashboard: browsers ask for a name and a password, which is *token*."""
    bearer = by_token(token)

    def authorize(request: Request) -> Person | None:
        person = bearer(request)
        if person is not None:
            return person
        name, shown = _basic(request.headers.get("authorization", ""))
        if not secrets.compare_digest(shown.encode(), token.encode()):
            ask = {"WWW-Authenticate": 'Basic realm="orders", charset="UTF-8"'}
            raise HTTPException(HTTPStatus.UNAUTHORIZED, "Give your name, and the operators' token.", ask)
        return Person(name[:100] or "operator", Role.OPERATOR)

    return authorize


def _sent(header: str) -> bytes:
    """Return the bytes of a header, which Starlette decodes as Latin-1; clients encode text as UTF-8."""
    return header.encode("latin-1")


def _basic(header: str) -> tuple[str, str]:
    kind, _, written = header.partition(" ")
    if kind.lower() != "basic":
        return "", ""
    try:
        name, _, password = base64.b64decode(written, validate=True).decode().partition(":")
    except ValueError:  # no Base64, or no UTF-8
        return "", ""
    return name, password
