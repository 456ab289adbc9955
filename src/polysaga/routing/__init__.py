"""Reads that never look stale to their writer: which node answers, and what it must have seen."""

from typing import TYPE_CHECKING

from polysaga.loading import facade as _facade

if TYPE_CHECKING:
    from polysaga.routing.databases import Databases
    from polysaga.routing.history import LagSample, ReadWaits, RoutedSample, RoutingHistory
    from polysaga.routing.policy import RouteReason
    from polysaga.routing.router import Router
    from polysaga.routing.scopes import Scope

__all__ = [
    "Databases",
    "LagSample",
    "ReadWaits",
    "RouteReason",
    "RoutedSample",
    "Router",
    "RoutingHistory",
    "Scope",
]

__getattr__, __dir__ = _facade(
    __name__,
    {
        "polysaga.routing.databases": ["Databases"],
        "polysaga.routing.history": ["LagSample", "ReadWaits", "RoutedSample", "RoutingHistory"],
        "polysaga.routing.policy": ["RouteReason"],
        "polysaga.routing.router": ["Router"],
        "polysaga.routing.scopes": ["Scope"],
    },
)
