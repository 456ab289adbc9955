"""One MongoDB deployment as a node, and the session that steps and handlers get."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from polysaga.config import DatabaseSettings, masked
from polysaga.databases import pymongo_waits
from polysaga.databases.dialects.mongo import Mongo, without_topology
from polysaga.databases.dialects.options import UnusableOption
from polysaga.databases.pools import PoolUse
from polysaga.databases.positions import ClusterTime
from polysaga.databases.urls import NOT_ENCODED, require_driver, unusable
from polysaga.errors import ConfigurationError, DatabaseUnavailable, SessionOver
from polysaga.faults import Fault
from polysaga.limits import limited
from polysaga.loading import load_module
from polysaga.texts import said

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient
    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

Document = Mapping[str, Any]

DRIVER = "polysaga.databases.pymongo_driver"

_POLITE = 0.3  # seconds for a client that closes to end its sessions on the server

_ABANDONED: list[Any] = []  # clients that could not be closed; PyMongo warns if an open one is collected


@dataclass(frozen=True, slots=True)
class MongoSession:
    """The driver's database together with the driver's session.

    Inside its block every operation on `session["collection"]` uses the driver's session by itself (PyMongo's
    `bind`), so an operation without `session=` cannot escape the transaction.
    """

    database: "AsyncDatabase[dict[str, Any]]"
    client_session: "AsyncClientSession"

    def __getitem__(self, collection: str) -> "AsyncCollection[dict[str, Any]]":
        self._refuse_if_over()
        return self.database[collection]

    if not TYPE_CHECKING:  # a type checker must go on refusing such names

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"a MongoSession has no attribute '{name}': a collection is session['{name}'], and the driver's "
                "database, for commands and GridFS, is session.database"
            )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["MongoSession"]:
        """Lend the session in a transaction: committed at the end of the block, rolled back after an error."""
        self._refuse_if_over()
        driver = load_module(DRIVER)
        async with await self.client_session.start_transaction(
            write_concern=driver.MAJORITY_WRITE, read_preference=driver.PRIMARY
        ):
            yield MongoSession(driver.without_concerns(self.database), self.client_session)

    def _refuse_if_over(self) -> None:
        # Outside of the block the driver would omit the session, and with it the transaction.
        if self.client_session.has_ended:
            raise SessionOver(self.database.name)


@dataclass(frozen=True, slots=True)
class Member:
    """What the driver knows of one server of a deployment, from its last answer to the driver's own questions."""

    address: str  # host:port
    role: str  # the driver's word: RSPrimary, RSSecondary, RSArbiter, Mongos, ..., Unknown
    round_trip: float | None  # seconds, recently; None if it has not answered
    last_write: datetime | None  # the last write that it has, in whole seconds; None if it does not say
    failure: str | None  # why it counts as unreachable

    @property
    def is_primary(self) -> bool:
        """Whether it takes writes."""
        return self.role in {"RSPrimary", "Mongos", "LoadBalancer", "Standalone"}


