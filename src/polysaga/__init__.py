"""Polysaga: several databases behind one FastAPI service, as if they were one."""

from polysaga.config import Settings, load_settings
from polysaga.databases import AnyDatabase, MongoDatabase, MongoSession, SqlDatabase
from polysaga.errors import Refused
from polysaga.routing import Databases, Scope
from polysaga.sagas import (
    Retry,
    Saga,
    SagaFilter,
    SagaHandle,
    Sagas,
    SagaState,
    SemanticLock,
    Status,
    StepContext,
)

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
