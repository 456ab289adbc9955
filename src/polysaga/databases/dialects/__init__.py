"""One file per kind of database: what it can tell about itself, and what its errors mean."""

from typing import ClassVar, Protocol

from polysaga.databases.dialects.mongo import Mongo
from polysaga.databases.dialects.mysql import MySQL
from polysaga.databases.dialects.postgres import PostgresAsyncpg, PostgresPsycopg
from polysaga.databases.dialects.sql import Answer, Rendered, SqlDialect, Write
from polysaga.databases.dialects.sqlite import SQLite
from polysaga.databases.faults import Fault

__all__ = ["SQL_DIALECTS", "Answer", "Dialect", "Rendered", "SqlDialect", "Write", "fault_of"]


class Dialect(Protocol):
    """What every kind of database answers; the conformance suite is its specification."""

    name: ClassVar[str]
    extra: ClassVar[str]

    def fault(self, error: BaseException) -> Fault | None:
        """Recognise *error*; None if it is not the database's."""


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
