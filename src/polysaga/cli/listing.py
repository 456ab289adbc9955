"""How servers look in a terminal of any width: a line for the database, and two for each server."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text


@dataclass(frozen=True, slots=True)
class ServerLine:
    """One server, and the facts about it in a few words."""

    database: str
    node: str
    facts: str
    wrong: bool = False


def listing(lines: Iterable[ServerLine]) -> Group:
    """Return *lines* below the names of their databases; print it with `soft_wrap`, which breaks no URL."""
    shown, database = [], None
    for line in lines:
        if line.database != database:
            database = line.database
            shown.append(Text(database, "bold"))
        shown.append(Text(f"  {line.node}", "red" if line.wrong else ""))
        shown.append(Text(f"    {line.facts}", "red" if line.wrong else "dim"))
    return Group(*shown)
