"""Named databases: handles in code, addresses in settings, sessions that always end clean."""

from polysaga import texts as _texts
from polysaga.databases import error_texts as _error_texts
from polysaga.databases.handles import (
    AnyDatabase,
    AnyHandle,
    Consistency,
    Database,
    MongoDatabase,
    Node,
    SqlDatabase,
)
from polysaga.databases.mongo_node import MongoNode, MongoSession
from polysaga.databases.registry import Registry
from polysaga.databases.sql_node import SqlNode
from polysaga.faults import Fault

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

_texts.recognise(_error_texts.said_of_database)
