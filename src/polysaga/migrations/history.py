"""One line of history: an ordered set of revision files, and a version table with a database's revision.

Alembic does the work and needs no configuration file. A revision gets its `op` as an argument and must not import
Alembic's global one. So one process can migrate two databases without interference.
"""

import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, MigrationStep, RevisionStep
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, inspect, text

from polysaga.errors import ConfigurationError
from polysaga.migrations.ours import TABLES_OF

JOURNAL = "journal"
LEDGER = "ledger"
_alembic = logging.getLogger("alembic.runtime.migration")
_HERE = Path(__file__).parent


class History:
    """The revisions of one line. Its methods run inside `AsyncConnection.run_sync`."""

    def __init__(self, line: str) -> None:
        self.line = line
        self._script = ScriptDirectory(str(_HERE), version_locations=[str(_HERE / line)])
        self.revisions = frozenset(script.revision for script in self._script.walk_revisions())
        (self.head,) = self._script.get_heads()

    def current(self, connection: Connection) -> str | None:
        """Return the revision the database is at; None if it has none of this line."""
        return self._context(connection).get_current_revision()

    def lost(self, revision: str | None, visible: Collection[str]) -> frozenset[str]:
        """Return which tables of the newest revision are not *visible* although the database is at it."""
        return TABLES_OF[self.line].difference(visible) if revision == self.head else frozenset()

    def prepare(self, connection: Connection) -> None:
        """Do what missing revisions do beforehand; *connection* must commit each statement."""
        context = self._context(connection)
        operations = Operations(context)
        for script in self._missing(context.get_current_heads()):
            if hasattr(script.module, "prepare"):
                script.module.prepare(operations)

    def upgrade(self, connection: Connection) -> None:
        """Run every missing revision, in order, in the open transaction of *connection*."""
        context = self._context(connection)
        context.run_migrations(op=Operations(context))

    def _context(self, connection: Connection) -> MigrationContext:
        # The version table is where tables are created; later schemas of the search path may be another tenant's.
        on_postgres = connection.dialect.name == "postgresql"
        schema = connection.scalar(text("SELECT current_schema()")) if on_postgres else None
        with _without_announcements():
            context = MigrationContext.configure(
                connection=connection,
                opts={
                    "fn": self._lacking,
                    "version_table": f"polysaga_{self.line}_version",
                    "version_table_schema": schema,
                },
            )
        # MySQL and MariaDB cannot name a primary key, and warn if it has a name.
        context._version.primary_key.name = None  # noqa: SLF001 - Alembic offers no option
        return context

    def _lacking(self, heads: tuple[str, ...], _: MigrationContext) -> Iterable[RevisionStep]:
        revisions = self._script.revision_map
        return [MigrationStep.upgrade_from_script(revisions, script) for script in self._missing(heads)]

    def _missing(self, heads: tuple[str, ...]) -> list[Script]:
        """Return the revisions that the database lacks, the oldest first."""
        return [*self._script.iterate_revisions("head", heads, implicit_base=True)][::-1]


def visible_tables(connection: Connection) -> list[str]:
    """Return the tables in the first schema that this login sees.

    `migrate` creates none in later schemas of the search path.
    """
    inspector = inspect(connection)
    return inspector.get_table_names(schema=inspector.default_schema_name)


def tables_lost(database: str, line: str, names: Collection[str]) -> ConfigurationError:
    """Return the error for tables that a migration has created and that are gone."""
    reason, remedy = loss(line, names)
    return ConfigurationError(f"the {line} of database '{database}' {reason}: {remedy}")


def loss(line: str, names: Collection[str]) -> tuple[str, str]:
    """Return what has happened to a *line* whose tables *names* are gone, and the remedies.

    To create them anew could let a step of an unfinished saga happen twice: a person decides that.
    """
    remedies = (
        "grant the login its privileges on them, or restore them from a backup; if no saga is unfinished, drop "
        f"polysaga_{line}_version and migrate again"
    )
    return f"was migrated, but its login sees no {', '.join(sorted(names))}", remedies


@contextmanager
def _without_announcements() -> Iterator[None]:
    """Keep Alembic's announcement of each context out of the log: it comes for every database at every start.

    "Will assume non-transactional DDL" alarms its readers. A migration that is done is an event instead. Nothing
    is awaited inside the block, so no lines of a user's own Alembic are lost.
    """

    def is_a_warning(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING

    _alembic.addFilter(is_a_warning)
    try:
        yield
    finally:
        _alembic.removeFilter(is_a_warning)
