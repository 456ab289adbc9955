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
    from polysaga.databases.mongo_node import Member, MongoNode, MongoSession
    from polysaga.databases.pools import PoolUse
    from polysaga.databases.registry import Registry
    from polysaga.databases.sql_node import SqlNode
    from polysaga.faults import Fault

__all__ = [
    "AnyDatabase",
    "AnyHandle",
    "Consistency",
    "Database",
    "Fault",
    "Member",
    "MongoDatabase",
    "MongoNode",
    "MongoSession",
    "Node",
    "PoolUse",
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
        "polysaga.databases.mongo_node": ["Member", "MongoNode", "MongoSession"],
        "polysaga.databases.pools": ["PoolUse"],
        "polysaga.databases.registry": ["Registry"],
        "polysaga.databases.sql_node": ["SqlNode"],
        "polysaga.faults": ["Fault"],
    },
)
