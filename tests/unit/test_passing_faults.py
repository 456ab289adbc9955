"""What time heals is a transient fault on every driver, by the codes in which servers and drivers say it."""

import sqlite3
from collections.abc import Sequence

import asyncmy.errors
import asyncpg
import psycopg
import pymongo.errors
import pytest

from polysaga.databases import Fault
from polysaga.databases.dialects import SQL_DIALECTS, fault_of
from polysaga.databases.dialects.mongo import Mongo

POSTGRES = {
    Fault.DISCONNECTED: ["08000", "08003", "08006", "08P01", "57P01", "57P02", "57P04", "57P05", "25P03", "25P04"],
    Fault.UNREACHABLE: ["08001", "08004", "57P03", "HV00N"],
    Fault.UNKNOWN_COMMIT: ["40003", "08007"],
    Fault.SERIALIZATION: ["40000", "40001", "40002", "72000"],
    Fault.DEADLOCK: ["40P01"],
    Fault.LOCK_TIMEOUT: ["55P03", "55006"],
    Fault.STATEMENT_TIMEOUT: ["57014"],
    Fault.TOO_MANY_CONNECTIONS: ["53300"],
    Fault.OUT_OF_RESOURCES: ["53000", "53100", "53200", "53400"],
    Fault.SERVER_TROUBLE: ["58000", "58030", "58P01", "57000", "XX000"],
    Fault.STALE_PLAN: ["26000", "42P05"],
}
MYSQL = {
    Fault.OUT_OF_RESOURCES: [3, 1021, 1037, 1038, 1041, 1114, 1135, 1206, 1637],
    Fault.UNREACHABLE: [1042, 1047, 2003],
    Fault.DISCONNECTED: [1053, 1152, 1158, 1159, 1160, 1161, 1927, 2006, 2013, 4031],
    Fault.UNKNOWN_COMMIT: [1180],
    Fault.TOO_MANY_CONNECTIONS: [1040, 1203, 1226],
    Fault.STATEMENT_TIMEOUT: [1317, 1969, 3024],
    Fault.STALE_PLAN: [1412, 1615],
    Fault.DEADLOCK: [1213, 1614, 3058],
    Fault.SERIALIZATION: [1020, 3101],
    Fault.LOCK_TIMEOUT: [1205, 1689, 3572],
    Fault.SERVER_TROUBLE: [1026, 1030, 1815],
}
SQLITE = {
    Fault.OUT_OF_RESOURCES: ["SQLITE_FULL", "SQLITE_NOMEM", "SQLITE_IOERR_NOMEM"],
    Fault.SERVER_TROUBLE: ["SQLITE_IOERR", "SQLITE_IOERR_READ", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC"],
    Fault.LOCK_TIMEOUT: [
        *("SQLITE_BUSY", "SQLITE_BUSY_RECOVERY", "SQLITE_BUSY_TIMEOUT"),
        *("SQLITE_LOCKED", "SQLITE_LOCKED_SHAREDCACHE", "SQLITE_PROTOCOL"),
    ],
    Fault.SERIALIZATION: ["SQLITE_BUSY_SNAPSHOT"],
    Fault.READ_ONLY: ["SQLITE_READONLY", "SQLITE_READONLY_DBMOVED"],
    Fault.UNREACHABLE: ["SQLITE_CANTOPEN", "SQLITE_CANTOPEN_ISDIR"],
    Fault.STALE_PLAN: ["SQLITE_SCHEMA"],
}
MONGO = {
    Fault.OUT_OF_RESOURCES: [146, 14031],
    Fault.DISCONNECTED: [89, 91, 9001, 11600],
    Fault.UNKNOWN_COMMIT: [64],
    Fault.UNREACHABLE: [6, 7, 133, 202],
    Fault.READ_ONLY: [189, 216, 10107, 11602, 13435, 13436],
    Fault.SERIALIZATION: [112, 225, 246, 251, 267, 290],
    Fault.LOCK_TIMEOUT: [24, 46],
    Fault.STATEMENT_TIMEOUT: [50, 262, 11601],
}


def each(table: dict[Fault, Sequence[object]]) -> list[tuple[object, Fault]]:
    return [(code, fault) for fault, codes in table.items() for code in codes]


def assert_passes(scheme: str, error: BaseException, fault: Fault) -> None:
    assert SQL_DIALECTS[scheme]().fault(error) is fault
    assert fault_of(error) is fault
    assert fault.transient


@pytest.mark.parametrize(("code", "fault"), each(POSTGRES))
def test_codes_of_postgresql_pass(code: str, fault: Fault) -> None:
    assert_passes("postgresql+asyncpg", asyncpg.PostgresError.new({"C": code, "M": "as it says"}), fault)
    try:
        libpq = psycopg.errors.lookup(code)("as the server says it")
    except KeyError:
        return
    assert_passes("postgresql+psycopg", libpq, fault)


@pytest.mark.parametrize("code", ["0A000", "22012", "23503", "42601", "XX001", "25P02"])
def test_other_codes_of_postgresql_are_mistakes(code: str) -> None:
    assert fault_of(psycopg.errors.lookup(code)("as the server says it")) is None


@pytest.mark.parametrize("name", ["InvalidCachedStatementError", "OutdatedSchemaCacheError"])
def test_asyncpg_says_that_a_plan_is_stale_without_a_code_of_its_own(name: str) -> None:
    assert_passes("postgresql+asyncpg", getattr(asyncpg.exceptions, name)("cached"), Fault.STALE_PLAN)


def test_a_server_says_that_a_plan_is_stale_by_its_text() -> None:
    said = "cached plan must not change result type"
    assert_passes("postgresql+psycopg", psycopg.errors.FeatureNotSupported(said), Fault.STALE_PLAN)
    error = asyncpg.exceptions.FeatureNotSupportedError(said)
    assert_passes("postgresql+asyncpg", error, Fault.STALE_PLAN)


@pytest.mark.parametrize(("code", "fault"), each(MYSQL))
def test_numbers_of_mysql_pass(code: int, fault: Fault) -> None:
    for kind in (asyncmy.errors.OperationalError, asyncmy.errors.InternalError):
        assert_passes("mysql+asyncmy", kind(code, "as the server says it"), fault)


@pytest.mark.parametrize(("name", "fault"), each(SQLITE))
def test_codes_of_sqlite_pass(name: str, fault: Fault) -> None:
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorname = name
    assert_passes("sqlite+aiosqlite", error, fault)


@pytest.mark.parametrize("name", ["SQLITE_ERROR", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CONSTRAINT_CHECK"])
def test_other_codes_of_sqlite_are_mistakes(name: str) -> None:
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorname = name
    assert fault_of(error) is None


@pytest.mark.parametrize(("code", "fault"), each(MONGO))
def test_codes_of_mongodb_pass(code: int, fault: Fault) -> None:
    error = pymongo.errors.OperationFailure("as the server says it", code)
    assert (Mongo().fault(error), fault_of(error), fault.transient) == (fault, fault, True)


@pytest.mark.parametrize(
    ("label", "fault"),
    [
        ("TransientTransactionError", Fault.SERIALIZATION),
        ("RetryableWriteError", Fault.DISCONNECTED),
        ("UnknownTransactionCommitResult", Fault.UNKNOWN_COMMIT),
    ],
)
def test_labels_of_mongodb_count_without_a_known_code(label: str, fault: Fault) -> None:
    error = pymongo.errors.OperationFailure("as the server says it", 424242, {"errorLabels": [label]})
    assert fault_of(error) is fault
