"""Reads that never look stale to whoever wrote: which node answers, and what it must have seen."""

from polysaga.routing.databases import Databases
from polysaga.routing.scopes import Scope

__all__ = ["Databases", "Scope"]
