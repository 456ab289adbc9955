"""What the account of a URL may do with our tables, found by trial with statements that affect no row.

Grants come through roles, patterns and columns; only the server can combine them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from sqlalchemy.exc import DBAPIError

from polysaga.databases import Fault, MongoNode, Node, SqlNode
from polysaga.databases.inspection import Finding
from polysaga.sagas.journal.tables import metadata

_HARMLESS = {
    "SELECT": "SELECT 1 FROM {table} WHERE 1 = 0",
    "INSERT": "INSERT INTO {table} SELECT * FROM {table} WHERE 1 = 0",
    "UPDATE": "UPDATE {table} SET {column} = {column} WHERE 1 = 0",
    "DELETE": "DELETE FROM {table} WHERE 1 = 0",
}
_ACCOUNT = "the account of the URL"


async def lacking(node: Node, tables: Collection[str], *, create: bool) -> tuple[Finding, ...]:
    """Return what the account lacks to use *tables*, which exist, and, with *create*, to create more."""
    if isinstance(node, MongoNode):
        needed = {name: {"find", "insert", "update", "remove"} for name in tables}
        missing = await node.dialect.lacking(node.client, node.documents.name, needed, create=create)
        return tuple(_on_mongo(node, missing))
    found = list(await _on_tables(node, sorted(set(tables) & metadata.tables.keys())))
    unread = [name for name in sorted(set(tables) - metadata.tables.keys()) if await _refusal(node, _select(name))]
    if unread:
        text = f"the account may not read {', '.join(unread)}, so `install` can migrate nothing at the start"
        remedy = f"GRANT SELECT ON {', '.join(unread)} TO {_ACCOUNT}, or install(..., migrate=False)"
        found.append(Finding(text, remedy, fatal=False))
    if create and not found and await _refusal(node, node.dialect.may_create) is not None:
        found.append(_no_creating(node))
    return tuple(found)


async def _on_tables(node: SqlNode, tables: Sequence[str]) -> Sequence[Finding]:
    refused: dict[str, list[str]] = {}
    said = ""
    for table in tables:
        column = next(iter(metadata.tables[table].columns)).name
        for verb, statement in _HARMLESS.items():
            reason = await _refusal(node, statement.format(table=table, column=column))
            if reason is not None:
                refused.setdefault(verb, []).append(table)
                said = said or reason
    if not refused:
        return ()
    if node.dialect.name == "sqlite":
        return [Finding(f"the file cannot be written ({said})", _WRITE_FILE)]
    named = sorted({table for names in refused.values() for table in names})
    text = f"the account may not {', '.join(refused)} on {', '.join(named)} ({said})"
    return [Finding(text, f"GRANT {', '.join(refused)} ON {', '.join(named)} TO {_ACCOUNT}")]


def _no_creating(node: SqlNode) -> Finding:
    if node.dialect.name == "sqlite":
        return Finding("the file cannot be written", _WRITE_FILE)
    text = "the account may not create tables, and tables of ours are missing"
    remedy = f"run `polysaga migrate` with an account that may, or GRANT CREATE to {_ACCOUNT}"
    return Finding(text, remedy, fatal=False)


_WRITE_FILE = "let the process write the file and its directory"


async def _refusal(node: SqlNode, statement: str) -> str | None:
    """Return why the server refuses *statement*; None if it accepts it, or is only busy."""
    try:
        async with node.writer.connect() as connection:
            result = await connection.exec_driver_sql(statement)
            answer = result.first() if result.returns_rows else None
            await connection.rollback()
    except DBAPIError as error:
        if node.dialect.fault(error) not in (None, Fault.DENIED, Fault.READ_ONLY):
            return None
        return server_words(error)
    return "" if answer is not None and not answer[0] else None


def server_words(error: BaseException) -> str:
    """Return the server's own text in *error*, without SQLAlchemy's additions."""
    raw = error.orig if isinstance(error, DBAPIError) else None
    # SQLAlchemy wraps the errors of asyncio drivers twice; the innermost one is the server's.
    said: BaseException = error if raw is None else raw.__cause__ or raw
    return " ".join(str(said).split())


def _select(table: str) -> str:
    return _HARMLESS["SELECT"].format(table=table)


def _on_mongo(node: MongoNode, missing: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    for name, actions in missing.items():
        text = f"the account may not {', '.join(sorted(actions))} on {name}"
        yield Finding(text, f"grant it the role readWrite on the database {node.documents.name}")
