"""The order service on three real servers while processes, servers and connections fail under load.

Two processes of the service, a proxy before each server, sixteen customers who ask until they have an answer. At
the end nothing may be lost, doubled or stranded, as `verify` and the shop's own reconciliation count it.
"""

from collections.abc import Iterator

import pytest

from devservers import LocalServer, Server
from tests.fixtures.services import LEASE, poll_until
from tests.soak.audit import audit, unfinished
from tests.soak.customers import Customers
from tests.soak.house import House, house
from tests.soak.plan import Fault, Kind

CUSTOMERS = 16
SOME = 40  # orders between two faults
REST = 120.0  # seconds until everything must have come to rest


@pytest.fixture(scope="module")
def services(
    postgres_server: Server, mariadb_server: Server, mongo_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """The services, started once for all tests; each test counts everything there ever was."""
    servers = {"orders": postgres_server, "points": mariadb_server, "inventory": mongo_server}
    for name, server in servers.items():
        server.create_database(f"faults_{name}")
    urls = {name: server.url(f"faults_{name}") for name, server in servers.items()}
    with house(servers, urls, tmp_path_factory.mktemp("services")) as home:
        yield home
    for name, server in servers.items():
        server.drop_database(f"faults_{name}")


@pytest.fixture
def home(services: House) -> House:
    services.recover()
    return services


@pytest.fixture
def customers(home: House) -> Iterator[Customers]:
    with Customers([one.service.url for one in home.services.values()], CUSTOMERS) as customers:
        poll_until(lambda: customers.orders >= SOME, f"{SOME} orders are placed")
        yield customers


def more(customers: Customers) -> None:
    """Wait until the shop has got on."""
    before = customers.orders
    poll_until(lambda: customers.orders >= before + SOME, f"after {before} orders there are {SOME} more")


def frozen_in_the_middle(home: House) -> bool:
    """Freeze service one, and tell whether it had sagas in flight; if it had none, let it go on."""
    home.begin(Fault(0, Kind.FREEZE, "one"))
    if unfinished(home.urls) == 0:
        home.thaw("one")
        return False
    return True


def assert_all_is_well(home: House, customers: Customers) -> None:
    home.recover()
    customers.go_home()
    assert home.deaths == []
    found = audit(home.urls, customers.confirmed, patience=REST)
    assert found.details == ()
    assert found.clean, found
    assert len(customers.confirmed) > SOME
    assert set(customers.answers) <= {"confirmed", "out-of-stock"}


def test_a_service_killed_and_started_again_twice(home: House, customers: Customers) -> None:
    for name in home.services:
        home.begin(Fault(0, Kind.KILL, name))
        more(customers)
    assert_all_is_well(home, customers)


def test_a_service_that_is_replaced_as_a_deployment_does_it(home: House, customers: Customers) -> None:
    for name in home.services:
        home.begin(Fault(0, Kind.TERMINATE, name))
        more(customers)
    assert_all_is_well(home, customers)


def test_a_frozen_service_whose_sagas_the_other_one_finishes_changes_nothing_when_it_goes_on(home: House) -> None:
    with Customers([home.services["one"].service.url], CUSTOMERS) as customers:
        poll_until(lambda: customers.orders >= SOME, f"{SOME} orders are placed")
        poll_until(lambda: frozen_in_the_middle(home), "the service is frozen while sagas are in flight")
        poll_until(lambda: unfinished(home.urls) == 0, "service two finishes the sagas of the frozen one")
        home.thaw("one")
        more(customers)
        assert_all_is_well(home, customers)


def test_a_service_frozen_for_less_than_a_lease_goes_on(home: House, customers: Customers) -> None:
    for name in home.services:
        thaw = home.begin(Fault(0, Kind.FREEZE, name))
        assert thaw is not None
        before = customers.orders
        poll_until(lambda before=before: customers.orders > before, "the other one serves", patience=10 * LEASE)
        thaw()
        more(customers)
    assert_all_is_well(home, customers)


@pytest.mark.parametrize("how", [Kind.RESTART, Kind.CRASH])
@pytest.mark.parametrize("database", ["orders", "points", "inventory"])
def test_a_database_server_that_comes_back(home: House, customers: Customers, database: str, how: Kind) -> None:
    if not isinstance(home.servers[database], LocalServer):
        pytest.skip(f"{home.servers[database].origin} names a server that tests may not kill")
    home.begin(Fault(0, how, database))
    more(customers)
    assert_all_is_well(home, customers)


def test_cut_connections_to_every_database(home: House, customers: Customers) -> None:
    for how in (Kind.RESET, Kind.DROP):
        for database in home.proxies:
            home.begin(Fault(0, how, database))
            more(customers)
    assert_all_is_well(home, customers)


def test_a_network_that_hangs_and_goes_on(home: House, customers: Customers) -> None:
    for database, proxy in home.proxies.items():
        resume = home.begin(Fault(0, Kind.HANG, database))
        assert resume is not None
        poll_until(lambda proxy=proxy: proxy.held >= 2, f"statements for '{database}' are on their way")
        resume()
        more(customers)
    assert_all_is_well(home, customers)
