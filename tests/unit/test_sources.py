"""What people write into files and variables: lists, names, line breaks, files of secrets, others' variables."""

import importlib.util
import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from polysaga import Databases, SqlDatabase
from polysaga.config import (
    BookmarkSettings,
    DatabaseSettings,
    PoolSettings,
    ReadSettings,
    SagaSettings,
    Settings,
    load_settings,
    parse_settings,
)
from polysaga.databases import MongoNode, SqlNode
from polysaga.errors import ConfigurationError

URL = "postgresql+asyncpg://app:s3cret@db-1/orders"
OLD, OLDER = "the-key-of-last-year-1", "the-key-of-the-year-before-2"


def loaded(**variables: str) -> Settings:
    """Return what variables give whose names begin with POLYSAGA_."""
    return load_settings(environment={f"POLYSAGA_{name}": text for name, text in variables.items()})


def orders(**variables: str) -> DatabaseSettings:
    """Return the settings of a database `orders` that variables give."""
    named = {f"DATABASES__ORDERS__{name}": text for name, text in {"URL": URL, **variables}.items()}
    return loaded(**named).databases["orders"]


def shown(secrets: tuple[SecretStr, ...]) -> list[str]:
    return [secret.get_secret_value() for secret in secrets]


LISTS: dict[str, Callable[[list[str]], str]] = {
    "commas": ",".join,
    "commas and blanks": " , ".join,
    "lines": "\n".join,
    "lines that end": lambda items: "".join(f"{item}\r\n" for item in items),
    "JSON": json.dumps,
    "JSON in lines": lambda items: json.dumps(items, indent=2) + "\n",
}


