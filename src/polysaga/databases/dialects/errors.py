"""The meaning and the text of errors of SQLAlchemy and of the drivers, for every database.

The texts contain no values of users. This module registers its function for them with `polysaga.texts`.
"""

from typing import ClassVar, Protocol

from sqlalchemy import exc
from sqlalchemy.orm import exc as orm_exc

from polysaga.databases.dialects.mongo import Mongo
from polysaga.databases.dialects.mysql import MySQL
from polysaga.databases.dialects.postgres_asyncpg import PostgresAsyncpg
from polysaga.databases.dialects.sqlite import SQLite
from polysaga.faults import Fault
from polysaga.texts import recognise


class Dialect(Protocol):
    """What every kind of database implements; the conformance suite is its specification."""

    name: ClassVar[str]
    extra: ClassVar[str]

    def fault(self, error: BaseException) -> Fault | None:
        """Return the fault that *error* stands for; None if it is not the database's."""

    def said(self, error: BaseException) -> str | None:
        """Return class, code and names of a driver's *error*, without values; None if it is not the driver's."""


_ALL: tuple[Dialect, ...] = (PostgresAsyncpg(), MySQL(), SQLite(), Mongo())


# SQLAlchemy's own errors with texts about the program, not about its data.
_PLAIN = (
    exc.NoResultFound,
    exc.MultipleResultsFound,
    exc.TimeoutError,
    exc.MissingGreenlet,
    exc.ResourceClosedError,
    orm_exc.StaleDataError,
    orm_exc.DetachedInstanceError,
)


def fault_of(error: BaseException) -> Fault | None:
    """Return the fault of *error* from any database; the drivers' codes do not overlap."""
    return next((fault for fault in (dialect.fault(error) for dialect in _ALL) if fault is not None), None)


def said_by_driver(error: BaseException) -> str | None:
    """Return the text of any driver's raw *error*, without values; None if it is no driver's."""
    return next((text for text in (dialect.said(error) for dialect in _ALL) if text is not None), None)


def said_of_database(error: BaseException) -> str | None:
    """Return a text without values for an *error* of SQLAlchemy or a driver; None if its own has none."""
    name = type(error).__name__
    if isinstance(error, exc.StatementError):
        raw = error.orig
        if type(raw) is exc.InvalidRequestError:  # about the names of parameters
            return f"{name}: {raw.args[0]}"
        inner = None if raw is None else _of_driver(raw.__cause__ or raw) or type(raw).__name__
        return name if inner is None else f"{name}: {inner}"
    if isinstance(error, exc.PendingRollbackError):
        return f"{name}: a session was used on after an error in its transaction"
    if isinstance(error, exc.SQLAlchemyError):
        plain = isinstance(error, _PLAIN) or type(error) is exc.InvalidRequestError
        return None if plain else name
    return _of_driver(error)


def _of_driver(error: BaseException) -> str | None:
    try:
        return said_by_driver(error)
    except Exception:  # noqa: BLE001 - border: a driver's error of a new shape must not stop a saga's retries
        return type(error).__name__


recognise(said_of_database)
