"""MySQL in a process and a directory of our own: what `scripts/setup servers` unpacked, else the PATH's `mysqld`.

MySQL's packages and MariaDB's exclude each other on one machine, so MySQL's are unpacked into the checkout.
"""

import shutil
import signal
import subprocess
from pathlib import Path

from devservers.local import LocalServer
from devservers.mariadb import ACCOUNT, MariaDBClient
from devservers.ports import free_port
from devservers.server import ServerUnavailable

UNPACKED = Path(__file__).parents[1] / ".servers" / "programs" / "mysql"


class MySQLServer(LocalServer):
    """A MySQL server; user and password are `polysaga`, who may do everything.

    It writes a synced binary log with GTIDs, so it can have replicas. TLS is on, with certificates that the server
    made for itself; `ca.pem` in its data folder is the authority.
    """

    product = "MySQL"
    account = "mysql"
    stop_signal = signal.SIGTERM
    first_statements = ACCOUNT

    def __init__(self, directory: Path, *, port: int | None = None, options: tuple[str, ...] = ()) -> None:
        """Raise `ServerUnavailable` if this machine has no MySQL; *options* are added to the command line."""
        self.port = free_port(port)
        self._mysqld, program = _program()
        self._options = options
        client = MariaDBClient.of(f"mysql+asyncmy://polysaga:polysaga@127.0.0.1:{self.port}/?charset=utf8mb4")
        origin = "Debian, unpacked" if program.is_relative_to(UNPACKED) else str(program)
        super().__init__(client, origin=origin, directory=directory, programs=[program])
        self.status, self.run = client.status, client.run

    def _set_up(self) -> None:
        fast = ["--skip-log-bin", "--innodb-flush-method=nosync"]
        self._run(*self._mysqld, "--initialize-insecure", f"--datadir={self.data}", *_SMALL, *fast)
        self._write_first_statements()

    def _write_first_statements(self) -> None:
        # The server's own identity: one that is copied from a template or a primary gets another.
        (self.data / "auto.cnf").unlink(missing_ok=True)
        (self.data / "account.sql").write_text(self.first_statements)

    def _command(self) -> list[str]:
        return [
            *self._mysqld,
            f"--datadir={self.data}",
            f"--init-file={self.data / 'account.sql'}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--mysqlx=0",  # another protocol, on a port of its own
            f"--tmpdir={self.data}",
            "--secure-file-priv=NULL",
            "--socket=mysql.sock",  # relative to the data, whose full path could be too long for a socket
            "--pid-file=mysql.pid",
            "--skip-name-resolve",
            "--max-connections=300",
            # Durable by default, as is the binary log.
            "--log-bin=binary-log",
            "--binlog-expire-logs-seconds=0",
            f"--server-id={self.port}",
            "--gtid-mode=ON",
            "--enforce-gtid-consistency=ON",
            *_SMALL,
            *self._options,
        ]


_SMALL = [
    "--performance-schema=0",
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-buffer-size=1M",
    "--innodb-redo-log-capacity=16M",
]


def _program() -> tuple[list[str], Path]:
    """The beginning of a command, and the program in it."""
    unpacked = UNPACKED / "mysqld"
    if unpacked.exists():
        return [str(unpacked), "--no-defaults", f"--basedir={UNPACKED / 'usr'}"], unpacked
    # Debian keeps servers in /usr/sbin, which is not on everybody's PATH.
    found = shutil.which("mysqld") or shutil.which("mysqld", path="/usr/sbin:/usr/local/sbin")
    if found is None or _is_mariadb(found):
        raise ServerUnavailable(
            "MySQL",
            reason="it was not unpacked into this checkout, and there is no mysqld on the PATH",
            remedy="Run: scripts/setup servers (or set POLYSAGA_TEST_MYSQL_URL)",
        )
    return [found, "--no-defaults"], Path(found)


def _is_mariadb(mysqld: str) -> bool:
    """MariaDB's packages have a program of this name too."""
    told = subprocess.run([mysqld, "--version"], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    return "MariaDB" in told.stdout
