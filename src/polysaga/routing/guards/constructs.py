"""The write guard: a reader refuses all but plain reads before SQL leaves the process.

Every statement passes one hook of the reader's engine, whatever its origin (a flush, a construct, `text()`, the
driver's own SQL). A construct is judged by its parts, once for each time SQLAlchemy compiles it; after that it
costs one look-up in a dictionary. Only text, and constructs that contain text, are parsed (`sql_text.py`); the
verdict is kept by the text.

The guard is against mistakes. It does not know what a user's own function does, and does not see statements sent
on the raw driver connection. Behind it stands the server's read-only session.
"""

from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, TextClause, event
from sqlalchemy.engine.interfaces import Compiled, DBAPICursor, Dialect
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ColumnClause
from sqlalchemy.sql.functions import FunctionElement, next_value
from sqlalchemy.sql.selectable import ForUpdateArg

from polysaga.databases import MongoNode, Node
from polysaga.errors import WriteOnReader
from polysaga.loading import load_module
from polysaga.routing.guards.sql_text import has_side_effects, verdict

_MONGO = "polysaga.routing.guards.mongo"
_KEPT = 1_000  # verdicts on texts, per engine; a text that comes back after that many others is judged again
_LONGEST_KEPT = 16 * 1024  # characters
_NEW: Final = "?"  # not judged yet
_TEXTUAL: Final = ""  # the construct contains text, which must be parsed


def guard(node: Node) -> None:
    """Restrict the readers of *node* to plain reads; anything else raises `WriteOnReader` and sends nothing.

    The session stays usable and keeps its connection.
    """

    def refusal(what: str) -> WriteOnReader:
        return WriteOnReader(node.database, node.name, what)

    if isinstance(node, MongoNode):
        node.on_reader(partial(load_module(_MONGO).ReaderDatabase, refusal=refusal))
    else:
        node.on_reader(partial(_guard, refusal=refusal))


def _guard(engine: AsyncEngine, refusal: Callable[[str], Exception]) -> None:
    judge = _Judge(engine.dialect)
    constructs = judge.constructs

    @event.listens_for(engine.sync_engine, "before_cursor_execute", retval=True)
    def look(
        connection: Connection,
        cursor: DBAPICursor,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,  # noqa: FBT001 - SQLAlchemy's signature
    ) -> tuple[str, Any]:
        compiled = None if context is None else context.compiled
        if compiled is None:
            what = judge.text(statement)
        else:
            what = constructs.get(compiled, _NEW)
            if what is _NEW:
                what = judge.construct(context, statement)
        if what is not None:
            raise refusal(what)
        return statement, parameters


class _Judge:
    def __init__(self, dialect: Dialect) -> None:
        # A verdict is kept as long as SQLAlchemy keeps the compiled construct.
        self.constructs: MutableMapping[Compiled, str | None] = WeakKeyDictionary()
        self._texts: dict[str, str | None] = {}
        self._dialect = dialect

    def construct(self, context: Any, statement: str) -> str | None:
        what = _by_construct(context)
        if what == _TEXTUAL:
            what = self.text(statement)
        self.constructs[context.compiled] = what
        return what

    def text(self, statement: str) -> str | None:
        if statement in self._texts:
            return self._texts[statement]
        what = verdict(statement, self._dialect.name, self._dialect.paramstyle)
        if len(statement) <= _LONGEST_KEPT:
            if len(self._texts) >= _KEPT:
                del self._texts[next(iter(self._texts))]
            self._texts[statement] = what
        return what


def _by_construct(context: Any) -> str | None:
    """Return what a construct does besides a plain read; `_TEXTUAL` if only its text can show that."""
    if context.isddl:
        return _TEXTUAL
    if context.isinsert or context.isupdate or context.isdelete:
        return "INSERT" if context.isinsert else "UPDATE" if context.isupdate else "DELETE"
    state = context.compiled.compile_state
    # The statement as the ORM rewrote it, with the mapping's own parts in it.
    made = getattr(state, "statement", None)
    textual = False
    for part in visitors.iterate(context.compiled.statement if made is None else made):
        what = _by_part(part)
        if what:
            return what
        textual = textual or what == _TEXTUAL
    return _TEXTUAL if textual else None


_FREE_TEXT = ("_prefixes", "_suffixes", "_hints", "_statement_hints")  # `visitors.iterate` does not yield these


def _by_part(part: Any) -> str | None:
    if getattr(part, "is_dml", False):
        return str(part.__visit_name__).upper()
    if isinstance(part, ForUpdateArg):
        return "SELECT ... FOR UPDATE or SHARE"
    if isinstance(part, next_value):
        return "nextval()"
    if isinstance(part, FunctionElement) and has_side_effects(str(getattr(part, "name", ""))):
        return f"{str(part.name).lower()}()"
    free = isinstance(part, TextClause) or (isinstance(part, ColumnClause) and part.is_literal)
    foreign = not type(part).__module__.startswith("sqlalchemy.")  # can compile to anything
    return _TEXTUAL if free or foreign or any(getattr(part, name, ()) for name in _FREE_TEXT) else None
