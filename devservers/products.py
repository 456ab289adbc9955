"""The products: which server to use for each, and where."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devservers.local import LocalServer
from devservers.mariadb import MariaDBClient, MariaDBServer
from devservers.mongo import MongoClient, MongoServer
from devservers.mysql import MySQLServer
from devservers.postgres import PostgresClient, PostgresServer
from devservers.replicas import MariaDBReplica, MySQLReplica, PostgresReplica, Replica
from devservers.server import Client, ExistingServer, Server


@dataclass(frozen=True)
class Product:
    """A kind of server: how it is started here, or found where it runs already."""

    key: str  # folder below .servers, and key in `python -m devservers --json`
    variable: str  # names a server that exists already
    hand_port: int  # for hand use, so that URLs stay the same from day to day
    local: Callable[[Path, int | None, bool], LocalServer]
    client: Callable[[str], Client]
    replica: Callable[[Any, Path, int], Replica] | None = None

    def server(self, directory: Path, *, port: int | None = None, replicated: bool = False) -> Server:
        """The server that the environment names, else one of our own in `directory`, not started yet.

        Raise `ServerUnavailable` if this machine can have neither. If `port` is taken, a free one is used.
        Only one that is *replicated* can have replicas.
        """
        url = os.environ.get(self.variable)
        if url:
            return ExistingServer(self.client(url), origin=self.variable)
        return self.local(directory, port, replicated)


POSTGRES = Product(
    key="postgres",
    variable="POLYSAGA_TEST_POSTGRES_URL",
    hand_port=55432,
    local=lambda directory, port, _: PostgresServer(directory, port=port),
    replica=lambda primary, directory, port: PostgresReplica(primary, directory, port=port),
    client=PostgresClient.of,
)
MARIADB = Product(
    key="mariadb",
    variable="POLYSAGA_TEST_MARIADB_URL",
    hand_port=53306,
    local=lambda directory, port, replicated: MariaDBServer(directory, port=port, binary_log=replicated),
    replica=lambda primary, directory, port: MariaDBReplica(primary, directory, port=port),
    client=MariaDBClient.of,
)
MYSQL = Product(
    key="mysql",
    variable="POLYSAGA_TEST_MYSQL_URL",
    hand_port=53308,
    local=lambda directory, port, _: MySQLServer(directory, port=port),
    replica=lambda primary, directory, port: MySQLReplica(primary, directory, port=port),
    client=MariaDBClient.of,
)
MONGO = Product(
    key="mongo",
    variable="POLYSAGA_TEST_MONGO_URL",
    hand_port=57017,
    local=lambda directory, port, _: MongoServer(directory, port=port),
    client=MongoClient.of,
)
PRODUCTS = (POSTGRES, MARIADB, MYSQL, MONGO)
