"""The header `Idempotency-Key`, by which a client marks two requests as the same."""

import re
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

_HEADER = "Idempotency-Key"
_LONGEST = 255  # characters of a saga's key
_BARE = re.compile(r"[ !#-~]*")
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')


def idempotency_key(*, min_length: int = 1, max_length: int = _LONGEST) -> Any:
    """Return a dependency that reads the key of the request; None if the request has none.

        async def place(order: Order, key: Annotated[str | None, idempotency_key()]) -> Placed:
            return await sagas.run(buy, order, key=key)

    `"abc"` and `abc` are the same key; the quoted form is a String of RFC 9651, which the IETF's draft of the
    header requires. The two lengths are in characters, without the quotes. A header in neither form, or
    sent twice, is answered with 422.
    """

    async def read(
        request: Request,
        key: Annotated[
            str | None,
            WithJsonSchema(_described(min_length, max_length)),
            Header(
                alias=_HEADER,
                min_length=min_length,
                max_length=max_length,
                description="The same key with the same body is the same request, however often it is sent. "
                'It may stand in double quotes: `"abc"` and `abc` are one key.',
            ),
            BeforeValidator(_unquoted),
        ] = None,
    ) -> str | None:
        if len(request.headers.getlist(_HEADER)) > 1:
            message = "the header came twice, and a request has one key; send it once"
            error = {"type": "idempotency_key", "loc": ("header", _HEADER), "msg": message, "input": key}
            raise RequestValidationError([error])
        return key

    return Depends(read)


def _described(shortest: int, longest: int) -> dict[str, Any]:
    """Return the OpenAPI schema: no null, which a header cannot carry, and no escapes, which few keys need."""
    lengths = f"{{{shortest},{longest}}}"
    pattern = rf'^([!#-~]{lengths}|"[ !#-\[\]-~]{lengths}")$'
    return {"type": "string", "minLength": shortest, "maxLength": longest + 2, "pattern": pattern}


def _unquoted(header: object) -> object:
    """Return the key in *header*; leave a value that is not text to the next validator."""
    if not isinstance(header, str):
        return header
    text = header.strip(" \t")
    if _BARE.fullmatch(text):
        return text
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        message = (
            "a key has printable ASCII characters; write it without any double quote, or all of it between two, "
            'with \\" and \\\\ for those characters inside'
        )
        raise PydanticCustomError("idempotency_key", message)
    return re.sub(r"\\(.)", r"\1", quoted[1])
