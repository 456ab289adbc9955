"""The write guard for MongoDB: on a reader the driver's database and collections refuse what writes.

MongoDB has no read-only session, and the driver's command listeners cannot stop a command. So readers get the
driver's own classes with the writing half shut. A command is refused unless it is known to read. Methods that
write are listed; a test compares the lists with the driver, and fails if a later driver adds a method.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

Refusal: TypeAlias = Callable[[str], Exception]

COLLECTION_WRITES = (
    *("bulk_write", "insert_one", "insert_many", "replace_one", "update_one", "update_many"),
    *("delete_one", "delete_many", "find_one_and_delete", "find_one_and_replace", "find_one_and_update"),
    *("drop", "rename", "create_index", "create_indexes", "drop_index", "drop_indexes"),
    *("create_search_index", "create_search_indexes", "drop_search_index", "update_search_index"),
)
DATABASE_WRITES = ("create_collection", "drop_collection")
_READING_COMMANDS = {
    *("ping", "hello", "buildinfo", "connectionstatus", "serverstatus", "hostinfo", "dbstats", "collstats"),
    *("find", "aggregate", "count", "distinct", "explain", "datasize", "dbhash", "getmore", "killcursors"),
    *("listcollections", "listindexes", "listdatabases", "getparameter"),
}
_WRITING_STAGES = {"$out", "$merge"}


class ReaderCollection(AsyncCollection[dict[str, Any]]):
    """The driver's collection without its writing half."""

    def __init__(self, database: "ReaderDatabase", name: str, options: AsyncCollection[Any] | None = None) -> None:
        given = database if options is None else options
        super().__init__(
            database,
            name,
            False,  # noqa: FBT003 - do not create it
            given.codec_options,
            given.read_preference,
            given.write_concern,
            given.read_concern,
        )
        self._reading = database

    def __getitem__(self, name: str) -> "ReaderCollection":
        return ReaderCollection(self._reading, f"{self.name}.{name}", self)

    def with_options(self, *arguments: Any, **named: Any) -> Any:
        """Return the same collection with other options, as the driver does."""
        return ReaderCollection(self._reading, self.name, super().with_options(*arguments, **named))

    async def aggregate(self, pipeline: Any, *arguments: Any, **named: Any) -> Any:
        """Aggregate as the driver does; `$out` and `$merge` are refused."""
        self._reading.look_at_stages(pipeline)
        return await super().aggregate(pipeline, *arguments, **named)

    async def aggregate_raw_batches(self, pipeline: Any, *arguments: Any, **named: Any) -> Any:
        """Aggregate as the driver does; `$out` and `$merge` are refused."""
        self._reading.look_at_stages(pipeline)
        return await super().aggregate_raw_batches(pipeline, *arguments, **named)


class ReaderDatabase(AsyncDatabase[dict[str, Any]]):
    """The driver's database without its writing half; so are the collections it gives."""

    def __init__(self, database: AsyncDatabase[dict[str, Any]], refusal: Refusal) -> None:
        super().__init__(
            database.client,
            database.name,
            database.codec_options,
            database.read_preference,
            database.write_concern,
            database.read_concern,
        )
        self._refusal = refusal

    def __getitem__(self, name: str) -> ReaderCollection:
        return ReaderCollection(self, name)

    def get_collection(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Return a collection with options of its own, as the driver does."""
        return ReaderCollection(self, name, super().get_collection(name, *arguments, **named))

    def with_options(self, *arguments: Any, **named: Any) -> Any:
        """Return the same database with other options, as the driver does."""
        return ReaderDatabase(super().with_options(*arguments, **named), self._refusal)

    async def aggregate(self, pipeline: Any, *arguments: Any, **named: Any) -> Any:
        """Aggregate as the driver does; `$out` and `$merge` are refused."""
        self.look_at_stages(pipeline)
        return await super().aggregate(pipeline, *arguments, **named)

    async def command(self, command: Any, *arguments: Any, **named: Any) -> Any:
        """Run a command that is known to read; any other is refused."""
        self._look_at_command(command, named)
        return await super().command(command, *arguments, **named)

    async def cursor_command(self, command: Any, *arguments: Any, **named: Any) -> Any:
        """Run a command that is known to read; any other is refused."""
        self._look_at_command(command, named)
        return await super().cursor_command(command, *arguments, **named)

    def refuse(self, what: str) -> Exception:
        """Return the error for *what*."""
        return self._refusal(what)

    def look_at_stages(self, pipeline: Any) -> None:
        """Raise if one of the stages of *pipeline* writes."""
        for stage in pipeline if isinstance(pipeline, Sequence) else ():
            for name in stage if isinstance(stage, Mapping) else ():
                if name in _WRITING_STAGES:
                    raise self._refusal(f"aggregate with {name}")

    def _look_at_command(self, command: Any, named: Mapping[str, Any]) -> None:
        name = command if isinstance(command, str) else next(iter(command), "")
        if name.lower() not in _READING_COMMANDS:
            raise self._refusal(f"command {name}")
        given = named if isinstance(command, str) else {**command, **named}
        self.look_at_stages(given.get("pipeline"))


def _shut(owner: type, names: Sequence[str]) -> None:
    for name in names:
        setattr(owner, name, _refusing(name))


def _refusing(name: str) -> Callable[..., Any]:
    async def refuse(self: Any, *arguments: Any, **named: Any) -> Any:
        reading: ReaderDatabase = self if isinstance(self, ReaderDatabase) else self._reading
        raise reading.refuse(name)

    return refuse


_shut(ReaderCollection, COLLECTION_WRITES)
_shut(ReaderDatabase, DATABASE_WRITES)
