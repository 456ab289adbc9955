"""The operator dashboard: what sagas and databases do now, why, what comes next, and what a person can do.

    app.mount("/dashboard", dashboard(sagas, databases, authorize=who_is_it))

Pages are made by the server and need no JavaScript; a small script keeps them up to date. Without `authorize` only
this machine is served.
"""

from polysaga.dashboard.application import dashboard
from polysaga.people import Person, Role

__all__ = ["Person", "Role", "dashboard"]
