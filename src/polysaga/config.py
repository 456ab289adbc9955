"""Settings: where the databases are and how to treat them. Read once, checked once.

Sources, later ones win: defaults given in code, a TOML file (`polysaga.toml`, or the one that
`POLYSAGA_CONFIG` names), environment variables such as `POLYSAGA_DATABASES__ORDERS__URL`; `sources` reads them.
No other module reads the environment; every part receives its own settings.
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, MultiHostUrl, PydanticCustomError
from pydantic_core import Url as PydanticUrl
from sqlalchemy import URL

from polysaga.errors import ConfigurationError
from polysaga.sources import from_environment, from_file, merge, named_file, nearest, with_secrets

_GUESSABLE = 16  # characters
_DAY = 24 * 3600.0  # seconds
_QUOTES = "\"'"
_OF_PYDANTIC = "pydantic.networks"  # its kinds of URL have no public class in common


def _refuse_words(value: object) -> object:
    # True would be 1.
    if isinstance(value, bool):
        raise ValueError("give a number, not true or false")  # noqa: TRY004 - pydantic wants a ValueError
    return value


def _listed(value: object, separator: str) -> object:
    """Return *value* as a list; it may be text with *separator*s, a JSON list, or numbered variables."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                return json.loads(text)
            except ValueError:
                raise ValueError("begins as a JSON list and is none") from None
        return [part for part in re.split(separator, text.strip(", \t\r\n")) if part]
    if isinstance(value, Mapping) and value and all(str(key).isdigit() for key in value):
        return [value[key] for key in sorted(value, key=int)]
    return value


def _as_text(value: object) -> object:
    """Return *value* as text if it is a URL of pydantic (`PostgresDsn`) or of SQLAlchemy."""
    if isinstance(value, URL):
        return value.render_as_string(hide_password=False)
    is_of_pydantic = any(kind.__module__ == _OF_PYDANTIC for kind in type(value).__mro__)
    return str(value) if is_of_pydantic or isinstance(value, PydanticUrl | MultiHostUrl) else value


def _one_url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text:
        raise ValueError("is empty; give a URL, or leave it out")
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("has a line break or another control character inside; give one URL")
    if text[0] in _QUOTES or text[-1] in _QUOTES:
        raise ValueError("has quotes around it, which `docker --env-file` and others keep; leave them out")
    return value


_NUMBER = BeforeValidator(_refuse_words)
Seconds = Annotated[float, Field(gt=0, le=_DAY, allow_inf_nan=False), _NUMBER]
# Servers and drivers take whole milliseconds, and read 0 as no limit.
Limit = Annotated[float, Field(ge=0.001, le=_DAY, allow_inf_nan=False), _NUMBER]  # seconds
Pause = Annotated[float, Field(ge=0, le=_DAY, allow_inf_nan=False), _NUMBER]  # seconds
Age = Annotated[float, Field(gt=0, le=36_525 * _DAY, allow_inf_nan=False), _NUMBER]  # seconds
Count = Annotated[int, Field(ge=1, le=1_000_000), _NUMBER]
Connections = Annotated[int, Field(ge=1, le=10_000), _NUMBER]
MoreConnections = Annotated[int, Field(ge=0, le=10_000), _NUMBER]
Bytes = Annotated[int, Field(ge=1, le=1024**3), _NUMBER]
Switch = Annotated[bool, BeforeValidator(lambda value: value.strip() if isinstance(value, str) else value)]
Zone = Annotated[str, Field(coerce_numbers_to_str=True, max_length=255)]
Url = Annotated[SecretStr, BeforeValidator(_as_text), AfterValidator(_one_url)]


