"""Every option in a URL is passed on to the driver, or refused by name with the remedy; none is left out."""

import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from polysaga.config import DatabaseSettings
from polysaga.databases import MongoNode, SqlNode
from polysaga.errors import ConfigurationError

SECRET = "hunter2hunter2"
ASYNCPG, PSYCOPG = "postgresql+asyncpg", "postgresql+psycopg"


def node(scheme: str, query: str, role: str = "primary") -> SqlNode:
    url = f"{scheme}://app:{SECRET}@h/shop?{query}"
    return SqlNode("shop", role, url, DatabaseSettings.model_validate({"url": url}))


def arguments(scheme: str, query: str) -> dict[str, Any]:
    made = node(scheme, query)
    asked: dict[str, Any] = made.dialect.engine_arguments(made.url, made.settings)["connect_args"]
    return asked


def refusal(scheme: str, query: str, role: str = "primary") -> str:
    with pytest.raises(ConfigurationError) as failure:
        node(scheme, query, role)
    assert SECRET not in str(failure.value)
    return str(failure.value)


LASTING = "-c default_transaction_isolation"


def test_options_for_the_server_are_sent_before_ours() -> None:
    given = "-csearch_path=tenant -c statement_timeout=1234"
    sent = arguments(PSYCOPG, f"options={quote(given)}")["options"]
    assert sent.startswith(f"{given} -c ")
    assert LASTING in sent
    settings = arguments(ASYNCPG, f"options={quote(given)}")["server_settings"]
    assert settings["options"] == given
    assert settings["lock_timeout"] == "5000"


def test_what_a_proxy_reads_in_the_options_is_left_as_it_is() -> None:
    assert arguments(PSYCOPG, "options=endpoint%3Dep-1")["options"].startswith("endpoint=ep-1 -c ")
    assert arguments(ASYNCPG, "options=endpoint%3Dep-1")["server_settings"]["options"] == "endpoint=ep-1"


@pytest.mark.parametrize("scheme", [ASYNCPG, PSYCOPG])
@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("-clock_timeout=1", "set databases.shop.lock_timeout"),
        ("-c lock_timeout=1", "set databases.shop.lock_timeout"),
        ("-c  LOCK_TIMEOUT=1", "set databases.shop.lock_timeout"),
        ("--lock-timeout=1", "set databases.shop.lock_timeout"),
        (r"-csearch_path=a,\ b -c lock\_timeout=1", "set databases.shop.lock_timeout"),
        ("-c idle_in_transaction_session_timeout=0", "set databases.shop.idle_transaction_timeout"),
        ("-c default_transaction_isolation=serializable", "READ COMMITTED"),
        ("-c default_transaction_read_only=on", "refuses writes of readers"),
        ("-c client_encoding=LATIN1", "it is UTF8"),
    ],
)
def test_an_option_that_sets_what_we_must_set_is_refused_with_the_remedy(
    scheme: str, given: str, remedy: str
) -> None:
    said = refusal(scheme, f"options={quote(given)}")
    assert "databases.shop.url: option 'options' sets " in said
    assert remedy in said


def test_the_forms_in_which_psycopg_reads_values_are_ours() -> None:
    assert "option 'options' sets datestyle" in refusal(PSYCOPG, "options=-cDateStyle%3DGerman")
    assert arguments(ASYNCPG, "options=-cDateStyle%3DGerman")["server_settings"]["options"]


def test_options_that_only_look_like_ours_pass() -> None:
    given = r"-c search_path=lock_timeout,\ x -c statement_timeout=9"
    assert given in arguments(PSYCOPG, f"options={quote(given)}")["options"]


