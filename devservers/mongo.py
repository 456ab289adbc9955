"""A server that speaks MongoDB's protocol with transactions: `mongod` if it is on the PATH, else SecantusDB.

SecantusDB (PyPI, GPL, development only) answers as the primary of a replica set of one. Its numbers say
nothing about MongoDB's speed, and what passes on it should be run against a real `mongod` too.
"""

import shutil
import signal
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from devservers.local import LocalServer
from devservers.ports import free_port
from devservers.server import ServerUnavailable

_REPLICA_SET = "rs0"
# What a killed client leaves open holds up everybody who needs the same documents: 60 seconds by default.
_LIFETIME = 3  # seconds
_ALREADY_INITIALIZED = 23  # error code of replSetInitiate


class MongoServer(LocalServer):
    """A replica set of one, so transactions work; no authentication on 127.0.0.1."""

    product = "MongoDB"
    account = None  # neither refuses root
    stop_signal = signal.SIGTERM

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        """Raise `ServerUnavailable` if this machine has neither `mongod` nor SecantusDB."""
        self.port = free_port(port)
        self._mongod = shutil.which("mongod")
        if self._mongod is None and find_spec("secantus") is None:
            raise ServerUnavailable(
                "MongoDB",
                reason="there is no mongod on the PATH, and SecantusDB is not installed",
                remedy="Run: make setup (Python 3.11 to 3.13), or set POLYSAGA_TEST_MONGO_URL",
            )
        client = MongoClient.of(f"mongodb://127.0.0.1:{self.port}/?directConnection=true")
        origin = "mongod on the PATH" if self._mongod else "PyPI"
        # The two cannot read each other's files.
        home = directory / ("mongod" if self._mongod else "secantus")
        super().__init__(client, origin=origin, directory=home, programs=[])

    @property
    def name_and_version(self) -> str:
        # SecantusDB reports the version of MongoDB whose protocol it speaks.
        return super().name_and_version if self._mongod else f"SecantusDB {metadata.version('SecantusDB')}"

    def _set_up(self) -> None:
        """Both fill an empty folder themselves."""

    def _command(self) -> list[str]:
        if self._mongod:
            address = ["--bind_ip", "127.0.0.1", "--port", str(self.port)]
            lifetime = ["--setParameter", f"transactionLifetimeLimitSeconds={_LIFETIME}"]
            return [self._mongod, "--replSet", _REPLICA_SET, *address, "--dbpath", str(self.data), *lifetime]
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        # Without --sync-on-commit a killed server loses the commits it answered last.
        return [
            sys.executable,
            str(Path(__file__).with_name("short_lived.py")),
            str(_LIFETIME),
            *address,
            "--storage-path",
            str(self.data),
            "--sync-on-commit",
        ]

    def _first_words(self) -> None:
        if self._mongod:
            _make_primary(self.port)


@dataclass(frozen=True)
class MongoClient:
    """Speaks to MongoDB as the user of its URL."""

    base: SplitResult

    @classmethod
    def of(cls, url: str) -> "MongoClient":
        return cls(urlsplit(url))

    def url(self, database: str) -> str:
        return urlunsplit(self.base._replace(path=f"/{database}"))

    def answers(self) -> bool:
        try:
            with self._connected(patience=1.0) as client:
                client.admin.command("ping")
        except PyMongoError:
            return False
        return True

    def name_and_version(self) -> str:
        with self._connected() as client:
            return f"MongoDB {client.server_info()['version']}"

    def exists(self, database: str) -> bool:
        """True for every name: in MongoDB a database begins with its first document."""
        return bool(database)

    def create(self, database: str) -> None:
        """Nothing to do."""

    def copy(self, source: str, database: str) -> None:
        with self._connected() as client:
            for name in client[source].list_collection_names():
                client[database].create_collection(name)
                if documents := list(client[source][name].find()):
                    client[database][name].insert_many(documents)

    def drop(self, database: str) -> None:
        with self._connected() as client:
            # Transactions that killed clients left open would be waited for.
            client.admin.command("killAllSessions", [])
            client.drop_database(database)

    def _connected(self, patience: float = 5.0) -> pymongo.MongoClient[dict[str, Any]]:
        # The database in the URL stays: it may be where the user's name and password are kept.
        return pymongo.MongoClient(urlunsplit(self.base), serverSelectionTimeoutMS=round(patience * 1000))


def _make_primary(port: int) -> None:
    """Initiate the replica set on its first start, and wait until its only member is the primary."""
    address = f"127.0.0.1:{port}"
    with pymongo.MongoClient[dict[str, Any]](f"mongodb://{address}/?directConnection=true") as member:
        try:
            member.admin.command(
                {"replSetInitiate": {"_id": _REPLICA_SET, "members": [{"_id": 0, "host": address}]}}
            )
        except OperationFailure as error:
            if error.code != _ALREADY_INITIALIZED:
                raise
    # Looking for the primary of the set waits until there is one.
    with pymongo.MongoClient[dict[str, Any]](f"mongodb://{address}/?replicaSet={_REPLICA_SET}") as client:
        client.admin.command("ping")
