"""Settings: where the databases are and how to treat them. Read once, checked once.

Sources, later ones win: defaults given in code, a TOML file (`polysaga.toml`, or the one that
`POLYSAGA_CONFIG` names), environment variables such as `POLYSAGA_DATABASES__ORDERS__URL`. Nothing below this
module reads the environment; every part receives its own piece.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from polysaga.errors import ConfigurationError

PREFIX = "POLYSAGA_"

_GUESSABLE = 16  # characters

Seconds = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PoolSettings(_Strict):
    """Connections to one node, per process."""

    size: int = Field(default=10, ge=1)
    max_overflow: int = Field(default=10, ge=0)
    acquire_timeout: Seconds = 5.0  # seconds until PoolExhausted
    connect_timeout: Seconds = 5.0  # seconds until DatabaseUnavailable
    recycle: Seconds = 30 * 60.0  # seconds after which a connection is replaced


class ReplicaSettings(_Strict):
    """One more server of the same database, for reading."""

    url: SecretStr
    pool: PoolSettings | None = None  # None: as the primary
    weight: int = Field(default=1, ge=1)  # share of the reads, against the other replicas
    zone: str | None = None  # where it stands; readers prefer their own zone


class ReadSettings(_Strict):
    """Where reads go; nothing here matters to a database without replicas."""

    consistency: Literal["eventual", "session", "strong"] = "session"
    max_lag: Seconds = 2.0  # seconds a replica may be behind the primary and still be read from
    wait: Annotated[float, Field(ge=0)] = 0.03  # seconds a reader waits for a replica to catch up
    no_replica: Literal["primary", "fail", "stale"] = "primary"  # where a reader goes if none is fresh enough
    primary_read_limit: int = Field(default=20, ge=1)  # readers at once on the primary, for want of a replica
    primary_wait: Annotated[float, Field(ge=0)] = 0.5  # seconds a reader waits for one of those places
    probe_interval: Seconds = 0.2  # seconds between two questions to a node
    probe_timeout: Seconds = 0.8  # seconds without an answer until a node is left alone
    zone: str | None = None  # where this process runs


class DatabaseSettings(_Strict):
    """One named database: the primary's URL, its replicas, its pool."""

    url: SecretStr
    replicas: tuple[ReplicaSettings, ...] = ()
    pool: PoolSettings = PoolSettings()
    reads: ReadSettings = ReadSettings()
    idle_transaction_timeout: Seconds = 15.0  # seconds until the server ends a transaction that does nothing
    lock_timeout: Seconds = 5.0  # seconds a statement waits for another transaction's lock

    @field_validator("replicas", mode="before")
    @classmethod
    def _accept_plain_urls(cls, value: object) -> object:
        if isinstance(value, str):
            # A comma between two URLs is followed by a scheme, one between the hosts of a URL is not.
            value = [part.strip(" ,") for part in re.split(r",(?=\s*[a-z0-9+]+://)", value) if part.strip(" ,")]
        if isinstance(value, list | tuple):
            return [{"url": item} if isinstance(item, str) else item for item in value]
        return value


_SHORTEST_RETENTION = 25 * 3600.0  # seconds


class SagaSettings(_Strict):
    """How this process drives sagas."""

    lease: Seconds = 10.0  # seconds a claim lasts without renewal
    max_in_flight: int = Field(default=256, ge=1)  # sagas driven at once by this process
    start_timeout: Seconds = 5.0  # seconds a caller waits for a free place
    claim_batch: int = Field(default=50, ge=1)  # overdue sagas claimed per tick
    drain: Seconds = 10.0  # seconds that running sagas get when the process is asked to stop
    payload_limit: int = Field(default=256 * 1024, ge=1)  # bytes of one input or result as JSON
    retention: Seconds = 30 * 24 * 3600.0  # seconds that sagas are kept after they came to rest

    @field_validator("retention")
    @classmethod
    def _outlast_late_calls(cls, value: float) -> float:
        if value < _SHORTEST_RETENTION:
            raise ValueError(
                f"{value:g} seconds are too few, give at least {_SHORTEST_RETENTION:g}: a step of a frozen "
                "process is refused by its ledger row for 24 hours, and clocks may differ by one"
            )
        return value