class MongoNode:
    """A replica set or a sharded cluster, seen through one client."""

    def __init__(self, database: str, role: str, url: str, settings: DatabaseSettings) -> None:
        self.database, self.role, self.settings = database, role, settings
        self.dialect = Mongo()
        self._url = url
        if not url.startswith(("mongodb://", "mongodb+srv://")):
            scheme, separator, _ = url.partition("://")
            named = f"'{scheme}://' is not supported for this handle" if separator else "is not a URL"
            raise ConfigurationError(
                f"databases.{database}.url: {named}; write mongodb://host/{database}?replicaSet=NAME"
            )
        if settings.engine:
            raise ConfigurationError(
                f"databases.{database}.engine is for SQLAlchemy; write options of MongoDB into the URL, "
                "e.g. ?appName=shop"
            )
        authority, path = _parts(url)
        if "@" in path or re.search(r"\s", authority):
            raise self._unusable(NOT_ENCODED)
        require_driver(database, "pymongo", Mongo.extra)
        self.driver = load_module(DRIVER)  # our access to PyMongo
        self._check_options(url)
        self.members = 1  # servers that hold the data; known after `ping`
        self._client: AsyncMongoClient[dict[str, Any]] | None = None
        self._reading: Callable[[AsyncDatabase[dict[str, Any]]], AsyncDatabase[dict[str, Any]]] | None = None

    def _check_options(self, url: str) -> None:
        try:
            self.dialect.check_options(url)
            if "?" in url:  # the client itself drops options that it does not know, with a warning
                self.driver.split_options(url.partition("?")[2], validate=True, warn=False)
        except UnusableOption as error:
            if self._is_doubtful:
                raise self._refused(error) from None
            raise unusable(self.database, self.role, error) from None
        except (self.driver.PyMongoError, ValueError, TypeError, OSError) as error:
            raise self._refused(error) from None

    @property
    def _is_doubtful(self) -> bool:
        """Whether the options may be the rest of a password with a "?". Errors must not repeat them then."""
        return "@" in self._url and "@" not in _parts(self._url)[0]

    def _refused(self, error: Exception) -> ConfigurationError:
        return self._unusable(NOT_ENCODED if self._is_doubtful else masked(str(error)))

    def _unusable(self, why: str) -> ConfigurationError:
        place = "url" if self.role == "primary" else "replicas"
        return ConfigurationError(f"databases.{self.database}.{place}: {why}")

    @property
    def name(self) -> str:
        """The node's name for people: its URL without the password."""
        return masked(self._url)

    @property
    def client(self) -> "AsyncMongoClient[dict[str, Any]]":
        """The driver's client, made on first use in the running event loop."""
        if self._client is None:
            self._client = self.another_client()
        return self._client

    def another_client(self) -> "AsyncMongoClient[dict[str, Any]]":
        """Return a new client of the same deployment; the caller must close it."""
        pymongo_waits.make_safe()
        try:
            made: AsyncMongoClient[dict[str, Any]] = self.driver.AsyncMongoClient(
                self._url,
                **self.dialect.name_of_client(self._url),
                **self.dialect.client_arguments(self.settings),
            )
        except (self.driver.PyMongoError, ValueError, TypeError, OSError) as error:
            raise self._refused(error) from None
        return made

    @property
    def topology(self) -> tuple[Member, ...]:
        """The members of the deployment as the driver knows them; empty before the first use."""
        if self._client is None:
            return ()
        return tuple(
            Member(
                _address(address),
                server.server_type_name,
                server.round_trip_time,
                _moment(server.last_write_date),
                None if server.error is None else said(server.error),
            )
            for address, server in sorted(self._client.topology_description.server_descriptions().items())
        )

    @property
    def pools(self) -> tuple[PoolUse, ...]:
        """What the driver's pool to each member is used for now; PyMongo does not count those that waited."""
        if self._client is None:
            return ()
        most = self.settings.pool.size + self.settings.pool.max_overflow
        return tuple(
            PoolUse(_address(address), most, 0, use.in_use, use.idle, use.waiting, None, None)
            for address, use in sorted(self.driver.pools(self._client).items())
        )

    def replace_client(self, client: "AsyncMongoClient[dict[str, Any]]") -> None:
        """Use *client* from now on; the previous client hangs, and so do its callers."""
        self.abandon()
        self._client = client

    async def ask(self, client: "AsyncMongoClient[dict[str, Any]] | None" = None) -> None:
        """Return if *client*, or else the node's own, gets an answer; raises the driver's errors."""
        await (client or self.client).admin.command("ping")

    @property
    def documents(self) -> "AsyncDatabase[dict[str, Any]]":
        """The driver's database: the one the URL names, or else the handle's name; a majority confirms its writes.

        The write concern is set here and not on the client: operations inside a transaction may have none. Reads
        go to the primary, whatever the URL prefers; readers ask for secondaries (`session`).
        """
        return self.client.get_default_database(
            self.database, write_concern=self.driver.MAJORITY_WRITE, read_preference=self.driver.PRIMARY
        )

    def committed(self, collection: str) -> "AsyncCollection[dict[str, Any]]":
        """Return *collection*, showing nothing that a failover could still roll back."""
        return self.documents.get_collection(collection, read_concern=self.driver.MAJORITY_READ)

    def on_reader(
        self, restrict: "Callable[[AsyncDatabase[dict[str, Any]]], AsyncDatabase[dict[str, Any]]]"
    ) -> None:
        """Give sessions that only read the driver's database as *restrict* returns it."""
        self._reading = restrict

    async def ping(self) -> None:
        """Return if the deployment answers and knows transactions; raise otherwise."""
        patience = self.settings.pool.connect_timeout
        try:
            hello = await limited(self.client.admin.command("hello"), patience + 1.0)
        except (self.driver.PyMongoError, TimeoutError) as error:
            raise self._refusal(error) from error
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise ConfigurationError(
                f"database '{self.database}' at {self.name} is a standalone MongoDB server, which has no "
                "transactions; start it as a replica set (mongod --replSet rs0, then rs.initiate())"
            )
        # A router of a sharded cluster does not name them; every shard is a replica set.
        self.members = len(hello.get("hosts", ())) + len(hello.get("passives", ())) if "setName" in hello else 2

    @asynccontextmanager
    async def session(
        self, *, read_only: bool = False, secondaries: bool = False, after: ClusterTime | None = None
    ) -> AsyncIterator[MongoSession]:
        """Lend a session without a transaction: causally consistent reads, single-document writes.

        With *secondaries* its reads prefer secondaries. A server answers once it has all of *after*.
        """
        documents = self.documents
        if secondaries:
            documents = documents.with_options(
                read_preference=self.driver.SECONDARIES,
                # A failover could roll back anything less; a later read would then see the old state.
                read_concern=self.driver.MAJORITY_READ,
            )
        if read_only and self._reading is not None:
            documents = self._reading(documents)
        async with self.client.start_session() as client_session, client_session.bind(end_session=False):
            if after is not None:
                timestamp = self.driver.Timestamp(after.seconds, after.increment)
                client_session.advance_operation_time(timestamp)
            yield MongoSession(documents, client_session)

    async def position(self) -> ClusterTime | None:
        """Return a time past every write that a majority had confirmed before the call; None if unknown."""
        try:
            return await self.dialect.capture(self.client)
        except self.driver.PyMongoError:
            return None

    def abandon(self) -> None:
        """Drop the client, which hangs; its connections end with the process."""
        if self._client is not None:
            _ABANDONED.append(self._client)
            self._client = None

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            try:
                await limited(self._client.close(), _POLITE, grace=_POLITE)
            except TimeoutError:
                await self._client.close()  # the first call tried to end the sessions; this one skips that
            self._client = None

    def _refusal(self, error: BaseException) -> Exception:
        if self.dialect.fault(error) is Fault.REJECTED:
            return ConfigurationError(
                f"database '{self.database}': {self.name} rejects the login; correct the account or "
                f"its password in databases.{self.database}.url, or the database that knows it (?authSource=admin)"
            )
        # `limited` raises a TimeoutError without a text.
        reason = masked(without_topology(error)) or said(error)
        return DatabaseUnavailable(self.database, self.name, reason)


def _parts(url: str) -> tuple[str, str]:
    """Return the part of *url* with its user and servers, and the path behind it."""
    authority, _, path = url.partition("://")[2].partition("?")[0].partition("/")
    return authority, path


def _address(found: tuple[str, int | None]) -> str:
    host, port = found
    return host if port is None else f"{host}:{port}"


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
