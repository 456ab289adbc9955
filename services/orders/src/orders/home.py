"""The page at `/`, for people: what this is, where to look, and one order to copy. It loads nothing remote."""

from html import escape
from pathlib import Path
from string import Template

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

_FOLDER = Path(__file__).parent
_PAGE = Template((_FOLDER / "home.html").read_text(encoding="utf-8"))
_ICON = (_FOLDER / "favicon.svg").read_bytes()
_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'"}

home = APIRouter(include_in_schema=False)


@home.get("/")
async def show_home(request: Request) -> HTMLResponse:
    """Return the page; its links use the address at which the client reached it."""
    page = _PAGE.substitute(
        root=escape(request.scope.get("root_path", "").rstrip("/")),
        url=escape(str(request.base_url).rstrip("/")),
        version=escape(request.app.version),
    )
    return HTMLResponse(page, headers=_HEADERS)


@home.get("/favicon.svg")
@home.get("/favicon.ico")  # browsers request this one for JSON responses
async def show_icon() -> Response:
    """Return the icon of every page."""
    return Response(_ICON, media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})
