"""The order service under kill -9, on the embedded default and on three real servers."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from devservers.ports import free_port
from tests.fixtures.programs import Urls
from tests.fixtures.services import LEASE, ServiceProcess, poll_until, replaying, running

ROWS = 500
# Real orders, beside the checkout; where they are missing, `_made_up` stands in.
TRACE = Path(__file__).parents[3] / "shared" / "data" / "online_retail.csv"
_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}
HEAD = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"


class Books:
    """What the journal says, asked often and from outside the service, on one connection of their own."""

    def __init__(self, urls: Urls) -> None:
        url = make_url(urls["orders"])
        self._engine = create_engine(url.set(drivername=_DRIVERS[url.get_backend_name()]))

    def count(self, where: str) -> int:
        """Return how many sagas fulfil *where*."""
        with self._engine.connect() as connection:
            found = connection.execute(text(f"SELECT count(*) FROM polysaga_journal WHERE {where}"))
            return int(found.scalar_one())

    def close(self) -> None:
        self._engine.dispose()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    found = TRACE.read_text(encoding="utf-8-sig").splitlines()[1:] if TRACE.exists() else _made_up()
    file = tmp_path / "trace.csv"
    file.write_text("\n".join([HEAD, *found[:ROWS]]), encoding="utf-8")
    return file


@pytest.fixture
def service(empty_urls: Urls, tmp_path: Path) -> Iterator[ServiceProcess]:
    with running(ServiceProcess(empty_urls, free_port(None), tmp_path)) as process:
        yield process


@pytest.fixture
def books(service: ServiceProcess) -> Iterator[Books]:
    with closing(Books(service.urls)) as books:
        yield books


def test_a_service_killed_three_times_under_load_loses_and_doubles_nothing(
    service: ServiceProcess, trace: Path, books: Books
) -> None:
    chance = random.Random(20101201)
    marks = sorted(chance.sample(range(20, ROWS - 120), 3))
    with replaying(service, trace) as replay:
        for mark in marks:
            poll_until(lambda mark=mark: books.count("1 = 1") >= mark, f"{mark} sagas are started")
            service.kill()
            left = books.count("status NOT IN ('completed', 'compensated')")
            service.start()
        restarted = time.monotonic()
        told, complaints = replay.communicate(timeout=240)
    assert replay.returncode == 0, told + complaints
    poll_until(
        lambda: books.count("status NOT IN ('completed', 'compensated')") == 0,
        f"all sagas are at rest, of which {left} were left by the last kill",
        patience=max(2 * LEASE - (time.monotonic() - restarted), 2 * LEASE),
    )
    report = json.loads(told)
    assert report["reconciliation"]["contradictions"] == []
    assert report["orders"]["confirmed"] > 0
    assert report["orders"]["refused"] > 0
    assert sum(report["dirty"].values()) > 0
    assert verified(service) == 0


def test_what_a_killed_service_left_is_at_rest_two_leases_after_its_restart(
    service: ServiceProcess, trace: Path, books: Books
) -> None:
    with replaying(service, trace):
        poll_until(lambda: books.count("status IN ('running', 'completing')") >= 3, "sagas are in flight")
        service.kill()
    left = books.count("status NOT IN ('completed', 'compensated')")
    service.start()
    poll_until(
        lambda: books.count("status NOT IN ('completed', 'compensated')") == 0,
        f"the {left} sagas left behind are at rest",
        patience=2 * LEASE,
    )


def test_the_other_process_finishes_the_sagas_of_the_one_that_was_killed(
    service: ServiceProcess, trace: Path, books: Books, tmp_path: Path
) -> None:
    other = ServiceProcess(service.urls, free_port(None), tmp_path)
    with running(other):
        with replaying(service, trace):
            poll_until(lambda: books.count("status IN ('running', 'completing')") >= 3, "sagas are in flight")
            service.kill()
        left = books.count("status NOT IN ('completed', 'compensated')")
        poll_until(
            lambda: books.count("status NOT IN ('completed', 'compensated')") == 0,
            f"the other process finishes {left} sagas",
            patience=2 * LEASE,
        )


def test_a_service_asked_to_end_finishes_or_hands_over_and_leaves_with_code_0(
    service: ServiceProcess, trace: Path, books: Books
) -> None:
    with replaying(service, trace):
        poll_until(lambda: books.count("1 = 1") >= 30, "some sagas are started")
        assert service.terminate() == 0
    assert books.count("status NOT IN ('completed', 'compensated')") == 0
    assert verified(service) == 0


def verified(service: ServiceProcess) -> int:
    """Return the exit code of `polysaga verify`, as an operator calls it."""
    command = [str(Path(sys.executable).with_name("polysaga")), "verify", "orders.sagas:sagas"]
    return subprocess.run(command, env=service.environment, cwd=service.directory, timeout=120).returncode


def _made_up() -> list[str]:
    """Return rows like the real ones: few products, some of them wanted often, and a return now and then."""
    chance = random.Random(1)

    def row(number: int) -> str:
        quantity = -6 if number % 50 == 7 else chance.choice([1, 2, 6, 12])
        product, price = f"{chance.randint(1, 120)}A", chance.choice(["2.55", "3.39", "0.85"])
        customer = 17850 + number // 20
        return f"{536365 + number // 9},{product},LANTERN,{quantity},1/12/2010,{price},{customer},United Kingdom"

    return [row(number) for number in range(ROWS)]
