"""Errors as problem details (RFC 9457): a stable `type`, a status, and a sentence that says what to do.

Internals and SQL stay in the process.
"""

import importlib
import importlib.util
import logging
import math
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python
from sqlalchemy.exc import MultipleResultsFound, NoResultFound, PendingRollbackError, SQLAlchemyError
from starlette.exceptions import HTTPException

from polysaga.asgi import NEWS
from polysaga.databases import Fault
from polysaga.databases.dialects import fault_of
from polysaga.errors import (
    DeadlineExceeded,
    KeyReused,
    NeedsAttention,
    OutcomePending,
    PayloadError,
    PolysagaError,
    Refused,
    SagaCancelled,
    SagaUndone,
    StillLocked,
    TooLate,
    TryAgain,
    UnknownSaga,
    WriteOnReader,
    WrongStatus,
)

_MEDIA = "application/problem+json"
_ABOUT = "urn:polysaga:problem:"
_AGAIN = "A database is busy or out of reach. Please try again."
_ANEW = "To try again, send a new request; if it carries a key, with a new key."
_INTERNAL = "Something went wrong inside the service; nothing was left half-done."
_log = logging.getLogger("polysaga")


class Problem(BaseModel):
    """An error as RFC 9457 wants it; more members may follow, such as `saga_id`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str  # the path that was asked for


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what `responses=` of a route needs to show these problems in the OpenAPI document."""
    return {
        status: {"model": Problem, "description": HTTPStatus(status).phrase, "content": {_MEDIA: {}}}
        for status in statuses
    }


def problem(
    request: Request,
    status: int,
    detail: str,
    *,
    kind: str = "about:blank",
    members: Mapping[str, Any] | None = None,
    retry_after: float | None = None,
) -> Response:
    """Return a response with problem details; *kind* is the stable name, *members* are added to the body.

    *retry_after*, in seconds, asks the client to send the same request again: give it only if that can help.
    """
    if status < HTTPStatus.OK or status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        return Response(status_code=status)
    blank = kind == "about:blank"
    body = {
        **(members or {}),
        "type": kind if blank else _ABOUT + kind,
        "title": _phrase(status) if blank else kind.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "instance": request.url.path,
    }
    headers = None if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
    return JSONResponse(to_jsonable_python(body, fallback=str), status, headers, media_type=_MEDIA)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"


def install_handlers(app: FastAPI, refusals: Mapping[str, int]) -> None:
    """Turn errors into problem details; *refusals* gives the status of a `Refused` by its code."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, PolysagaError)
        return _of_ours(request, error, refusals)

    app.add_exception_handler(PolysagaError, ours)
    app.add_exception_handler(SQLAlchemyError, _of_drivers)
    if importlib.util.find_spec("pymongo") is not None:
        app.add_exception_handler(importlib.import_module("pymongo.errors").PyMongoError, _of_drivers)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_anything)


def _of_ours(request: Request, error: PolysagaError, refusals: Mapping[str, int]) -> Response:
    named = getattr(error, "saga_id", None)
    saga = {} if named is None else {"saga_id": str(named)}
    answer = partial(problem, request)
    match error:
        case Refused():
            status = refusals.get(error.code, HTTPStatus.CONFLICT)
            return answer(status, str(error), kind=error.code, members={**error.facts, **saga})
        case OutcomePending():
            detail = "The outcome is not known yet; ask again by the id or with the same key."
            again = error.retry_after
            status = HTTPStatus.SERVICE_UNAVAILABLE
            return answer(status, detail, kind="outcome-pending", members=saga, retry_after=again)
        case SagaCancelled():
            return answer(HTTPStatus.CONFLICT, "This was cancelled and undone.", kind="cancelled", members=saga)
        # No 503, which clients repeat as it is: under its key the answer stands for ever.
        case DeadlineExceeded():
            detail = f"This was not decided in time and undone. {_ANEW}"
            return answer(HTTPStatus.CONFLICT, detail, kind="deadline-exceeded", members=saga)
        case SagaUndone():
            detail = f"A database kept failing and everything was undone. {_ANEW}"
            return answer(HTTPStatus.CONFLICT, detail, kind="saga-undone", members=saga)
        case StillLocked():
            detail = "Another change of the same thing is under way. Please try again."
            again = error.retry_after
            return answer(HTTPStatus.SERVICE_UNAVAILABLE, detail, kind="still-locked", retry_after=again)
        case TryAgain():
            return answer(
                HTTPStatus.SERVICE_UNAVAILABLE,
                _AGAIN,
                kind="try-again",
                members=saga,
                retry_after=error.retry_after,
            )
        case KeyReused():
            detail = "This key was used for another request; use a new key for a new request."
            return answer(HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind="key-reused")
        case PayloadError():
            return answer(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), kind="payload")
        case TooLate() | WrongStatus():
            kind = "too-late" if isinstance(error, TooLate) else "wrong-status"
            return answer(HTTPStatus.CONFLICT, str(error), kind=kind, members=saga)
        case UnknownSaga():
            return answer(HTTPStatus.NOT_FOUND, str(error), kind="unknown-saga", members=saga)
        case NeedsAttention():
            detail = "This cannot go on without a person. Ask for it by its id; asking again changes nothing."
            return answer(HTTPStatus.INTERNAL_SERVER_ERROR, detail, kind="needs-attention", members=saga)
        case WriteOnReader():
            error.endpoint = f"{request.method} {getattr(request.scope.get('route'), 'path', request.url.path)}"
            return _internal(request, error)
        case _:
            return _internal(request, error, saga)


async def _of_drivers(request: Request, error: Exception) -> Response:
    fault = fault_of(error)
    if isinstance(error, NoResultFound):
        return problem(request, HTTPStatus.NOT_FOUND, "There is no such row.", kind="no-result")
    if isinstance(error, MultipleResultsFound):
        detail = "Several rows were found where one was expected; a unique constraint is missing."
        return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, detail, kind="multiple-results")
    if isinstance(error, PendingRollbackError):
        detail = "A session was used on after an error in its transaction; end the block at the first error."
        return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, detail, kind="pending-rollback")
    if fault is Fault.DUPLICATE_KEY:
        return problem(request, HTTPStatus.CONFLICT, "This exists already.", kind=fault.value)
    if fault is not None and fault.transient:
        again = TryAgain.retry_after
        return problem(request, HTTPStatus.SERVICE_UNAVAILABLE, _AGAIN, kind=fault.value, retry_after=again)
    return _internal(request, error)


def _internal(request: Request, error: Exception, members: Mapping[str, Any] | None = None) -> Response:
    # The client learns nothing of the cause, so the log must have it.
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, _INTERNAL, kind="internal", members=members)


async def _of_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        {
            "field": ".".join(str(part) for part in one["loc"]),
            "message": str(one["msg"]).removeprefix("Value error, "),
        }
        for one in error.errors()
    ]
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in found)
    return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind="validation", members={"errors": found})


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = problem(request, error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _of_anything(request: Request, error: Exception) -> Response:
    response = problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, _INTERNAL, kind="internal")
    if NEWS in request.scope:
        response.raw_headers += await request.scope[NEWS]()
    return response
