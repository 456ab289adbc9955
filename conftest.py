"""Fixtures for every test of the workspace."""

import pytest
from hypothesis import settings

from tests.unsettled import reason_for

# A busy machine is no mistake of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

pytest_plugins = ["tests.fixtures.servers", "tests.fixtures.setups", "tests.fixtures.projects"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """SQLAlchemy's asynchronous engines need asyncio."""
    return "asyncio"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--unsettled", action="store_true", help="run also what tests/unsettled.py lists")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--unsettled"):
        return
    for item in items:
        reason = reason_for(item.nodeid)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"unsettled: {reason}"))
