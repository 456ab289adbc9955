"""A primary with its replicas, started and stopped together."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from devservers.local import LocalServer
from devservers.mariadb import MariaDBServer
from devservers.mysql import MySQLServer
from devservers.postgres import PostgresServer
from devservers.replicas import MariaDBReplica, MySQLReplica, PostgresReplica, Replica

PrimaryT = TypeVar("PrimaryT", bound=LocalServer)
ReplicaT = TypeVar("ReplicaT", bound=Replica)


@dataclass
class Cluster(Generic[PrimaryT, ReplicaT]):
    """As a context manager it runs from entry to exit, the primary first."""

    primary: PrimaryT
    replicas: Sequence[ReplicaT]
    _running: ExitStack = field(default_factory=ExitStack, repr=False)

    @property
    def name_and_version(self) -> str:
        return f"{self.primary.name_and_version} with {len(self.replicas)} replicas"

    def urls(self, database: str) -> list[str]:
        """The addresses of *database* on every server, the primary's first."""
        return [server.url(database) for server in (self.primary, *self.replicas)]

    def catch_up(self) -> None:
        """Return when every replica shows what the primary has committed by now."""
        for replica in self.replicas:
            replica.catch_up()

    def heal(self) -> None:
        """Take back pauses, delays, freezes and kills; a promotion cannot be taken back."""
        self.primary.thaw()
        self.primary.start()
        for replica in self.replicas:
            replica.heal()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in (self.primary, *self.replicas):
                stack.enter_context(server)
            self._running = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()


def postgres_cluster(directory: Path, replicas: int = 2) -> Cluster[PostgresServer, PostgresReplica]:
    """A primary and hot standbys; raise `ServerUnavailable` if this machine has no PostgreSQL."""
    primary = PostgresServer(directory / "primary")
    return Cluster(primary, [PostgresReplica(primary, directory / f"replica-{n + 1}") for n in range(replicas)])


def mariadb_cluster(directory: Path, replicas: int = 1) -> Cluster[MariaDBServer, MariaDBReplica]:
    """A primary with a binary log and GTID replicas; raise `ServerUnavailable` if this machine has no MariaDB."""
    primary = MariaDBServer(directory / "primary", binary_log=True)
    return Cluster(primary, [MariaDBReplica(primary, directory / f"replica-{n + 1}") for n in range(replicas)])


def mysql_cluster(directory: Path, replicas: int = 1) -> Cluster[MySQLServer, MySQLReplica]:
    """A primary and GTID replicas; raise `ServerUnavailable` if this machine has no MySQL."""
    primary = MySQLServer(directory / "primary")
    return Cluster(primary, [MySQLReplica(primary, directory / f"replica-{n + 1}") for n in range(replicas)])
