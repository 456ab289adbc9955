"""Named databases: handles in code, addresses in settings, sessions that always end clean."""

from polysaga.databases.faults import Fault
from polysaga.databases.handles import (
    AnyDatabase,
    AnyHandle,
    Consistency,
    Database,
    MongoDatabase,
    Node,
    SqlDatabase,
)
from polysaga.databases.mongo import MongoNode, MongoSession
from polysaga.databases.pools import SqlNode
from polysaga.databases.registry import Registry

__all__ = [
    "AnyDatabase",
    "AnyHandle",
    "Consistency",
    "Database",
    "Fault",
    "MongoDatabase",
    "MongoNode",
    "MongoSession",
    "Node",
    "Registry",
    "SqlDatabase",
    "SqlNode",
]
