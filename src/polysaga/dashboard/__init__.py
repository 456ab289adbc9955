"""The operator dashboard: what sagas and databases do now, why, what comes next, and what a person can do.

    app.mount("/dashboard", dashboard(sagas, databases, authorize=who_is_it))

Pages are made by the server and need no JavaScript; a small script keeps them up to date. Without `authorize` only
this machine is served.
"""

from typing import TYPE_CHECKING

from polysaga.loading import facade as _facade

if TYPE_CHECKING:
    from polysaga.dashboard.application import dashboard
    from polysaga.people import Person, Role

__all__ = ["Person", "Role", "dashboard"]

# The command line tells a saga's story in the same words, without the web framework.
__getattr__, __dir__ = _facade(
    __name__, {"polysaga.dashboard.application": ["dashboard"], "polysaga.people": ["Person", "Role"]}
)
