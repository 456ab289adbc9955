"""Problem details (RFC 9457): a stable `type`, a status, and a sentence that says what to do."""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python
from starlette.requests import HTTPConnection

MEDIA = "application/problem+json"
BLANK = "about:blank"
_ABOUT = "urn:polysaga:problem:"
_ANEW = "To try again, send a new request; if it carries a key, with a new key."
DETAILS: Mapping[str, str] = {  # by kind, where all problems of a kind have the same detail
    "cancelled": "This was cancelled and undone.",
    "deadline-exceeded": f"This was not decided in time and undone. {_ANEW}",
    "duplicate-key": "This exists already.",
    "internal": "Something went wrong inside the service.",
    "key-reused": "This key was used for another request; use a new key for a new request.",
    "needs-attention": "This cannot go on without a person. Ask for it by its id; asking again changes nothing.",
    "no-result": "There is no such thing.",
    "outcome-pending": "The outcome is not known yet; ask again by the id or with the same key.",
    "saga-undone": f"A database kept failing and everything was undone. {_ANEW}",
    "stale-data": "Another request has changed this meanwhile. Read it again, and repeat the change.",
    "still-locked": "Another change of the same thing is under way. Please try again.",
    "too-late": "This is decided, and can no longer be undone.",
    "try-again": "This process is ending, or a database is busy or out of reach. Please try again.",
    "unsupported-media-type": "The body does not say that it is JSON: send content-type: application/json.",
}
_NO_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED}
_TITLES = {"payload": "Invalid value", "validation": "Invalid request"}  # where the kind alone is too vague


class Problem(BaseModel):
    """An error as RFC 9457 wants it; more members may follow, such as `saga_id`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str  # the path that was asked for


class ProblemResponse(JSONResponse):
    """A response that can always be encoded, whatever its members are."""

    media_type = MEDIA

    def render(self, content: Any) -> bytes:
        """Return *content* as JSON."""
        # A lone surrogate, which UTF-8 cannot encode, is sent as a JSON escape.
        text = json.dumps(as_json(content), ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="backslashreplace")


def problem(
    request: HTTPConnection,
    status: int,
    detail: str,
    *,
    kind: str = BLANK,
    members: Mapping[str, Any] | None = None,
    retry_after: float | None = None,
) -> Response:
    """Return a response with problem details; *kind* is the stable name, *members* are added to the body.

    *retry_after*, in seconds, asks the client to send the same request again; give it only if that can succeed.
    """
    if has_no_body(status):
        return Response(status_code=status)
    headers = None if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
    return ProblemResponse(extended(standard(request, status, detail, kind), members or {}), status, headers)


def standard(request: HTTPConnection, status: int, detail: str, kind: str = BLANK) -> dict[str, Any]:
    """Return the members that every problem has."""
    return {**named(status, kind), "detail": detail, "instance": request.url.path}


def extended(ours: Mapping[str, Any], members: Mapping[str, Any]) -> dict[str, Any]:
    """Return *ours*, followed by those of *members* that replace none of ours."""
    return {**ours, **{name: value for name, value in members.items() if name not in ours}}


def named(status: int, kind: str) -> dict[str, Any]:
    """Return the members that all problems of one *kind* share."""
    blank = kind == BLANK
    title = phrase(status) if blank else _TITLES.get(kind, kind.replace("-", " ").capitalize())
    return {"type": kind if blank else _ABOUT + kind, "title": title, "status": status}


def as_json(value: object) -> Any:
    """Return *value* as JSON data: NaN as null, bytes in base64, and types that JSON lacks as text."""
    return to_jsonable_python(value, fallback=str, inf_nan_mode="null", bytes_mode="base64")


def has_no_body(status: int) -> bool:
    """Return whether a response of this *status* has no body."""
    return status < HTTPStatus.OK or status in _NO_BODY


def phrase(status: int) -> str:
    """Return HTTP's reason phrase for *status*."""
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"
