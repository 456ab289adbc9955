"""Replicas that stream from a server of our own, with the controls that tests of staleness and failover need.

    with PostgresServer(home / "primary") as primary, PostgresReplica(primary, home / "replica") as replica:
        replica.pause()     # what is committed from now on is not seen here ...
        replica.resume()    # ... until now
        replica.delay(0.5)  # what is committed is seen here half a second later

A replica is copied from its primary when it is first started. One that was promoted is a primary for good.
"""

import re
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asyncmy.errors import MySQLError
from psycopg import sql

from devservers.local import LocalServer
from devservers.mariadb import ACCOUNT, MariaDBClient, MariaDBServer
from devservers.mysql import MySQLServer
from devservers.postgres import PostgresServer
from polysaga.clock import Clock

_PATIENCE = 60.0  # seconds for the thread of a delayed replica to end
_TICK = 0.05  # seconds between two looks at the primary of a delayed replica that follows by GTID


class Replica(LocalServer):
    """What every replica can be told."""

    @abstractmethod
    def pause(self) -> None:
        """Return when what the primary commits from now on is not seen here any more."""

    @abstractmethod
    def resume(self) -> None:
        """End a pause."""

    @abstractmethod
    def delay(self, seconds: float) -> None:
        """Show commits here *seconds* after they happened, or a little later; 0 for at once."""

    @abstractmethod
    def promote(self) -> None:
        """Return when this server takes writes; it follows no other any more."""

    @abstractmethod
    def catch_up(self) -> None:
        """Return when all that the primary has committed by now is seen here."""

    def leave(self) -> None:
        """Stop, and be forgotten by the primary: what it commits meanwhile is not kept for this server."""
        self.stop()

    def heal(self) -> None:
        """Take back what was done to it: return when it runs, at full speed, and has caught up."""
        self.thaw()
        self.start()
        self.resume()
        self.delay(0)
        self.catch_up()


class PostgresReplica(Replica, PostgresServer):
    """A hot standby that streams through a replication slot of its own."""

    def __init__(self, primary: PostgresServer, directory: Path, *, port: int | None = None) -> None:
        super().__init__(directory, port=port)
        self.primary = primary
        # Not after its port: a copy of a primary has the slots of the original.
        self._slot = re.sub(r"\W", "_", directory.name.lower())

    def pause(self) -> None:
        self._say("SELECT pg_wal_replay_pause()")
        self._until(lambda: self._tells("SELECT pg_get_wal_replay_pause_state() = 'paused'"), "replay is paused")

    def resume(self) -> None:
        self._say("SELECT pg_wal_replay_resume()")

    def delay(self, seconds: float) -> None:
        self._say(f"ALTER SYSTEM SET recovery_min_apply_delay = '{round(seconds * 1000)}ms'")
        self._say("SELECT pg_reload_conf()")

    def promote(self) -> None:
        self._say("SELECT pg_promote()")

    def catch_up(self) -> None:
        # The insert position can lie behind the header of a page that nothing is written to yet: no replica gets
        # there before the next record. What is flushed ends with a record.
        self.primary.run(sql.SQL("SELECT pg_logical_emit_message(true, 'polysaga', '')"))
        ((position,),) = self.primary.run(sql.SQL("SELECT pg_current_wal_flush_lsn()::text"))
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{position}'"
        self._until(lambda: self._tells(replayed), f"{position} is replayed")

    def follow(self, primary: PostgresServer) -> None:
        """Stream from another server, such as one that was promoted; the server restarts."""
        self.primary = primary
        self.stop()
        self.start()

    def leave(self) -> None:
        super().leave()
        dropped = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {}"
        self.primary.run(sql.SQL(dropped).format(sql.Literal(self._slot)))

    def start(self) -> None:
        self._slot_there()
        super().start()

    def _set_up(self) -> None:
        address = f"host=127.0.0.1 port={self.primary.port} user=polysaga"
        self._run(
            *(self.programs / "pg_basebackup", "-D", self.data, "-d", address),
            *("-X", "stream", "-S", self._slot, "-c", "fast"),
        )
        (self.data / "standby.signal").touch()
        if self._account is not None:
            self._account.owns(self.data / "standby.signal")

    def _settings(self) -> dict[str, str]:
        # On the command line, for the primary's port may be another one tomorrow.
        streaming = {
            "primary_conninfo": f"host=127.0.0.1 port={self.primary.port} user=polysaga",
            "primary_slot_name": self._slot,
            "hot_standby": "on",
            "hot_standby_feedback": "on",  # no query here is cancelled for a vacuum there
            "wal_retrieve_retry_interval": "200ms",
        }
        return super()._settings() | streaming

    def _slot_there(self) -> None:
        missing = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = {})"
        slot = sql.Literal(self._slot)
        if self.primary.run(sql.SQL(missing).format(slot)):
            self.primary.run(sql.SQL("SELECT pg_create_physical_replication_slot({}, true)").format(slot))

    def _say(self, statement: str) -> None:
        self.run(sql.SQL(statement))

    def _tells(self, question: str) -> bool:
        return self.run(sql.SQL(question)) == [(True,)]