@pytest.mark.parametrize("scheme", [ASYNCPG, PSYCOPG])
def test_options_of_the_environment_are_joined_as_well(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c search_path=tenant")
    if scheme == ASYNCPG:  # the driver never reads that variable
        assert "options" not in arguments(ASYNCPG, "")["server_settings"]
        return
    assert arguments(PSYCOPG, "")["options"].startswith("-c search_path=tenant -c ")
    monkeypatch.setenv("PGOPTIONS", "-c lock_timeout=1")
    assert "'PGOPTIONS' sets lock_timeout" in refusal(PSYCOPG, "sslmode=disable")


@pytest.mark.parametrize("query", ["application_name=shop", "fallback_application_name=shop"])
def test_a_connection_bears_the_name_that_the_url_gives(query: str) -> None:
    assert arguments(PSYCOPG, query)["application_name"] == "shop"
    assert arguments(ASYNCPG, query)["server_settings"]["application_name"] == "shop"
    assert arguments(ASYNCPG, "")["server_settings"]["application_name"] == "polysaga"


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])
@pytest.mark.parametrize("name", ["sslmode", "ssl"])
def test_asyncpg_gets_the_ssl_mode_in_the_place_where_it_reads_it(name: str, mode: str) -> None:
    dsn = arguments(ASYNCPG, f"{name}={mode}")["dsn"]
    assert parse_qs(urlsplit(dsn).query) == {"sslmode": [mode]}


def test_files_for_tls_reach_asyncpg_and_a_missing_one_is_found_at_once(tmp_path: Path) -> None:
    (tmp_path / "root ca.crt").touch()
    asked = arguments(ASYNCPG, f"sslmode=verify-ca&sslrootcert={quote(str(tmp_path / 'root ca.crt'))}")
    assert parse_qs(urlsplit(asked["dsn"]).query)["sslrootcert"] == [str(tmp_path / "root ca.crt")]
    for scheme in (ASYNCPG, PSYCOPG):
        assert "option 'sslrootcert' has a value that does not fit; give the path of a file" in refusal(
            scheme, f"sslrootcert={tmp_path / 'none.crt'}"
        )


def test_the_authorities_of_the_system_check_certificates_by_name() -> None:
    context = arguments(ASYNCPG, "sslmode=verify-full&sslrootcert=system")["ssl"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert "add sslmode=verify-full" in refusal(ASYNCPG, "sslmode=require&sslrootcert=system")
    assert arguments(PSYCOPG, "sslmode=verify-full&sslrootcert=system")["sslrootcert"] == "system"


@pytest.mark.parametrize(
    ("scheme", "query", "asked"),
    [
        (ASYNCPG, "statement_cache_size=0", {"statement_cache_size": 0}),
        (ASYNCPG, "prepared_statement_cache_size=0", {"prepared_statement_cache_size": 0}),
        (ASYNCPG, "command_timeout=2.5", {"command_timeout": 2.5}),
        (PSYCOPG, "prepare_threshold=none", {"prepare_threshold": None}),
        (PSYCOPG, "prepare_threshold=0", {"prepare_threshold": 0}),
        (
            PSYCOPG,
            "channel_binding=require&keepalives_idle=30",
            {"channel_binding": "require", "keepalives_idle": 30},
        ),
        (PSYCOPG, "target_session_attrs=read-write", {"target_session_attrs": "read-write"}),
        ("mysql+asyncmy", "ssl=true", {"ssl": True}),
        ("mysql+asyncmy", "ssl-mode=REQUIRED", {"ssl": True}),
        ("mariadb+asyncmy", "ssl_mode=required", {"ssl": True}),
        ("mysql+asyncmy", "read_timeout=3&local_infile=true", {"read_timeout": 3.0, "local_infile": True}),
        ("mysql+asyncmy", "program_name=shop&charset=UTF8MB4", {"program_name": "shop", "charset": "utf8mb4"}),
        ("mysql+asyncmy", "unix_socket=/run/mysqld.sock", {"unix_socket": "/run/mysqld.sock"}),
    ],
)
def test_an_option_reaches_the_driver_in_its_own_type(scheme: str, query: str, asked: dict[str, Any]) -> None:
    given = arguments(scheme, query)
    assert {name: given[name] for name in asked} == asked


def test_several_hosts_are_an_address_and_no_options() -> None:
    made = node(ASYNCPG, "host=a:1&host=b:2&target_session_attrs=read-write")
    assert made.dialect.address(made.url).query == {"host": ("a:1", "b:2")}


@pytest.mark.parametrize("scheme", [ASYNCPG, PSYCOPG])
@pytest.mark.parametrize(
    "place", ["@a:1,b:2/shop", "@a,b/shop", "@/shop?host=a:1,b:2", ":p,w@a:1,b:2/shop?target_session_attrs=any"]
)
def test_several_hosts_in_one_place_are_refused_with_how_to_write_them(scheme: str, place: str) -> None:
    url = f"{scheme}://app{place}"
    with pytest.raises(
        ConfigurationError, match=r"databases\.shop\.url.*several servers.*host=A:5432&host=B:5432"
    ):
        SqlNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url}))


