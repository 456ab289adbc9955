"""What errors of SQLAlchemy and of drivers say, without what users have stored; made known to `polysaga.texts`."""

from sqlalchemy import exc
from sqlalchemy.orm import exc as orm_exc

from polysaga.databases.dialects import said_by_driver

# Errors of SQLAlchemy's own whose texts are about the program, not about its data.
_PLAIN = (
    exc.NoResultFound,
    exc.MultipleResultsFound,
    exc.TimeoutError,
    exc.MissingGreenlet,
    exc.ResourceClosedError,
    orm_exc.StaleDataError,
    orm_exc.DetachedInstanceError,
)


def said_of_database(error: BaseException) -> str | None:
    """Return a text without values of an *error* of SQLAlchemy's or a driver's; None if its own has none."""
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
    except Exception:  # noqa: BLE001 - border: a driver's error of a new shape must not keep a saga from its repeats
        return type(error).__name__
