"""Refusals as problem details (RFC 9457)."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from polysaga.dashboard.access import NotAllowed
from polysaga.dashboard.api.bodies import ApiProblem
from polysaga.dashboard.looking import JournalDown
from polysaga.errors import DefinitionError, PayloadError, PolysagaError, TryAgain, UnknownSaga

_PROBLEM = "application/problem+json"


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the document says of answers with *statuses*."""
    schema = ApiProblem.model_json_schema()
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {_PROBLEM: {"schema": schema}}}
        for status in statuses
    }


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    told = ApiProblem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(told.model_dump(), status, dict(headers or {}), media_type=_PROBLEM)


async def _of_access(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, NotAllowed)
    headers = {"WWW-Authenticate": "Bearer"} if error.status is HTTPStatus.UNAUTHORIZED else {}
    return _problem(error.status, f"{error.sentence} {error.advice}", headers)


async def _of_journal(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, JournalDown)
    return _problem(503, f"The journal does not answer: {error.why}", {"Retry-After": "5"})


async def _of_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, str(error.detail), error.headers)


async def _of_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()]
    return _problem(422, "; ".join(told))


async def _of_sagas(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PolysagaError | DefinitionError)
    if isinstance(error, UnknownSaga | DefinitionError):  # a saga, or a step of it, that does not exist
        return _problem(404, str(error))
    if isinstance(error, TryAgain):
        return _problem(503, str(error), {"Retry-After": "1"})
    return _problem(422 if isinstance(error, PayloadError) else 409, str(error))


ANSWERS: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[JSONResponse]]] = {
    NotAllowed: _of_access,
    JournalDown: _of_journal,
    HTTPException: _of_http,
    RequestValidationError: _of_request,
    PolysagaError: _of_sagas,
    DefinitionError: _of_sagas,
}