@pytest.mark.parametrize("scheme", [ASYNCPG, PSYCOPG, "mysql+asyncmy", "postgres"])
@pytest.mark.parametrize("password", ["a@hunter2", "a@hunter2/b", "a/b@hunter2"])
def test_a_password_that_is_not_encoded_is_not_taken_for_a_host_and_told(scheme: str, password: str) -> None:
    url = f"{scheme}://app:{password}@h/shop"
    with pytest.raises(
        ConfigurationError, match=r"databases\.shop\.url: .* percent-encode .* %40 for '@'"
    ) as raised:
        SqlNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url}))
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        f"{ASYNCPG}://app@h:99999/shop",
        f"{PSYCOPG}://app@h:0/shop",
        f"{ASYNCPG}://app@/shop?host=a:5432&host=b:99999",
        f"{ASYNCPG}://app@/shop?host=a&port=99999",
        f"{ASYNCPG}://app@/shop?host=[fd00::1]:99999",
        f"{ASYNCPG}://app@/shop?host=a,b&port=1,99999",
        "mysql+asyncmy://app@h:99999/shop",
    ],
)
def test_a_port_that_does_not_exist_is_a_mistake_in_the_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"databases\.shop\.url: there is no port (99999|0);"):
        SqlNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url}))


def test_the_end_of_an_address_is_no_port() -> None:
    url = f"{ASYNCPG}://app@/shop?host=fd00::0"
    node = SqlNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url}))
    assert node.url.query["host"] == "fd00::0"


@pytest.mark.parametrize("scheme", [ASYNCPG, PSYCOPG])
@pytest.mark.parametrize(
    "hosts",
    [
        "[fd00::1]:5432",
        "[fd00::1]",
        "[fd00::1]:1&host=[fd00::2]:2",
        "fd00::1&host=fd00::2",
        "a:1&host=[fd00::2]:2",
    ],
)
def test_addresses_in_options_in_a_form_that_sqlalchemy_does_not_take_are_refused(scheme: str, hosts: str) -> None:
    url = f"{scheme}://app@/shop?host={hosts}"
    with pytest.raises(
        ConfigurationError, match=r"option 'host' has an address of IPv6 in this form; write .*port="
    ):
        SqlNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url}))


@pytest.mark.parametrize("scheme", [ASYNCPG, PSYCOPG])
def test_several_addresses_in_one_option_are_taken(scheme: str) -> None:
    url = f"{scheme}://app@/shop?host=fd00::1,fd00::2&port=1,2"
    node = SqlNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url}))
    assert node.dialect.address(node.url).query == {"host": "fd00::1,fd00::2", "port": "1,2"}


def test_a_comma_in_a_password_is_no_list_of_hosts() -> None:
    url = f"{ASYNCPG}://app:p,w@host:none/shop"
    with pytest.raises(ConfigurationError, match="is not a URL"):
        SqlNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url}))


def test_hosts_without_the_ports_that_the_driver_wants_are_a_mistake_in_the_url() -> None:
    with pytest.raises(
        ConfigurationError, match=r"databases\.shop\.url: SQLAlchemy refuses it: All ports are required"
    ):
        node(ASYNCPG, "host=a,b").writer  # noqa: B018


@pytest.mark.parametrize("scheme", [ASYNCPG, PSYCOPG])
def test_the_directory_of_a_socket_may_stand_in_the_place_of_the_host(scheme: str) -> None:
    url = f"{scheme}://app:{SECRET}@%2Fcloudsql%2Fproject%3Aregion%3Ashop/shop?application_name=shop"
    made = SqlNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url}))
    address = made.dialect.address(made.url)
    assert (address.host or None, dict(address.query)) == (None, {"host": "/cloudsql/project:region:shop"})


