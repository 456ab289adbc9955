"""Invalid requests: what is wrong with them, in terms that their sender understands."""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match, Mount

from polysaga.fastapi.body_limit import BodyTooLarge, of_size
from polysaga.fastapi.problems import DETAILS, ProblemResponse, as_json, extended, has_no_body, problem, standard

_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
_UNREAD = "There was an error parsing the body"  # FastAPI's text for a body that its JSON parser cannot read


async def of_validation(request: HTTPConnection, error: RequestValidationError) -> Response:
    """Answer 422 with a message per field, or 415 for a body that is not declared as JSON."""
    if _is_not_called_json(request, error):
        kind = "unsupported-media-type"
        return problem(request, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, DETAILS[kind], kind=kind)
    return _invalid(request, [_complaint(one) for one in error.errors()])


def of_http(request: HTTPConnection, error: HTTPException) -> Response:
    """Answer with the status, the detail and the headers of *error*.

    The items of a dictionary in `detail` become members of the problem. Its `type`, `title` and `detail` are used
    only if they are texts. `status` and `instance` stay those of the response. Any other `detail` stays as it is.
    """
    if has_no_body(error.status_code):
        return Response(status_code=error.status_code, headers=error.headers)
    if error.detail == _UNREAD and isinstance(error.__cause__, ValueError | RecursionError):
        return _invalid(request, [{"field": "body", "message": f"not JSON: {_why(error.__cause__)}"}])
    if isinstance(error, BodyTooLarge):
        return of_size(request, error)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers |= _corrected(request)
    return ProblemResponse(_members(request, error), error.status_code, headers)


def _is_not_called_json(request: HTTPConnection, error: RequestValidationError) -> bool:
    # FastAPI passes on the raw bytes of a body that is not declared as JSON, and reports that they are no object.
    if not isinstance(error.body, bytes) or not any(one["loc"][:1] == ("body",) for one in error.errors()):
        return False
    route = request.scope.get("route")
    body = route.body_field if isinstance(route, APIRoute) else None
    return body is not None and getattr(body.field_info, "media_type", "") == "application/json"


def _complaint(one: Mapping[str, Any]) -> dict[str, str]:
    if one["type"] == "json_invalid":
        why = str(one["ctx"]["error"]).removesuffix(" at")
        place = f"at character {one['loc'][-1] + 1}"
        return {"field": "body", "message": f"not JSON: {why[:1].lower()}{why[1:]} {place}"}
    field = ".".join(str(part) for part in one["loc"])
    return {"field": field, "message": str(one["msg"]).removeprefix("Value error, ")}


def _why(cause: BaseException | None) -> str:
    match cause:
        case UnicodeDecodeError():
            return f"no UTF-8 text at byte {cause.start + 1}"
        case RecursionError():
            return "too deeply nested"
        case _:
            return "a number is too long"


def _invalid(request: HTTPConnection, found: Sequence[Mapping[str, str]]) -> Response:
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in found)
    return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind="validation", members={"errors": found})


def _members(request: HTTPConnection, error: HTTPException) -> dict[str, Any]:
    told = as_json(error.detail)
    if not isinstance(told, dict):
        return {**standard(request, error.status_code, ""), "detail": told}
    ours = standard(request, error.status_code, "")
    ours["detail"] = ours["title"]
    texts = {name: told[name] for name in ("type", "title", "detail") if isinstance(told.get(name), str)}
    return extended({**ours, **texts}, told)


def _corrected(request: HTTPConnection) -> dict[str, str]:
    """Return `Allow` with the methods of all routes of the path; the router names only those of the first."""
    scope = request.scope
    asked = {
        "type": "http",
        "path": scope["path"],
        "root_path": scope.get("app_root_path", scope.get("root_path", "")),
        "headers": scope["headers"],
    }
    allowed = [method for method in _METHODS if _answers(request.app.routes, {**asked, "method": method})]
    # If the router accepts the method, the handler itself refused it; its own `Allow` stays.
    known = bool(allowed) and scope["method"] not in allowed
    return {"Allow": ", ".join(allowed)} if known else {}


def _answers(routes: Iterable[BaseRoute], asked: Mapping[str, Any]) -> bool:
    for route in routes:
        match, inside = route.matches(dict(asked))
        if match is Match.FULL and (not isinstance(route, Mount) or _answers(route.routes, {**asked, **inside})):
            return True
    return False
