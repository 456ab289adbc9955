"""MySQL and MariaDB, through asyncmy. Where the two differ, executable comments hold the difference."""

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import URL, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState

from polysaga.config import DatabaseSettings
from polysaga.databases.dialects.mysql_options import asyncmy_options
from polysaga.databases.dialects.sending import Rendered, Sealed, StatementResult, Write
from polysaga.databases.dialects.sql import COMMITTED, SqlDialect, is_of
from polysaga.databases.inspection import UNGUARDED, Facts, Finding
from polysaga.databases.positions import Position, parse_gtids, parse_maria_gtid
from polysaga.databases.samples import NodeRole, Sample
from polysaga.faults import Fault
from polysaga.limits import limited

_DRIVER = ("asyncmy", "sqlalchemy")  # where its errors come from; SQLAlchemy's adapter has some of its own
_AN_OPTION_FORBIDS_IT = 1290
_SYNTAX = 1064
_NO_SUCH = 1305  # savepoint, function or procedure
_END_ALL = {1213, 1020, 1206}  # InnoDB rolls back the whole transaction, savepoints included
_SIGNALLED = 1644
_FENCED_STATE = "45P01"  # of a class for conditions of users
_FAULTS = {
    1213: Fault.DEADLOCK,
    1020: Fault.SERIALIZATION,
    1205: Fault.LOCK_TIMEOUT,
    1969: Fault.STATEMENT_TIMEOUT,
    3024: Fault.STATEMENT_TIMEOUT,
    _AN_OPTION_FORBIDS_IT: Fault.READ_ONLY,  # if it is --read-only or --super-read-only
    1792: Fault.READ_ONLY,
    1836: Fault.READ_ONLY,
    1062: Fault.DUPLICATE_KEY,
    1146: Fault.SCHEMA_MISSING,
    1054: Fault.SCHEMA_MISSING,
    1044: Fault.REJECTED,
    1045: Fault.REJECTED,
    1049: Fault.NO_DATABASE,
    1142: Fault.DENIED,
    1143: Fault.DENIED,
    1227: Fault.DENIED,
    1820: Fault.REJECTED,  # the password has expired
    1862: Fault.REJECTED,
    2059: Fault.REJECTED,  # the driver lacks the login plugin
    3118: Fault.REJECTED,  # the account is locked
    3159: Fault.REJECTED,  # the server wants TLS
    1040: Fault.TOO_MANY_CONNECTIONS,
    0: Fault.DISCONNECTED,  # the driver's own: it has closed the connection
    1053: Fault.DISCONNECTED,
    1927: Fault.DISCONNECTED,
    2003: Fault.UNREACHABLE,
    2006: Fault.DISCONNECTED,
    2013: Fault.DISCONNECTED,
    2014: Fault.DISCONNECTED,
    4031: Fault.DISCONNECTED,
    # Transient errors: pressure on the server, and what an administrator ended.
    3: Fault.OUT_OF_RESOURCES,  # the disk is full, as the file system reports
    1021: Fault.OUT_OF_RESOURCES,
    1026: Fault.SERVER_TROUBLE,
    1028: Fault.OUT_OF_RESOURCES,
    1030: Fault.SERVER_TROUBLE,
    1037: Fault.OUT_OF_RESOURCES,
    1038: Fault.OUT_OF_RESOURCES,
    1041: Fault.OUT_OF_RESOURCES,
    1042: Fault.UNREACHABLE,
    1047: Fault.UNREACHABLE,  # a Galera node is not ready
    1077: Fault.DISCONNECTED,
    1078: Fault.DISCONNECTED,
    1079: Fault.DISCONNECTED,
    1114: Fault.OUT_OF_RESOURCES,
    1135: Fault.OUT_OF_RESOURCES,
    1152: Fault.DISCONNECTED,
    1158: Fault.DISCONNECTED,
    1159: Fault.DISCONNECTED,
    1160: Fault.DISCONNECTED,
    1161: Fault.DISCONNECTED,
    1180: Fault.UNKNOWN_COMMIT,
    1184: Fault.DISCONNECTED,
    1203: Fault.TOO_MANY_CONNECTIONS,
    1206: Fault.OUT_OF_RESOURCES,
    1226: Fault.TOO_MANY_CONNECTIONS,
    1317: Fault.STATEMENT_TIMEOUT,  # KILL QUERY
    1412: Fault.STALE_PLAN,
    1614: Fault.DEADLOCK,
    1615: Fault.STALE_PLAN,
    1637: Fault.OUT_OF_RESOURCES,
    1689: Fault.LOCK_TIMEOUT,
    1815: Fault.SERVER_TROUBLE,
    1878: Fault.OUT_OF_RESOURCES,
    3058: Fault.DEADLOCK,
    3101: Fault.SERIALIZATION,  # group replication rolled it back
    3168: Fault.UNREACHABLE,
    3572: Fault.LOCK_TIMEOUT,  # NOWAIT
}

