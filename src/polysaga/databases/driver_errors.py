"""Errors of drivers where SQLAlchemy lets them through: while it connects, sets an isolation level, or streams."""

from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine


def driver_errors(dialect: Any, *more: str) -> tuple[type[Exception], ...]:
    """Return the classes of the errors of the driver that SQLAlchemy's *dialect* uses, and those named *more*."""
    driver = getattr(dialect.loaded_dbapi, dialect.driver, None)
    names = ("Error", "PostgresError", "InterfaceError", *more)
    raw = (getattr(driver, name) for name in names if hasattr(driver, name))
    return (dialect.loaded_dbapi.Error, *raw)


def errors_of_use(dialect: Any) -> tuple[type[Exception], ...]:
    """Return what a connection may raise while it is used, raw or from SQLAlchemy's adapter."""
    # asyncpg has an error of its own for a connection that has heard of its end and not met it; aiosqlite has
    # ValueError for one that is closed.
    return (OSError, ValueError, *driver_errors(dialect, "InternalClientError"))


def known(adapted: Any, error: Exception, errors: tuple[type[Exception], ...]) -> Exception:
    """Return *error*, one of *errors*, as the one that SQLAlchemy's *adapted* connection makes of it."""
    try:
        adapted._handle_exception(error)  # noqa: SLF001 - SQLAlchemy calls it at the driver's other calls
    except errors as adapters:
        return adapters
    return error


def wrap_where_options_are_set(engine: Engine) -> None:
    """Let an error at a new isolation level be one of SQLAlchemy's, and a lost connection leave its pool."""
    dialect: Any = engine.dialect
    its_own = dialect._set_connection_characteristics  # noqa: SLF001 - both public ways lead there
    dialect._set_connection_characteristics = partial(_set, its_own, errors_of_use(dialect))  # noqa: SLF001


def _set(
    set_characteristics: Callable[[Connection, Any], None],
    errors: tuple[type[Exception], ...],
    connection: Connection,
    characteristics: Any,
) -> None:
    adapted = connection.connection.dbapi_connection
    try:
        set_characteristics(connection, characteristics)
    except errors as error:
        told = known(adapted, error, errors)
        connection._handle_dbapi_exception(told, None, None, None, None)  # noqa: SLF001 - as at a statement