_KEEPER = (
    ACCOUNT
    + """\
SET GLOBAL sql_notes = 0;
CREATE USER IF NOT EXISTS 'keeper'@'%' IDENTIFIED BY 'keeper';
GRANT ALL PRIVILEGES ON *.* TO 'keeper'@'%' WITH GRANT OPTION;
REVOKE {} ON *.* FROM 'polysaga'@'%';
"""
)  # asyncmy prints notes, such as "Slave already has been stopped"


class GtidReplica(Replica):
    """A read-only server that follows by GTID; `polysaga` cannot write here, `keeper` can."""

    primary: MariaDBServer | MySQLServer
    run: Callable[..., list[tuple[Any, ...]]]

    def _keep(self, port: int) -> None:
        self._promoted = self.directory / "promoted"
        self._delaying: _Delay | None = None
        self._keeper = MariaDBClient.of(f"mysql+asyncmy://keeper:keeper@127.0.0.1:{port}/")

    def pause(self) -> None:
        self.say("STOP REPLICA SQL_THREAD")

    def resume(self) -> None:
        self.say("START REPLICA")

    def delay(self, seconds: float) -> None:
        if self._delaying is not None:
            self._delaying.stop()
            self._delaying = None
            self.resume()
        if seconds:
            self._delaying = _Delay(self, seconds)

    def promote(self) -> None:
        self.say("STOP REPLICA", "RESET REPLICA ALL", "SET GLOBAL read_only = 0")
        self._promoted.touch()

    def catch_up(self) -> None:
        position = self.position_of_primary()
        self._until(lambda: self._has_applied(position), f"{position} is applied")

    def _state(self) -> str:
        lines = [f"{super()._state()}\n"]
        for row in self._keeper.run("SHOW REPLICA STATUS"):
            lines += [str(value) for value in row if isinstance(value, str) and " " in value]
        return "\n".join(lines)

    def stop(self) -> None:
        if self._delaying is not None:
            self._delaying.stop()
            self._delaying = None
        super().stop()

    def say(self, *statements: str) -> None:
        """Run *statements* as an account that may administer the server."""
        self._keeper.run(*statements)

    @abstractmethod
    def position_of_primary(self) -> str:
        """What the primary has committed by now, as GTIDs."""

    @abstractmethod
    def apply_until(self, position: str) -> None:
        """Go on with a stopped replication as far as *position*."""

    @abstractmethod
    def _has_applied(self, position: str) -> bool: ...

    @abstractmethod
    def _point_to_primary(self) -> None: ...

    def _copy_primary(self, *without: str) -> None:
        self.primary.start()
        # Copied cold: no program beyond the server is needed.
        self.primary.stop()
        parts = [part for part in self.primary.data.iterdir() if not part.name.startswith(without)]
        self._run("cp", "-a", *parts, self.data)
        self.primary.start()


