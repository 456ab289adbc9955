"""Errors in websockets: a response before the connection is accepted, a reason for its end afterwards."""

import json
from http import HTTPStatus

from fastapi import Response
from starlette import status
from starlette.websockets import WebSocket, WebSocketState

_LONGEST = 123  # bytes of a reason, the limit of RFC 6455


async def refuse(websocket: WebSocket, response: Response) -> Response | None:
    """Close *websocket* with the detail of *response*, or return *response* if the client can still receive it."""
    states = {websocket.application_state, websocket.client_state}
    if WebSocketState.DISCONNECTED in states or WebSocketState.RESPONSE in states:
        return None
    can_answer = "websocket.http.response" in websocket.scope.get("extensions", {})
    if can_answer and websocket.application_state is WebSocketState.CONNECTING:
        return response
    reason = json.loads(bytes(response.body))["detail"] if response.body else ""
    await websocket.close(_code(response.status_code), _cut(str(reason)))
    return None


def _code(of_http: int) -> int:
    if of_http == HTTPStatus.SERVICE_UNAVAILABLE:
        return status.WS_1013_TRY_AGAIN_LATER
    if of_http >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return status.WS_1011_INTERNAL_ERROR
    return status.WS_1008_POLICY_VIOLATION


def _cut(reason: str) -> str:
    return reason.encode(errors="replace")[:_LONGEST].decode(errors="ignore")
