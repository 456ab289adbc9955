"""Access to listing and repairing sagas: a client needs the token that the service was started with."""

import secrets
from collections.abc import Callable

from fastapi import Request

from polysaga.fastapi import Person, Role

_NAMED = "X-Operator"  # which of the people with the token it is, for the audit trail


def by_token(token: str) -> Callable[[Request], Person | None]:
    """Return an `authorize` for `operator_routes`: `Authorization: Bearer TOKEN`, compared in constant time."""

    def authorize(request: Request) -> Person | None:
        kind, _, shown = request.headers.get("authorization", "").partition(" ")
        # As bytes: `compare_digest` takes no text with characters outside ASCII.
        if kind.lower() != "bearer" or not secrets.compare_digest(shown.encode(), token.encode()):
            return None
        return Person(request.headers.get(_NAMED, "operator")[:100] or "operator", Role.OPERATOR)

    return authorize
