"""The lists of what writes are complete: a method that a later driver adds fails a test until a list has it."""

import inspect

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from polysaga.routing.guards.mongo import COLLECTION_WRITES, DATABASE_WRITES

COLLECTION_READS = {
    *("find", "find_one", "find_raw_batches", "count_documents", "estimated_document_count", "distinct"),
    *("aggregate", "aggregate_raw_batches", "watch", "with_options", "options", "next"),
    *("index_information", "list_indexes", "list_search_indexes"),
}
DATABASE_READS = {
    *("aggregate", "command", "cursor_command", "dereference", "get_collection", "watch", "with_options", "next"),
    *("list_collections", "list_collection_names", "validate_collection"),
}


def methods(owner: type) -> set[str]:
    return {name for name, one in vars(owner).items() if inspect.isfunction(one) and not name.startswith("_")}


def test_every_method_of_a_collection_is_known_to_read_or_to_write() -> None:
    assert methods(AsyncCollection) - {"next"} == (COLLECTION_READS | set(COLLECTION_WRITES)) - {"next"}


def test_every_method_of_a_database_is_known_to_read_or_to_write() -> None:
    assert methods(AsyncDatabase) - {"next"} == (DATABASE_READS | set(DATABASE_WRITES)) - {"next"}
