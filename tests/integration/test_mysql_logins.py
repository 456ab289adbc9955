"""Logins to MySQL, whose accounts have caching_sha2_password: with a password, by TLS, and what hinders them."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from asyncmy import auth
from sqlalchemy.engine import URL, make_url

from devservers import MariaDBServer, MySQLServer, Server
from polysaga.databases import SqlNode
from polysaga.databases.probe_connection import ProbeConnection
from polysaga.errors import ConfigurationError
from tests.conformance.shops import settings

TLS_IN_USE = "SHOW STATUS LIKE 'Ssl_version'"


@pytest.fixture
def server(mysql_server: Server) -> MySQLServer:
    if not isinstance(mysql_server, MySQLServer):
        pytest.skip("needs a server whose certificates and accounts tests may use")
    return mysql_server


@pytest.fixture
def fresh(server: MySQLServer) -> Iterator[URL]:
    """The address of an account that the server has not seen since it started."""
    name = f"u{uuid.uuid4().hex[:12]}"
    server.run(f"CREATE USER {name} IDENTIFIED BY 'fresh'", f"GRANT ALL ON *.* TO {name}")
    yield make_url(server.url("sys")).set(username=name, password="fresh")
    server.run(f"DROP USER {name}")


def certificate(server: MySQLServer, name: str = "ca.pem") -> str:
    return str(server.data / name)


async def told(url: URL, question: str = "SELECT 1") -> object:
    address = url.render_as_string(hide_password=False)
    node = SqlNode("shop", "primary", address, settings(address))
    try:
        async with node.writer.connect() as connection:
            return (await connection.exec_driver_sql(question)).one()[-1]
    finally:
        await node.close()


async def test_an_account_logs_in_that_the_server_has_not_seen_since_it_started(fresh: URL) -> None:
    assert await told(fresh, TLS_IN_USE) == ""


async def test_without_cryptography_the_error_names_what_to_install(
    fresh: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_have_cryptography", False)
    with pytest.raises(ConfigurationError, match=r"'cryptography' package is required .*polysaga\[mysql\]"):
        await told(fresh)


async def test_tls_needs_no_cryptography(fresh: URL, server: MySQLServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_have_cryptography", False)
    tls = {"ssl_ca": certificate(server), "ssl_check_hostname": "false"}
    assert str(await told(fresh.update_query_dict(tls), TLS_IN_USE)).startswith("TLSv1.")


async def test_a_client_shows_its_own_certificate(fresh: URL, server: MySQLServer) -> None:
    server.run(f"ALTER USER {fresh.username} REQUIRE X509")
    tls = {"ssl_ca": certificate(server), "ssl_check_hostname": "false"}
    with pytest.raises(ConfigurationError, match="rejects the login"):
        await told(fresh.update_query_dict(tls))
    own = {"ssl_cert": certificate(server, "client-cert.pem"), "ssl_key": certificate(server, "client-key.pem")}
    assert str(await told(fresh.update_query_dict(tls | own), TLS_IN_USE)).startswith("TLSv1.")


async def test_a_url_that_was_made_a_text_without_its_password_is_recognised(fresh: URL) -> None:
    with pytest.raises(ConfigurationError, match=r"rejects the login .*render_as_string\(hide_password=False\)"):
        await told(make_url(str(fresh)))


async def test_a_certificate_that_does_not_name_the_host_is_not_believed(fresh: URL, server: MySQLServer) -> None:
    with pytest.raises(ConfigurationError, match=r"(?i)certificate verify failed.*not valid for"):
        await told(fresh.update_query_dict({"ssl_ca": certificate(server)}))


@pytest.mark.parametrize("option", ["ssl_ca", "ssl_cert"])
@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_file_that_is_no_certificate_is_a_mistake_of_the_settings(
    fresh: URL, server: MySQLServer, tmp_path: Path, option: str, content: str | None
) -> None:
    file = tmp_path / "given.pem"
    if content is not None:
        file.write_text(content)
    options = {"ssl_ca": certificate(server), option: str(file)}
    known = "give the path of a file" if content is None else "check the files that ssl_ca, ssl_cert and ssl_key"
    with pytest.raises(ConfigurationError, match=known):
        await told(fresh.update_query_dict(options))


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("ALTER USER {} ACCOUNT LOCK", "locked"),
        ("ALTER USER {} PASSWORD EXPIRE", "expired|must reset your password"),
        ("ALTER USER {} REQUIRE SSL", "Access denied"),
    ],
)
async def test_an_account_that_may_not_log_in_is_a_mistake_of_the_settings(
    fresh: URL, server: MySQLServer, sentence: str, said: str
) -> None:
    server.run(sentence.format(fresh.username))
    with pytest.raises(ConfigurationError, match=said):
        await told(fresh)


async def test_a_server_that_wants_tls_says_so(fresh: URL, server: MySQLServer) -> None:
    server.run("SET GLOBAL require_secure_transport = ON")
    try:
        with pytest.raises(ConfigurationError, match="insecure transport"):
            await told(fresh)
    finally:
        tls = fresh.update_query_dict({"ssl_ca": certificate(server), "ssl_check_hostname": "false"})
        address = tls.set(username="polysaga", password="polysaga").render_as_string(hide_password=False)
        node = SqlNode("shop", "primary", address, settings(address))
        async with node.writer.connect() as connection:
            await connection.exec_driver_sql("SET GLOBAL require_secure_transport = OFF")
        await node.close()


@pytest.mark.parametrize("password", ["sécrét", "zażółć 🏮", "p@ss:w/rd#100%"])
@pytest.mark.parametrize("kind", ["mysql_server", "mariadb_server"])
async def test_a_password_may_have_any_characters(
    kind: str, password: str, request: pytest.FixtureRequest
) -> None:
    server: MySQLServer | MariaDBServer = request.getfixturevalue(kind)
    name = f"u{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    server.run(f"CREATE USER {name} IDENTIFIED BY '{password}'", f"GRANT ALL ON *.* TO {name}")
    url = make_url(server.url(name)).set(username=name, password=password)
    try:
        assert await told(url) == 1
        address = url.render_as_string(hide_password=False)
        line = ProbeConnection(SqlNode("shop", "primary", address, settings(address)))
        await line.ask()
        await line.close()
    finally:
        server.run(f"DROP USER {name}")
        server.drop_database(name)
