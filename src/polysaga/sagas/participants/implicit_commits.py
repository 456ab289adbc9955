"""Which statements end the transaction they are sent in; a step's session refuses to send them.

MySQL and MariaDB commit implicitly before and after DDL and much else, and MariaDB runs whole programs without
a procedure (`IF 1 THEN COMMIT; END IF`). SQL text that is built at run time or stored on the server cannot be
read here: statements that run built text are refused, and procedure calls are watched.
"""

import re

_SPACE = r"(?is)\A(?:\s|;|--[^\n]*(?:\n|\Z)|/\*(?!M?!).*?\*/)*"
_CONTROL = (
    r"(?:abort|begin|commit|end|prepare\s+transaction|rollback(?!\s+(?:(?:work|transaction)\s+)?to)|"
    r"start\s+transaction)\b"
)
_MYSQL_SPACE = _SPACE.replace("--", "(?:--|#)") + r"(?:/\*M?!\d*\s*)?"
# https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html
_IMPLICIT = (
    r"alter|analyze|cache|change|check|clone|create(?!\s+temporary)|drop(?!\s+temporary)|flush|grant|import|install|"
    r"load\s+index|lock|optimize|purge|rename|repair|reset|revoke|set\s+(?:default\s+role|password)|set\b.*\bautocommit|"
    r"start|stop|truncate|uninstall|unlock|xa"
)
# https://mariadb.com/kb/en/programmatic-compound-statements/
_PROGRAMS = r"if|case|for|loop|repeat|while|execute|prepare|set\s+statement"

_ANY = re.compile(_SPACE + _CONTROL)
_MYSQL = re.compile(_MYSQL_SPACE + f"(?:{_CONTROL}|(?:{_IMPLICIT}|{_PROGRAMS})\\b)")
_CALL = re.compile(_MYSQL_SPACE + r"call\b")
# Strings, quoted names, dollar quotes and comments: a semicolon inside them does not end a statement.
_QUOTED = re.compile(
    r"""(?s)'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`[^`]*`|(\$\w*\$).*?\1|--[^\n]*|\#[^\n]*|/\*.*?\*/"""
)
# MariaDB: settings for one statement, which follows.
_SETTING = r"""\w+\s*=\s*(?:[\w.]+|'[^'\\]*'|"[^"\\]*")"""
_SET_STATEMENT = re.compile(
    _SPACE.replace("--", "(?:--|#)") + rf"set\s+statement\s+{_SETTING}(?:\s*,\s*{_SETTING})*\s+for\b"
)
_SECOND = re.compile(r";\s*[^\s;]")


def ends_transaction(dialect: str, statement: str) -> bool:
    """Return whether *statement* would end its transaction, or is several statements and one of them might."""
    if dialect == "mysql" and (prefix := _SET_STATEMENT.match(statement)) is not None:
        rest = statement[prefix.end() :]
        return calls_procedure(rest) or ends_transaction(dialect, rest)
    known = _MYSQL if dialect == "mysql" else _ANY
    return known.match(statement) is not None or (";" in statement and _is_several(statement))


def calls_procedure(statement: str) -> bool:
    """Return whether *statement* calls a stored procedure of MySQL or MariaDB, which may commit."""
    return _CALL.match(statement) is not None


def _is_several(statement: str) -> bool:
    return _SECOND.search(_blanked(statement)) is not None


def _blanked(statement: str) -> str:
    """Return *statement* with blanks in the place of what is quoted or a comment."""
    return _QUOTED.sub(lambda found: " " * len(found[0]), statement)
