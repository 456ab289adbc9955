"""One file per kind of database: what it can tell about itself, and what its errors mean."""

from typing import ClassVar, Protocol

from polysaga.databases.dialects.mongo import Mongo
from polysaga.databases.dialects.mysql import MySQL
from polysaga.databases.dialects.postgres import PostgresAsyncpg, PostgresPsycopg
from polysaga.databases.dialects.sending import Answer, Rendered, Write
from polysaga.databases.dialects.sql import SqlDialect
from polysaga.databases.dialects.sqlite import SQLite
from polysaga.faults import Fault

__all__ = ["SQL_DIALECTS", "Answer", "Dialect", "Rendered", "SqlDialect", "Write", "fault_of", "said_by_driver"]


class Dialect(Protocol):
    """What every kind of database answers; the conformance suite is its specification."""

    name: ClassVar[str]
    extra: ClassVar[str]

    def fault(self, error: BaseException) -> Fault | None:
        """Recognise *error*; None if it is not the database's."""

    def said(self, error: BaseException) -> str | None:
        """Return class, code and names of an *error* of the driver's, without values; None if it is not one."""


SQL_DIALECTS: dict[str, type[SqlDialect]] = {
    "postgresql+asyncpg": PostgresAsyncpg,
    "postgresql+psycopg": PostgresPsycopg,
    "mysql+asyncmy": MySQL,
    "mariadb+asyncmy": MySQL,
    "sqlite+aiosqlite": SQLite,
}

_ALL: tuple[Dialect, ...] = (PostgresAsyncpg(), MySQL(), SQLite(), Mongo())


def fault_of(error: BaseException) -> Fault | None:
    """Recognise *error* without knowing which database it came from; drivers' codes do not overlap."""
    return next((fault for fault in (dialect.fault(error) for dialect in _ALL) if fault is not None), None)


def said_by_driver(error: BaseException) -> str | None:
    """Return what a raw *error* of any driver's says, without values; None if it is no driver's."""
    return next((text for text in (dialect.said(error) for dialect in _ALL) if text is not None), None)