def test_a_login_in_the_query_is_moved_into_its_place() -> None:
    url = f"{ASYNCPG}://h?user=app&password={SECRET}&dbname=shop"
    made = SqlNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url}))
    address = made.dialect.address(made.url)
    assert (address.username, address.password, address.database) == ("app", SECRET, "shop")
    assert SECRET not in made.name
    assert "'user' is given more than once" in refusal(PSYCOPG, "user=other")


def test_first_commands_are_sent_before_ours() -> None:
    asked = arguments("mysql+asyncmy", quote("init_command=SET @a = 1; -- mine", safe="="))
    assert asked["init_command"].startswith("SET @a = 1; -- mine\n;SET SESSION time_zone")
    both = arguments("mysql+asyncmy", "sql_mode='ANSI,TRADITIONAL'&init_command=SET%20@a=1")
    assert both["init_command"].startswith("SET SESSION sql_mode = 'ANSI,TRADITIONAL'\n;SET @a=1\n;SET SESSION ")
    assert "sql_mode" not in both


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("SET time_zone = 'SYSTEM'", "in UTC"),
        ("set session innodb_lock_wait_timeout = 1", "set databases.shop.lock_timeout"),
        ("SET @@session.net_read_timeout = 1", "set databases.shop.idle_transaction_timeout"),
        ("SET autocommit = 0", "leave it out"),
        ("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", "READ COMMITTED"),
        ("SET NAMES latin1", "utf8mb4"),
    ],
)
def test_first_commands_that_set_what_we_must_set_are_refused(command: str, remedy: str) -> None:
    said = refusal("mysql+asyncmy", f"init_command={quote(command)}")
    assert "option 'init_command' sets what Polysaga sets" in said
    assert remedy in said


def test_a_collation_of_our_character_set_may_be_chosen() -> None:
    command = "SET NAMES utf8mb4 COLLATE utf8mb4_unicode_ci"
    assert command in arguments("mysql+asyncmy", f"init_command={quote(command)}")["init_command"]