# A server's errors at the init commands of a URL: syntax, privileges, names and values of variables.
_MISFITS = {1064, 1193, 1227, 1229, 1231, 1232, 1238}

# Without a character set and a collation a column would get those of the database, which can be any. Text that
# does not fit would be stored as question marks, and a comparison with a column of ours would be an error.
_GIVEN = {
    "uuid": "char(36) CHARACTER SET ascii COLLATE ascii_bin",
    "text": "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "bigint": "bigint",
}
_NOTHING = "left('-', 0)"  # '' is NULL where MariaDB's sql_mode has EMPTY_STRING_IS_NULL
_IN_TRANSACTION = 1  # in the status that the server sends with each answer (SERVER_STATUS_IN_TRANS)
_OFF = {"0", "OFF"}
# MariaDB keeps replayed transactions and its own apart. MySQL has one set for both; the set stands still unless
# new transactions get GTIDs.
_SAMPLE = Rendered(
    "SELECT @@global.read_only, @@global.log_bin, "
    "/*M!100301 concat('ma', @@global.gtid_slave_pos), concat('ma', @@global.gtid_current_pos) */"
    "/*!80000 concat('my', if(left(@@global.gtid_mode, 2) = 'ON', @@global.gtid_executed, '')), "
    "concat('my', if(left(@@global.gtid_mode, 2) = 'ON', @@global.gtid_executed, '')) */",
    (),
    answers=True,
)


@lru_cache
def _block(statements: tuple[str, ...]) -> str:
    """Return the statement of MariaDB that runs *statements*, each of which must change one row, and commits."""
    fenced = f"IF ROW_COUNT() <> 1 THEN SIGNAL SQLSTATE '{_FENCED_STATE}'; END IF; "
    return f"BEGIN NOT ATOMIC {''.join(f'{sql}; {fenced}' for sql in statements)}COMMIT; END"


def _position(told: str) -> Position | None:
    kind, text = told[:2], told[2:]
    if not text:
        return None  # no GTIDs at all
    return parse_maria_gtid(text) if kind == "ma" else parse_gtids(text)


_NO_GTIDS = Finding(
    "it keeps no GTIDs, so it is unknown which replica has what a client wrote",
    "start it with log_bin (MariaDB, MySQL) and gtid_mode = ON (MySQL)",
)

_NO_GTIDS_YET = Finding(
    "it has applied nothing by GTID so far, and is not read from before",
    "if that stays so: MASTER_USE_GTID = slave_pos (MariaDB), SOURCE_AUTO_POSITION = 1 (MySQL)",
    fatal=False,
)

_STATEMENTS_LOGGED = Finding(
    "it logs statements, and refuses every write under READ COMMITTED then",
    "set binlog_format = ROW, which is the default, or MIXED",
)
_PACKET = 4 << 20  # bytes; the default of servers before MySQL 8.0 and MariaDB 10.2

