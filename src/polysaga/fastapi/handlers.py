"""Errors become problem details; internals and SQL stay in the process.

What the application has registered itself stays, whether it did so before `install` or afterwards: for a class of
errors, for one of its subclasses, or for a status.
"""

import importlib
import importlib.util
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, TypeAlias, cast

from fastapi import FastAPI, Response
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import HTTPException as FastAPIHTTPException
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import MultipleResultsFound, NoResultFound, PendingRollbackError, SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket

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
from polysaga.fastapi.bad_requests import of_http, of_validation
from polysaga.fastapi.problems import problem
from polysaga.fastapi.websockets import refuse

_AGAIN = "A database is busy or out of reach. Please try again."
_ANEW = "To try again, send a new request; if it carries a key, with a new key."
_INTERNAL = "Something went wrong inside the service."
_log = logging.getLogger("polysaga")


Handler: TypeAlias = Callable[[Any, Any], Any]  # asynchronous or not, as Starlette takes them
Asynchronous: TypeAlias = Callable[[Any, Any], Awaitable[Response | None]]

_DEFAULTS = {http_exception_handler, request_validation_exception_handler}  # FastAPI's own


def install_handlers(app: FastAPI, refusals: Mapping[str, int]) -> None:
    """Turn errors into problem details; *refusals* gives the status of a `Refused` by its code."""

    async def ours(connection: HTTPConnection, error: PolysagaError) -> Response:
        return _of_ours(connection, error, refusals)

    _add(app, PolysagaError, ours)
    _add(app, SQLAlchemyError, _of_drivers)
    if importlib.util.find_spec("pymongo") is not None:
        _add(app, importlib.import_module("pymongo.errors").PyMongoError, _of_drivers)
    _add(app, RequestValidationError, of_validation)
    _add(app, HTTPException, _of_http)
    for key in {500, Exception} & app.exception_handlers.keys():
        app.exception_handlers[key] = _with_news(app.exception_handlers[key])
    if not {500, Exception} & app.exception_handlers.keys():
        app.add_exception_handler(Exception, _with_news(_of_anything))


def _add(app: FastAPI, kind: type[Exception], handler: Asynchronous) -> None:
    if app.exception_handlers.get(kind) in {None, *_DEFAULTS}:
        app.add_exception_handler(kind, _also_for_websockets(handler))


def _also_for_websockets(handler: Asynchronous) -> Handler:
    async def answer(connection: HTTPConnection, error: Exception) -> Response | None:
        response = await handler(connection, error)
        if response is not None and isinstance(connection, WebSocket):
            return await refuse(connection, response)
        return response

    return answer


def _with_news(handler: Handler) -> Handler:
    """Let the response of *handler* tell what was committed: it is sent outside of all middleware."""

    async def answer(request: Request, error: Exception) -> Response | None:
        response = await _ask(handler, request, error)
        if response is not None and NEWS in request.scope:
            response.raw_headers += await request.scope[NEWS]()
        return response

    return answer


async def _ask(handler: Handler, connection: HTTPConnection, error: Exception) -> Response | None:
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__):
        return cast(Response | None, await handler(connection, error))
    return cast(Response | None, await run_in_threadpool(handler, connection, error))


async def _of_http(connection: HTTPConnection, error: HTTPException) -> Response | None:
    # An application that answers FastAPI's errors itself means those of the router too, which are Starlette's.
    own = connection.app.exception_handlers.get(FastAPIHTTPException)
    return of_http(connection, error) if own is None else await _ask(own, connection, error)


def _of_ours(request: HTTPConnection, error: PolysagaError, refusals: Mapping[str, int]) -> Response:
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
        case TooLate():
            detail = "This is decided, and can no longer be undone."
            return answer(HTTPStatus.CONFLICT, detail, kind="too-late", members=saga)
        case WrongStatus():
            return answer(HTTPStatus.CONFLICT, str(error), kind="wrong-status", members=saga)
        case UnknownSaga():
            return answer(HTTPStatus.NOT_FOUND, str(error), kind="unknown-saga", members=saga)
        case NeedsAttention():
            detail = "This cannot go on without a person. Ask for it by its id; asking again changes nothing."
            return answer(HTTPStatus.INTERNAL_SERVER_ERROR, detail, kind="needs-attention", members=saga)
        case WriteOnReader():
            error.endpoint = f"{_method(request)} {getattr(request.scope.get('route'), 'path', request.url.path)}"
            return _internal(request, error)
        case _:
            return _internal(request, error, saga)


async def _of_drivers(request: HTTPConnection, error: Exception) -> Response:
    fault = fault_of(error)
    if isinstance(error, NoResultFound):
        return problem(request, HTTPStatus.NOT_FOUND, "There is no such thing.", kind="no-result")
    if isinstance(error, MultipleResultsFound):
        return _internal(request, error, kind="multiple-results")
    if isinstance(error, PendingRollbackError):
        return _internal(request, error, kind="pending-rollback")
    if fault is Fault.DUPLICATE_KEY:
        return problem(request, HTTPStatus.CONFLICT, "This exists already.", kind=fault.value)
    if fault is not None and fault.transient:
        again = TryAgain.retry_after
        return problem(request, HTTPStatus.SERVICE_UNAVAILABLE, _AGAIN, kind=fault.value, retry_after=again)
    return _internal(request, error)


def _internal(
    request: HTTPConnection, error: Exception, members: Mapping[str, Any] | None = None, *, kind: str = "internal"
) -> Response:
    # The client learns nothing of the cause, so the log must have it.
    _log.error("%s %s failed", _method(request), request.url.path, exc_info=error)
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, _INTERNAL, kind=kind, members=members)


def _method(connection: HTTPConnection) -> str:
    return str(connection.scope.get("method", "websocket"))


async def _of_anything(request: HTTPConnection, error: Exception) -> Response:
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, _INTERNAL, kind="internal")
