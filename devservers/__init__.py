"""Real database servers for tests, demos and hand use. Development only: not part of the wheel.

Who owns what: a server started here belongs to the Python process that started it and outlives it by
no more than its own clean shutdown, even if that process is killed. Its data live in the directory it
was given, its port is fixed when it is made, so it comes back after `kill()` or `restart()` with the
same rows under the same URL. Durability is on everywhere: a commit that was answered survives
`kill()` (`tests/integration/test_devservers.py` shows both).

    with POSTGRES.server(Path(".servers/postgres")) as server:
        server.create_database("scratch")
        create_engine(server.url("scratch"))

`postgres_cluster`, `mariadb_cluster` and `mysql_cluster` make a primary with replicas, which can be paused,
delayed, frozen, killed and promoted (`replicas.py`). `PgBouncer` stands in front of a PostgreSQL server.

`POLYSAGA_TEST_POSTGRES_URL`, `POLYSAGA_TEST_MARIADB_URL`, `POLYSAGA_TEST_MYSQL_URL` and
`POLYSAGA_TEST_MONGO_URL` name servers that exist already; then nothing is started. `python -m devservers` runs
all four by hand.
"""

from devservers.clusters import Cluster, mariadb_cluster, mysql_cluster, postgres_cluster
from devservers.local import LocalServer
from devservers.mariadb import MariaDBServer
from devservers.mongo import MongoServer
from devservers.mysql import MySQLServer
from devservers.pgbouncer import PgBouncer
from devservers.postgres import PostgresServer
from devservers.products import MARIADB, MONGO, MYSQL, POSTGRES, PRODUCTS, Product
from devservers.replicas import MariaDBReplica, MySQLReplica, PostgresReplica, Replica
from devservers.server import ExistingServer, NotOurServer, Server, ServerUnavailable
from devservers.templates import Templates

__all__ = [
    "MARIADB",
    "MONGO",
    "MYSQL",
    "POSTGRES",
    "PRODUCTS",
    "Cluster",
    "ExistingServer",
    "LocalServer",
    "MariaDBReplica",
    "MariaDBServer",
    "MongoServer",
    "MySQLReplica",
    "MySQLServer",
    "NotOurServer",
    "PgBouncer",
    "PostgresReplica",
    "PostgresServer",
    "Product",
    "Replica",
    "Server",
    "ServerUnavailable",
    "Templates",
    "mariadb_cluster",
    "mysql_cluster",
    "postgres_cluster",
]
