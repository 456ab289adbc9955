"""Errors become problem details; internals and SQL stay in the process.

The application's own handlers win, whether it registers them before `install` or afterwards. They may be for a
class of errors, for one of its subclasses, or for a status.
"""

import functools
import importlib.util
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeAlias, cast

from fastapi import FastAPI, Response
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import HTTPException as FastAPIHTTPException
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import MultipleResultsFound, NoResultFound, PendingRollbackError, SQLAlchemyError
from sqlalchemy.orm.exc import StaleDataError
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
    TransactionLost,
    TryAgain,
    UnknownSaga,
    UnknownVersion,
    WriteOnReader,
    WrongStatus,
)
from polysaga.fastapi.bad_requests import of_http, of_validation
from polysaga.fastapi.problems import DETAILS, problem
from polysaga.fastapi.websockets import refuse
from polysaga.loading import load_module
from polysaga.texts import said, without_values

_AGAIN = DETAILS["try-again"]
_log = logging.getLogger("polysaga")


Handler: TypeAlias = Callable[[Any, Any], Any]  # asynchronous or not: Starlette accepts both
Asynchronous: TypeAlias = Callable[[Any, Any], Awaitable[Response | None]]

_DEFAULTS = {http_exception_handler, request_validation_exception_handler}  # FastAPI's own


def install_handlers(app: FastAPI, refusals: Mapping[str, int]) -> Callable[[], bool]:
    """Turn errors into problem details; *refusals* gives the status of a `Refused` by its code.

    Return a function that returns whether this module, not the application, answers invalid requests.
    """

    async def ours(connection: HTTPConnection, error: PolysagaError) -> Response:
        if isinstance(error, UnknownVersion):  # for ever, if no process has it
            _log.warning("%s %s is left to another process: %s", _method(connection), connection.url.path, error)
        return _of_ours(connection, error, refusals)

    _add(app, PolysagaError, ours)
    _add(app, SQLAlchemyError, _of_drivers)
    if importlib.util.find_spec("pymongo") is not None:
        _add(app, load_module("pymongo.errors").PyMongoError, _of_drivers)
    _add(app, RequestValidationError, of_validation)
    _add(app, HTTPException, _of_http)
    for key in {500, Exception} & app.exception_handlers.keys():
        app.exception_handlers[key] = _with_news(app.exception_handlers[key])
    if not {500, Exception} & app.exception_handlers.keys():
        app.add_exception_handler(Exception, _with_news(_of_anything))
    return lambda: getattr(app.exception_handlers[RequestValidationError], "__wrapped__", None) is of_validation


def _add(app: FastAPI, kind: type[Exception], handler: Asynchronous) -> None:
    if app.exception_handlers.get(kind) in {None, *_DEFAULTS}:
        app.add_exception_handler(kind, _also_for_websockets(handler))


def _also_for_websockets(handler: Asynchronous) -> Handler:
    @functools.wraps(handler)
    async def answer(connection: HTTPConnection, error: Exception) -> Response | None:
        response = await handler(connection, error)
        if response is not None and isinstance(connection, WebSocket):
            return await refuse(connection, response)
        return response

    return answer


def _with_news(handler: Handler) -> Handler:
    """Add the bookmarks to the response of *handler*, which is sent outside all middleware."""

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
    # A handler for FastAPI's errors is meant for the router's errors too, which are Starlette's.
    own = connection.app.exception_handlers.get(FastAPIHTTPException)
    return of_http(connection, error) if own is None else await _ask(own, connection, error)


def _of_ours(request: HTTPConnection, error: PolysagaError, refusals: Mapping[str, int]) -> Response:
    named = getattr(error, "saga_id", None)
    saga = {} if named is None else {"saga_id": str(named)}

    def answer(status: int, kind: str, detail: str = "", again: float | None = None) -> Response:
        return problem(request, status, detail or DETAILS[kind], kind=kind, members=saga, retry_after=again)

    match error:
        case Refused():
            status = refusals.get(error.code, HTTPStatus.CONFLICT)
            return problem(request, status, said(error), kind=error.code, members={**error.facts, **saga})
        case OutcomePending() | UnknownVersion():  # a process that has the version answers the same request
            again = OutcomePending.retry_after
            return answer(HTTPStatus.SERVICE_UNAVAILABLE, "outcome-pending", again=again)
        case SagaCancelled():
            return answer(HTTPStatus.CONFLICT, "cancelled")
        # Not 503: clients repeat the same request on 503, and under its key this outcome is final.
        case DeadlineExceeded():
            return answer(HTTPStatus.CONFLICT, "deadline-exceeded")
        case SagaUndone():
            return answer(HTTPStatus.CONFLICT, "saga-undone")
        case StillLocked():
            return answer(HTTPStatus.SERVICE_UNAVAILABLE, "still-locked", again=error.retry_after)
        case TryAgain():
            return answer(HTTPStatus.SERVICE_UNAVAILABLE, "try-again", again=error.retry_after)
        case KeyReused():
            return answer(HTTPStatus.UNPROCESSABLE_ENTITY, "key-reused")
        case PayloadError():
            return answer(HTTPStatus.UNPROCESSABLE_ENTITY, "payload", str(error))
        case TooLate():
            return answer(HTTPStatus.CONFLICT, "too-late")
        case WrongStatus():
            return answer(HTTPStatus.CONFLICT, "wrong-status", str(error))
        case UnknownSaga():
            return answer(HTTPStatus.NOT_FOUND, "unknown-saga", str(error))
        case NeedsAttention():
            return answer(HTTPStatus.INTERNAL_SERVER_ERROR, "needs-attention")
        case TransactionLost():
            return _internal(request, error, saga, kind="pending-rollback")
        case WriteOnReader():
            error.endpoint = f"{_method(request)} {getattr(request.scope.get('route'), 'path', request.url.path)}"
            return _internal(request, error)
        case _:
            return _internal(request, error, saga)


async def _of_drivers(request: HTTPConnection, error: Exception) -> Response:
    fault = fault_of(error)
    if isinstance(error, NoResultFound):
        return problem(request, HTTPStatus.NOT_FOUND, DETAILS["no-result"], kind="no-result")
    if isinstance(error, MultipleResultsFound):
        return _internal(request, error, kind="multiple-results")
    if isinstance(error, PendingRollbackError):
        return _internal(request, error, kind="pending-rollback")
    if isinstance(error, StaleDataError):  # of a row with a version (`version_id_col`)
        return problem(request, HTTPStatus.CONFLICT, DETAILS["stale-data"], kind="stale-data")
    if fault is Fault.DUPLICATE_KEY:
        return problem(request, HTTPStatus.CONFLICT, DETAILS[fault.value], kind=fault.value)
    if fault is not None and fault.transient:
        again = TryAgain.retry_after
        return problem(request, HTTPStatus.SERVICE_UNAVAILABLE, _AGAIN, kind=fault.value, retry_after=again)
    return _internal(request, error)


def _internal(
    request: HTTPConnection, error: Exception, members: Mapping[str, Any] | None = None, *, kind: str = "internal"
) -> Response:
    # The client does not learn the cause, so the log must have it.
    _log.error("%s %s failed", _method(request), request.url.path, exc_info=without_values(error))
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, DETAILS["internal"], kind=kind, members=members)


def _method(connection: HTTPConnection) -> str:
    return str(connection.scope.get("method", "websocket"))


async def _of_anything(request: HTTPConnection, error: Exception) -> Response:
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, DETAILS["internal"], kind="internal")
