"""The URL of a node: the driver that it names, and what is wrong with it, with the remedy."""

import importlib.util
import re
from collections.abc import Iterator

from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from polysaga.config import masked
from polysaga.databases.dialects import SQL_DIALECTS
from polysaga.databases.dialects.options import UnusableOption
from polysaga.databases.dialects.postgres_options import SEVERAL_HOSTS
from polysaga.errors import ConfigurationError

NOT_ENCODED = (
    "it cannot be read; percent-encode what is special in its user name, password and options, e.g. %2F for '/', "
    "%3F for '?', %40 for '@'"
)
_LAST_PORT = 65535
# In the order of preference, if several are installed.
_POSTGRES = ("postgresql+asyncpg", "postgresql+psycopg")
_SCHEMES = {
    "postgres": _POSTGRES,
    "postgresql": _POSTGRES,
    "mysql": ("mysql+asyncmy",),
    "mariadb": ("mariadb+asyncmy",),
    "sqlite": ("sqlite+aiosqlite",),
}


def sql_url(database: str, text: str) -> URL:
    """Return *text*, the URL of a node of *database*, with the scheme of an installed driver.

    Raises `ConfigurationError` with the remedy.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        authority = re.split("[/?]", text.partition("://")[2])[0]
        if text.startswith("postgres") and "," in authority.rpartition("@")[2]:
            several = f"databases.{database}.url has several servers in the place of one; {SEVERAL_HOSTS}"
            raise ConfigurationError(several) from None
        raise ConfigurationError(
            f"databases.{database}.url is not a URL; write e.g. postgresql+asyncpg://user@host/{database}, and "
            "percent-encode what is special in its user name and password"
        ) from None
    # A password with an '@' ends there; its rest would be named as the host, or as a part of the database.
    if "@" in (url.host or "") or ("@" in (url.database or "") and not url.drivername.startswith("sqlite")):
        raise ConfigurationError(f"databases.{database}.url: {NOT_ENCODED}")
    url = url.set(drivername=_scheme(url.drivername.lower()))
    wrong = next((port for port in _ports(url) if not 0 < port <= _LAST_PORT), None)
    if wrong is not None:
        raise ConfigurationError(f"databases.{database}.url: there is no port {wrong}; give 1 to {_LAST_PORT}")
    if url.drivername not in SQL_DIALECTS:
        raise ConfigurationError(
            f"databases.{database}.url: '{url.drivername}://' is not supported for this handle; {_corrected(url)}"
        )
    if url.drivername.startswith("sqlite") and _is_in_memory(url):
        raise ConfigurationError(
            f"databases.{database}.url: SQLite in memory belongs to one connection, and a database has several; "
            f"name a file, e.g. sqlite+aiosqlite:///{database}.db, in tests below tmp_path"
        )
    dialect = SQL_DIALECTS[url.drivername]
    if dialect.name == "mysql" and not url.database:  # none would be selected, and every statement would fail
        named = url.set(database=database).render_as_string()
        raise ConfigurationError(f"databases.{database}.url names no database on the server; write e.g. {named}")
    require_driver(database, url.drivername.partition("+")[2], dialect.extra)
    return url


def _ports(url: URL) -> Iterator[int]:
    """Yield the ports in *url*: in their place, and of hosts in options."""
    if url.port is not None:
        yield url.port
    for name in ("host", "port"):
        given = url.query.get(name, ())
        for one in given.split(",") if isinstance(given, str) else given:
            host, _, last = one.rpartition(":")
            address = ":" in host and not host.endswith("]")  # of IPv6, without a port
            if last.isdecimal() and not address and (name == "port" or host):
                yield int(last)


def _scheme(given: str) -> str:
    """Return the scheme with the installed driver for *given*, a scheme without one, as hosters write it."""
    fitting = _SCHEMES.get(given)
    if fitting is None:
        return given
    installed = (scheme for scheme in fitting if importlib.util.find_spec(scheme.partition("+")[2]) is not None)
    return next(installed, fitting[0])


def _corrected(url: URL) -> str:
    kind = url.drivername.partition("+")[0]
    if kind in _SCHEMES:  # with a driver that is not asynchronous
        right = url.set(drivername=_scheme(kind))
        return f"write {masked(right.render_as_string(hide_password=True))}"
    return f"use one of {', '.join(f'{scheme}://' for scheme in SQL_DIALECTS)}"


def unusable(database: str, role: str, error: UnusableOption) -> ConfigurationError:
    """Return the error for an option that the URL of a node in *role* cannot have."""
    place = "url" if role == "primary" else "replicas"
    remedy = error.remedy.format(database=database)
    return ConfigurationError(f"databases.{database}.{place}: option '{error.name}' {error.why}; {remedy}")


def _is_in_memory(url: URL) -> bool:
    # Also as a URI: file::memory:?uri=true, file:name?mode=memory&uri=true.
    return not url.database or ":memory:" in url.database or url.query.get("mode") == "memory"


def require_driver(database: str, module: str, extra: str) -> None:
    """Raise `ConfigurationError` with the install command if *module* is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ConfigurationError(
            f"database '{database}' needs the driver '{module}': pip install 'polysaga[{extra}]'"
        )