class BookmarkSettings(_Strict):
    """How clients carry what they must not miss; needed as soon as a database has replicas."""

    secret: SecretStr | None = None  # signs bookmarks; the same in every process of the service
    former_secrets: tuple[SecretStr, ...] = ()  # still accepted, while the secret is being changed
    cookie: str = "polysaga_bookmark"  # how the names of the cookies begin; `_` and the database follow
    secure: bool = True  # send the cookie over HTTPS only
    explain: bool = False  # tell in the header X-Polysaga-Route who answered and why; for development

    @field_validator("secret", "former_secrets")
    @classmethod
    def _refuse_guessable(cls, value: SecretStr | tuple[SecretStr, ...] | None) -> Any:
        given = value if isinstance(value, tuple) else () if value is None else (value,)
        if any(len(secret.get_secret_value()) < _GUESSABLE for secret in given):
            raise ValueError(f"give {_GUESSABLE} random characters or more, e.g. from `openssl rand -hex 32`")
        return value

    @field_validator("cookie")
    @classmethod
    def _accept_tokens(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
            raise ValueError("a cookie's name has letters, digits, - _ and .")
        return value


class Settings(_Strict):
    """Everything Polysaga can be told; see `load_settings`."""

    databases: dict[str, DatabaseSettings] = Field(default_factory=dict)
    sagas: SagaSettings = SagaSettings()
    bookmarks: BookmarkSettings = BookmarkSettings()


class _Environment(BaseSettings):
    """The nested variables as plain values; `Settings` checks them together with the other sources."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__")

    databases: dict[str, Any]
    sagas: dict[str, Any]
    bookmarks: dict[str, Any]


def load_settings(
    *,
    defaults: Mapping[str, Any] | None = None,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read and check the settings; raise `ConfigurationError` naming the key and the remedy.

    *environment* replaces the process's own variables, for tests.
    """
    variables = os.environ if environment is None else environment
    named = file or (Path(variables[f"{PREFIX}CONFIG"]) if f"{PREFIX}CONFIG" in variables else None)
    merged = _merge(defaults or {}, _from_file(named))
    return parse_settings(_merge(merged, _from_environment(variables)))


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Check *values* and nothing else: no file, no environment."""
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None


def masked(url: str) -> str:
    """Return *url* with its password, and any password-like option, replaced by `***`."""
    # To the last @: a password that nobody percent-encoded may hold one, or a slash.
    hidden = re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", url)
    hidden = re.sub(r"(?i)((?:password|passwd|pwd|token)=)[^&;\s]*", r"\1***", hidden)
    return re.sub(r"(?i)(authMechanismProperties=)[^&;\s]*", r"\1***", hidden)


def _from_file(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        path = Path("polysaga.toml")
        if not path.exists():
            return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the settings file {path} is not UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read the settings file {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error


def _from_environment(variables: Mapping[str, str]) -> Mapping[str, Any]:
    ours = {
        name: value
        for name, value in variables.items()
        if name.upper().startswith(PREFIX)
        and name.upper() != f"{PREFIX}CONFIG"
        and not name.upper().startswith(f"{PREFIX}TEST_")
    }
    for name in ours:
        head = name.upper().removeprefix(PREFIX).split("__")[0].lower()
        if head not in Settings.model_fields:
            raise ConfigurationError(f"environment variable {name} sets nothing{_nearest(head, Settings)}")
    source = EnvSettingsSource(_Environment)
    source.env_vars = {name.lower(): value for name, value in ours.items()}
    try:
        return source()
    except SettingsError as error:
        raise ConfigurationError(f"an environment variable cannot be read: {error}") from error


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting '{path}'{_nearest(str(problem['loc'][-1]), _model_at(problem['loc']))}")
        else:
            lines.append(f"setting '{path}': {problem['msg']}")
    return "; ".join(lines)


def _model_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    # location[1] is a database's name, which may be any word.
    words = [str(part) for part in (location[0], *location[2:-1])] if len(location) > 1 else []
    if "pool" in words:
        return PoolSettings
    if "replicas" in words:
        return ReplicaSettings
    if "reads" in words:
        return ReadSettings
    if not words:
        return Settings
    return _SECTIONS[words[0]]


_SECTIONS: Mapping[str, type[BaseModel]] = {
    "databases": DatabaseSettings,
    "sagas": SagaSettings,
    "bookmarks": BookmarkSettings,
}


def _nearest(key: str, model: type[BaseModel]) -> str:
    known = list(model.model_fields)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else f"; known here: {', '.join(sorted(known))}"
