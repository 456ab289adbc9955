"""Polysaga in a FastAPI application: sessions as dependencies, one call for everything else.

    OrdersRead = Annotated[AsyncSession, reader(orders)]
    OrdersWrite = Annotated[AsyncSession, writer(orders)]
    app = FastAPI()
    install(app, databases, sagas=sagas, settings=load_settings)

The dependencies have FastAPI's function scope: their transaction ends before the response starts, so a commit
that fails is never a 200 (`docs/decisions/0001-dependencies-commit-before-the-response.md`). Streams outlive
them and open short sessions of their own with `orders.reader()`.

Errors become problem details (RFC 9457) with a stable `type`, a status, and a sentence that says what to do;
internals and SQL stay in the process.
"""

from polysaga.fastapi.installing import install
from polysaga.fastapi.keys import idempotency_key
from polysaga.fastapi.openapi import problems
from polysaga.fastapi.operators import operator_routes
from polysaga.fastapi.problems import Problem, problem
from polysaga.fastapi.sessions import auto, consistency, reader, writer
from polysaga.people import Person, Role

__all__ = [
    "Person",
    "Problem",
    "Role",
    "auto",
    "consistency",
    "idempotency_key",
    "install",
    "operator_routes",
    "problem",
    "problems",
    "reader",
    "writer",
]