# Codes with texts that name objects and conditions, never values.
_PLAIN_CODES = {
    *(1040, 1044, 1045, 1046, 1048, 1049, 1053, 1054, 1114, 1142, 1146, 1153, 1158, 1159, 1160, 1161, 1180, 1203),
    *(1205, 1213, 1226, 1264, 1290, 1305, 1317, 1364, 1406, 1412, 1451, 1452, 1615, 1637, 1792, 1836, 3024, 3572),
    4025,
}
_KEY = re.compile(r"for (key) '([^']*)'\Z")
_COLUMN = re.compile(r"for (column) (?:`[^`]*`\.)*[`']([^`']*)[`'] at row \d+\Z")


def _small_packets(size: int) -> Finding:
    return Finding(
        f"it takes statements of {size:,} bytes at most: a saga whose input or results are larger is refused",
        "raise max_allowed_packet; 16M is enough for most",
        fatal=False,
    )


class MySQL(SqlDialect):
    """READ COMMITTED throughout: under REPEATABLE READ a claim locks the gap for inserts of new sagas."""

    name = "mysql"
    extra: ClassVar[str] = "mysql"
    clock = "utc_timestamp(6)"
    statement_clock = "utc_timestamp(6)"
    returns_rows = False
    rolls_back_on_return = False  # `prepare` does it where it is needed

    def __init__(self) -> None:
        self._blocks = True  # MariaDB's servers run blocks of statements

    def later(self, seconds: str) -> str:
        return f"utc_timestamp(6) + INTERVAL cast({seconds} * 1000000 AS SIGNED) MICROSECOND"

    def ago(self, seconds: str) -> str:
        return f"utc_timestamp(6) - INTERVAL cast({seconds} * 1000000 AS SIGNED) MICROSECOND"

    def seconds_until(self, moment: str) -> str:
        return f"timestampdiff(MICROSECOND, utc_timestamp(6), {moment}) / 1000000e0"

    def rows_of(self, columns: Mapping[str, str]) -> str:
        typed = ", ".join(f"{name} {_GIVEN[kind]} PATH '$.{name}'" for name, kind in columns.items())
        return f"json_table(:rows, '$[*]' COLUMNS ({typed})) AS given"

    def key_of(self, column: str) -> str:
        return f"unhex(replace({column}, '-', {_NOTHING}))"

    def key(self, value: UUID) -> Any:
        return value.bytes

    def key_from(self, value: Any) -> UUID:
        return UUID(bytes=bytes(value))

    def options(self, url: URL) -> dict[str, Any]:
        return asyncmy_options(url)

    def engine_arguments(self, url: URL, settings: DatabaseSettings) -> dict[str, Any]:
        theirs = self.options(url)
        idle = max(1, round(settings.idle_transaction_timeout))  # 0 would mean no limit
        lock = max(1, round(settings.lock_timeout))
        # MySQL has no limit for idle transactions (it skips a comment that begins with M!), but one for idle
        # connections. By the server's default a frozen owner's locks would last 8 hours. The limit also ends idle
        # connections in the pool, which asks before it lends (docs/decisions/0005).
        limits = (
            f"SET SESSION time_zone = '+00:00', innodb_lock_wait_timeout = {lock}, "
            f"net_write_timeout = {idle}, net_read_timeout = {idle}"
            f"/*M!100301 , idle_transaction_timeout = {idle} */"
            f"/*!80000 , wait_timeout = {idle} */"
            # The driver escapes bytes, such as ids, with backslashes, whether the server accepts them or not.
            f", sql_mode = replace(@@sql_mode, 'NO_BACKSLASH_ESCAPES', {_NOTHING})"
        )
        # The driver would encode text as Latin-1; the servers' own clients send UTF-8, as a terminal does.
        password = {} if url.password is None else {"password": url.password.encode()}
        return {
            "isolation_level": "READ COMMITTED",
            "connect_args": {
                **theirs,
                **password,
                # Ours come last and win. The line break ends a comment at the end of the URL's commands.
                "init_command": f"{theirs['init_command']}\n;{limits}" if "init_command" in theirs else limits,
                "connect_timeout": max(1, round(settings.pool.connect_timeout)),
            },
        }

    def refusing_writes(self, connect: dict[str, Any]) -> dict[str, Any]:
        # MariaDB skips MySQL's comments from 50700 to 99999, MySQL those that begin with M!.
        # Connections for reads and for probes hold no locks, so they may stay idle as long as the server allows.
        read_only = (
            "/*M!100301 , tx_read_only = 1 */"
            "/*!80000 , transaction_read_only = 1, wait_timeout = @@global.wait_timeout */"
        )
        return {**connect, "init_command": connect["init_command"] + read_only}

    def prepare(self, engine: AsyncEngine, *, read_only: bool) -> None:
        @event.listens_for(engine.sync_engine, "reset")
        def roll_back(
            connection: DBAPIConnection, record: ConnectionPoolEntry | None, state: PoolResetState
        ) -> None:
            # The rollback is a round trip; a step that has just committed saves it.
            has_committed = record is not None and record.info.pop(COMMITTED, False)
            is_open = record is None or record.dbapi_connection is connection
            if not has_committed and not state.terminate_only and is_open:
                connection.rollback()

    def connector(self, adapter: Any) -> Callable[..., Any]:
        driver = adapter.asyncmy

        async def log_in(*positional: Any, connect_timeout: int, **named: Any) -> Any:
            # The driver's own limit covers only the TCP connection, which a frozen server's kernel accepts.
            login = asyncio.ensure_future(driver.connect(*positional, connect_timeout=connect_timeout, **named))
            try:
                return await limited(login, connect_timeout)
            except asyncio.CancelledError:
                self.discard_what_comes(login)
                raise
            except TimeoutError as error:
                self.discard_what_comes(login)
                raise TimeoutError(f"no answer in {connect_timeout} s") from error

        return log_in

    def lost_at(self, error: BaseException, driver: Any) -> bool:
        return _code(error) in _END_ALL

    def misses_savepoint(self, error: BaseException, driver: Any) -> bool:
        return _code(error) == _NO_SUCH and str(error.args[-1]).startswith("SAVEPOINT ")

    def in_transaction(self, driver: Any) -> bool:
        return bool(driver.server_status & _IN_TRANSACTION)

    def cut(self, driver: Any) -> None:
        driver.close()  # closes the socket only; `ensure_closed` would notify the server

    def hindrance(self, error: BaseException) -> str | None:
        if isinstance(error, RuntimeError) and "package is required" in str(error):
            return f"install it (pip install 'polysaga[{self.extra}]' brings cryptography)"
        # Network errors come with a number; these are about files, before anything is sent.
        if isinstance(error, ssl.SSLError | FileNotFoundError | PermissionError):
            return "check the files that ssl_ca, ssl_cert and ssl_key in the URL name"
        return None

    async def sample(self, driver: Any) -> Sample:
        ((read_only, logs, replayed, written),) = (await self.send(driver, _SAMPLE, {})).rows
        if str(read_only) not in _OFF:
            return Sample(NodeRole.REPLICA, _position(replayed))
        return Sample(NodeRole.PRIMARY, None if str(logs) in _OFF else _position(written))

    unique_sql = (
        "SELECT index_name, column_name FROM information_schema.statistics "
        "WHERE table_schema = database() AND table_name = :named AND non_unique = 0"
    )
    may_create = "PREPARE polysaga_check FROM 'CREATE TABLE polysaga_check (id INT)'"  # it is never executed
    facts_sql = (
        "SELECT version(), unix_timestamp(now(6)), @@global.read_only, @@global.log_bin, "
        "@@global.max_allowed_packet, "
        "/*M!100301 @@global.binlog_format, "
        "@@session.tx_read_only, 'ON', length(@@global.gtid_slave_pos) > 0 */"
        # MySQL warns of the expression @@global.binlog_format, and will drop the variable.
        "/*!80000 (SELECT variable_value FROM performance_schema.global_variables "
        "WHERE variable_name = 'binlog_format'), "
        "@@session.transaction_read_only, @@global.gtid_mode, @@global.gtid_executed <> '' */"
    )

    def facts(self, row: Sequence[Any], *, replicas: bool) -> Facts:
        version, clock, replica, logs, packet, logged, read_only, mode, replayed = row
        guarded, replica = str(read_only) not in _OFF, str(replica) not in _OFF
        found = [] if guarded else [UNGUARDED]
        if str(logs) not in _OFF and not replica and str(logged).upper() == "STATEMENT":
            found.append(_STATEMENTS_LOGGED)
        if int(packet) < _PACKET:
            found.append(_small_packets(int(packet)))
        if replicas and not replica and (str(logs) in _OFF or not str(mode).upper().startswith("ON")):
            found.append(_NO_GTIDS)
        if replicas and replica and not replayed:
            found.append(_NO_GTIDS_YET)
        return Facts(str(version), float(clock), guarded, tuple(found))

    async def capture(self, driver: Any) -> Position | None:
        sample = await self.sample(driver)
        return sample.position if sample.role is NodeRole.PRIMARY else None

    async def send(self, driver: Any, statement: Rendered, values: Mapping[str, Any]) -> StatementResult:
        cursor = driver.cursor()
        try:
            await cursor.execute(statement.sql, statement.bind(values))
            rows = await cursor.fetchall() if statement.answers else ()
            return StatementResult(rows, cursor.rowcount)
        finally:
            await cursor.close()

    async def seal(self, driver: Any, writes: Sequence[Write]) -> Sealed:
        """Send *writes* and COMMIT to MariaDB as one block, which saves a round trip for each of them.

        A block is one statement: a step needs no flag of the connection that would let it send several. The block
        ends at its first error, before COMMIT, and signals an error itself if a write does not change one row.
        """
        if not self.seals_with_commit(driver):
            return await self.write(driver, writes)
        values = [value for write in writes for value in write.statement.bind(write.values)]
        cursor = driver.cursor()
        try:
            await cursor.execute(_block(tuple([write.statement.sql for write in writes])), values)
        except Exception as error:  # border: what a driver raises has no common class
            code = _code(error)
            if code == _SIGNALLED:
                return Sealed.FENCED
            if code == _SYNTAX:
                self._blocks = False  # a proxy that gives itself out for MariaDB
                return await self.write(driver, writes)
            raise
        finally:
            await cursor.close()
        # asyncmy leaves its status as it was if the server's has no flag.
        driver.server_status &= ~_IN_TRANSACTION
        return Sealed.COMMITTED

    def seals_with_commit(self, driver: Any) -> bool:
        return self._blocks and "MariaDB" in driver.get_server_info()

    def moment(self, value: datetime) -> Any:
        return value.astimezone(UTC).replace(tzinfo=None)

    def _placeholder(self, name: str, order: list[str]) -> str:
        order.append(name)
        return "%s"

    def said(self, error: BaseException) -> str | None:
        if not is_of(error, "asyncmy"):
            return None
        name, code = type(error).__name__, _code(error)
        if code is None:
            return name
        text = str(error.args[-1])
        if code in _PLAIN_CODES or 2000 <= code < 3000:  # 2...: the client's own, about the connection
            return f"{name} ({code}): {text}"
        place = _KEY.search(text) or _COLUMN.search(text)
        return f"{name} ({code})" if place is None else f"{name} ({code}), {place[1]} {place[2]}"

    def _misfit(self, error: BaseException) -> bool:
        return _code(error) in _MISFITS

    def _code_fault(self, error: BaseException) -> Fault | None:
        if not is_of(error, *_DRIVER):
            return Fault.DISCONNECTED if isinstance(error, ConnectionError) else None
        code = _code(error)
        if code is None or (code == _AN_OPTION_FORBIDS_IT and "read-only" not in str(error)):
            return None
        return _FAULTS.get(code)


def _code(error: BaseException) -> int | None:
    """Return the number of the driver's *error*; None if it has none, or is not the driver's."""
    if not is_of(error, *_DRIVER):
        return None
    code = error.args[0] if error.args else None
    return code if isinstance(code, int) else None
