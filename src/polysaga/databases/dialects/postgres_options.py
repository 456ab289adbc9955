"""The options in a PostgreSQL URL, by libpq's names: all of them for psycopg, for asyncpg those that it knows."""

import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlencode

from sqlalchemy import URL

from polysaga.databases.dialects.options import (
    Read,
    UnusableOption,
    choice,
    file,
    number,
    options,
    refuse_both,
    switch,
    text,
    whole,
)

# Query options of libpq and SQLAlchemy that name a part of the URL, and that part.
_PLACES = {"user": "username", "password": "password", "dbname": "database", "database": "database"}
SEVERAL_HOSTS = "write each with its port, postgresql://USER:PASSWORD@/DATABASE?host=A:5432&host=B:5432"
_OF_IPV6 = (
    "write postgresql://USER:PASSWORD@[fd00::1]:5432/DATABASE, and several as ?host=fd00::1,fd00::2&port=5432,5432"
)
_ADDRESS = {"host", "port"}  # SQLAlchemy's options: for one server, or for each of several

_MODES = choice("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_ROLES = choice("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
# Settings that Polysaga makes on every connection, and the remedy for a URL that sets them too.
_OURS = {
    "lock_timeout": "set databases.{database}.lock_timeout",
    "idle_in_transaction_session_timeout": "set databases.{database}.idle_transaction_timeout",
    "tcp_user_timeout": "set databases.{database}.idle_transaction_timeout",
    "default_transaction_isolation": "leave it out: transactions are READ COMMITTED, snapshots REPEATABLE READ",
    "transaction_isolation": "leave it out: transactions are READ COMMITTED, snapshots REPEATABLE READ",
    "default_transaction_read_only": "leave it out: the server refuses writes of readers, and of no others",
    "transaction_read_only": "leave it out: the server refuses writes of readers, and of no others",
    "client_encoding": "leave it out: it is UTF8",
}
_PSYCOPG_OURS = {
    "datestyle": "leave it out: the driver reads ISO",
    "intervalstyle": "leave it out: the driver reads postgres",
    "array_nulls": "leave it out: NULL in an array is null",
    "extra_float_digits": "leave it out: numbers are read as they are stored",
    **_OURS,
}
_REFUSED = {
    "connect_timeout": "set databases.{database}.pool.connect_timeout",
    "service": "write host, port, user, database and options of the service into the URL",
    "replication": "leave it out: a connection for replication runs no statements",
    "autocommit": "leave it out: readers are in autocommit, writers are not",
    **dict.fromkeys(("context", "row_factory"), "leave it out: it can be set in a program only"),
    **dict.fromkeys(("cursor_factory", "connection_class"), "leave it out: it can be set in a program only"),
}
_UNKNOWN = "leave it out; a setting of the server is written as options=-c%20NAME%3DVALUE"
_UTF8 = choice("utf8", "utf-8", "unicode", "auto")


def _repeats(value: str) -> int | None:
    return None if value.lower() == "none" else whole(value)


_BOTH: Mapping[str, Read] = {
    "application_name": text,
    "fallback_application_name": text,
    "options": text,
    "client_encoding": _UTF8,
    "passfile": text,
    "sslmode": _MODES,
    "sslcert": file,
    "sslkey": file,
    "sslrootcert": lambda value: value if value == "system" else file(value),
    "sslcrl": file,
    "sslpassword": text,
    "sslnegotiation": choice("postgres", "direct"),
    "ssl_min_protocol_version": text,
    "ssl_max_protocol_version": text,
    "target_session_attrs": _ROLES,
    "krbsrvname": text,
    "gsslib": text,
}
_LIBPQ: Mapping[str, Read] = {
    **_BOTH,
    "prepare_threshold": _repeats,
    "hostaddr": text,
    "channel_binding": choice("disable", "prefer", "require"),
    "keepalives": choice("0", "1"),
    "keepalives_idle": whole,
    "keepalives_interval": whole,
    "keepalives_count": whole,
    "tcp_user_timeout": whole,
    "gssencmode": choice("disable", "prefer", "require"),
    "gssdelegation": choice("0", "1"),
    "load_balance_hosts": choice("disable", "random"),
    **dict.fromkeys(("sslcompression", "sslsni"), choice("0", "1")),
    **dict.fromkeys(("sslcertmode", "sslcrldir", "sslkeylogfile", "requirepeer", "require_auth"), text),
    **dict.fromkeys(("min_protocol_version", "max_protocol_version"), text),
    **dict.fromkeys(("scram_client_key", "scram_server_key"), text),
    **dict.fromkeys(("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"), text),
}
_LIBPQ_ONLY = "asyncpg has nothing like it: leave it out, or use postgresql+psycopg://"
_ASYNCPG: Mapping[str, Read] = {
    **_BOTH,
    "ssl": _MODES,
    "direct_tls": switch,
    "statement_cache_size": whole,
    "max_cached_statement_lifetime": whole,
    "max_cacheable_statement_size": whole,
    "prepared_statement_cache_size": whole,  # SQLAlchemy's
    "command_timeout": number,
    # Accepted only with values for which asyncpg need do nothing.
    "channel_binding": lambda value: _harmless(value, "disable", "prefer"),
    "gssencmode": lambda value: _harmless(value, "disable", "prefer"),
    "load_balance_hosts": lambda value: _harmless(value, "disable"),
    "sslcompression": lambda value: _harmless(value, "0"),
    "keepalives": lambda value: _harmless(value, "1"),
}
_OF_SESSIONS = {"application_name", "fallback_application_name", "options", "client_encoding"}
_DSN = _BOTH.keys() - _OF_SESSIONS - {"target_session_attrs"}
_ARGUMENTS = {
    "target_session_attrs",
    "direct_tls",
    "statement_cache_size",
    "max_cached_statement_lifetime",
    "max_cacheable_statement_size",
    "prepared_statement_cache_size",
    "command_timeout",
}


# A reader's own session is read-only on every server, so drivers could not choose a server by that.
_FOR_READERS = {"read-write": "primary", "read-only": "standby"}


def reader_arguments(connect: dict[str, Any]) -> dict[str, Any]:
    """Return *connect*, a driver's arguments, for sessions that only read, on the servers that the URL wants."""
    role = connect.get("target_session_attrs")
    return connect if role not in _FOR_READERS else {**connect, "target_session_attrs": _FOR_READERS[role]}


def address(url: URL) -> URL:
    """Return *url* without its options: the server's address, the account and the database are left."""
    place = {}
    for name, part in _PLACES.items():
        given = url.query.get(name)
        if given is None:
            continue
        if not isinstance(given, str) or getattr(url, part) or part in place:
            raise UnusableOption(name, "is given more than once", "give it once")
        place[part] = given
    hosts = {name: given for name, given in url.query.items() if name in _ADDRESS}
    listed = hosts.get("host", "")
    parts = listed.split(",") if isinstance(listed, str) else list(listed)
    # libpq accepts a list in place of the host. Neither it nor SQLAlchemy accepts one with ports in an option.
    has_port = isinstance(listed, str) and len(parts) > 1 and any(part.count(":") == 1 for part in parts)
    if "," in (url.host or "") or has_port:
        raise UnusableOption("host", "has several servers in one", SEVERAL_HOSTS)
    # SQLAlchemy takes each colon in a repeated option for the one before a port, and none of them after a bracket.
    if any("[" in part or (part.count(":") > 1 and not isinstance(listed, str)) for part in parts):
        raise UnusableOption("host", "has an address of IPv6 in this form", _OF_IPV6)
    directory = unquote(url.host or "")
    if directory.startswith("/"):  # a socket's, percent-encoded as libpq wants it; SQLAlchemy does not decode it
        url, hosts = url.set(host=""), {"host": directory, **hosts}
    return url.set(query=hosts, **place)  # type: ignore[arg-type]  # names of parts, not known one by one


def libpq_options(url: URL, inherited: str) -> dict[str, Any]:
    """Return the options in the query of *url* as psycopg's arguments.

    libpq reads PGOPTIONS only if no `options` are given, and Polysaga always gives some. So *inherited*, the value
    of PGOPTIONS, is used here if the URL has none.
    """
    found = options(_query(url), _LIBPQ, _REFUSED, _UNKNOWN)
    found.pop("client_encoding", None)
    _check_settings("options", found.get("options", ""), _PSYCOPG_OURS)
    if inherited and "options" not in found:
        _check_settings("PGOPTIONS", inherited, _PSYCOPG_OURS)
        found["options"] = inherited
    return _named(found)


def asyncpg_options(url: URL) -> dict[str, Any]:
    """Return the options in the query of *url* as asyncpg's arguments.

    asyncpg takes most of libpq's names only in a DSN. There it knows what each value of `sslmode` means.
    """
    only = dict.fromkeys(_LIBPQ.keys() - _ASYNCPG.keys(), _LIBPQ_ONLY)
    found = _named(options(_query(url), _ASYNCPG, {**only, **_REFUSED}, _UNKNOWN))
    refuse_both(found, "sslmode", "ssl")
    _check_settings("options", found.get("options", ""), _OURS)
    if "ssl" in found:
        found["sslmode"] = found["ssl"]
    arguments = {name: value for name, value in found.items() if name in _ARGUMENTS}
    if found.get("sslrootcert") == "system":
        if found.get("sslmode", "verify-full") != "verify-full" or "sslcert" in found:
            raise UnusableOption("sslrootcert", "is 'system'", "add sslmode=verify-full, without sslcert")
        arguments["ssl"] = ssl.create_default_context()
        found = {name: value for name, value in found.items() if name not in {"sslrootcert", "sslmode"}}
    dsn = {name: value for name, value in found.items() if name in _DSN}
    if dsn:
        arguments["dsn"] = f"postgresql://?{urlencode(dsn)}"
    settings = {name: found[name] for name in ("application_name", "options") if name in found}
    if settings:
        arguments["server_settings"] = settings
    return arguments


def _query(url: URL) -> dict[str, Any]:
    return {name: given for name, given in url.query.items() if name not in _ADDRESS | _PLACES.keys()}


def _named(found: dict[str, Any]) -> dict[str, Any]:
    # Polysaga sets application_name if the URL does not, so libpq would never use a fallback.
    fallback = found.pop("fallback_application_name", None)
    return {"application_name": fallback, **found} if fallback is not None else found


def _harmless(value: str, *words: str) -> str:
    if value.lower() not in words:
        raise ValueError(f"{' or '.join(words)}: asyncpg cannot do more, postgresql+psycopg:// can")
    return value


def _check_settings(option: str, given: str, ours: Mapping[str, str]) -> None:
    """Raise `UnusableOption` if *given*, options of a server's command line, sets one of *ours*."""
    for name in settings_in(given):
        if name in ours:
            raise UnusableOption(option, f"sets {name}, which Polysaga sets", ours[name])


def settings_in(given: str) -> dict[str, str]:
    """Return the settings in *given*, options of a server's command line, by the server's names for them."""
    found = {}
    words = iter(re.findall(r"(?:\\.|[^\s\\])+", given, re.DOTALL))
    for word in words:
        plain = _without_backslashes(word)
        if plain in {"-c", "--"}:
            plain = _without_backslashes(next(words, ""))
        elif plain.startswith(("-c", "--")):
            plain = plain[2:]
        else:
            continue
        name, _, value = plain.partition("=")
        found[name.replace("-", "_").lower()] = value
    return found


def _without_backslashes(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL)
