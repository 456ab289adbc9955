"""The errors that each driver raises when the other end of a connection is gone."""

from typing import Any

from polysaga.databases import Fault
from polysaga.loading import load_module

_LOST: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "asyncpg": (
        "asyncpg.exceptions",
        "ConnectionDoesNotExistError",
        ("connection was closed in the middle of operation",),
    ),
    "psycopg": ("psycopg", "OperationalError", ("server closed the connection unexpectedly",)),
    "asyncmy": ("asyncmy.errors", "OperationalError", (2013, "Lost connection to MySQL server during query")),
}


class Disturbed(Exception):
    """Raised by the crash kit where no driver has a suitable error; dialects classify it as *fault*."""

    def __init__(self, message: str, fault: Fault | None) -> None:
        super().__init__(message)
        self.fault = fault


def lost_connection(driver: str) -> Exception:
    """Return the error that *driver* raises when the connection breaks during a statement."""
    if driver not in _LOST:
        return Disturbed("the connection was lost", Fault.DISCONNECTED)
    module, name, arguments = _LOST[driver]
    error: Exception = getattr(load_module(module), name)(*arguments)
    return error


def lost_mongo_commit() -> Exception:
    """Return the error of PyMongo's commit after a broken connection, when its own retry failed too."""
    errors = load_module("pymongo.errors")
    lost: Exception = errors.AutoReconnect(
        "connection closed", {"errorLabels": ["UnknownTransactionCommitResult"]}
    )
    return lost


def no_mongo_transaction() -> Exception:
    """Return the error of PyMongo's commit when the server has forgotten the transaction."""
    errors = load_module("pymongo.errors")
    details = {"ok": 0, "code": 251, "errorLabels": ["TransientTransactionError"]}
    forgotten: Exception = errors.OperationFailure("transaction has been aborted", 251, details)
    return forgotten


def driver_of(connection: Any) -> str:
    """Return the package that a driver's own *connection* comes from; some are of a class that we derived."""
    packages = [kind.__module__.partition(".")[0] for kind in type(connection).__mro__]
    return next(package for package in packages if package != "polysaga")


def cut(connection: Any) -> None:
    """Break a driver's own *connection* without telling the server: no ROLLBACK, no end of the session."""
    match driver_of(connection):
        case "asyncpg":
            connection.terminate()
        case "psycopg":
            connection.pgconn.finish()
        case "aiosqlite":
            if connection._running:  # noqa: SLF001 - else its thread ends already
                connection._tx.cut()  # noqa: SLF001 - our own `inline.AtOnce`
        case _:
            connection.close()  # asyncmy closes the socket at once