def test_certificates_are_checked_also_without_a_file_of_authorities() -> None:
    context = arguments("mysql+asyncmy", "ssl-mode=VERIFY_IDENTITY")["ssl"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    context = arguments("mysql+asyncmy", "ssl-mode=VERIFY_CA")["ssl"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)


@pytest.mark.parametrize("mode", ["REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"])
def test_authorities_of_a_file_are_used_as_the_mode_says(mode: str, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    asked = arguments("mysql+asyncmy", f"ssl-mode={mode}&ssl_ca={tmp_path / 'ca.pem'}")["ssl"]
    assert (asked["verify_mode"], asked["check_hostname"]) == (mode != "REQUIRED", mode == "VERIFY_IDENTITY")


def test_a_file_of_defaults_does_not_choose_the_character_set(tmp_path: Path) -> None:
    (tmp_path / "my.cnf").touch()
    assert arguments("mysql+asyncmy", f"read_default_file={tmp_path / 'my.cnf'}")["charset"] == "utf8mb4"


def test_disabled_tls_is_none() -> None:
    assert "ssl" not in arguments("mysql+asyncmy", "ssl-mode=DISABLED")


REFUSED = [
    (ASYNCPG, "connect_timeout=10", "connect_timeout", "set databases.shop.pool.connect_timeout"),
    (PSYCOPG, "connect_timeout=10", "connect_timeout", "set databases.shop.pool.connect_timeout"),
    ("mysql+asyncmy", "connect_timeout=10", "connect_timeout", "set databases.shop.pool.connect_timeout"),
    (ASYNCPG, "channel_binding=require", "channel_binding", "postgresql+psycopg:// can"),
    (ASYNCPG, "gssencmode=require", "gssencmode", "postgresql+psycopg:// can"),
    (ASYNCPG, "keepalives_idle=3", "keepalives_idle", "use postgresql+psycopg://"),
    (ASYNCPG, "hostaddr=127.0.0.1", "hostaddr", "use postgresql+psycopg://"),
    (ASYNCPG, "sslmode=always", "sslmode", "give one of disable, allow"),
    (ASYNCPG, "ssl=true", "ssl", "give one of disable, allow"),
    (ASYNCPG, "ssl=require&sslmode=require", "ssl", "give one of them"),
    (ASYNCPG, "statement_cache_size=many", "statement_cache_size", "give a whole number"),
    (ASYNCPG, "search_path=tenant", "search_path", "options=-c%20NAME%3DVALUE"),
    (PSYCOPG, "statement_timeout=1", "statement_timeout", "options=-c%20NAME%3DVALUE"),
    (PSYCOPG, "service=shop", "service", "into the URL"),
    (PSYCOPG, "client_encoding=latin1", "client_encoding", "give one of utf8"),
    (PSYCOPG, "SSLMODE=require", "SSLMODE", "did you mean 'sslmode'?"),
    (PSYCOPG, "ssl-mode=require", "ssl-mode", "did you mean 'sslmode'?"),
    (PSYCOPG, "s%73lmod=require", "sslmod", "did you mean 'sslmode'?"),
    (PSYCOPG, "sslmode=require&sslmode=disable", "sslmode", "give it once"),
    (PSYCOPG, "options=-cx.a%3D1&options=-cx.b%3D2", "options", "give it once"),
    (PSYCOPG, "autocommit=true", "autocommit", "leave it out"),
    (PSYCOPG, "sslmode=&application_name=a", "sslmode", "give it one"),
    (PSYCOPG, "application_name=a&sslmode", "sslmode", "give it one"),
    (PSYCOPG, "pgbouncer=true", "pgbouncer", "leave it out"),
    ("mysql+asyncmy", "ssl-mode=PREFERRED", "ssl-mode", "REQUIRED, VERIFY_CA"),
    ("mysql+asyncmy", "ssl_disabled=false", "ssl_disabled", "ssl_mode=REQUIRED"),
    ("mysql+asyncmy", "ssl=true&ssl_mode=required", "ssl", "give one of them"),
    ("mysql+asyncmy", "charset=utf8", "charset", "give one of utf8mb4"),
    ("mysql+asyncmy", "charset=latin1", "charset", "give one of utf8mb4"),
    ("mysql+asyncmy", "autocommit=true", "autocommit", "leave it out"),
    ("mysql+asyncmy", "write_timeout=3", "write_timeout", "leave it out"),
    ("mysql+asyncmy", "allowPublicKeyRetrieval=true", "allowPublicKeyRetrieval", "init_command"),
    ("mysql+asyncmy", "ssl_key=/etc/hostname", "ssl_key", "add ssl_cert"),
    ("mysql+asyncmy", "sql_mode=ANSI%3BDROP", "sql_mode", "names of modes"),
]


@pytest.mark.parametrize(("scheme", "query", "name", "remedy"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(scheme: str, query: str, name: str, remedy: str) -> None:
    said = refusal(scheme, query)
    assert f"databases.shop.url: option '{name}' " in said
    assert remedy in said


def test_an_option_of_a_replica_is_looked_at_too() -> None:
    assert "databases.shop.replicas: option 'SSLMODE'" in refusal(PSYCOPG, "SSLMODE=require", role="replica")


def test_the_value_of_a_refused_option_is_not_told() -> None:
    refusal(PSYCOPG, f"sslmode={SECRET}")
    refusal("mysql+asyncmy", f"init_command={quote(f'SET time_zone = {SECRET!r}')}")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("timeout=3", "timeout"),
        ("mode=ro", "mode"),
        ("cache=shared", "cache"),
        ("isolation_level=IMMEDIATE", "isolation_level"),
        ("detect_types=3", "detect_types"),
        ("_journal_mode=DELETE", "_journal_mode"),
        ("uri=true", "uri"),
    ],
)
def test_options_of_sqlite_are_honoured_or_refused(query: str, name: str, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/shop.db?{query}"
    with pytest.raises(ConfigurationError, match=f"databases.shop.url: option '{name}' "):
        SqlNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url}))


@pytest.mark.parametrize("query", ["uri=true", "uri=true&mode=rwc&cached_statements=7"])
def test_a_uri_of_sqlite_may_have_options(query: str, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///file:{tmp_path}/shop.db?{query}"
    SqlNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url}))


