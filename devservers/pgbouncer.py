"""PgBouncer from Debian's package in front of a PostgreSQL server, in a process and a directory of our own."""

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import psycopg

from devservers.local import LocalServer
from devservers.ports import free_port
from devservers.postgres import PostgresClient
from devservers.server import Server, ServerUnavailable

PoolMode = Literal["session", "transaction", "statement"]


class PgBouncer(LocalServer):
    """PgBouncer with *pool_mode*; its databases are those of *server*, and are made there.

    *ignored* are settings that clients may send when they connect and that it drops.
    """

    product = "PgBouncer"
    account = "postgres"
    stop_signal = signal.SIGTERM  # at once; SIGINT would wait for clients

    def __init__(
        self, directory: Path, server: Server, pool_mode: PoolMode, ignored: tuple[str, ...] = ()
    ) -> None:
        """Raise `ServerUnavailable` if this machine has no PgBouncer."""
        self.port = free_port()
        self._program = _program()
        self._behind, self._pool_mode, self._ignored = urlsplit(server.url("")), pool_mode, ignored
        client = BouncerClient.of(f"postgresql+asyncpg://polysaga@127.0.0.1:{self.port}/")
        super().__init__(client, origin=self._program, directory=directory, programs=[Path(self._program)])

    def _set_up(self) -> None:
        (self.data / "users.txt").write_text('"polysaga" ""\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": self.data / "users.txt",
            "pool_mode": self._pool_mode,
            "default_pool_size": 20,
            "ignore_startup_parameters": ", ".join(self._ignored),
        }
        lines = [f"{name} = {value}" for name, value in settings.items() if value or name == "unix_socket_dir"]
        address = f"* = host={self._behind.hostname} port={self._behind.port}"
        (self.data / "pgbouncer.ini").write_text("\n".join(["[databases]", address, "[pgbouncer]", *lines, ""]))

    def _command(self) -> list[str]:
        return [self._program, "--quiet", str(self.data / "pgbouncer.ini")]


@dataclass(frozen=True)
class BouncerClient(PostgresClient):
    """Speaks to PostgreSQL through PgBouncer, which takes no options."""

    def answers(self) -> bool:
        address = urlunsplit(self.base._replace(scheme="postgresql", path="/postgres"))
        try:
            with psycopg.connect(address, autocommit=True, connect_timeout=5) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


def _program() -> str:
    # Debian keeps servers in /usr/sbin, which is not on everybody's PATH.
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ServerUnavailable(
            "PgBouncer",
            reason="pgbouncer is not installed",
            remedy="Run as root: scripts/setup servers (or: apt-get install pgbouncer)",
        )
    return found
