"""PyMongo, as far as this library uses it; `MongoNode` loads it once settings name a MongoDB."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bson.timestamp import Timestamp
from pymongo import AsyncMongoClient, DeleteMany, ReadPreference, WriteConcern
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import split_options

__all__ = [
    "MAJORITY_READ",
    "MAJORITY_WRITE",
    "PRIMARY",
    "SECONDARIES",
    "AsyncMongoClient",
    "DeleteMany",
    "DriverPool",
    "DuplicateKeyError",
    "OperationFailure",
    "PyMongoError",
    "Timestamp",
    "pools",
    "split_options",
    "without_concerns",
]

MAJORITY_READ = ReadConcern("majority")  # what a failover cannot roll back
MAJORITY_WRITE = WriteConcern("majority")
PRIMARY = ReadPreference.PRIMARY
SECONDARIES = ReadPreference.SECONDARY_PREFERRED


def without_concerns(database: "AsyncDatabase[dict[str, Any]]") -> "AsyncDatabase[dict[str, Any]]":
    """Return *database* without concerns, as a transaction needs it: a bound session does not remove them."""
    return database.with_options(write_concern=WriteConcern(), read_concern=ReadConcern())


class DriverPool(NamedTuple):
    """The driver's connections to one server."""

    in_use: int
    idle: int
    waiting: int  # operations that wait for one


def pools(client: "AsyncMongoClient[dict[str, Any]]") -> Mapping[tuple[str, int | None], DriverPool]:
    """Return the pools of *client* by the address of the server; empty if this PyMongo keeps them elsewhere.

    Its monitoring events would say the same, for four objects and a call to each listener at every operation.
    """
    servers = getattr(getattr(client, "_topology", None), "_servers", {})
    found = {}
    for address, server in servers.items():
        pool = server.pool
        in_use, begun = getattr(pool, "active_sockets", None), getattr(pool, "operation_count", None)
        if in_use is not None and begun is not None:
            found[address] = DriverPool(in_use, len(pool.conns), max(0, begun - in_use))
    return found
