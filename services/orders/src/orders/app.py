"""The application: routes, three databases, two sagas."""

from functools import partial

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from orders.databases import databases
from orders.errors import STATUSES
from orders.home import home
from orders.operators import by_password, by_token
from orders.routes import routers
from orders.sagas import sagas
from orders.settings import load, prepare
from orders.tables import create_tables
from polysaga.config import Settings
from polysaga.dashboard import dashboard
from polysaga.events import Emit, Events, ignore
from polysaga.fastapi import install, operator_routes
from polysaga.fastapi.metrics import metrics_routes
from polysaga.telemetry.prometheus import Metrics

PATIENCE = 10.0  # seconds a caller waits for an order's outcome before the answer is 202

_TAGS = [
    {"name": "orders", "description": "Placing, reading and cancelling orders."},
    {"name": "inventory", "description": "Products, their stock and their prices."},
    {"name": "users", "description": "What customers have, and what they did."},
    {"name": "sagas", "description": "How far an order has got."},
    {"name": "operations", "description": "For those who look after the service, not for customers."},
]


def create_app(
    settings: Settings | None = None,
    *,
    patience: float = PATIENCE,
    emit: Emit = ignore,
    operator_token: str | None = None,
) -> FastAPI:
    """Return the service; without *settings* it reads them when it starts. *emit* receives the library's events.

    *operator_token* opens the dashboard and the routes that list and repair sagas; without it they serve this
    machine only.
    """
    # Swagger UI comes with the package: /docs needs no other host. ReDoc's script would ask for a logo elsewhere.
    app = FastAPIOffline(
        title="Orders",
        summary="A shop's order service over three databases: each order is placed everywhere or nowhere.",
        version="0.1.0",
        openapi_tags=_TAGS,
        generate_unique_id_function=lambda route: route.name,
        redoc_url=None,
        favicon_url="favicon.svg",
    )
    app.state.patience = patience
    app.state.drain = (settings or Settings()).sagas.drain
    for router in (home, *routers):
        app.include_router(router)
        _answer_head(app, router)
    authorize = None if operator_token is None else by_token(operator_token)
    # `GET /sagas/{id}` remains the route for customers.
    app.include_router(operator_routes(sagas, authorize=authorize, details=False), prefix="/sagas")
    metrics = _metrics()
    app.include_router(metrics_routes(metrics))
    events = Events(emit, metrics)
    people = None if operator_token is None else by_password(operator_token)
    app.mount("/dashboard", dashboard(sagas, databases, authorize=people, mask=("user_id",), events=events))
    install(
        app,
        databases,
        sagas=sagas,
        emit=events,
        settings=_read if settings is None else partial(prepare, settings),
        ready=create_tables,
        refusals=STATUSES,
    )
    return app


def _metrics() -> Metrics:
    """Return the metrics of one application: tests make several in a process."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return Metrics(databases, sagas, registry=registry)


def _answer_head(app: FastAPI, router: APIRouter) -> None:
    """Answer HEAD for every GET route; FastAPI does not."""
    for route in router.routes:
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)


def _read() -> Settings:
    return prepare(load())
