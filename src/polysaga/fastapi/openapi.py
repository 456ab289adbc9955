"""Problems in the OpenAPI document, under their own media type."""

from http import HTTPStatus
from typing import Any

from polysaga.fastapi.problems import MEDIA, Problem


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what `responses=` of a route needs to show these problems in the OpenAPI document."""
    return {
        status: {"model": Problem, "description": HTTPStatus(status).phrase, "content": {MEDIA: {}}}
        for status in statuses
    }