@pytest.mark.parametrize("written", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("items", [[OLD], [OLD, OLDER]], ids=len)
def test_a_list_of_secrets_may_be_written_with(written: Callable[[list[str]], str], items: list[str]) -> None:
    assert shown(loaded(BOOKMARKS__FORMER_SECRETS=written(items)).bookmarks.former_secrets) == items


@pytest.mark.parametrize("written", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("items", [[URL], [URL, "mongodb://a,b/x?replicaSet=r"]], ids=len)
def test_a_list_of_replicas_may_be_written_with(written: Callable[[list[str]], str], items: list[str]) -> None:
    assert [one.url.get_secret_value() for one in orders(REPLICAS=written(items)).replicas] == items


def test_the_items_of_a_list_may_be_numbered_variables() -> None:
    found = orders(REPLICAS__1__URL="x://second", REPLICAS__0="x://first", REPLICAS__1__POOL__SIZE="3")
    assert [one.url.get_secret_value() for one in found.replicas] == ["x://first", "x://second"]
    assert [one.pool and one.pool.size for one in found.replicas] == [None, 3]
    secrets = loaded(BOOKMARKS__FORMER_SECRETS__0=OLD, BOOKMARKS__FORMER_SECRETS__1=OLDER)
    assert shown(secrets.bookmarks.former_secrets) == [OLD, OLDER]


def test_a_list_that_is_nearly_json_is_told_without_its_secrets() -> None:
    with pytest.raises(ConfigurationError, match=r"'bookmarks.former_secrets': begins as a JSON list") as failure:
        loaded(BOOKMARKS__FORMER_SECRETS=f'["{OLD}"')
    assert OLD not in str(failure.value)


def test_a_section_may_be_json_and_single_variables_win_over_it(tmp_path: Path) -> None:
    file = tmp_path / "polysaga.toml"
    file.write_text("[sagas]\nlease = 1\ndrain = 2\nclaim_batch = 3")
    variables = {
        "POLYSAGA_SAGAS": '{"lease": 4, "drain": 5}',
        "POLYSAGA_SAGAS__LEASE": "6",
        "POLYSAGA_DATABASES": json.dumps({"orders": {"url": URL}}),
        "POLYSAGA_DATABASES__ORDERS__POOL": '{"size": 7}',
        "POLYSAGA_DATABASES__ORDERS__READS__ZONE": "1",
    }
    settings = load_settings(file=file, environment=variables)
    assert (settings.sagas.lease, settings.sagas.drain, settings.sagas.claim_batch) == (6, 5, 3)
    assert (settings.databases["orders"].pool.size, settings.databases["orders"].reads.zone) == (7, "1")


@pytest.mark.parametrize("name", ["SAGAS", "DATABASES", "DATABASES__ORDERS", "DATABASES__ORDERS__POOL"])
def test_text_in_place_of_a_section_is_told_with_the_remedy(name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"POLYSAGA_{name} sets a whole section: .* POLYSAGA_{name}__"
    ) as told:
        loaded(**{name: URL})
    assert "s3cret" not in str(told.value)


def test_a_zone_may_look_like_a_number_everywhere() -> None:
    assert orders(READS__ZONE="1", REPLICAS='[{"url": "x://r", "zone": "2"}]').replicas[0].zone == "2"
    assert (
        parse_settings({"databases": {"orders": {"url": URL, "reads": {"zone": 1}}}})
        .databases["orders"]
        .reads.zone
        == "1"
    )


@pytest.mark.parametrize("around", ["{}\n", " {} ", "\t{}\r\n"])
def test_line_breaks_and_blanks_around_a_value_do_not_count(around: str) -> None:
    found = orders(URL=around.format(URL), POOL__SIZE=around.format(5), READS__ZONE=around.format("here"))
    assert (found.url.get_secret_value(), found.pool.size, found.reads.zone) == (URL, 5, "here")
    told = loaded(BOOKMARKS__SECRET=around.format(OLD), BOOKMARKS__SECURE=around.format("no"))
    assert told.bookmarks.secret is not None
    assert (told.bookmarks.secret.get_secret_value(), told.bookmarks.secure) == (OLD, False)


MODELS: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (SagaSettings, {}),
    (PoolSettings, {}),
    (ReadSettings, {}),
    (DatabaseSettings, {"url": URL}),
    (BookmarkSettings, {}),
]
NUMBERS = [
    (model, rest, name)
    for model, rest in MODELS
    for name, field in model.model_fields.items()
    if field.annotation in (int, float)
]


@pytest.mark.parametrize("wrong", ["inf", "-inf", "nan", float("inf"), "-1", 1e300, True, "true", "", "10s"])
@pytest.mark.parametrize(
    ("model", "rest", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_no_number_may_be(model: type[BaseModel], rest: dict[str, Any], name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=name):
        model(**rest, **{name: wrong})


LIMITS = {
    "lock_timeout": {"lock_timeout": 0.0004},
    "idle_transaction_timeout": {"idle_transaction_timeout": 0.0004},
    "acquire_timeout": {"pool": {"acquire_timeout": 0.0004}},
    "connect_timeout": {"pool": {"connect_timeout": 0.0004}},
}


@pytest.mark.parametrize(("name", "inner"), LIMITS.items(), ids=LIMITS)
def test_a_limit_that_a_server_would_take_for_none_is_refused(name: str, inner: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.*0.001"):
        parse_settings({"databases": {"orders": {"url": URL, **inner}}})


@pytest.mark.parametrize("written", ["ORDERSDB", "ordersDB", "OrdersDb"])
async def test_a_handle_with_capitals_is_found_by_its_variable(written: str, tmp_path: Path) -> None:
    handle = SqlDatabase("ordersDB")
    settings = loaded(**{f"DATABASES__{written}__URL": f"sqlite+aiosqlite:///{tmp_path}/orders.db"})
    async with Databases(handle).open(settings):
        assert handle.primary.database == "ordersDB"


def test_a_variable_finds_the_table_of_the_file_that_differs_in_case_only(tmp_path: Path) -> None:
    file = tmp_path / "polysaga.toml"
    file.write_text(f'[databases.ordersDB]\nurl = "{URL}"\n')
    settings = load_settings(file=file, environment={"POLYSAGA_DATABASES__ORDERSDB__POOL__SIZE": "3"})
    assert {name: one.pool.size for name, one in settings.databases.items()} == {"ordersDB": 3}


@pytest.mark.parametrize("name", ["order__items", "orders_", "__orders"])
def test_a_handle_that_no_variable_could_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="two underscores separate the words of an environment variable"):
        SqlDatabase(name)


def test_a_variable_for_a_name_with_two_underscores_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"'ITEMS' is no section; .* without two underscores in a row"):
        loaded(DATABASES__ORDER__ITEMS__URL=URL)


def test_one_setting_in_two_spellings_is_told() -> None:
    with pytest.raises(ConfigurationError, match="POLYSAGA_SAGAS__LEASE and polysaga_sagas__lease set the same"):
        load_settings(environment={"POLYSAGA_SAGAS__LEASE": "1", "polysaga_sagas__lease": "2"})


@pytest.mark.parametrize("name", ["polysaga_config", "POLYSAGA_CONFIG"])
def test_the_settings_file_is_found_in_any_spelling(name: str, tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text("\ufeff[sagas]\nlease = 8", encoding="utf-8")
    assert load_settings(environment={name: f"{tmp_path}/ours.toml\n"}).sagas.lease == 8


OF_KUBERNETES = [
    "POLYSAGA_SERVICE_HOST",
    "POLYSAGA_SERVICE_PORT",
    "POLYSAGA_SERVICE_PORT_HTTP",
    "POLYSAGA_PORT",
    "POLYSAGA_PORT_8000_TCP",
    "POLYSAGA_PORT_8000_TCP_PROTO",
    "POLYSAGA_PORT_8000_TCP_PORT",
    "POLYSAGA_PORT_8000_TCP_ADDR",
    "POLYSAGA_ORDERS_SERVICE_HOST",
    "POLYSAGA_ORDERS_PORT_80_TCP_ADDR",
    "POLYSAGA_SAGAS_SERVICE_PORT_HTTP",
    "POLYSAGA_SAGAS_PORT",
    "POLYSAGA_DATABASES_PORT_5432_TCP",
]


@pytest.mark.parametrize("name", OF_KUBERNETES)
def test_the_variables_of_a_service_are_left_alone(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert load_settings(environment={name: "tcp://10.0.0.1:8000"}) == Settings()
    assert caplog.records == []


@pytest.mark.parametrize("name", ["POLYSAGA_HOME", "POLYSAGA_VERSION", "POLYSAGA_LOG_LEVEL", "POLYSAGA_"])
def test_a_variable_that_resembles_no_setting_is_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "polysaga"):
        assert load_settings(environment={name: "s3cret"}) == Settings()
    assert [record.getMessage() for record in caplog.records] == [
        f"environment variable {name} sets nothing; is it meant for another program?"
    ]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("POLYSAGA_SAGA__LEASE", "did you mean 'sagas'"),
        ("POLYSAGA_SAGAS_LEASE", "two underscores separate the words, e.g. POLYSAGA_SAGAS__NAME"),
        ("POLYSAGA_DATABASES_ORDERS_URL", "two underscores separate the words"),
        ("POLYSAGA_DATABASE", "did you mean 'databases'"),
        ("POLYSAGA_BOOKMARK_SECRET", "did you mean 'bookmarks'"),
        ("POLYSAGA_CONFG", "did you mean 'config'"),
        ("POLYSAGA_HOME__DIR", "sets nothing"),
        ("POLYSAGA_DATABASES__ORDERS__PORT", "unknown setting 'databases.orders.port'"),
    ],
)
def test_a_variable_that_seems_to_be_a_setting_is_an_error(name: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load_settings(environment={"POLYSAGA_DATABASES__ORDERS__URL": URL, name: "1"})


def test_secrets_are_read_from_the_files_that_are_named(tmp_path: Path) -> None:
    for name, text in {"url": URL, "replicas": "x://r1\nx://r2", "key": OLD, "old": f"{OLDER}\n{OLD}"}.items():
        (tmp_path / name).write_text(f"{text}\n")
    found = loaded(
        DATABASES__ORDERS__URL_FILE=f"{tmp_path}/url",
        DATABASES__ORDERS__REPLICAS_FILE=f"{tmp_path}/replicas",
        BOOKMARKS__SECRET_FILE=f"{tmp_path}/key",
        BOOKMARKS__FORMER_SECRETS_FILE=f"{tmp_path}/old",
    )
    assert found.databases["orders"].url.get_secret_value() == URL
    assert [one.url.get_secret_value() for one in found.databases["orders"].replicas] == ["x://r1", "x://r2"]
    assert found.bookmarks.secret == SecretStr(OLD)
    assert shown(found.bookmarks.former_secrets) == [OLDER, OLD]


def test_a_file_of_a_secret_wins_over_lower_sources_and_yields_to_higher_ones(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("x://from-the-secret\n")
    file = tmp_path / "polysaga.toml"
    file.write_text(
        f'[databases.orders]\nurl_file = "{tmp_path}/url"\n'
        f'[[databases.orders.replicas]]\nurl_file = "{tmp_path}/url"\n'
    )
    defaults = {"databases": {"orders": {"url": "x://default"}}}
    from_file = load_settings(defaults=defaults, file=file, environment={}).databases["orders"]
    assert from_file.url.get_secret_value() == "x://from-the-secret"
    assert from_file.replicas[0].url.get_secret_value() == "x://from-the-secret"
    variables = {"POLYSAGA_DATABASES__ORDERS__URL": "x://variable"}
    from_variable = load_settings(defaults=defaults, file=file, environment=variables)
    assert from_variable.databases["orders"].url.get_secret_value() == "x://variable"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "'databases.orders.url_file': cannot read .*gone"),
        (b"\n", "gone is empty"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_a_file_without_a_secret_is_told(text: bytes | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "gone").write_bytes(text)
    with pytest.raises(ConfigurationError, match=says):
        loaded(DATABASES__ORDERS__URL_FILE=f"{tmp_path}/gone")


@pytest.mark.parametrize(
    "variable", ["DATABASES__ORDERS__URL_FILE", "DATABASES__ORDERS__REPLICAS_FILE", "BOOKMARKS__SECRET_FILE"]
)
@pytest.mark.parametrize("secret", ["postgresql://ada:s3cret@db/shop", "s3cret"])
def test_a_secret_in_the_place_of_its_file_is_not_shown(variable: str, secret: str) -> None:
    with pytest.raises(ConfigurationError, match=r"the file that it names below /.*: No such") as failure:
        loaded(**{variable: secret})
    assert "s3cret" not in "".join(traceback.format_exception(failure.value))


def test_a_file_with_two_urls_is_no_url(tmp_path: Path) -> None:
    (tmp_path / "urls").write_text(f"{URL}\n{URL}\n")
    with pytest.raises(ConfigurationError, match=r"'databases.orders.url': has a line break") as failure:
        loaded(DATABASES__ORDERS__URL_FILE=f"{tmp_path}/urls")
    assert "s3cret" not in str(failure.value)


def test_a_secret_and_a_file_for_it_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'databases.orders.url_file' and 'url' are both set"):
        orders(URL_FILE=f"{tmp_path}/url")


def test_what_is_no_secret_has_no_file() -> None:
    with pytest.raises(ConfigurationError, match=r"unknown setting 'sagas.lease_file', did you mean 'lease'"):
        loaded(SAGAS__LEASE_FILE="/run/secrets/lease")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("postgres", "postgresql+asyncpg"),
        ("postgresql", "postgresql+asyncpg"),
        ("POSTGRES", "postgresql+asyncpg"),
        ("mysql", "mysql+asyncmy"),
        ("mariadb", "mariadb+asyncmy"),
    ],
)
def test_a_url_without_a_driver_takes_the_one_that_is_installed(given: str, taken: str) -> None:
    node = SqlNode("orders", "primary", f"{given}://app:s3cret@h:1/orders", orders())
    assert node.name == f"{taken}://app:***@h:1/orders"


def test_a_url_without_a_driver_takes_psycopg_where_asyncpg_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "asyncpg" else found(name))
    assert SqlNode("orders", "primary", "postgres://h/orders", orders()).name == "postgresql+psycopg://h/orders"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"needs the driver 'asyncpg': pip install 'polysaga\[asyncpg\]'"):
        SqlNode("orders", "primary", "postgres://h/orders", orders())


