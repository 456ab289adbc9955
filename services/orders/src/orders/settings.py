"""The places of the three databases: three SQLite files in a directory, unless the settings name servers."""

import os
from pathlib import Path

from sqlalchemy import URL, make_url

from polysaga.config import Settings, load_settings
from polysaga.errors import ConfigurationError

DATA = Path("data")
NAMES = ("orders", "points", "inventory")
OPERATOR_TOKEN = "ORDERS_OPERATOR_TOKEN"  # noqa: S105 - the name of the variable, not its value
_PATIENCE = 15.0  # seconds: writers of one SQLite file queue for a single connection


def load(data: Path = DATA) -> Settings:
    """Return the settings; a database without configuration is a SQLite file in *data*.

    `polysaga.toml` and variables such as `POLYSAGA_DATABASES__ORDERS__URL` name other servers.
    """
    defaults = {
        name: {
            "url": _url(data / f"{name}.db"),
            "pool": {"acquire_timeout": _PATIENCE},
        }
        for name in NAMES
    }
    return load_settings(defaults={"databases": defaults})


def operator_token() -> str | None:
    """Return the token with which operators repair sagas; None if unset, and then only this machine may.

    Blanks around it are removed, such as the line break of a mounted file. Raises `ConfigurationError` for a token
    that no client could send.
    """
    given = os.environ.get(OPERATOR_TOKEN)
    if not given:
        return None
    token = given.strip()
    if not token:
        raise ConfigurationError(f"{OPERATOR_TOKEN} is blank: give a token, or unset it to serve this machine")
    if not token.isprintable():  # nor is the stand-in for a byte that is not UTF-8
        raise ConfigurationError(
            f"{OPERATOR_TOKEN} has a byte that is not UTF-8, or an invisible character: give printable text, "
            "e.g. from `openssl rand -hex 32`"
        )
    return token


def _url(file: Path) -> str:
    """Return the URL of a SQLite file; a name may have characters that mean something in a URL, or to SQLite."""
    # To SQLite `file:` and `:memory:` are no directories.
    name = f"./{file}" if ":" in file.parts[0] else str(file)
    return URL.create("sqlite+aiosqlite", database=name).render_as_string(hide_password=False)


def files(settings: Settings) -> list[Path]:
    """Return the SQLite files that *settings* name, whether they exist or not."""
    urls = [database.url.get_secret_value() for database in settings.databases.values()]
    named = [make_url(url).database for url in urls if url.startswith("sqlite")]
    return [Path(name) for name in named if name]


def prepare(settings: Settings) -> Settings:
    """Create the directories of the SQLite files; SQLite creates the files."""
    for file in files(settings):
        file.parent.mkdir(parents=True, exist_ok=True)
    return settings
