"""Polysaga: several databases behind one FastAPI service, as if they were one."""

from typing import TYPE_CHECKING

from polysaga.loading import facade as _facade

if TYPE_CHECKING:
    from polysaga.config import Settings, load_settings
    from polysaga.databases.handles import AnyDatabase, MongoDatabase, SqlDatabase
    from polysaga.databases.mongo_node import MongoSession
    from polysaga.errors import Refused
    from polysaga.routing.databases import Databases
    from polysaga.routing.scopes import Scope
    from polysaga.sagas.definition.retries import Retry
    from polysaga.sagas.definition.saga import Saga
    from polysaga.sagas.definition.step import StepContext
    from polysaga.sagas.journal.views import SagaFilter, SagaState
    from polysaga.sagas.process.handle import SagaHandle
    from polysaga.sagas.protocol.states import Status
    from polysaga.sagas.semantic_locks import SemanticLock
    from polysaga.sagas.service import Sagas

__all__ = [
    "AnyDatabase",
    "Databases",
    "MongoDatabase",
    "MongoSession",
    "Refused",
    "Retry",
    "Saga",
    "SagaFilter",
    "SagaHandle",
    "SagaState",
    "Sagas",
    "Scope",
    "SemanticLock",
    "Settings",
    "SqlDatabase",
    "Status",
    "StepContext",
    "load_settings",
]

__getattr__, __dir__ = _facade(
    __name__,
    {
        "polysaga.config": ["Settings", "load_settings"],
        "polysaga.databases.handles": ["AnyDatabase", "MongoDatabase", "SqlDatabase"],
        "polysaga.databases.mongo_node": ["MongoSession"],
        "polysaga.errors": ["Refused"],
        "polysaga.routing.databases": ["Databases"],
        "polysaga.routing.scopes": ["Scope"],
        "polysaga.sagas.definition.retries": ["Retry"],
        "polysaga.sagas.definition.saga": ["Saga"],
        "polysaga.sagas.definition.step": ["StepContext"],
        "polysaga.sagas.journal.views": ["SagaFilter", "SagaState"],
        "polysaga.sagas.process.handle": ["SagaHandle"],
        "polysaga.sagas.protocol.states": ["Status"],
        "polysaga.sagas.semantic_locks": ["SemanticLock"],
        "polysaga.sagas.service": ["Sagas"],
    },
)