class MariaDBReplica(GtidReplica, MariaDBServer):
    """A MariaDB server that follows another one."""

    primary: MariaDBServer

    def __init__(self, primary: MariaDBServer, directory: Path, *, port: int | None = None) -> None:
        """*primary* must write a binary log; it is restarted when the replica is made."""
        super().__init__(directory, port=port, binary_log=True)
        self.primary = primary
        self._keep(self.port)

    def follow(self, primary: MariaDBServer) -> None:
        """Replicate from another server from now on, such as one that was promoted."""
        self.primary = primary
        self._point_to_primary()

    def position_of_primary(self) -> str:
        ((position,),) = self.primary.run("SELECT @@global.gtid_binlog_pos")
        return str(position)

    def apply_until(self, position: str) -> None:
        self.say(f"START SLAVE UNTIL master_gtid_pos = '{position}'")

    def _has_applied(self, position: str) -> bool:
        return self.run(f"SELECT MASTER_GTID_WAIT('{position}', 1)") == [(0,)]

    def _set_up(self) -> None:
        self.primary.start()
        ((position,),) = self.primary.run("SELECT @@global.gtid_current_pos")
        self._copy_primary("binary-log", "account")
        (self.data / "account.sql").write_text(_KEEPER.format("READ ONLY ADMIN, SUPER"))
        (self.directory / "copied-at").write_text(position)

    def _command(self) -> list[str]:
        flags = ["--log-slave-updates=1", "--relay-log=relay-log", "--skip-slave-start", "--slave-net-timeout=10"]
        return [*super()._command(), *flags, f"--read-only={int(not self._promoted.exists())}"]

    def _first_words(self) -> None:
        if self._promoted.exists():
            return
        ((position,),) = self.run("SELECT @@global.gtid_slave_pos")
        copied_at = (self.directory / "copied-at").read_text()
        if not position and copied_at:
            self.say(f"SET GLOBAL gtid_slave_pos = '{copied_at}'")
        self._point_to_primary()

    def _point_to_primary(self) -> None:
        self.say(
            "STOP SLAVE",
            f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {self.primary.port}, "
            "MASTER_USER = 'polysaga', MASTER_PASSWORD = 'polysaga', MASTER_USE_GTID = slave_pos, "
            "MASTER_CONNECT_RETRY = 1",
            "START SLAVE",
        )


class MySQLReplica(GtidReplica, MySQLServer):
    """A MySQL server that follows another one."""

    primary: MySQLServer
    first_statements = _KEEPER.format("SUPER, CONNECTION_ADMIN")

    def __init__(self, primary: MySQLServer, directory: Path, *, port: int | None = None) -> None:
        """*primary* is restarted when the replica is made."""
        super().__init__(directory, port=port)
        self.primary = primary
        self._keep(self.port)

    def follow(self, primary: MySQLServer) -> None:
        """Replicate from another server from now on, such as one that was promoted."""
        self.primary = primary
        self._point_to_primary()

    def position_of_primary(self) -> str:
        ((position,),) = self.primary.run("SELECT replace(@@global.gtid_executed, '\n', '')")
        return str(position)

    def apply_until(self, position: str) -> None:
        self.say(f"START REPLICA UNTIL SQL_AFTER_GTIDS = '{position}'")

    def _has_applied(self, position: str) -> bool:
        return self.run(f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{position}', 1)") == [(0,)]

    def _set_up(self) -> None:
        # Which GTIDs it has is in a table of the server's, and so in the copy.
        self._copy_primary("binary-log", "account")
        self._write_first_statements()

    def _command(self) -> list[str]:
        flags = ["--relay-log=relay-log", "--skip-replica-start", "--replica-net-timeout=10"]
        return [*super()._command(), *flags, f"--read-only={int(not self._promoted.exists())}"]

    def _first_words(self) -> None:
        if not self._promoted.exists():
            self._point_to_primary()

    def _point_to_primary(self) -> None:
        self.say(
            "STOP REPLICA",
            f"CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {self.primary.port}, "
            "SOURCE_USER = 'polysaga', SOURCE_PASSWORD = 'polysaga', SOURCE_AUTO_POSITION = 1, "
            "SOURCE_CONNECT_RETRY = 1, GET_SOURCE_PUBLIC_KEY = 1",
            "START REPLICA",
        )


class _Delay:
    """Applies what the primary had committed some time ago: the servers know delays of whole seconds only."""

    def __init__(self, replica: GtidReplica, seconds: float) -> None:
        self._replica, self._seconds = replica, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._apply, name="delayed replica", daemon=True)
        replica.say("STOP REPLICA")
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(_PATIENCE)
        self._replica.say("STOP REPLICA")

    def _apply(self) -> None:
        clock, seen, shown = Clock(), deque[tuple[float, str]](), ""
        while not self._over.wait(_TICK):
            try:
                now = clock.monotonic()
                position = self._replica.position_of_primary()
                seen.append((clock.monotonic(), position))
                while len(seen) > 1 and seen[1][0] <= now - self._seconds:
                    seen.popleft()
                ripe = seen[0][1] if seen[0][0] <= now - self._seconds else shown
                if ripe != shown:
                    self._replica.say("STOP REPLICA")
                    self._replica.apply_until(ripe)
                    shown = ripe
            except MySQLError:
                continue  # one of the two is down; nothing new is shown