def mongo(query: str) -> MongoNode:
    url = f"mongodb://app:{SECRET}@h/shop?{query}"
    return MongoNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url}))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("maxPoolSize=3", "set databases.shop.pool.size"),
        ("waitQueueTimeoutMS=3", "set databases.shop.pool.acquire_timeout"),
        ("serverSelectionTimeoutMS=3", "set databases.shop.pool.connect_timeout"),
        ("connectTimeoutMS=3", "set databases.shop.pool.connect_timeout"),
        ("w=1", "a majority confirms every write"),
        ("W=0", "a majority confirms every write"),
        ("journal=false", "a majority confirms every write"),
        ("wtimeoutMS=1", "a majority confirms every write"),
        ("uuidRepresentation=javaLegacy", "standard form"),
        ("tz_aware=false", "times have their zone"),
        ("retryWrites=true&retryWrites=false", "give it once"),
        ("replicaset=rs0;replicaSet=rs1", "give it once"),
        ("colour=green", "Unknown option: colour"),
        ("maxConnecting=many", "must be an integer"),
        ("replicaSet", "give it one"),
    ],
)
def test_options_of_mongodb_are_honoured_or_refused(query: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as failure:
        mongo(query)
    assert str(failure.value).startswith("databases.shop.url: ")
    assert said in str(failure.value)
    assert SECRET not in str(failure.value)


@pytest.mark.parametrize(
    "query",
    [
        "retryWrites=true&w=majority&appName=Cluster0",
        "ssl=true&replicaSet=globaldb&retrywrites=false&maxIdleTimeMS=120000&appName=@shop@",
        "readPreference=secondary&readConcernLevel=majority&journal=true&uuidRepresentation=standard",
    ],
)
async def test_urls_of_mongodb_as_hosters_give_them_are_taken(query: str) -> None:
    client = mongo(query).another_client()
    assert client.options.pool_options.appname != "polysaga" or "appName" not in query
    await client.close()


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "urls-and-poolers.md"


def test_the_urls_of_the_guide_are_taken() -> None:
    (block,) = re.findall(r"^```text\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
    urls = block.splitlines()
    assert len(urls) == 11
    for url in urls:
        kind = MongoNode if url.startswith("mongodb") else SqlNode
        assert "secret" not in kind("shop", "primary", url, DatabaseSettings.model_validate({"url": url})).name


UNENCODED = [
    "hun/ter2",
    "12/hunter2",
    "/hunter2",
    "hun?ter2",
    "hun?ter2=hunter2",
    "hun?w=ter2",
    "hun@ter2",
    "hun ter2",
]


@pytest.mark.parametrize("password", UNENCODED)
@pytest.mark.parametrize("more", ["", ",other:27017/stock?replicaSet=rs", "/stock?appName=shop&w"])
async def test_a_password_of_mongodb_that_is_not_encoded_is_a_mistake_without_it(password: str, more: str) -> None:
    url = f"mongodb://app:{password}@host:27017{more}"
    with pytest.raises(
        ConfigurationError, match=r"databases\.shop\.url: .*(encode|escaped|'w' has no value)"
    ) as raised:
        _ = MongoNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url})).client
    told = f"{raised.value} {raised.value.__cause__}"
    assert "hun" not in told.lower()
    assert "ter2" not in told.lower()


@pytest.mark.parametrize("port", ["none", "0", "99999", "-1"])
async def test_a_port_of_mongodb_that_is_none_is_a_mistake(port: str) -> None:
    url = f"mongodb://app:{SECRET}@host:{port}/stock"
    with pytest.raises(ConfigurationError, match=r"databases\.shop\.url: Port") as raised:
        _ = MongoNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url})).client
    assert SECRET not in str(raised.value)


async def test_an_at_sign_in_an_option_of_mongodb_is_none_of_a_password() -> None:
    url = "mongodb://host:27017/stock?appName=shop@home"
    made = MongoNode("shop", "primary", url, DatabaseSettings.model_validate({"url": url}))
    assert made.client.options.pool_options.metadata["application"]["name"] == "shop@home"
    await made.close()
