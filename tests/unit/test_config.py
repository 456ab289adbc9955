"""Settings: read once from three sources, checked once, and no password ever shown."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, PostgresDsn, ValidationError
from pydantic_core import MultiHostUrl
from pydantic_core import Url as PydanticUrl
from sqlalchemy import make_url

from polysaga import Databases
from polysaga.config import (
    DatabaseSettings,
    PoolSettings,
    ReplicaSettings,
    SagaSettings,
    Settings,
    load_settings,
    masked,
    parse_settings,
)
from polysaga.databases import MongoDatabase, MongoNode, SqlDatabase, SqlNode
from polysaga.errors import ConfigurationError

SECRET = "s3cret"
URL = f"postgresql+asyncpg://app:{SECRET}@primary/orders"

PLACES: list[tuple[type[BaseModel], tuple[str | int, ...]]] = [
    (Settings, ()),
    (SagaSettings, ("sagas",)),
    (DatabaseSettings, ("databases", "orders")),
    (PoolSettings, ("databases", "orders", "pool")),
    (ReplicaSettings, ("databases", "orders", "replicas", 0)),
    (PoolSettings, ("databases", "orders", "replicas", 0, "pool")),
]


def misspellings(key: str) -> list[str]:
    """The slips of a hurried hand: a letter too few, one too many, two swapped."""
    return [key[:-1], key + key[-1], key[:1] + key[2:3] + key[1:2] + key[3:] if len(key) > 2 else key + "x"]


MISSPELT = [
    (place, key, wrong)
    for model, place in PLACES
    for key in model.model_fields
    for wrong in misspellings(key)
    if wrong not in model.model_fields
]


def nested(place: tuple[str | int, ...], value: Any) -> Any:
    """Return *value* at *place* of settings that are fine otherwise."""
    if not place:
        return value
    head, *rest = place
    inner = nested(tuple(rest), value)
    if head == 0:
        return [{"url": URL, **inner}]
    if head == "orders":
        inner = {"url": URL, **inner}
    return {head: inner}


@pytest.mark.parametrize(("place", "key", "wrong"), MISSPELT)
def test_a_misspelt_key_is_named_with_its_place_and_the_nearest_known_one(
    place: tuple[str | int, ...], key: str, wrong: str
) -> None:
    path = ".".join(map(str, (*place, wrong)))
    with pytest.raises(ConfigurationError) as failure:
        parse_settings(nested((*place, wrong), {}))
    assert f"unknown setting '{path}', did you mean '{key}'?" in str(failure.value)


@pytest.mark.parametrize("key", [*SagaSettings.model_fields])
def test_a_misspelt_variable_is_named_as_the_setting_that_it_would_be(key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'sagas.{key}x', did you mean '{key}'"):
        load_settings(environment={f"POLYSAGA_SAGAS__{key.upper()}X": "1"})


def test_a_variable_that_sets_nothing_is_named_as_it_was_written() -> None:
    with pytest.raises(ConfigurationError) as failure:
        load_settings(environment={"POLYSAGA_SAGA__LEASE": "1"})
    assert str(failure.value) == "environment variable POLYSAGA_SAGA__LEASE sets nothing, did you mean 'sagas'?"


def test_a_key_like_no_other_is_answered_with_all_that_are_known() -> None:
    with pytest.raises(ConfigurationError, match="unknown setting 'zzz'; known here: bookmarks, databases, sagas"):
        parse_settings({"zzz": 1})


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as failure:
        parse_settings({"databases": {"orders": {"pool": {"sise": 1}}}, "sagas": {"lease": 0, "leese": 1}})
    told = str(failure.value)
    assert "'databases.orders.url': Field required" in told
    assert "'databases.orders.pool.sise', did you mean 'size'?" in told
    assert "'sagas.lease': Input should be greater than 0" in told
    assert "'sagas.leese', did you mean 'lease'?" in told


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sagas": {"lease": 0}}, "greater than 0"),
        ({"sagas": {"max_in_flight": 0}}, "greater than or equal to 1"),
        ({"sagas": {"drain": "soon"}}, "valid number"),
        ({"sagas": 5}, "valid dictionary"),
        ({"databases": {"orders": {"url": URL, "pool": {"size": -1}}}}, "greater than or equal to 1"),
        ({"databases": {"orders": {"url": 5}}}, "valid string"),
        ({"databases": {"orders": {"url": URL, "replicas": 5}}}, "valid tuple"),
        ({"databases": {"orders": {"url": URL, "replicas": [5]}}}, "valid dictionary"),
    ],
)
def test_a_value_out_of_range_is_told_with_its_key(values: Mapping[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"setting '[a-z_.0-9]+': .*{says}"):
        parse_settings(values)


def test_without_any_source_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(environment={}) == Settings()


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "polysaga.toml"
    file.write_text(
        '[sagas]\nlease = 2\ndrain = 2\n[databases.orders]\nurl = "file://"\n[databases.orders.pool]\nsize = 2'
    )
    defaults = {
        "sagas": {"lease": 1, "drain": 1, "claim_batch": 1},
        "databases": {"orders": {"url": "code://", "lock_timeout": 1}, "points": {"url": "code://"}},
    }
    variables = {"POLYSAGA_SAGAS__LEASE": "3", "POLYSAGA_DATABASES__ORDERS__POOL__MAX_OVERFLOW": "3"}
    settings = load_settings(defaults=defaults, file=file, environment=variables)
    assert (settings.sagas.lease, settings.sagas.drain, settings.sagas.claim_batch) == (3, 2, 1)
    orders = settings.databases["orders"]
    assert (orders.url.get_secret_value(), orders.lock_timeout) == ("file://", 1)
    assert (orders.pool.size, orders.pool.max_overflow) == (2, 3)
    assert settings.databases["points"].url.get_secret_value() == "code://"


def test_the_defaults_are_not_changed_by_merging(tmp_path: Path) -> None:
    defaults: dict[str, Any] = {"sagas": {"lease": 1}}
    load_settings(defaults=defaults, environment={"POLYSAGA_SAGAS__LEASE": "3"})
    assert defaults == {"sagas": {"lease": 1}}


def test_the_file_in_the_working_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "polysaga.toml").write_text("[sagas]\nlease = 7")
    monkeypatch.chdir(tmp_path)
    assert load_settings(environment={}).sagas.lease == 7


def test_the_file_that_the_variable_names_is_read_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "polysaga.toml").write_text("[sagas]\nlease = 7")
    (tmp_path / "other.toml").write_text("[sagas]\nlease = 8")
    monkeypatch.chdir(tmp_path)
    assert load_settings(environment={"POLYSAGA_CONFIG": "other.toml"}).sagas.lease == 8


def test_the_processes_own_environment_is_the_usual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLYSAGA_SAGAS__LEASE", "9")
    assert load_settings().sagas.lease == 9


def test_variables_of_others_and_of_the_tests_are_left_alone() -> None:
    variables = {"PATH": "x", "POLYSAGA_TEST_POSTGRES_URL": URL, "polysaga_sagas__drain": "4"}
    assert load_settings(environment=variables).sagas.drain == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "cannot read the settings file .*missing.toml"), ("[sagas", "is not valid TOML")],
)
def test_a_file_that_cannot_be_read_is_told_with_its_path(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "missing.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        load_settings(file=file, environment={})


def test_a_file_that_is_not_utf8_is_told_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "polysaga.toml"
    file.write_bytes(b"# caf\xe9")
    with pytest.raises(ConfigurationError, match=r"polysaga\.toml"):
        load_settings(file=file, environment={})


@pytest.mark.parametrize("name", ["POLYSAGA_CONFIG_FILE", "POLYSAGA_CONFIGG"])
def test_a_misspelt_variable_for_the_file_is_told(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        load_settings(environment={name: "other.toml"})


PLAIN = ["postgresql+asyncpg://r1/orders", "postgresql+asyncpg://r2/orders"]
TABLES = [{"url": PLAIN[0]}, {"url": PLAIN[1], "pool": {"size": 3}}]
REPLICAS: list[tuple[str, Any, list[int | None]]] = [
    ("a list", PLAIN, [None, None]),
    ("a tuple", tuple(PLAIN), [None, None]),
    ("tables", TABLES, [None, 3]),
    ("a list of both", [PLAIN[0], TABLES[1]], [None, 3]),
    ("text with commas", " , ".join(PLAIN) + ",", [None, None]),
]


@pytest.mark.parametrize(
    ("written", "sizes"), [rest for _, *rest in REPLICAS], ids=[name for name, *_ in REPLICAS]
)
def test_replicas_may_be_written_as(written: Any, sizes: list[int | None]) -> None:
    settings = parse_settings({"databases": {"orders": {"url": URL, "replicas": written}}})
    replicas = settings.databases["orders"].replicas
    assert [replica.url.get_secret_value() for replica in replicas] == PLAIN
    assert [replica.pool and replica.pool.size for replica in replicas] == sizes


@pytest.mark.parametrize("written", ["", " ", [], ()])
def test_there_may_be_no_replicas(written: Any) -> None:
    settings = parse_settings({"databases": {"orders": {"url": URL, "replicas": written}}})
    assert settings.databases["orders"].replicas == ()


@pytest.mark.parametrize(
    "written", [",".join(PLAIN), json.dumps(PLAIN), json.dumps([{"url": url} for url in PLAIN])]
)
def test_a_variable_gives_replicas_with_commas_or_as_json(written: str) -> None:
    variables = {"POLYSAGA_DATABASES__ORDERS__URL": URL, "POLYSAGA_DATABASES__ORDERS__REPLICAS": written}
    replicas = load_settings(environment=variables).databases["orders"].replicas
    assert [replica.url.get_secret_value() for replica in replicas] == PLAIN


def test_a_file_gives_replicas_as_a_list_or_as_tables(tmp_path: Path) -> None:
    file = tmp_path / "polysaga.toml"
    head = f'[databases.orders]\nurl = "{URL}"\n'
    tables = "".join(f'[[databases.orders.replicas]]\nurl = "{url}"\n' for url in PLAIN)
    for text in (f"{head}replicas = {json.dumps(PLAIN)}", head + tables):
        file.write_text(text)
        replicas = load_settings(file=file, environment={}).databases["orders"].replicas
        assert [replica.url.get_secret_value() for replica in replicas] == PLAIN


def test_a_replica_url_may_name_several_hosts() -> None:
    url = "mongodb://a:27017,b:27017/orders?replicaSet=rs0"
    settings = parse_settings({"databases": {"orders": {"url": url, "replicas": url}}})
    assert [replica.url.get_secret_value() for replica in settings.databases["orders"].replicas] == [url]


@pytest.mark.parametrize("name", ["pool", "sagas", "replicas"])
def test_a_database_may_have_the_name_of_a_setting(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'databases.{name}.lock_timeot', did you mean 'lock_timeout'"):
        parse_settings({"databases": {name: {"url": URL, "lock_timeot": 1}}})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().sagas.lease = 1  # type: ignore[misc]


MONGO = f"mongodb://app:{SECRET}@h1:27017,h2:27018/inventory?replicaSet=rs0&w=majority"
SHOWN = [
    (URL, "postgresql+asyncpg://app:***@primary/orders"),
    (
        f"mysql+asyncmy://app:{SECRET}@h:3306/points?charset=utf8",
        "mysql+asyncmy://app:***@h:3306/points?charset=utf8",
    ),
    (MONGO, "mongodb://app:***@h1:27017,h2:27018/inventory?replicaSet=rs0&w=majority"),
    (f"mongodb+srv://app:{SECRET}@h/db", "mongodb+srv://app:***@h/db"),
    (f"mongodb://:{SECRET}@h/db", "mongodb://:***@h/db"),
    (f"x://h/db?sslpassword={SECRET}&a=1", "x://h/db?sslpassword=***&a=1"),
    (f"x://h/db?oauth_client_secret={SECRET}&a=1", "x://h/db?oauth_client_secret=***&a=1"),
    (f"x://h/db?scram_server_key={SECRET}", "x://h/db?scram_server_key=***"),
    (f"x://h/db?a=1&PASSWORD={SECRET}", "x://h/db?a=1&PASSWORD=***"),
    (f"x://app:{SECRET}@h/db?password={SECRET}", "x://app:***@h/db?password=***"),
    ("sqlite+aiosqlite:///orders.db", "sqlite+aiosqlite:///orders.db"),
]


@pytest.mark.parametrize(("url", "shown"), SHOWN)
def test_a_url_is_shown_without_its_password_and_otherwise_as_it_is(url: str, shown: str) -> None:
    assert masked(url) == shown


@given(password=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=8, max_size=20))
def test_no_encoded_password_is_ever_shown(password: str) -> None:
    for url in (f"x://app:{password}@h/db", f"x://app:%40{password}%2F@h1,h2/db", f"x://h/db?pwd={password}"):
        assert password not in masked(url)


@pytest.mark.parametrize(
    "url",
    [
        f"mongodb://h/db?tls=true&tlsCertificateKeyFilePassword={SECRET}",
        f"mongodb://h/db?authMechanismProperties=AWS_SESSION_TOKEN:{SECRET}",
        f"mongodb://app:p@{SECRET}@h/db",
        f"mongodb://app:p/{SECRET}@h/db",
        f"postgresql+asyncpg://app:p@{SECRET}@h/db",
    ],
)
def test_a_password_is_not_shown_wherever_it_stands(url: str) -> None:
    assert SECRET not in masked(url)


def every_way_to_show(value: object) -> str:
    """Return what print, the debugger and a log would show."""
    record = logging.LogRecord("polysaga", logging.INFO, "", 0, "%s %r", (value, value), None)
    return f"{value} {value!r} {record.getMessage()}"


@pytest.mark.parametrize("url", [URL, MONGO])
def test_settings_never_show_a_password(url: str) -> None:
    replica = url.replace("primary", "replica").replace("h1", "h3")
    settings = parse_settings({"databases": {"orders": {"url": url, "replicas": [replica]}}})
    for value in (
        settings,
        settings.databases,
        settings.databases["orders"],
        settings.databases["orders"].replicas,
    ):
        assert SECRET not in every_way_to_show(value)
    assert SECRET not in settings.model_dump_json()


@pytest.mark.parametrize(
    "values",
    [
        {"databases": URL},
        {"databases": {"orders": URL}},
        {"databases": {"orders": {"url": [URL]}}},
        {"databases": {"orders": {"url": URL, "replicas": {"url": URL}}}},
        {"databases": {"orders": {"url": URL, "replicas": [[URL]]}}},
        {"databases": {"orders": {"url": URL, "pool": URL}}},
        {"databases": {"orders": {"ulr": URL}}},
        {"sagas": {"lease": URL}},
    ],
)
def test_an_error_about_settings_never_shows_a_password(values: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as failure:
        parse_settings(values)
    assert SECRET not in every_way_to_show(failure.value)
    assert failure.value.__cause__ is None


@pytest.mark.parametrize("value", [f'{{"orders": "{URL}"', URL, f'["{URL}"]'])
def test_an_error_about_a_variable_never_shows_a_password(value: str) -> None:
    with pytest.raises(ConfigurationError) as failure:
        load_settings(environment={"POLYSAGA_DATABASES": value})
    assert SECRET not in every_way_to_show(failure.value)


def database(url: str) -> DatabaseSettings:
    return parse_settings({"databases": {"orders": {"url": url}}}).databases["orders"]


def node_of(kind: type[SqlNode] | type[MongoNode], url: str) -> SqlNode | MongoNode:
    return kind("orders", "primary", url, database(url))


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        (SqlNode, URL),
        (SqlNode, f"postgresql+psycopg://app:{SECRET}@h/orders?sslpassword={SECRET}"),
        (SqlNode, f"mysql+asyncmy://app:{SECRET}@h/orders"),
        (MongoNode, MONGO),
    ],
)
def test_a_node_is_named_by_its_url_without_the_password(kind: type[SqlNode] | type[MongoNode], url: str) -> None:
    node = node_of(kind, url)
    assert node.name == masked(url)
    assert SECRET not in every_way_to_show(node.name) + repr(node)


@pytest.mark.parametrize(
    ("kind", "url", "says"),
    [
        (
            SqlNode,
            f"app:{SECRET}@h/orders",
            r"databases.orders.url is not a URL; write e.g. postgresql\+asyncpg://",
        ),
        (
            SqlNode,
            f"postgresql+psycopg2://app:{SECRET}@h/orders",
            r"'postgresql\+psycopg2://' is not supported .* write postgresql\+asyncpg://app:\*\*\*@h/orders",
        ),
        (SqlNode, f"mysql+pymysql://app:{SECRET}@h/orders", r"write mysql\+asyncmy://app:\*\*\*@h/orders"),
        (SqlNode, f"oracle://app:{SECRET}@h/orders", r"'oracle://' is not supported .* use one of postgresql\+a"),
        (SqlNode, f"mongodb://app:{SECRET}@h/orders", "'mongodb://' is not supported for this handle"),
        (SqlNode, "sqlite+aiosqlite://", "SQLite in memory .* name a file"),
        (SqlNode, "sqlite+aiosqlite:///:memory:", "SQLite in memory .* name a file"),
        (SqlNode, "sqlite+aiosqlite:///file::memory:?uri=true", "SQLite in memory .* name a file"),
        (SqlNode, "sqlite+aiosqlite:///file:shop?mode=memory&cache=shared&uri=true", "SQLite in memory"),
        (MongoNode, URL, r"'postgresql\+asyncpg://' is not supported for this handle; write mongodb://"),
    ],
)
def test_a_url_that_does_not_fit_is_told_without_the_password(
    kind: type[SqlNode] | type[MongoNode], url: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as failure:
        node_of(kind, url)
    assert SECRET not in every_way_to_show(failure.value)


def test_a_mongo_url_without_a_scheme_is_told_without_the_password() -> None:
    with pytest.raises(ConfigurationError) as failure:
        node_of(MongoNode, f"app:{SECRET}@h/orders")
    assert SECRET not in every_way_to_show(failure.value)


def test_a_port_that_is_no_number_is_told_without_the_password() -> None:
    with pytest.raises(ConfigurationError):
        node_of(SqlNode, f"postgresql+asyncpg://app:p@h:{SECRET}/orders")


@pytest.mark.parametrize("name", ["", "two words", "a-b", "1st"])
def test_a_handle_needs_a_name_that_settings_and_variables_can_carry(name: str) -> None:
    with pytest.raises(ConfigurationError, match="use A-Z, a-z, 0-9 and _"):
        SqlDatabase(name)


def test_a_handle_tells_that_it_is_not_open() -> None:
    orders = SqlDatabase("orders")
    with pytest.raises(ConfigurationError, match="database 'orders' is not open: use it inside `async with"):
        orders.writer()
    assert (repr(orders), orders.replicas) == ("SqlDatabase('orders')", ())


def test_two_handles_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two databases have the same name"):
        Databases(SqlDatabase("orders"), MongoDatabase("orders"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, r"database 'orders' has no settings: set databases\.orders\.url"),
        (
            {"orders": {"url": "sqlite+aiosqlite://"}, "oders": {"url": "sqlite+aiosqlite://"}},
            "'oders' that the program lacks, did you mean 'orders'?",
        ),
        (
            {"orders": {"url": "sqlite+aiosqlite://"}, "zzz": {"url": "sqlite+aiosqlite://"}},
            "'zzz' that the program lacks; known: orders",
        ),
    ],
)
async def test_settings_that_do_not_fit_the_handles_are_told(settings: Mapping[str, Any], says: str) -> None:
    databases = Databases(SqlDatabase("orders"))
    with pytest.raises(ConfigurationError, match=says):
        async with databases.open(parse_settings({"databases": settings})):
            pass


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ('"sqlite+aiosqlite:///shop.db"', "has quotes around it"),
        ("'postgresql://app:secret@db/shop'", "has quotes around it"),
        ('mongodb://db/shop"', "has quotes around it"),
        ("", "is empty; give a URL"),
        (" \n", "is empty; give a URL"),
    ],
)
@pytest.mark.parametrize("place", ["POLYSAGA_DATABASES__SHOP__URL", "POLYSAGA_DATABASES__SHOP__REPLICAS__0__URL"])
def test_a_url_that_a_file_of_variables_has_spoilt_is_told_as_such(place: str, url: str, wanted: str) -> None:
    variables = {"POLYSAGA_DATABASES__SHOP__URL": "postgresql://db/shop", place: url}
    with pytest.raises(ConfigurationError, match=wanted) as failure:
        load_settings(environment=variables)
    assert "secret" not in str(failure.value)


class _OurDsn(PostgresDsn):
    """A kind of URL that a program makes for itself."""


@pytest.mark.parametrize("kind", [PostgresDsn, _OurDsn, PydanticUrl, MultiHostUrl, make_url])
@pytest.mark.parametrize("alone", [True, False])
def test_a_url_may_be_an_object_of_pydantic_or_sqlalchemy(kind: Callable[[str], Any], *, alone: bool) -> None:
    url = kind("postgresql://ada:geheim@db:5432/shop")
    settings = parse_settings({"databases": {"orders": {"url": url, "replicas": url if alone else [url]}}})
    orders = settings.databases["orders"]
    for found in (orders.url, *(replica.url for replica in orders.replicas)):
        assert found.get_secret_value() == "postgresql://ada:geheim@db:5432/shop"
    assert len(orders.replicas) == 1


class _Mine(BaseModel):
    """Settings of a program, with ours inside."""

    polysaga: Settings


def _frozen() -> None:
    settings = Settings(databases={"orders": {"url": "postgresql://ada:geheim@db/shop"}})
    settings.databases["orders"].url = "postgresql://ada:geheim@other/shop"  # type: ignore[misc, assignment]


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: Settings(databases={"orders": {"url": ["postgresql://ada:geheim@db/shop"]}}),
        lambda: Settings(databases={"orders": "postgresql://ada:geheim@db/shop"}),
        lambda: Settings(bookmarks={"secret": "geheim"}),
        lambda: Settings(databases={"orders": {"url": "sqlite://", "engine": {"connect_args": "geheim"}}}),
        lambda: _Mine(polysaga={"databases": {"orders": {"uri": "postgresql://ada:geheim@db/shop"}}}),
        lambda: _Mine(polysaga={"databases": {"orders": {"url": "sqlite://", "replicas": [["geheim"]]}}}),
        _frozen,
    ],
    ids=["url", "database", "secret", "engine", "misspelt in another model", "replica in another model", "frozen"],
)
def test_no_form_of_an_error_shows_a_value(mistake: Callable[[], object]) -> None:
    with pytest.raises(ValidationError) as raised:
        mistake()
    error = raised.value
    assert "geheim" not in f"{error} {error!r} {error.errors()} {error.json()}"
    assert all(one["loc"] and one["input"] == "***" for one in error.errors())


def test_settings_built_in_code_tell_a_mistake_without_the_value() -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(databases={"orders": {"url": "postgresql://ada:geheim@db/shop", "pool": {"size": "many"}}})
    with pytest.raises(ValidationError) as misspelt:
        Settings(databases={"orders": {"uri": "postgresql://ada:geheim@db/shop"}})
    assert "geheim" not in str(raised.value) + str(misspelt.value)