OF_SQLALCHEMY = [
    ("pool_size", "set 'pool.size'"),
    ("max_overflow", "set 'pool.max_overflow'"),
    ("pool_timeout", "set 'pool.acquire_timeout'"),
    ("pool_recycle", "set 'pool.recycle'"),
    ("pool_pre_ping", "always asked before they are lent"),
    ("connect_args", "into the URL"),
    ("isolation_level", "READ COMMITTED"),
]


@pytest.mark.parametrize("place", [{}, {"engine": None}], ids=["beside the URL", "in engine"])
@pytest.mark.parametrize(("name", "says"), OF_SQLALCHEMY)
def test_the_names_of_sqlalchemy_are_answered_with_ours(name: str, says: str, place: dict[str, Any]) -> None:
    inner: dict[str, Any] = {"engine": {name: 1}} if place else {name: 1}
    with pytest.raises(ConfigurationError, match=f"{name}.*: .*{says}"):
        parse_settings({"databases": {"orders": {"url": URL, **inner}}})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"echo": True}, "'databases.orders.echo': it is an option of SQLAlchemy: set it in 'engine'"),
        ({"pool": {"echo": True}}, "set it in 'engine'"),
        ({"pool": {"pool_size": 5}}, "set 'size'"),
        ({"pool": {"timeout": 5}}, "'acquire_timeout' or 'connect_timeout'"),
        ({"pool": {"pre_ping": True}}, "always asked"),
        ({"acquire_timeout": 5}, "did you mean 'pool.acquire_timeout'"),
        ({"size": 5}, "did you mean 'pool.size'"),
        ({"max_lag": 5}, "did you mean 'reads.max_lag'"),
        ({"reads_zone": "a"}, "did you mean 'reads.zone'"),
    ],
)
def test_a_setting_in_the_wrong_section_is_told_with_the_right_one(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        parse_settings({"databases": {"orders": {"url": URL, **values}}})


async def test_options_that_are_not_ours_reach_the_engine(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/orders.db"
    settings = orders(
        URL=url, ENGINE__ECHO="false", ENGINE='{"query_cache_size": 7}', ENGINE__LOGGING_NAME="orders"
    )
    node = SqlNode("orders", "primary", url, settings)
    for engine in (node.writer, node.reader):
        assert (engine.sync_engine.echo, engine.sync_engine.logging_name) == (False, "orders")
        cache: Any = engine.sync_engine._compiled_cache
        assert cache.capacity == 7
    await node.close()


def test_an_option_that_sqlalchemy_does_not_know_is_told_with_its_place() -> None:
    node = SqlNode("orders", "primary", URL, orders(ENGINE__ECHOO="true"))
    with pytest.raises(ConfigurationError, match=r"databases\.orders\.engine: SQLAlchemy refuses it: .*echoo"):
        _ = node.writer


@pytest.mark.parametrize("given", ["many", -1, 2.5, True])
@pytest.mark.parametrize(
    "name", ["query_cache_size", "label_length", "max_identifier_length", "insertmanyvalues_page_size"]
)
def test_a_number_that_sqlalchemy_does_not_check_is_checked(name: str, given: Any) -> None:
    """A cache of less than nothing is an endless loop in SQLAlchemy."""
    with pytest.raises(ValidationError, match=rf"{name}: give a whole number, [01] or more"):
        DatabaseSettings(url=SecretStr(URL), engine={name: given})


def test_a_serializer_of_the_engine_is_a_function() -> None:
    with pytest.raises(ValidationError, match=r"json_serializer: give a function"):
        DatabaseSettings(url=SecretStr(URL), engine={"json_serializer": "orjson"})
    assert DatabaseSettings(url=SecretStr(URL), engine={"json_serializer": str, "query_cache_size": 0})


def test_engine_options_of_a_document_database_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"databases\.stock\.engine is for SQLAlchemy"):
        MongoNode("stock", "primary", "mongodb://h/stock", orders(ENGINE__ECHO="true"))


def test_every_list_of_settings_is_known_to_these_tests() -> None:
    lists = {
        (model.__name__, name)
        for model, _ in MODELS
        for name, field in model.model_fields.items()
        if tuple in (field.annotation, *get_args(field.annotation)) or str(field.annotation).startswith("tuple")
    }
    assert lists == {("DatabaseSettings", "replicas"), ("BookmarkSettings", "former_secrets")}
