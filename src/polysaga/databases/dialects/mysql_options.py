"""The options in a MySQL or MariaDB URL, for asyncmy: its own names, and the usual ones for TLS."""

import re
import ssl
from collections.abc import Mapping
from typing import Any

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

_UNKNOWN = "leave it out; a setting of the session is written as init_command=SET%20NAME%3DVALUE"
_IN_A_PROGRAM = "leave it out: it can be set in a program only"
_IN_ITS_PLACE = "write it in its place: mysql+asyncmy://USER:PASSWORD@HOST:PORT/DATABASE"
_TLS = "write ssl_mode=REQUIRED, VERIFY_CA, VERIFY_IDENTITY or DISABLED"
_REFUSED = {
    "connect_timeout": "set databases.{database}.pool.connect_timeout",
    "write_timeout": "leave it out; statements of a step end with the step's time-out",
    "autocommit": "leave it out: readers are in autocommit, writers are not",
    "use_unicode": "leave it out: text is Unicode",
    "client_flag": "leave it out: the driver's flags have to be those that Polysaga counts on",
    "stmt_cache_size": "leave it out: statements are not prepared on the server",
    "compress": "leave it out: asyncmy does not compress",
    "plugin_dir": "leave it out: asyncmy has no plugins",
    "ssl_disabled": _TLS,
    "ssl_verify_cert": _TLS,
    "ssl_verify_identity": _TLS,
    "tls": _TLS,
    "usessl": _TLS,
    "useSSL": _TLS,
    "requireSSL": _TLS,
    "sslaccept": _TLS,
    **dict.fromkeys(("host", "port", "user", "password", "passwd", "db", "database"), _IN_ITS_PLACE),
    **dict.fromkeys(("conv", "cursor_cls", "cursorclass", "auth_plugin_map", "sock", "echo"), _IN_A_PROGRAM),
    **dict.fromkeys(("password_creator", "query_callback", "server_public_key", "loop"), _IN_A_PROGRAM),
}
_MODES = ("disabled", "required", "verify_ca", "verify_identity")
_SPELLINGS = ("ssl_mode", "ssl-mode", "sslmode", "ssl")
_SAME_MODES = {
    **dict.fromkeys(("true", "1", "require"), "required"),
    **dict.fromkeys(("false", "0", "disable"), "disabled"),
}
_FILES = ("ssl_ca", "ssl_cert", "ssl_key")
# Settings that `MySQL.engine_arguments` makes, and the remedy for a URL that sets them too.
_OURS = {
    r"time_zone": "leave it out: sessions are in UTC",
    r"innodb_lock_wait_timeout": "set databases.{database}.lock_timeout",
    r"net_(read|write)_timeout|idle_(readonly_|write_)?transaction_timeout|\bwait_timeout": (
        "set databases.{database}.idle_transaction_timeout"
    ),
    r"autocommit": "leave it out: readers are in autocommit, writers are not",
    r"(tx|transaction)_(isolation|read_only)|\bset\s+(session\s+|local\s+)?transaction\b": (
        "leave it out: transactions are READ COMMITTED, snapshots REPEATABLE READ, and readers only read"
    ),
    r"character_set_(client|connection|results)|collation_connection|\bset\s+character\s+set|"
    r"\bset\s+charset|\bset\s+names\s+(?!['\"]?utf8mb4\b)": "leave it out: text travels as utf8mb4",
}


def _mode(value: str) -> str:
    plain = value.lower().replace("-", "_")
    plain = _SAME_MODES.get(plain, plain)
    if plain not in _MODES:  # e.g. PREFERRED: asyncmy has no optional TLS
        raise ValueError("REQUIRED, VERIFY_CA, VERIFY_IDENTITY or DISABLED")
    return plain


_KNOWN: Mapping[str, Read] = {
    "charset": choice("utf8mb4"),
    "init_command": text,
    "sql_mode": text,
    "unix_socket": text,
    "read_default_file": file,
    "read_default_group": text,
    "local_infile": switch,
    "max_allowed_packet": whole,
    "read_timeout": number,
    "binary_prefix": switch,
    "program_name": text,
    **dict.fromkeys(_SPELLINGS, _mode),
    **dict.fromkeys(_FILES, file),
    "ssl_capath": text,
    "ssl_cipher": text,
    "ssl_check_hostname": switch,
}


def asyncmy_options(url: URL) -> dict[str, Any]:
    """Return the options in the query of *url* as asyncmy's arguments."""
    found = options(url.query, _KNOWN, _REFUSED, _UNKNOWN)
    refuse_both(found, *_SPELLINGS)
    if "read_default_file" in found or "read_default_group" in found:
        found["charset"] = "utf8mb4"  # or the file's charset would apply
    mode = next((found.pop(name) for name in _SPELLINGS if name in found), None)
    given = {name.removeprefix("ssl_"): found.pop(name) for name in tuple(found) if name.startswith("ssl_")}
    if "key" in given and "cert" not in given:
        raise UnusableOption("ssl_key", "needs a certificate", "add ssl_cert")
    encrypted = _encrypted(mode, given)
    if encrypted is not None:
        found["ssl"] = encrypted
    # Sent before Polysaga's own settings, which win. The driver would not quote the modes.
    first = [found.pop("init_command", "")]
    modes = found.pop("sql_mode", None)
    if modes is not None:
        first.insert(0, f"SET SESSION sql_mode = '{_checked_modes(modes)}'")
    command = "\n;".join(stripped for stripped in (one.strip().rstrip(";") for one in first) if stripped)
    if command:
        found["init_command"] = _checked(command)
    return found


def _encrypted(mode: str | None, given: dict[str, Any]) -> "bool | dict[str, Any] | ssl.SSLContext | None":
    """Return asyncmy's `ssl` argument; None for no TLS."""
    trusted = "ca" in given or "capath" in given
    if mode == "disabled":
        if given:
            raise UnusableOption(
                f"ssl_{next(iter(given))}", "is for TLS, which is disabled", "leave one of them out"
            )
        return None
    if mode is None:
        return given or None
    if mode == "required":
        return {**given, "verify_mode": False, "check_hostname": False} if given else True
    by_name = mode == "verify_identity"
    if trusted:
        return {**given, "verify_mode": True, "check_hostname": by_name}
    # The system's certificate authorities; without a context asyncmy would check nothing.
    context = ssl.create_default_context()
    context.check_hostname = by_name
    if "cert" in given:
        context.load_cert_chain(given["cert"], keyfile=given.get("key"))
    if "cipher" in given:
        context.set_ciphers(given["cipher"])
    return context


def _checked_modes(modes: str) -> str:
    plain = modes.strip("'\"")
    if not re.fullmatch(r"[A-Za-z_, ]*", plain):
        raise UnusableOption("sql_mode", "has a value that does not fit", "give names of modes with commas")
    return plain


def _checked(command: str) -> str:
    for names, remedy in _OURS.items():
        if re.search(names, command, re.IGNORECASE):
            raise UnusableOption("init_command", "sets what Polysaga sets", remedy)
    return command
