"""The ledger and the outbox on MongoDB: collections that need no index but their `_id`.

They must exist before the first step: a transaction that creates a collection conflicts with every other one.

A document whose `_id` is the version decides which of several processes created them: only one insert of it
succeeds. The answer to `create` does not decide: MongoDB 8 also reports success if the collection exists already.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from polysaga.config import masked
from polysaga.databases import MongoNode
from polysaga.errors import ConfigurationError, DatabaseUnavailable
from polysaga.migrations.history import LEDGER as LINE
from polysaga.migrations.history import tables_lost
from polysaga.migrations.ours import TABLES_OF
from polysaga.sagas.journal.tables import LEDGER, OUTBOX

HEAD = "0001"
VERSIONS = f"{LEDGER}_version"

_EXISTS_ALREADY = 48


async def current(node: MongoNode) -> str | None:
    """Return the version of the collections, None if one is missing; raise if they were there, and are gone."""
    with _explained(node):
        lacking = await _lacking(node)
        # Another process may have created them since the first look.
        if lacking and await _is_migrated(node):
            lacking = await _lacking(node)
            if lacking:
                raise tables_lost(node.database, LINE, lacking)
    return None if lacking else HEAD


async def lost(node: MongoNode) -> frozenset[str]:
    """Return which collections were there, and are gone."""
    return await _lacking(node) if await _is_migrated(node) else frozenset()


async def _is_migrated(node: MongoNode) -> bool:
    # The version is written last, so with it all were there.
    return await node.documents[VERSIONS].find_one({"_id": HEAD}) is not None


async def _lacking(node: MongoNode) -> frozenset[str]:
    there = await node.documents.list_collection_names(filter={"name": {"$in": [*TABLES_OF[LINE]]}})
    return TABLES_OF[LINE] - set(there)


async def create(node: MongoNode) -> bool:
    """Create what is missing; return False if nothing was, or if another process was faster."""
    if await current(node) is not None:
        return False
    with _explained(node):
        await _create(node, LEDGER)
        await _create(node, OUTBOX)
        return await _note_version(node)


async def _create(node: MongoNode, name: str) -> None:
    try:
        await node.documents.create_collection(name, check_exists=False)
    except node.driver.OperationFailure as error:
        if error.code != _EXISTS_ALREADY:
            raise


async def _note_version(node: MongoNode) -> bool:
    try:
        await node.documents[VERSIONS].insert_one({"_id": HEAD})
    except node.driver.DuplicateKeyError:
        return False
    return True


@contextmanager
def _explained(node: MongoNode) -> Iterator[None]:
    try:
        yield
    except node.driver.PyMongoError as error:
        fault = node.dialect.fault(error)
        reason = masked(" ".join(str(error).split()))
        if fault is not None and fault.transient:
            raise DatabaseUnavailable(node.database, node.name, reason) from error
        raise ConfigurationError(
            f"database '{node.database}' at {node.name} refuses to create or list its ledger ({reason}); "
            "use a login that has the role readWrite"
        ) from error
