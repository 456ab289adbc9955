"""Judge what a statement given as text would do on a node that only reads, by sqlglot's grammar of its dialect.

The guard is against mistakes, not against attackers: behind it stands the server's own read-only session. So a
text that does not parse is left to the server, which knows its grammar best and refuses writes itself. A read-only
server would *not* refuse advisory locks, `GET_LOCK`, temporary tables and `SET`. They would succeed on one replica
and mean nothing elsewhere, so the guard recognises them by words alone, even if the rest does not parse.

Parsing costs about a millisecond; the guard keeps verdicts by text, so a program pays once per statement.
"""

import re
from collections.abc import Iterator, Sequence

from sqlglot import Token, TokenType, exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError

_DIALECTS = {"postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql", "sqlite": "sqlite"}
_LONGEST = 64 * 1024  # characters; of a longer text only the beginning is read
_BEGINNING = 1024  # characters

_CHANGES_DATA = {"INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "TRUNCATE", "LOAD", "IMPORT", "BINLOG"}
_CHANGES_SCHEMA = {
    *("CREATE", "ALTER", "DROP", "RENAME", "COMMENT", "GRANT", "REVOKE", "REASSIGN", "SECURITY"),
    *("REFRESH", "REINDEX", "VACUUM", "CLUSTER", "REPACK", "OPTIMIZE", "REPAIR", "INSTALL", "UNINSTALL"),
}
_RUNS_ANYTHING = {"CALL", "DO", "EXECUTE", "PREPARE", "DEALLOCATE", "HANDLER"}
_TAKES_STATE = {
    *("SET", "RESET", "DISCARD", "USE", "LOCK", "UNLOCK", "LISTEN", "UNLISTEN", "NOTIFY", "ATTACH", "DETACH"),
    *("XA", "FLUSH", "KILL", "CHECKPOINT", "PURGE", "CHANGE", "STOP", "SHUTDOWN", "RESTART", "CLONE", "CACHE"),
}
_REFUSED = _CHANGES_DATA | _CHANGES_SCHEMA | _RUNS_ANYTHING | _TAKES_STATE
_QUERIES = {"SELECT", "WITH", "VALUES", "TABLE", "("}

_FUNCTIONS = {
    *("nextval", "setval", "set_config", "setseed"),
    *("get_lock", "release_lock", "release_all_locks"),
    *("service_get_read_locks", "service_get_write_locks", "service_release_locks"),
    *("pg_notify", "pg_logical_emit_message", "pg_switch_wal", "pg_create_restore_point", "pg_promote"),
    *("pg_wal_replay_pause", "pg_wal_replay_resume", "pg_backup_start", "pg_backup_stop"),
    *("pg_reload_conf", "pg_rotate_logfile", "pg_cancel_backend", "pg_terminate_backend"),
    *("pg_current_xact_id", "txid_current", "pg_import_system_collations"),
    *("lo_creat", "lo_create", "lo_from_bytea", "lo_import", "lo_export", "lo_open", "lo_close", "lo_put"),
    *("lo_truncate", "lo_truncate64", "lo_unlink", "lowrite", "dblink"),
    *("load_extension", "writefile"),
}
_FUNCTION_FAMILIES = (
    *("pg_advisory_", "pg_try_advisory_", "dblink_", "pg_stat_reset", "pg_replication_origin_"),
    *("pg_create_logical_", "pg_create_physical_", "pg_copy_logical_", "pg_copy_physical_"),
    *("pg_drop_replication_", "pg_replication_slot_", "pg_logical_slot_get_"),
)
_PRAGMAS = {  # those that take an argument and only read
    *("table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo"),
    *("foreign_key_list", "foreign_key_check", "integrity_check", "quick_check"),
}
_WORKING_PRAGMAS = {"optimize", "incremental_vacuum", "wal_checkpoint", "shrink_memory"}
_WRITES = {
    exp.Insert: "INSERT",
    exp.Update: "UPDATE",
    exp.Delete: "DELETE",
    exp.Merge: "MERGE",
    exp.Into: "SELECT ... INTO",
    exp.Lock: "SELECT ... FOR UPDATE or SHARE",
}


def has_side_effects(function: str) -> bool:
    """Return whether calling *function* writes, or leaves a lock or a setting behind."""
    name = function.lower()
    return name in _FUNCTIONS or name.startswith(_FUNCTION_FAMILIES)


def verdict(sql: str, dialect: str, paramstyle: str = "qmark") -> str | None:
    """Return the part of *sql* that is no plain read, such as `INSERT` or `nextval()`; None if there is none.

    *dialect* is SQLAlchemy's name. *sql* has the placeholders of the driver's *paramstyle* (PEP 249, and
    `numeric_dollar`). Several statements are judged one by one.
    """
    return _SqlReader(_DIALECTS[dialect], paramstyle).verdict(sql)


class _SqlReader:
    def __init__(self, dialect: str, paramstyle: str) -> None:
        self._dialect, self._paramstyle = Dialect.get_or_raise(dialect), paramstyle
        self._mysql = dialect == "mysql"

    def verdict(self, sql: str) -> str | None:
        text = self._without_placeholders(sql if len(sql) <= _LONGEST else sql[:_BEGINNING])
        try:
            if self._mysql and ("/*!" in text or "/*M!" in text):
                text = _uncovered(text, self._dialect.tokenize(text))
            tokens = self._dialect.tokenize(text)
            found = (self._statement(statement, text) for statement in _split(tokens))
            return next((one for one in found if one is not None), None)
        except SqlglotError:
            return None

    def _without_placeholders(self, sql: str) -> str:
        # NULL parses wherever a value does. Quoted text may change; it is not judged.
        match self._paramstyle:
            case "numeric_dollar":
                return re.sub(r"\$\d+", " NULL ", sql)
            case "format" | "pyformat":
                return re.sub(r"%(?:\(\w+\))?s", " NULL ", sql.replace("%%", "%"))
            case _:
                return sql

    def _statement(self, tokens: Sequence[Token], text: str) -> str | None:
        word = _word(tokens, 0)
        match word:
            case _ if word in _QUERIES:
                return self._query(tokens, text)
            case "EXPLAIN" | "DESCRIBE" | "DESC" | "ANALYZE":
                return self._explained(*self._opened(tokens, text))
            case "SET" if self._mysql and _word(tokens, 1) == "STATEMENT":
                return self._for_one_statement(tokens, text)
            case "COPY":
                return self._copied(tokens, text)
            case "PRAGMA":
                return _pragma(tokens)
            case "START" if _word(tokens, 1) != "TRANSACTION":
                return "START"
            case "DECLARE":
                return _called(tokens)
        return word if word in _REFUSED else None

    def _query(self, tokens: Sequence[Token], text: str) -> str | None:
        return self._worded(tokens) or self._parsed(tokens, text)

    def _worded(self, tokens: Sequence[Token]) -> str | None:
        """Judge by the words alone; INTO is reserved in every dialect."""
        for at, token in enumerate(tokens):
            named = at > 0 and tokens[at - 1].token_type in {TokenType.DOT, TokenType.ALIAS}
            if token.token_type is TokenType.INTO and not named:
                return "INSERT" if at > 0 and _word(tokens, at - 1) == "INSERT" else "SELECT ... INTO"
            if self._mysql and token.token_type is TokenType.COLON_EQ:
                return "assignment to a variable"
            if _words(tokens, at, 3) == ["NEXT", "VALUE", "FOR"]:
                return "NEXT VALUE FOR"
        return _called(tokens)

    def _parsed(self, tokens: Sequence[Token], text: str) -> str | None:
        try:
            trees = self._dialect.parser().parse(list(tokens), text)
        except (SqlglotError, RecursionError):
            return None
        for tree in trees:
            for node in tree.walk() if tree is not None else ():
                for kind, name in _WRITES.items():
                    if isinstance(node, kind):
                        return name
        return None

    def _opened(self, tokens: Sequence[Token], text: str) -> tuple[Sequence[Token], str]:
        """Tokenize what follows a word that sqlglot takes for a command: it leaves the rest in one piece."""
        if tokens[0].token_type is not TokenType.COMMAND or len(tokens) == 1:
            return tokens, text
        rest = tokens[1].text
        return [tokens[0], *self._dialect.tokenize(rest)], rest

    def _explained(self, tokens: Sequence[Token], text: str) -> str | None:
        """Judge an EXPLAIN: it runs nothing unless it analyzes; MariaDB writes that as ANALYZE alone."""
        at, runs = 1, _word(tokens, 0) == "ANALYZE"
        if runs and (not self._mysql or _word(tokens, 1) in {"TABLE", "LOCAL", "NO_WRITE_TO_BINLOG"}):
            return "ANALYZE"
        if _word(tokens, 1) == "(" and _word(tokens, 2) not in _QUERIES:
            at = _closing(tokens, 1) + 1
            options = [_word(tokens, place) for place in range(2, at)]
            runs = "ANALYZE" in options and options[options.index("ANALYZE") + 1] not in {"OFF", "FALSE", "0"}
        while (word := _word(tokens, at)) in {"ANALYZE", "VERBOSE", "EXTENDED", "PARTITIONS", "FORMAT"}:
            runs = runs or word == "ANALYZE"
            at += 3 if word == "FORMAT" else 1  # FORMAT = name
        found = self._statement(tokens[at:], text) if runs and at < len(tokens) else None
        return f"EXPLAIN ANALYZE of {found}" if found else None

    def _for_one_statement(self, tokens: Sequence[Token], text: str) -> str | None:
        start = next((at for at in range(len(tokens)) if _word(tokens, at) == "FOR"), len(tokens) - 1)
        return self._statement(tokens[start + 1 :], text)

    def _copied(self, tokens: Sequence[Token], text: str) -> str | None:
        end = _closing(tokens, 1) + 1 if _word(tokens, 1) == "(" else 1
        rest = [_word(tokens, at) for at in range(end, len(tokens))]
        found = self._statement(tokens[2 : end - 1], text) if end > 1 else None
        if found is not None:
            return f"COPY of {found}"
        to = rest.index("TO") + 1 if "TO" in rest else len(rest)
        return None if rest[to : to + 1] == ["STDOUT"] else "COPY"


def _called(tokens: Sequence[Token]) -> str | None:
    for at, token in enumerate(tokens[:-1]):
        if tokens[at + 1].token_type is TokenType.L_PAREN:
            name = token.text.lower()
            # Without an argument it only reads, with one it sets.
            sets = name == "last_insert_id" and _word(tokens, at + 2) != ")"
            if sets or (has_side_effects(name) and token.token_type is not TokenType.STRING):
                return f"{name}()"
    return None


def _pragma(tokens: Sequence[Token]) -> str | None:
    words = [_word(tokens, at).lower() for at in range(1, len(tokens))]
    if words[1:2] == ["."]:
        del words[:2]
    name = words[0] if words else ""
    reads = len(words) <= 1 or (words[1] == "(" and name in _PRAGMAS)
    return None if reads and name not in _WORKING_PRAGMAS else f"PRAGMA {name}"


def _split(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    start = 0
    for at, token in enumerate(tokens):
        if token.token_type is TokenType.SEMICOLON:
            if at > start:
                yield tokens[start:at]
            start = at + 1
    if start < len(tokens):
        yield tokens[start:]


def _word(tokens: Sequence[Token], at: int) -> str:
    """Return the token in upper case; empty for quoted text and past the end."""
    if not 0 <= at < len(tokens) or tokens[at].token_type in {TokenType.STRING, TokenType.IDENTIFIER}:
        return ""
    return tokens[at].text.upper().partition(" ")[0]  # sqlglot has keywords of two words, such as LOCK TABLES


def _words(tokens: Sequence[Token], at: int, count: int) -> list[str]:
    return [_word(tokens, place) for place in range(at, at + count)]


def _closing(tokens: Sequence[Token], opening: int) -> int:
    """Return where the parenthesis at *opening* is closed, or the last place."""
    depth = 0
    for at in range(opening, len(tokens)):
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(tokens[at].token_type, 0)
        if depth == 0:
            return at
    return len(tokens) - 1


_COMMENT = re.compile(r"--[^\n]*|#[^\n]*|/\*(M?!\d*)?(.*?)\*/", re.DOTALL)


def _uncovered(text: str, tokens: Sequence[Token]) -> str:
    """Return *text* with the comments that MySQL runs as plain SQL: `/*! ... */`, `/*M! ... */`."""
    parts, end = [], 0
    for token in tokens:
        parts += [_without_covers(text[end : token.start]), text[token.start : token.end + 1]]
        end = token.end + 1
    return "".join([*parts, _without_covers(text[end:])])


def _without_covers(between: str) -> str:
    """Uncover the comments in *between*: only blanks and comments stand between two tokens."""
    return _COMMENT.sub(lambda comment: f" {comment[2]} " if comment[1] else " ", between)
