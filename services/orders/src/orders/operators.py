"""Who may list and repair sagas: whoever shows the token that the service was started with."""

import secrets
from collections.abc import Callable

from fastapi import Request

from polysaga.fastapi import Person, Role

_NAMED = "X-Operator"  # who of those that know the token it is, for the audit trail


def by_token(token: str) -> Callable[[Request], Person | None]:
    """Return what `operator_routes` asks: `Authorization: Bearer TOKEN`, compared in constant time."""

    def authorize(request: Request) -> Person | None:
        kind, _, shown = request.headers.get("authorization", "").partition(" ")
        # As bytes: texts that are not ASCII cannot be compared in constant time.
        if kind.lower() != "bearer" or not secrets.compare_digest(shown.encode(), token.encode()):
            return None
        return Person(request.headers.get(_NAMED, "operator")[:100] or "operator", Role.OPERATOR)

    return authorize
