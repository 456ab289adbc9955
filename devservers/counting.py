"""How many statements and commits reached a server: told by the server itself, not by the client.

PostgreSQL writes every statement of the watched databases into its log. MariaDB and MySQL count for the whole
server, so nothing else may use it meanwhile; what asking costs is measured and taken off.
"""

import re
from dataclasses import dataclass
from typing import Protocol, Self

from psycopg import connect

from devservers.local import LocalServer
from devservers.mariadb import MariaDBServer
from devservers.mysql import MySQLServer
from devservers.postgres import PostgresServer

_SENT = re.compile(r" \[(\d+)\] db=(\w+) LOG:  (?:statement|execute [^:]+): *(\w.*)")
_WRITES = {"INSERT", "UPDATE", "DELETE", "WITH"}


@dataclass(frozen=True)
class Count:
    """Statements of any kind, transaction control included, and the commits among them."""

    statements: int
    commits: int

    def __sub__(self, other: "Count") -> "Count":
        return Count(self.statements - other.statements, self.commits - other.commits)

    def __add__(self, other: "Count") -> "Count":
        return Count(self.statements + other.statements, self.commits + other.commits)


class Counter(Protocol):
    """Counts from `reset` on."""

    def reset(self) -> Self: ...

    def count(self) -> Count: ...


class PostgresCounter:
    """Counts what connections opened from now on send to some databases."""

    def __init__(self, server: PostgresServer, *databases: str) -> None:
        self._server, self._databases, self._from = server, databases, 0
        address = server.url("postgres").replace("+asyncpg", "")
        with connect(address, autocommit=True) as connection:
            for name in databases:
                connection.execute(f"ALTER DATABASE \"{name}\" SET log_statement = 'all'")

    def reset(self) -> Self:
        self._from = self._server.log.stat().st_size
        return self

    def count(self) -> Count:
        with self._server.log.open("rb") as log:
            log.seek(self._from)
            sent = _SENT.findall(log.read().decode(errors="replace"))
        open_in, statements, commits = set[str](), 0, 0  # processes inside BEGIN
        for process, database, text in sent:
            if database not in self._databases:
                continue
            for statement in text.split("; "):  # several may have come in one packet
                verb = statement.partition(" ")[0].strip(";").upper()
                statements += 1
                # A write outside of BEGIN is its own commit.
                commits += verb == "COMMIT" or (verb in _WRITES and process not in open_in)
                if verb == "BEGIN":
                    open_in.add(process)
                elif verb in {"COMMIT", "ROLLBACK"}:
                    open_in.discard(process)
        return Count(statements, commits)


class MariaDBCounter:
    """Counts what the whole server was sent."""

    def __init__(self, server: MariaDBServer | MySQLServer) -> None:
        self._server = server

    def reset(self) -> Self:
        first, self._from = self._read(), self._read()
        self._asking = self._from - first
        return self

    def count(self) -> Count:
        return self._read() - self._from - self._asking

    def _read(self) -> Count:
        found = dict(self._server.status("Questions", "Com_commit"))
        return Count(found["Questions"], found["Com_commit"])


def counter(server: LocalServer, *databases: str) -> Counter:
    """Return the counter for *server*; raise `TypeError` for a server that cannot tell."""
    if isinstance(server, PostgresServer):
        return PostgresCounter(server, *databases)
    if isinstance(server, MariaDBServer | MySQLServer):
        return MariaDBCounter(server)
    raise TypeError(f"{server.name_and_version} does not count statements")