class _Strict(BaseModel):
    # Whitespace is stripped: a file with a secret ends with a line break.
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    @model_validator(mode="wrap")
    @classmethod
    def _take_values_out_of_errors(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        # Errors name the place, not the value, which may be a password. Pydantic's `hide_input_in_errors` is for
        # the text of the error only, and not for that of a model around this one.
        try:
            return validate(value)
        except ValidationError as error:
            raise _without_values(error) from None

    if not TYPE_CHECKING:  # else type checkers would let every attribute be set

        def __setattr__(self, name: str, value: Any) -> None:
            try:
                super().__setattr__(name, value)
            except ValidationError as error:  # it is frozen, and pydantic shows the value all the same
                raise _without_values(error) from None


class PoolSettings(_Strict):
    """Connections to one node, per process: one pool of this size to write and one to read.

    `docs/reference/settings.md` explains every setting and relates `size` to `sagas.max_in_flight`.
    """

    size: Connections = 10
    max_overflow: MoreConnections = 10  # further connections under load, closed after use
    acquire_timeout: Limit = 5.0  # seconds until PoolExhausted
    connect_timeout: Limit = 5.0  # seconds until DatabaseUnavailable
    recycle: Age = 30 * 60.0  # seconds after which a connection is replaced


class ReplicaSettings(_Strict):
    """One more server of the same database, for reading."""

    url: Url
    pool: PoolSettings | None = None  # None: as the primary
    weight: Count = 1  # share of the reads, against the other replicas
    zone: Zone | None = None  # where the replica runs; readers prefer their own zone


class ReadSettings(_Strict):
    """Where reads go; nothing here matters to a database without replicas."""

    consistency: Literal["eventual", "session", "strong"] = "session"
    max_lag: Seconds = 2.0  # seconds a replica may be behind the primary and still be read from
    wait: Pause = 0.03  # seconds a reader waits for a replica to catch up
    no_replica: Literal["primary", "fail", "stale"] = "primary"  # where readers go if no replica is fresh enough
    primary_read_limit: Count = 20  # readers at once on the primary, if no replica can serve them
    primary_wait: Pause = 0.5  # seconds a reader waits for one of those places
    probe_interval: Seconds = 0.2  # seconds between two probes of a node
    probe_timeout: Seconds = 0.8  # seconds without an answer until a node is no longer used
    zone: Zone | None = None  # where this process runs


class DatabaseSettings(_Strict):
    """One named database: the primary's URL, its replicas, its pool."""

    url: Url
    replicas: tuple[ReplicaSettings, ...] = ()
    pool: PoolSettings = PoolSettings()
    reads: ReadSettings = ReadSettings()
    engine: dict[str, Any] = Field(default_factory=dict)  # more arguments of SQLAlchemy's create_engine()
    idle_transaction_timeout: Limit = 15.0  # seconds until the server ends an idle transaction
    lock_timeout: Limit = 5.0  # seconds a statement waits for another transaction's lock

    @field_validator("engine")
    @classmethod
    def _refuse_what_we_set(cls, value: dict[str, Any]) -> dict[str, Any]:
        ours = [f"{name}: {_OF_SQLALCHEMY[name]}" for name in value if name in _OF_SQLALCHEMY]
        if ours:
            raise ValueError("; ".join(ours))
        for name, least in _WHOLE_OF_SQLALCHEMY.items():
            given = value.get(name)
            if given is not None and (not isinstance(given, int) or isinstance(given, bool) or given < least):
                raise ValueError(f"{name}: give a whole number, {least} or more")
        for name in ("json_serializer", "json_deserializer"):
            if value.get(name) is not None and not callable(value[name]):
                raise ValueError(f"{name}: give a function, in settings that the program makes itself")
        return value

    @field_validator("replicas", mode="before")
    @classmethod
    def _accept_plain_urls(cls, value: object) -> object:
        # A scheme follows a comma between two URLs, but not a comma between the hosts of one URL.
        listed = _listed(_as_text(value), r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
        if isinstance(listed, list | tuple):
            texts = [_as_text(item) for item in listed]
            return [{"url": item} if isinstance(item, str | SecretStr) else item for item in texts]
        return listed


# Options that SQLAlchemy users look for, and what replaces them here.
_ASKED = "connections that lay idle are always asked before they are lent; remove it"
_MADE_HERE = "Polysaga makes the connections itself; remove it"
_IN_URL = "write options of the driver into the URL"
_OF_SQLALCHEMY = {
    "pool_size": "set 'pool.size'",
    "max_overflow": "set 'pool.max_overflow'",
    "pool_timeout": "set 'pool.acquire_timeout'",
    "pool_recycle": "set 'pool.recycle'",
    "pool_pre_ping": _ASKED,
    "pool_use_lifo": "Polysaga lends the latest connection first; remove it",
    "pool_reset_on_return": "Polysaga rolls back itself; remove it",
    "isolation_level": "sagas rely on READ COMMITTED; remove it, and use `reader(snapshot=True)` for snapshots",
    "connect_args": _IN_URL,
    "paramstyle": "every driver has one; remove it",
    "execution_options": "Polysaga sets them; give options to your statements",
    "hide_parameters": "errors end up in logs and in the journal, values must not; remove it",
    **dict.fromkeys(("url", "pool", "poolclass", "creator", "async_creator", "async_creator_fn"), _MADE_HERE),
    **dict.fromkeys(("module", "dialect", "strategy", "future", "_initialize", "_is_async"), _MADE_HERE),
}
# Numbers that SQLAlchemy does not check before it uses them, and the least that does not hang it.
_WHOLE_OF_SQLALCHEMY = {
    "query_cache_size": 0,
    "label_length": 0,
    "max_identifier_length": 0,
    "insertmanyvalues_page_size": 1,
}
_ELSEWHERE = {
    "pool": {
        "pre_ping": _ASKED,
        "max_size": "set 'size' and 'max_overflow'",
        "min_size": "connections are made when they are needed; remove it",
        "pool_size": "set 'size'",
        "timeout": "set 'acquire_timeout' or 'connect_timeout'",
        "pool_timeout": "set 'acquire_timeout'",
        "pool_recycle": "set 'recycle'",
        "pool_pre_ping": _ASKED,
    },
    "engine": dict.fromkeys(
        ("echo", "echo_pool", "json_serializer", "json_deserializer", "query_cache_size", "logging_name"),
        "it is an option of SQLAlchemy: set it in 'engine' of the database",
    ),
}

_SHORTEST_RETENTION = 25 * 3600.0  # seconds


class SagaSettings(_Strict):
    """How this process drives sagas."""

    lease: Seconds = 10.0  # seconds a claim lasts without renewal
    max_in_flight: Count = 256  # sagas driven at once by this process
    start_timeout: Seconds = 5.0  # seconds a caller waits for a free place in flight
    claim_batch: Count = 50  # overdue sagas claimed per tick
    drain: Seconds = 10.0  # seconds that running sagas get when the process is asked to stop
    payload_limit: Bytes = 256 * 1024  # bytes of one input or result as JSON
    retention: Age = 30 * 24 * 3600.0  # seconds that sagas are kept after they came to rest

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
    """How clients carry the positions their reads must include; needed as soon as a database has replicas."""

    secret: SecretStr | None = None  # signs bookmarks; the same in every process of the service
    former_secrets: tuple[SecretStr, ...] = ()  # still accepted, while the secret is being changed
    cookie: str = "polysaga_bookmark"  # how the names of the cookies begin; `_` and the database follow
    secure: Switch = True  # send the cookie over HTTPS only
    explain: Switch = False  # name the answering node, and why, in the header X-Polysaga-Route; for development

    @field_validator("former_secrets", mode="before")
    @classmethod
    def _accept_text(cls, value: object) -> object:
        return _listed(value, r"[\s,]+")

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
    """All settings of Polysaga; see `load_settings`."""

    databases: dict[str, DatabaseSettings] = Field(default_factory=dict)
    sagas: SagaSettings = SagaSettings()
    bookmarks: BookmarkSettings = BookmarkSettings()

    def spelt_as(self, names: Collection[str]) -> Self:
        """Return these settings with the databases spelt as in *names*, where only the case differs.

        `POLYSAGA_DATABASES__ORDERSDB__URL` can mean `ordersDB` or `ordersdb`.
        """
        spelt = {}
        for known, settings in self.databases.items():
            same = [name for name in names if name.casefold() == known.casefold()]
            right = same[0] if len(same) == 1 and known not in names else known
            spelt[known if right in self.databases else right] = settings
        return self.model_copy(update={"databases": spelt})


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
    written = merge(with_secrets(defaults or {}, Settings), from_file(file or named_file(variables), Settings))
    return parse_settings(merge(written, from_environment(variables, Settings)))


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Check *values* and nothing else: no file, no environment."""
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None


def masked(url: str) -> str:
    """Return *url* with its password, and any password-like option, replaced by `***`."""
    # To the last @: a password that is not percent-encoded may contain an @ or a slash.
    hidden = re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", url)
    hidden = re.sub(
        r"(?i)((?:password|passwd|pwd|token|secret|scram_(?:client|server)_key)=)[^&;\s]*", r"\1***", hidden
    )
    return re.sub(r"(?i)(authMechanismProperties=)[^&;\s]*", r"\1***", hidden)


def _without_values(error: ValidationError) -> ValidationError:
    """Return *error* with the places and the reasons, and without the values, also for those that ask for them."""
    problems = [
        InitErrorDetails(type=PydanticCustomError(one["type"], one["msg"]), loc=one["loc"], input="***")
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return ValidationError.from_exception_data(error.title, problems, hide_input=True)


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            key = str(problem["loc"][-1])
            lines.append(f"unknown setting '{path}'{_instead(key, _model_at(problem['loc']))}")
        else:
            lines.append(f"setting '{path}': {problem['msg'].removeprefix('Value error, ')}")
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


def _instead(key: str, model: type[BaseModel]) -> str:
    """Return what to write instead of *key*, which *model* does not have."""
    if model is PoolSettings and key in _ELSEWHERE["pool"]:
        return f": {_ELSEWHERE['pool'][key]}"
    if model in (DatabaseSettings, ReplicaSettings, PoolSettings):
        known = {**_ELSEWHERE["engine"], **_OF_SQLALCHEMY}
        if key in known and key != "pool":
            return f": {known[key]}"
    if model is DatabaseSettings:
        for section, inner in (("pool", PoolSettings), ("reads", ReadSettings)):
            name = key.removeprefix(f"{section}_")
            if name in inner.model_fields:
                return f", did you mean '{section}.{name}'?"
    return nearest(key, model.model_fields)
