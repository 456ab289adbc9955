"""PostgreSQL 14 and later, through asyncpg or psycopg 3. The URL selects the driver; both report SQLSTATEs."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncEngine

from polysaga.config import DatabaseSettings
from polysaga.databases.dialects import postgres_options
from polysaga.databases.dialects.sending import Rendered, Sealed, Write
from polysaga.databases.dialects.sql import SqlDialect, is_of
from polysaga.databases.driver_errors import errors_of_use, known
from polysaga.databases.inspection import UNGUARDED, Facts, Finding
from polysaga.databases.positions import Epoch, Lsn, Position, parse_lsn
from polysaga.databases.samples import NodeRole, Sample
from polysaga.faults import Fault

_FAULTS = {
    "40001": Fault.SERIALIZATION,
    "40P01": Fault.DEADLOCK,
    "40003": Fault.UNKNOWN_COMMIT,
    "08007": Fault.UNKNOWN_COMMIT,
    "72000": Fault.SERIALIZATION,  # snapshot too old
    "55P03": Fault.LOCK_TIMEOUT,
    "55006": Fault.LOCK_TIMEOUT,  # object in use
    "57014": Fault.STATEMENT_TIMEOUT,
    "25006": Fault.READ_ONLY,
    "23505": Fault.DUPLICATE_KEY,
    "42P01": Fault.SCHEMA_MISSING,
    "42703": Fault.SCHEMA_MISSING,
    "28000": Fault.REJECTED,
    "28P01": Fault.REJECTED,
    "3D000": Fault.NO_DATABASE,
    "42501": Fault.DENIED,
    "53300": Fault.TOO_MANY_CONNECTIONS,
    "25P03": Fault.DISCONNECTED,
    "25P04": Fault.DISCONNECTED,
    "57P01": Fault.DISCONNECTED,
    "57P02": Fault.DISCONNECTED,
    "57P03": Fault.UNREACHABLE,
    "57P04": Fault.DISCONNECTED,
    "57P05": Fault.DISCONNECTED,
    "08001": Fault.UNREACHABLE,
    "08004": Fault.UNREACHABLE,
    "HV00N": Fault.UNREACHABLE,  # of a foreign server
    "26000": Fault.STALE_PLAN,
    "42P05": Fault.STALE_PLAN,
    "XX000": Fault.SERVER_TROUBLE,
}
# psycopg's errors have no code while it connects. PgBouncer uses the code of a protocol violation for all that it
# tells its clients, also for what the server tells it at login.
_TOLD_IN_WORDS = {None, "08P01"}
_NO_DATABASE = re.compile(r'database ".*" does not exist|no such database')
_FULL = re.compile(
    r"FATAL:\s+(sorry, too many clients|too many connections|remaining connection slots)"
    "|no more connections allowed"
)
# SQLSTATEs, and classes of them, with texts that name objects and conditions, never values.
_PLAIN_CODES = {"42P01", "42703", "42883", "42501", "42P07", "42701", "23502"}
_PLAIN_CLASSES = {"08", "25", "28", "3D", "3F", "40", "53", "55", "57", "58"}
# The part of a text before a value: the parameter it was bound to, or the type it should have had.
_BEFORE_VALUE = re.compile(r"invalid input (?:for query argument \$\d+|syntax for type [a-z ]+)")
# The meaning of the other codes of a class; all are transient.
_CLASSES = {
    "08": Fault.DISCONNECTED,
    "40": Fault.SERIALIZATION,
    "53": Fault.OUT_OF_RESOURCES,
    "57": Fault.SERVER_TROUBLE,
    "58": Fault.SERVER_TROUBLE,
}
_STALE = {"InvalidCachedStatementError", "OutdatedSchemaCacheError"}  # asyncpg's
# psycopg's errors have no code for the server's answers at login, and none for libpq's own messages.
_MISFIT_CODES = {"22023", "42501", "42704"}
_MISFIT = re.compile(
    "unrecognized configuration parameter|invalid value for parameter|permission denied to set parameter|"
    "invalid connection option|invalid [a-z_]+ value|SSL was required|rejected SSL upgrade|"
    "root certificate|certificate verify failed|does not match host name|no pg_hba.conf entry|channel binding"
)

# The insert position covers a commit's writes even with synchronous_commit off. A primary's timeline is in the
# name of its segment; the control file shows a promotion only after the next checkpoint. A replica's timeline is
# the latest that it is known to have replayed or received: a lower bound for accounts that may not see all.
_TIMELINE_OF_PRIMARY = "substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
_SYSTEM = "(SELECT system_identifier::text FROM pg_control_system())"
_CAPTURE = Rendered(
    f"SELECT pg_current_wal_insert_lsn()::text, {_TIMELINE_OF_PRIMARY}, {_SYSTEM}", (), answers=True
)
_SAMPLE = Rendered(
    "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() "
    "ELSE pg_current_wal_insert_lsn() END::text, CASE WHEN pg_is_in_recovery() THEN to_hex(greatest("
    "(SELECT timeline_id FROM pg_control_checkpoint()), "
    "(SELECT min_recovery_end_timeline FROM pg_control_recovery()), "
    f"(SELECT received_tli FROM pg_stat_wal_receiver))) ELSE {_TIMELINE_OF_PRIMARY} END, {_SYSTEM}",
    (),
    answers=True,
)

_SET = "SELECT set_config(given.key, given.value, false) FROM json_each_text(cast(:settings AS json)) AS given"
_SESSION = Rendered("SELECT pg_backend_pid()", (), answers=True)
WAITS = 19  # the first version with WAIT FOR LSN
_FACTS = """
SELECT current_setting('server_version'), extract(epoch FROM clock_timestamp())::float8,
    current_setting('transaction_read_only') = 'on', pg_is_in_recovery(),
    (SELECT string_agg(name, ', ' ORDER BY name) FROM unnest(ARRAY[
        'pg_control_checkpoint()', 'pg_control_recovery()', 'pg_control_system()'
    ]) AS name WHERE NOT has_function_privilege(name, 'EXECUTE')),
    pg_has_role('pg_read_all_stats', 'USAGE'), current_setting('synchronous_standby_names') <> '',
    to_regclass('polysaga_journal') IS NOT NULL
