"""Files of SQLite that are not there yet.

SQLite creates a file when it is opened. `polysaga migrate` and a program mean that; a command that only reads, or
repairs what must be there, creates none: an empty file would pass as the database whose path is misspelt.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import SecretStr

from polysaga.config import Settings
from polysaga.databases.dialects import SQL_DIALECTS
from polysaga.databases.urls import sql_url
from polysaga.errors import ConfigurationError

MISSING = "there is no such file yet"


def require_files(settings: Settings) -> Settings:
    """Return *settings*; raise `ConfigurationError` with the remedy if a file in them is missing."""
    for name, path in _missing(settings):
        raise ConfigurationError(f"database '{name}': there is no file {path} yet; run `polysaga migrate`")
    return settings


@contextmanager
def stood_in_for(settings: Settings) -> Iterator[Settings]:
    """Yield *settings*; in the place of each file that is missing they name an empty one elsewhere."""
    missing = [name for name, _ in _missing(settings)]
    if not missing:
        yield settings
        return
    with TemporaryDirectory(prefix="polysaga-") as directory:
        databases = dict(settings.databases)
        for name in missing:
            url = SecretStr(f"sqlite+aiosqlite:///{Path(directory) / name}.sqlite")
            databases[name] = databases[name].model_copy(update={"url": url})
        yield settings.model_copy(update={"databases": databases})


def _missing(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, one in settings.databases.items():
        text = one.url.get_secret_value()
        if text.startswith("sqlite"):
            url = sql_url(name, text)
            path = SQL_DIALECTS[url.drivername]().missing_file(url)
            if path is not None:
                yield name, path
