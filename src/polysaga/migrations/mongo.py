"""The ledger on MongoDB: a collection whose `_id` is all the index it needs.

It must exist before the first step: a transaction that creates a collection conflicts with every other one.
"""

import importlib

from polysaga.databases import MongoNode
from polysaga.sagas.tables import LEDGER

HEAD = "0001"

_EXISTS_ALREADY = 48


async def exists(node: MongoNode) -> bool:
    """Tell whether the collection is there."""
    return LEDGER in await node.documents.list_collection_names(filter={"name": LEDGER})


async def create(node: MongoNode) -> bool:
    """Create the collection; False if it was there, or if another process was faster."""
    if await exists(node):
        return False
    errors = importlib.import_module("pymongo.errors")
    try:
        await node.documents.create_collection(LEDGER, check_exists=False)
    except errors.OperationFailure as error:
        if error.code != _EXISTS_ALREADY:
            raise
        return False
    return True
