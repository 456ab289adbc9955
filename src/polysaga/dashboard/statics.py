"""The files that pages load: a style sheet, an icon, htmx and two scripts of our own.

Each has a hash of its content in its address, so browsers keep it for ever and a new version is loaded at once.
"""

import hashlib
from collections.abc import Mapping
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

_TYPES = {"css": "text/css", "svg": "image/svg+xml", "js": "text/javascript"}
NAMES = ("style.css", "logo.svg", "htmx-4.0.1.min.js", "live.js", "back.js")


class Statics:
    """The files by name, read once."""

    def __init__(self) -> None:
        folder = files(__package__).joinpath("static")
        self._contents = {name: folder.joinpath(name).read_bytes() for name in NAMES}
        self._hashes = {name: hashlib.sha256(data).hexdigest()[:16] for name, data in self._contents.items()}

    @property
    def paths(self) -> Mapping[str, str]:
        """The address of each file below the dashboard's own."""
        return {name: f"/static/{self._hashes[name]}/{name}" for name in NAMES}

    async def answer(self, request: Request) -> Response:
        """Return a file; only the names above and their present hashes are known."""
        name = request.path_params["name"]
        if name not in self._contents or request.path_params["hash"] != self._hashes[name]:
            return PlainTextResponse("There is no such file.", 404)
        kept = {"Cache-Control": "public, max-age=31536000, immutable"}
        kind = _TYPES[name.rpartition(".")[2]]
        return Response(self._contents[name], media_type=kind, headers=kept)
