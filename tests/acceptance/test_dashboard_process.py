"""The dashboard in a service of its own process: open pages do not keep it from ending."""

import http.client
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from devservers.ports import free_port
from tests.fixtures.services import ServiceProcess, running
from tests.fixtures.setups import embedded_urls


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    """Run the order service on three files."""
    with running(ServiceProcess(embedded_urls(tmp_path), free_port(), tmp_path)) as found:
        yield found


def test_open_pages_do_not_delay_the_end_of_a_service(service: ServiceProcess) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
            stack.callback(connection.close)
            connection.request("GET", "/dashboard/live/overview")
            stream = connection.getresponse()
            assert stream.status == 200
            assert stream.readline().startswith(b"retry:")
        assert service.terminate() in {0, -15}  # it raises if the process has not ended after 30 s
