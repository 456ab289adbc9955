"""Forms as browsers send them: URL-encoded, and of bounded size."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

_MOST = 256 * 1024  # bytes
_FIELDS = 2_000


class Form(dict[str, str]):
    """The first value of each field; *all* has every one."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._pairs = pairs
        for name, value in pairs:
            self.setdefault(name, value)

    def all(self, name: str) -> list[str]:
        """Return every value of a field."""
        return [value for key, value in self._pairs if key == name]

    def text(self, name: str) -> str:
        """Return the first value of a field without surrounding space; empty if it is absent."""
        return self.get(name, "").strip()


async def form_of(request: Request) -> Form:
    """Read the form in *request*; raise `HTTPException` for what is no form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send the form of the page itself.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MOST:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A form has at most {_MOST // 1024} KiB.")
    try:
        pairs = parse_qsl(bytes(body).decode(), keep_blank_values=True, max_num_fields=_FIELDS)
    except ValueError:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The form cannot be read; send it again.") from None
    return Form(pairs)


def asked_for(form: Mapping[str, str], action: str) -> list[tuple[str, str]]:
    """Return what a refused form wanted, for the page that refuses it."""
    asked = [("Action", action or form.get("action", ""))]
    asked += [(name, form[key]) for key, name in (("query", "Search"), ("why", "Why")) if form.get(key)]
    return [(name, value[:300]) for name, value in asked if value]
