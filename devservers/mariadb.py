"""MariaDB from Debian's package, in a process and a directory of our own.

The system's MariaDB, its configuration and its data are not touched: `--no-defaults` keeps `/etc/mysql`
out, and the socket lies in our data folder.
"""

import asyncio
import shutil
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import asyncmy
from asyncmy.errors import MySQLError, OperationalError

from devservers.local import LocalServer
from devservers.ports import free_port
from devservers.server import ServerUnavailable

ACCOUNT = """\
SET SESSION sql_log_bin = 0;
CREATE USER IF NOT EXISTS 'polysaga'@'%' IDENTIFIED BY 'polysaga';
GRANT ALL PRIVILEGES ON *.* TO 'polysaga'@'%' WITH GRANT OPTION;
"""
_NO_SUCH_THREAD = 1094
_PATIENCE = 60.0  # seconds for the statements of one call


class MariaDBServer(LocalServer):
    """A MariaDB server; user and password are `polysaga`, who may do everything.

    `binary_log=True` writes a synced binary log, which a replica needs and every commit pays for.
    """

    product = "MariaDB"
    account = "mysql"
    stop_signal = signal.SIGTERM

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        binary_log: bool = False,
        options: tuple[str, ...] = (),
    ) -> None:
        """Raise `ServerUnavailable` if this machine has no MariaDB; *options* are added to the command line."""
        self.port = free_port(port)
        self._binary_log, self._options = binary_log, options
        self._mariadbd, self._install_db = _program("mariadbd"), _program("mariadb-install-db")
        client = MariaDBClient.of(f"mysql+asyncmy://polysaga:polysaga@127.0.0.1:{self.port}/?charset=utf8mb4")
        super().__init__(client, origin=self._mariadbd, directory=directory, programs=[Path(self._mariadbd)])
        self.status, self.run = client.status, client.run

    def _set_up(self) -> None:
        self._run(
            *(self._install_db, "--no-defaults", f"--datadir={self.data}", "--skip-test-db"),
            # As root it would look for a socket and an account of the system.
            "--auth-root-authentication-method=normal",
        )
        (self.data / "account.sql").write_text(ACCOUNT)

    def _command(self) -> list[str]:
        flags = [
            "--no-defaults",
            f"--datadir={self.data}",
            f"--init-file={self.data / 'account.sql'}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            # In /tmp, two servers delete each other's temporary tables.
            f"--tmpdir={self.data}",
            "--socket=mariadb.sock",  # relative to the data, whose full path could be too long for a socket
            "--pid-file=mariadb.pid",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--max-connections=300",
            "--innodb-flush-log-at-trx-commit=1",
        ]
        if self._binary_log:
            flags += ["--log-bin=binary-log", "--binlog-format=ROW", "--sync-binlog=1"]
            flags += [f"--server-id={self.port}", "--gtid-strict-mode=1"]
        return [self._mariadbd, *flags, *self._options]


@dataclass(frozen=True)
class MariaDBClient:
    """Speaks to MariaDB or MySQL as the user of its URL, who must be allowed to create databases."""

    base: SplitResult

    @classmethod
    def of(cls, url: str) -> "MariaDBClient":
        return cls(urlsplit(url))

    def url(self, database: str) -> str:
        return urlunsplit(self.base._replace(path=f"/{database}"))

    def answers(self) -> bool:
        try:
            self.run("SELECT 1")
        except MySQLError:
            return False
        return True

    def name_and_version(self) -> str:
        ((version,),) = self.run("SELECT version()")
        number, *marks = version.split("-")
        return f"{'MariaDB' if 'MariaDB' in marks else 'MySQL'} {number}"

    def status(self, *names: str) -> dict[str, int]:
        """Counters of the whole server, by name."""
        wanted = ", ".join(f"'{name}'" for name in names)
        return {
            name: int(value) for name, value in self.run(f"SHOW GLOBAL STATUS WHERE Variable_name IN ({wanted})")
        }

    def exists(self, database: str) -> bool:
        return bool(self.run(f"SHOW DATABASES WHERE `Database` = '{database}'"))

    def create(self, database: str) -> None:
        self.run(f"CREATE DATABASE `{database}` CHARACTER SET utf8mb4")

    def copy(self, source: str, database: str) -> None:
        tables = [table for (table,) in self.run(f"SHOW TABLES IN `{source}`")]
        self.create(database)
        self.run(
            *(f"CREATE TABLE `{database}`.`{table}` LIKE `{source}`.`{table}`" for table in tables),
            *(f"INSERT INTO `{database}`.`{table}` SELECT * FROM `{source}`.`{table}`" for table in tables),
        )

    def drop(self, database: str) -> None:
        # Not DROP ... IF EXISTS: asyncmy prints its note about a missing database.
        if not self.exists(database):
            return
        # An open transaction keeps its tables; DROP would wait for it, in the worst case for ever.
        for thread, _, _, held, *_ in self.run("SHOW FULL PROCESSLIST"):
            if held == database:
                self._end(thread)
        self.run(f"DROP DATABASE `{database}`")

    def _end(self, thread: int) -> None:
        try:
            self.run(f"KILL {thread}")
        except OperationalError as error:
            if error.args[0] != _NO_SUCH_THREAD:  # it went by itself
                raise

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run *statements* on a connection of its own, in autocommit; return the rows of the last one."""
        # On a thread with a loop of its own: asyncmy is async only, and callers may be inside a running loop.
        with ThreadPoolExecutor(max_workers=1) as thread:
            work = asyncio.wait_for(self._execute(statements), _PATIENCE)
            return thread.submit(asyncio.run, work).result()

    async def _execute(self, statements: Sequence[str]) -> list[tuple[Any, ...]]:
        connection = await asyncmy.connect(
            host=self.base.hostname,
            port=self.base.port or 3306,
            user=unquote(self.base.username or ""),
            password=unquote(self.base.password or ""),
            connect_timeout=5,
            autocommit=True,
        )
        async with connection, connection.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)
            return list(await cursor.fetchall())


def _program(name: str) -> str:
    # Debian keeps servers in /usr/sbin, which is not on everybody's PATH.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ServerUnavailable(
            "MariaDB",
            reason=f"{name} is not installed",
            remedy="Run as root: scripts/setup servers (or: apt-get install mariadb-server)",
        )
    return found
