"""Which tables are ours, for the program's own migrations: Alembic must leave ours alone.

`alembic revision --autogenerate` proposes to drop every table that the program's metadata lacks, the journal
included. Either function prevents that, if it is passed to `context.configure` in `env.py`. `include_object` also
works if the metadata was reflected from the database and so contains our tables.
"""

from collections.abc import Mapping
from typing import Any

from polysaga.sagas.journal.tables import AUDIT, JOURNAL, LEDGER, OUTBOX, PULSE

TABLES_OF = {"journal": frozenset({JOURNAL, AUDIT, PULSE}), "ledger": frozenset({LEDGER, OUTBOX})}
TABLES = frozenset().union(*TABLES_OF.values(), {f"{JOURNAL}_version", f"{LEDGER}_version"})


def include_name(name: str | None, type_: str, parent_names: Mapping[str, Any]) -> bool:
    """Return whether Alembic may look at *name* in the database: at everything but our tables."""
    table = name if type_ == "table" else parent_names.get("table_name")
    return table not in TABLES


def include_object(
    object_: Any,
    name: str | None,
    type_: str,
    reflected: bool,  # noqa: FBT001 - Alembic's
    compare_to: Any | None,
) -> bool:
    """Return whether Alembic may compare this object: all but our tables and what belongs to them."""
    table = name if type_ == "table" else getattr(getattr(object_, "table", None), "name", None)
    return table not in TABLES
