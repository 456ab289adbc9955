"""PyMongo, as far as this library uses it; `MongoNode` loads it once settings name a MongoDB."""

from typing import Any

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
    "DuplicateKeyError",
    "OperationFailure",
    "PyMongoError",
    "Timestamp",
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
