"""Named databases: handles in code, addresses in settings, sessions that always end clean."""

from typing import TYPE_CHECKING

from polysaga.loading import facade as _facade

if TYPE_CHECKING:
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

__getattr__, __dir__ = _facade(
    __name__,
    {
        "polysaga.databases.handles": [
            "AnyDatabase",
            "AnyHandle",
            "Consistency",
            "Database",
            "MongoDatabase",
            "Node",
            "SqlDatabase",
        ],
        "polysaga.databases.mongo_node": ["MongoNode", "MongoSession"],
        "polysaga.databases.registry": ["Registry"],
        "polysaga.databases.sql_node": ["SqlNode"],
        "polysaga.faults": ["Fault"],
    },
)