"""
_NO_STANDBY = Finding(
    "the journal is replicated asynchronously: a failover can lose sagas whose start was acknowledged",
    "name a standby in synchronous_standby_names",
    fatal=False,
)


class Postgres(SqlDialect):
    """What both drivers share."""

    name = "postgresql"
    # statement_timestamp() is taken before lock waits, so it would shorten a lease; clock_timestamp() is
    # volatile, so it would not use an index. Hence one for setting and one for comparing.
    clock = "clock_timestamp()"
    statement_clock = "statement_timestamp()"
    free_autocommit = True

    def later(self, seconds: str) -> str:
        return f"clock_timestamp() + make_interval(secs => cast({seconds} AS double precision))"

    def ago(self, seconds: str) -> str:
        return f"statement_timestamp() - make_interval(secs => cast({seconds} AS double precision))"

    def seconds_until(self, moment: str) -> str:
        return f"cast(extract(epoch FROM {moment} - clock_timestamp()) AS double precision)"

    def rows_of(self, columns: Mapping[str, str]) -> str:
        # json, not jsonb: jsonb refuses a NUL character anywhere in the text.
        typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        return f"json_to_recordset(cast(:rows AS json)) AS given({typed})"

    def key(self, value: UUID) -> Any:
        return value

    def key_from(self, value: Any) -> UUID:
        return UUID(int=value.int)  # asyncpg returns a UUID class of its own

    def address(self, url: URL) -> URL:
        return postgres_options.address(url)

    def refuses_settings(self, error: BaseException) -> bool:
        return "unsupported startup parameter" in str(error)

    async def behind_pooler(self, driver: Any) -> bool:
        # A pooler gives its clients session numbers of its own, for cancel requests.
        return await self.session_of(driver) != self._told_session(driver)

    async def session_of(self, driver: Any) -> int:
        ((session,),) = (await self.send(driver, _SESSION, {})).rows
        return int(session)

    def mixes_sessions(self, error: BaseException) -> bool:
        # A prepared statement belongs to another session, or PgBouncer reports statement pooling.
        return self._code_fault(error) is Fault.STALE_PLAN or "statement pooling mode" in str(error)

    async def set_session(self, driver: Any, settings: Mapping[str, str]) -> None:
        await self.send(driver, self.render(_SET), {"settings": json.dumps(settings)})

    def _told_session(self, driver: Any) -> int:
        raise NotImplementedError

    def prepare(self, engine: AsyncEngine, *, read_only: bool) -> None:
        if not read_only:
            return
        errors = errors_of_use(engine.sync_engine.dialect)

        @event.listens_for(engine.sync_engine, "do_execute")
        def execute(cursor: Any, statement: str, values: Any, context: Any) -> bool:
            connection = context.root_connection.connection.dbapi_connection
            if not connection.autocommit:
                return False  # the error aborts the transaction, which would have to be repeated from its start
            if cursor.server_side:
                try:
                    self._begin(connection)  # the server has cursors in transactions only
                except errors as error:
                    raise known(connection, error, errors) from error
                return False
            try:
                cursor.execute(statement, values)
            except connection.dbapi.Error as error:
                stale = self._code_fault(error.__cause__ or error) is Fault.STALE_PLAN
                if not stale or self.in_transaction(connection.driver_connection):  # which a stream has begun
                    raise
                context.handle_dbapi_exception(error)  # SQLAlchemy drops its statements on all connections,
                context.pre_exec()
                self._forget_plans(cursor)  # and the driver drops those of this one
                cursor.execute(statement, values)
            return True

    def _begin(self, adapted: Any) -> None:
        """Begin a transaction on a connection that commits by itself, unless one is open.

        SQLAlchemy's rollback, when the connection goes back to its pool, ends it.
        """
        raise NotImplementedError

    def _forget_plans(self, cursor: Any) -> None:
        """Make the driver prepare its statements again on the connection of *cursor*."""

    def _limits(self, settings: DatabaseSettings) -> dict[str, str]:
        return {
            "default_transaction_isolation": "read committed",  # for statements without a BEGIN that says so
            "idle_in_transaction_session_timeout": f"{settings.idle_transaction_timeout * 1000:.0f}",
            "lock_timeout": f"{settings.lock_timeout * 1000:.0f}",
            # None of the limits above catches a client that freezes while the server sends it a big result.
            "tcp_user_timeout": f"{settings.idle_transaction_timeout * 1000:.0f}",
        }

    async def sample(self, driver: Any) -> Sample:
        ((recovering, position, timeline, system),) = (await self.send(driver, _SAMPLE, {})).rows
        epoch = Epoch(str(system), int(timeline, 16))
        place = None if position is None else parse_lsn(position, epoch)
        return Sample(NodeRole.REPLICA if recovering else NodeRole.PRIMARY, place)

    async def wait_for(self, driver: Any, position: Position, seconds: float) -> bool:
        # A utility statement takes no parameters; this text is built from two numbers only.
        assert isinstance(position, Lsn)
        limit = max(1, round(seconds * 1000))
        wait = f"WAIT FOR LSN '{position.literal}' WITH (TIMEOUT '{limit}ms', NO_THROW)"
        ((status,),) = (await self.send(driver, Rendered(wait, (), answers=True), {})).rows
        return status in {"success", "timeout"}

    unique_sql = (
        "SELECT cast(i.indexrelid AS text), cast(a.attname AS text) FROM pg_index AS i "
        "JOIN pg_attribute AS a ON a.attrelid = i.indexrelid AND a.attnum <= i.indnkeyatts "
        "WHERE i.indrelid = to_regclass(:named) AND i.indisunique AND i.indimmediate AND i.indisvalid "
        "AND i.indpred IS NULL"
    )
    may_create = "SELECT has_schema_privilege(current_schema(), 'CREATE')"
    facts_sql = _FACTS

    def facts(self, row: Sequence[Any], *, replicas: bool) -> Facts:
        version, clock, read_only, recovering, lacking, sees_all, synchronous, journal = row
        found = [] if read_only else [UNGUARDED]
        if replicas and lacking:
            grant = f"GRANT EXECUTE ON FUNCTION {lacking} TO the account of the URL"
            found.append(
                Finding(f"the account may not call {lacking}, which tell the cluster and its epoch", grant)
            )
        if replicas and recovering and not sees_all:
            after = "after a promotion this replica is read from only when its next checkpoint has told of it"
            found.append(Finding(after, "GRANT pg_read_all_stats TO the account of the URL", fatal=False))
        if replicas and journal and not recovering and not synchronous:
            found.append(_NO_STANDBY)
        return Facts(version, clock, bool(read_only), tuple(found))

    async def capture(self, driver: Any) -> Position | None:
        """Do as every dialect; fail on a server in recovery, whose replay position says nothing about commits."""
        ((position, timeline, system),) = (await self.send(driver, _CAPTURE, {})).rows
        return parse_lsn(position, Epoch(str(system), int(timeline, 16)))

    async def write(self, driver: Any, writes: Sequence[Write]) -> Sealed:
        """Send *writes* as every dialect does; a fence in a statement that divides by zero is fenced, too."""
        try:
            return await super().write(driver, writes)
        except Exception as error:  # border: what a driver raises has no common class
            if divided_by_zero(error):
                return Sealed.FENCED
            raise

    def said(self, error: BaseException) -> str | None:
        if not is_of(error, "asyncpg", "psycopg"):
            return None
        name, code = type(error).__name__, getattr(error, "sqlstate", None)
        if code is None:
            plain = name in {"InterfaceError", "OperationalError"} and not isinstance(error, ValueError)
            return f"{name}: {error}" if plain else name
        told = getattr(error, "diag", error)  # asyncpg has the fields on the error, psycopg on `diag`
        if code in _PLAIN_CODES or code[:2] in _PLAIN_CLASSES:
            return f"{name} ({code}): {getattr(told, 'message', None) or getattr(told, 'message_primary', None)}"
        parts = [f"{part} {getattr(told, part + '_name', None)}" for part in ("constraint", "table", "column")]
        named = [part for part in parts if not part.endswith(" None")]
        return ", ".join([f"{name} ({code})", *_told_of_value(error), *named])

    def _misfit(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) in _MISFIT_CODES or _MISFIT.search(str(error)) is not None

    def _code_fault(self, error: BaseException) -> Fault | None:
        if not is_of(error, "asyncpg", "psycopg", "sqlalchemy"):
            return Fault.DISCONNECTED if isinstance(error, ConnectionError) else None
        code = getattr(error, "sqlstate", None)
        if _is_stale(error):
            return Fault.STALE_PLAN
        if code in _TOLD_IN_WORDS and (told := _told_at_login(str(error), fatal=code is not None)):
            return told
        if code is None:
            # After a freeze, asyncpg's error for a lost connection has no code, and one of three classes.
            said = str(error)
            gone = "clos" in said or "cannot switch to state" in said or "terminat" in said
            # psycopg's for BEGIN, if both the server and a pooler said goodbye while the connection lay idle.
            gone = gone or re.search(r"received \d+ results from command", said) is not None
            return Fault.DISCONNECTED if gone else None
        return _FAULTS.get(code) or _CLASSES.get(code[:2])


def _told_at_login(said: str, *, fatal: bool) -> Fault | None:
    """Return the fault of what a server, or PgBouncer, *said* to a client that connects; None for all else."""
    fatal = fatal or "FATAL" in said
    if _FULL.search(said):
        return Fault.TOO_MANY_CONNECTIONS
    if fatal and _NO_DATABASE.search(said):
        return Fault.NO_DATABASE
    if fatal and "permission denied" in said:
        return Fault.DENIED
    rejected = "authentication failed" in said or "no password supplied" in said  # the latter is libpq's
    return Fault.REJECTED if rejected or (fatal and re.search("does not exist|no such user", said)) else None


def _told_of_value(error: BaseException) -> Sequence[str]:
    """Return what is wrong with a bound value, without the value."""
    found = _BEFORE_VALUE.match(str(error))
    if found is None:
        return ()
    # asyncpg's error while it encoded the value; the texts of these two classes are about types.
    why = error.__cause__
    return (f"{found[0]} ({why})",) if isinstance(why, TypeError | AttributeError) else (found[0],)


def _is_stale(error: BaseException) -> bool:
    """Return whether the server, or asyncpg, reports that a plan is older than a schema change."""
    # 0A000 has many other meanings. The text is in the server's language; the source location, if sent, is not.
    place = getattr(getattr(error, "diag", None), "source_function", None)
    told = getattr(error, "sqlstate", None) == "0A000" and "cached plan" in str(error)
    return told or place == "RevalidateCachedQuery" or type(error).__name__ in _STALE


def divided_by_zero(error: Exception) -> bool:
    """Return whether *error* is how a fence ends a statement that it must not let through."""
    return getattr(error, "sqlstate", None) == "22012"
