"""Problems in the OpenAPI document, under their own media type and with examples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from polysaga.errors import Refused
from polysaga.fastapi.problems import BLANK, DETAILS, MEDIA, Problem, as_json, named, phrase

_PREFIX = "#/components/schemas/"
_VALIDATION = "HTTPValidationError"  # FastAPI's own schema, which this service does not send

_KINDS: Mapping[int, Sequence[str]] = {
    409: ("saga-undone", "deadline-exceeded", "cancelled", "duplicate-key", "stale-data"),
    413: ("body-too-large",),
    415: ("unsupported-media-type",),
    422: ("validation", "key-reused"),
    500: ("internal", "needs-attention"),
    503: ("try-again", "outcome-pending"),
}
_HEADERS: Mapping[int, Mapping[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "how to say who you are", "schema": {"type": "string"}}},
    503: {
        "Retry-After": {
            "description": "seconds until the same request can succeed",
            "schema": {"type": "integer", "minimum": 1},
        }
    },
}


_SAID = {  # by kind: example details, where the detail differs per problem
    "body-too-large": "The body is larger than 1048576 bytes, which is the limit here.",
    "validation": "body.quantity: Input should be greater than 0",
}


def problems(
    *statuses: int, refusals: Mapping[int, Sequence[Refused]] | None = None
) -> dict[int | str, dict[str, Any]]:
    """Return a value for `responses=` of a route that shows these problems in the OpenAPI document.

    *refusals* are example refusals by status: `{409: [SoldOut("2 are left")]}`.
    """
    given = refusals or {}
    return {status: _response(status, given.get(status, ())) for status in sorted({*statuses, *given})}


def describe(app: FastAPI, *, validation: Callable[[], bool], limited: bool) -> None:
    """Correct the document of *app*: it shows problems as they are sent, even those that its routes do not name.

    *validation* returns whether we answer invalid requests; *limited*: bodies have a size limit.
    """
    inner = app.openapi

    def openapi() -> dict[str, Any]:
        document = inner()
        _correct(document, ours=validation(), limited=limited)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the only way that FastAPI documents


def _correct(document: dict[str, Any], *, ours: bool, limited: bool) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    reference = {"$ref": f"{_PREFIX}{_name_of_ours(schemas)}"}
    for operation in _operations(document):
        responses = operation.setdefault("responses", {})
        for status, response in responses.items():
            _move(response, reference)
            if ours and status == "422" and _refers(response, _VALIDATION):
                responses["422"] = _shown(422, reference)
        if ours and "application/json" in operation.get("requestBody", {}).get("content", {}):
            for also in (413, 415) if limited else (415,):
                responses.setdefault(str(also), _shown(also, reference))
    if not any(_refers(operation, _VALIDATION) for operation in _operations(document)):
        for name in (_VALIDATION, "ValidationError"):
            schemas.pop(name, None)


def _operations(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document.get("paths", {}).values():
        yield from (one for one in path.values() if isinstance(one, dict))


def _name_of_ours(schemas: dict[str, Any]) -> str:
    """Return the name of our `Problem` in the document: the application may have its own `Problem`."""
    ours = Problem.model_json_schema(ref_template=_PREFIX + "{model}")
    for name, schema in schemas.items():
        if schema.get("description") == ours["description"]:
            return str(name)
    schemas["Problem"] = ours
    return "Problem"


def _move(response: dict[str, Any], reference: Mapping[str, str]) -> None:
    content = response.get("content", {})
    for media in [media for media in content if media != MEDIA]:
        if content[media].get("schema") == reference:
            del content[media]
            content.setdefault(MEDIA, {})["schema"] = dict(reference)


def _refers(part: object, name: str) -> bool:
    if isinstance(part, Mapping):
        return part.get("$ref") == _PREFIX + name or any(_refers(one, name) for one in part.values())
    return isinstance(part, list) and any(_refers(one, name) for one in part)


def _shown(status: int, reference: Mapping[str, str]) -> dict[str, Any]:
    response = _response(status, ())
    del response["model"]
    response["content"][MEDIA]["schema"] = dict(reference)
    return response


def _response(status: int, refusals: Sequence[Refused]) -> dict[str, Any]:
    examples = {one.code: _example(status, one.code, str(one), one.facts) for one in refusals}
    for kind in _KINDS.get(status, () if refusals else (BLANK,)):
        examples[kind] = _example(status, kind, {**DETAILS, **_SAID}.get(kind, phrase(status)), {})
    content = {
        "schema": {"$ref": f"{_PREFIX}Problem"},
        "examples": {kind: {"value": value} for kind, value in examples.items()},
    }
    headers = {"headers": dict(_HEADERS[status])} if status in _HEADERS else {}
    return {"model": Problem, "description": HTTPStatus(status).phrase, "content": {MEDIA: content}, **headers}


def _example(status: int, kind: str, detail: str, facts: Mapping[str, object]) -> dict[str, Any]:
    return {**as_json(facts), **named(status, kind), "detail": detail, "instance": "/the/path"}
