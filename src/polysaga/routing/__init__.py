"""Reads that never look stale to their writer: which node answers, and what it must have seen."""

from typing import TYPE_CHECKING

from polysaga.loading import facade as _facade

if TYPE_CHECKING:
    from polysaga.routing.databases import Databases
    from polysaga.routing.scopes import Scope

__all__ = [
    "Databases",
    "Scope",
]

__getattr__, __dir__ = _facade(
    __name__,
    {
        "polysaga.routing.databases": ["Databases"],
        "polysaga.routing.scopes": ["Scope"],
    },
)
